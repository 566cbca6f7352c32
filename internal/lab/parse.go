package lab

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/rootfs"

	"github.com/goccy/go-yaml/ast"
)

// Parse reads a lab's file. name is how errors call it. The error is of type
// [Errors].
func Parse(name string, data []byte) (*Spec, error) {
	d := &decoder{file: name}
	s := newSpec()
	at := &places{d: d}
	if root := d.root(data); root != nil {
		object(d, root, "the file", specKeys(), s)
		at.root = root
	}
	if len(d.errs) == 0 {
		s.complete(at)
	}
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	return s, nil
}

// ErrorAt is a mistake that only the host shows in a file that [Parse] takes, such
// as a folder that is not there. It is at the value that path leads to, from key
// to key; an item of a list is its number, from 0.
func ErrorAt(name string, data []byte, err error, path ...string) Errors {
	d := &decoder{file: name}
	at := &places{d: d, root: d.root(data)}
	n := at.node(path...)
	d.errs = nil
	d.fail(n, "%s", err)
	return d.errs
}

// places finds the node of a machine's key again, for errors about names that
// only make sense once the whole file is read.
type places struct {
	d    *decoder
	root ast.Node
}

func (p *places) fail(path []string, item int, format string, args ...any) {
	n := p.node(path...)
	if s, ok := n.(*ast.SequenceNode); ok && item < len(s.Values) {
		n = s.Values[item]
	}
	p.d.fail(n, format, args...)
}

// node finds the value of the last key of path, or of the last that there is. A
// number is an item of a list, from 0.
func (p *places) node(path ...string) ast.Node {
	n := p.root
	for _, step := range path {
		if s, ok := n.(*ast.SequenceNode); ok {
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(s.Values) {
				break
			}
			n = s.Values[i]
			continue
		}
		var next ast.Node
		for _, e := range p.d.mapping(n, step) {
			if e.name == step {
				next = e.value
				if next == nil || next.GetToken() == nil {
					next = e.key
				}
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return n
}

// complete fills in what follows from the rest of the file, and checks that
// names lead somewhere.
func (s *Spec) complete(at *places) {
	if s.Name == "" {
		s.Name = "lab"
	}
	if len(s.Images) == 0 {
		s.Images["base"] = Default().Images["base"]
	}
	s.inherit(at)
	if len(s.Networks) == 0 {
		s.Networks["lan"] = newNetwork("lan")
	}
	for i, e := range at.d.mapping(at.node("machines"), "machines") {
		if m := s.Machines[e.name]; m != nil {
			m.Place = i + 1
		}
	}
	for _, name := range s.NetworkNames() {
		s.checkUplinks(s.Networks[name], at)
		s.checkNetwork(s.Networks[name], at)
	}
	s.checkPrefixes(at)
	s.checkUplinkNames(at)
	for _, name := range s.MachineNames() {
		s.completeMachine(s.Machines[name], at)
	}
	if _, cycle := s.Order(); cycle != nil && len(at.d.errs) == 0 {
		at.fail([]string{"machines", cycle[0], "after"}, 0, "machines wait for each other: %s", strings.Join(cycle, " after "))
	}
	s.checkAddresses(at)
	s.checkReservations(at)
	if len(s.Machines) == 0 {
		for _, name := range s.ImageNames() {
			s.Machines[name] = s.Throwaway(name)
		}
	}
}

// letsIn says whether somebody may be able to log in with a password.
func (i *Image) letsIn() bool {
	return !i.From.IsZero() || len(i.Files) > 0 || slices.ContainsFunc(i.Users, func(u rootfs.User) bool { return u.Hash != "" })
}

func (s *Spec) completeMachine(m *Machine, at *places) {
	path := func(key string) []string { return []string{"machines", m.Name, key} }
	images := s.ImageNames()
	switch {
	case m.Image == "" && len(images) == 1:
		m.Image = images[0]
	case m.Image == "":
		at.fail(path("image"), 0, "machine %q names no image; it may be %s", m.Name, strings.Join(images, ", "))
	case s.Images[m.Image] == nil:
		at.fail(path("image"), 0, "%s", OneOf("image", m.Image, images))
	}
	if m.Boot != BootKernel && at.has(path("console")...) {
		at.fail(path("console"), 0, "machine %q: boot %s has a system of its own, which has its own console; leave console out, or boot", m.Name, m.Boot)
	} else if img := s.Images[m.Image]; img != nil && m.Console == ConsoleLogin && !img.letsIn() {
		at.fail(path("console"), 0, "machine %q asks for a login, and no user of image %q has a password; give it one: users: [{name: root, password: ...}]", m.Name, m.Image)
	}
	seen := map[string]bool{}
	for i := range m.Cards {
		n := m.Cards[i].Network
		if s.Networks[n] == nil {
			at.fail(path("networks"), i, "%s", OneOf("network", n, s.NetworkNames()))
		}
		if seen[n] {
			at.fail(path("networks"), i, "machine %q is on network %q twice", m.Name, n)
		}
		seen[n] = true
		s.settleCard(&m.Cards[i])
	}
	if a, b := s.clash(m); a != nil {
		at.fail(path("networks"), 0, "machine %q is on networks %q and %q, which have the same addresses (%s and %s); give one another subnet",
			m.Name, a.Name, b.Name, a.Subnet, b.Subnet)
	}
	if len(m.Forwards) > 0 && s.Entry(m) == nil {
		at.fail(path("forwards"), 0, "machine %q has forwards, and no network with a gateway to forward over", m.Name)
	}
	for i, other := range m.After {
		if err := OneOf("machine", other, s.MachineNames()); err != nil {
			at.fail(path("after"), i, "%s", err)
		}
	}
	m.checkMounts(path, at)
	for i, p := range m.Cmdline {
		if strings.ContainsAny(p, " \t\n\x00") {
			at.fail(path("cmdline"), i, "kernel parameter %q holds a blank; give each as an item of its own", p)
		}
	}
}

// path leads to a key of a segment of the network.
func (n *Network) path(g Segment, key ...string) []string {
	path := []string{"networks", n.Name}
	if g.VLAN != 0 {
		path = append(path, "vlans", strconv.Itoa(g.VLAN))
	}
	return append(path, key...)
}

// checkNetwork holds what a network says of machines against them.
func (s *Spec) checkNetwork(n *Network, at *places) {
	for _, g := range n.Segments() {
		path := func(key string) []string { return n.path(g, key) }
		if g.Router != "" && s.router(g.Router, g.Network, n.Name, path("router"), at) {
			s.Machines[g.Router].Forwarding = true
		}
		for i := range g.Routes {
			r := &g.Routes[i]
			if r.Prefixes == nil && r.To != "" {
				to := s.segmentNamed(r.To)
				if to == nil {
					at.fail(path("routes"), i, "%s", OneOf("network", r.To, s.NetworkNames()))
				} else if r.Prefixes = s.prefixes(to); r.Prefixes == nil {
					at.fail(path("routes"), i, "network %q has no addresses", r.To)
				}
			}
			if _, err := netip.ParseAddr(r.Via); err != nil {
				s.router(r.Via, g.Network, n.Name, append(path("routes"), strconv.Itoa(i)), at)
			}
		}
		dhcp := g.DHCP
		for _, a := range []netip.Addr{dhcp.First, dhcp.Last} {
			if a.IsValid() && !g.Subnet.Contains(a) {
				at.fail(path("dhcp"), 0, "%s is not in network %s", a, g.Subnet)
			}
		}
		if dhcp.First.IsValid() && dhcp.Last.IsValid() && dhcp.Last.Less(dhcp.First) {
			at.fail(path("dhcp"), 0, "the last address, %s, comes before the first, %s", dhcp.Last, dhcp.First)
		}
		if g.NoGateway && dhcp.given() {
			at.fail(path("dhcp"), 0, "network %q has no gateway to answer DHCP", g.Name)
		}
	}
}

// checkPrefixes looks for two networks whose names have come to the same IPv6
// prefix: there are no more than 65,536 to choose from.
func (s *Spec) checkPrefixes(at *places) {
	taken := map[netip.Prefix]string{}
	for _, name := range s.NetworkNames() {
		for _, g := range s.Networks[name].Segments() {
			p := s.Prefix6(g.Network)
			if other := taken[p]; other != "" && !g.Subnet6.IsValid() {
				at.fail([]string{"networks", name}, 0, "networks %q and %q would have the same IPv6 addresses, %s; give one of both others, with subnet6", other, g.Name, p)
			}
			if p.IsValid() {
				taken[p] = g.Name
			}
		}
	}
}

// router finds the machine that a network names to lead elsewhere.
func (s *Spec) router(name string, segment *Network, network string, path []string, at *places) bool {
	m := s.Machines[name]
	if m == nil {
		at.fail(path, 0, "%s", OneOf("machine", name, s.MachineNames()))
		return false
	}
	if c := m.Card(network); c == nil || segment.Name != s.Networks[network].Segment(c.VLAN).Name {
		at.fail(path, 0, "machine %q is not on network %q", name, segment.Name)
		return false
	}
	return true
}

// checkAddresses looks for addresses that can't be, or that two cards have.
func (s *Spec) checkAddresses(at *places) {
	taken := map[string]string{}
	for _, name := range s.inFileOrder() {
		m := s.Machines[name]
		for i := range m.Cards {
			c := &m.Cards[i]
			if s.Networks[c.Network] == nil || !c.Addr.IsValid() {
				continue
			}
			fail := func(format string, args ...any) {
				at.fail([]string{"machines", name, "networks"}, i, format, args...)
			}
			g := s.Segment(c)
			key := g.Name + " " + c.Addr.String()
			if err := g.checkAddress(c.Addr); err != nil {
				fail("%s", err)
			} else if taken[key] != "" {
				fail("machines %q and %q both have %s", taken[key], name, c.Addr)
			}
			taken[key] = name
		}
	}
}

// checkAddress says why an address can't be a machine's on the network.
func (n *Network) checkAddress(a netip.Addr) error {
	switch {
	case !n.Subnet.IsValid():
		return fmt.Errorf("network %q has no subnet for the address %s", n.Name, a)
	case !n.Subnet.Contains(a) || a == n.Subnet.Addr() || !n.Subnet.Contains(a.Next()):
		return fmt.Errorf("%s is no address of a machine on network %q, %s", a, n.Name, n.Subnet)
	case !n.NoGateway && (a == hostNumber(n.Subnet, 2) || a == hostNumber(n.Subnet, 3)):
		return fmt.Errorf("%s belongs to the gateway of network %q", a, n.Name)
	case n.Uplink != nil && n.Uplink.Address == a:
		return fmt.Errorf("%s is the host's on network %q", a, n.Name)
	}
	return nil
}

func hostNumber(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// clash finds two networks of a machine whose gateways hand out the same
// addresses; nobody could be reached over the second.
func (s *Spec) clash(m *Machine) (a, b *Network) {
	for i := range m.Cards {
		for j := range m.Cards[:i] {
			first, second := &m.Cards[j], &m.Cards[i]
			if s.Networks[first.Network] == nil || s.Networks[second.Network] == nil || first.Network == second.Network {
				continue
			}
			a, b := s.Segment(first), s.Segment(second)
			if a.addressed(first) && b.addressed(second) && a.Subnet.Overlaps(b.Subnet) {
				return a, b
			}
		}
	}
	return nil, nil
}

// addressed says whether a card on the network gets an address of it.
func (n *Network) addressed(c *Card) bool {
	return n.Subnet.IsValid() && c.Config == CardAuto && !(n.DHCP.Off && !c.Addr.IsValid())
}

// Uplink is the machine's first card on a network that has a gateway, or nil.
func (s *Spec) Uplink(m *Machine) *Card {
	for i := range m.Cards {
		if c := &m.Cards[i]; s.Networks[c.Network] != nil && !s.Segment(c).NoGateway {
			return c
		}
	}
	return nil
}

// Entry is the segment whose gateway leads the host's ports to a machine: that of
// its Uplink, or else the first one that has a route to it; or nil.
func (s *Spec) Entry(m *Machine) *Network {
	if c := s.Uplink(m); c != nil {
		return s.Segment(c)
	}
	for _, name := range s.NetworkNames() {
		for _, g := range s.Networks[name].Segments() {
			if g.NoGateway {
				continue
			}
			for i := range m.Cards {
				if c := &m.Cards[i]; s.Networks[c.Network] != nil && g.leadsTo(s.Segment(c)) {
					return g.Network
				}
			}
		}
	}
	return nil
}

// leadsTo says whether one of the network's routes leads to another one.
func (n *Network) leadsTo(other *Network) bool {
	for _, r := range n.Routes {
		for _, p := range r.Prefixes {
			if other.Subnet.IsValid() && p.Bits() <= other.Subnet.Bits() && p.Contains(other.Subnet.Addr()) {
				return true
			}
		}
	}
	return false
}

// segmentNamed is a network or a VLAN of one by its name, such as lan or lan.10.
func (s *Spec) segmentNamed(name string) *Network {
	for _, n := range s.Networks {
		for _, g := range n.Segments() {
			if g.Name == name {
				return g.Network
			}
		}
	}
	return nil
}

// prefixes are the addresses of a network, IPv4 and IPv6.
func (s *Spec) prefixes(n *Network) (out []netip.Prefix) {
	for _, p := range []netip.Prefix{n.Subnet, s.Prefix6(n)} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// Prefix6 is a network's IPv6 prefix. Where the file has none, a lab's only
// network leaves it to the gateway, and this is the zero value; several get one
// each, which follows from the name, so that a machine on two of them knows
// which is which.
func (s *Spec) Prefix6(n *Network) netip.Prefix {
	segments := 0
	for _, w := range s.Networks {
		segments += len(w.Segments())
	}
	if n.Subnet6.IsValid() || segments < 2 || !n.Subnet.IsValid() {
		return n.Subnet6
	}
	sum := sha256.Sum256([]byte(n.Name))
	a := netip.MustParseAddr("fd00:77:6f6c::").As16()
	copy(a[6:8], sum[:2])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// Throwaway is a machine made up for an image that is run by itself, on the
// lab's first network with a gateway.
func (s *Spec) Throwaway(image string) *Machine {
	m := newMachine(image)
	m.Image = image
	for _, n := range s.NetworkNames() {
		if !s.Networks[n].NoGateway {
			m.Cards = []Card{{Network: n}}
			break
		}
	}
	return m
}

func parseRelease(s string) (string, error) { return s, CheckRelease(s) }

// CheckRelease holds a release to what a code name or suite may be.
func CheckRelease(s string) error {
	if s == "" || len(s) > 64 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || s[0] == '.' || s[0] == '-' {
		return fmt.Errorf("release %q is no Debian code name; write one such as %s", s, DefaultRelease)
	}
	return nil
}

func parsePath(s string) (string, error) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("path %q must start with a slash", s)
	case len(s) > 4095 || strings.IndexByte(s, 0) >= 0:
		return "", fmt.Errorf("path %.40q can't be one", s)
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == ".." || len(part) > 255 {
			return "", fmt.Errorf("path %.80q can't be one", s)
		}
	}
	return s, nil
}

func parseMode(s string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n > 0o7777 || n == 0 {
		return 0, fmt.Errorf("mode %q is no octal permission; write one such as 0755", s)
	}
	return uint32(n), nil
}

func parseHash(s string) (string, error) {
	if !strings.HasPrefix(s, "$") || strings.Count(s, "$") < 3 || strings.ContainsAny(s, ":\n\r\x00 ") || len(s) > 512 {
		return "", fmt.Errorf("this password is no crypt(3) hash; make one with: mkpasswd -m sha-512 (an image holds no plain passwords)")
	}
	return s, nil
}

// publicKeys reads lines of authorized_keys.
func (d *decoder) publicKeys(n ast.Node) (out []string) {
	for _, item := range d.sequence(n, "keys") {
		s, ok := d.text(item, "an item of keys")
		switch {
		case !ok:
		case !validPublicKey(s):
			d.fail(item, "%.60q is no public key of ssh: use the line in ~/.ssh/id_ed25519.pub; ssh-keygen -t ed25519 makes one", s)
		default:
			out = append(out, s)
		}
	}
	return out
}

// validPublicKey says whether a line of authorized_keys (sshd(8)) has a key in it:
// a type, and in Base64 that type once more and what the key consists of, each
// with its length before it (RFC 4253, 6.6). Options may come before, a comment
// behind.
func validPublicKey(s string) bool {
	fields := strings.Fields(s)
	if strings.ContainsAny(s, "\n\r\x00") || len(s) > 16<<10 {
		return false
	}
	for i := range len(fields) - 1 {
		key, err := base64.StdEncoding.DecodeString(fields[i+1])
		var parts [][]byte
		for err == nil && len(key) >= 4 && uint64(binary.BigEndian.Uint32(key)) <= uint64(len(key)-4) {
			end := 4 + binary.BigEndian.Uint32(key)
			parts, key = append(parts, key[4:end]), key[end:]
		}
		if len(parts) > 1 && len(key) == 0 && string(parts[0]) == fields[i] {
			return true
		}
	}
	return false
}

func validAccount(s string) bool {
	if s == "" || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
