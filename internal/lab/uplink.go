package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml/ast"

	"wolffia/internal/lazy"
	"wolffia/internal/vnet"
)

// Uplink is how a network, or a VLAN of one, is joined with the host's own
// network. The zero value of each field leaves the host as it is.
type Uplink struct {
	Tap       string // an interface of the host that is on the network; empty means a name of our own
	Given     bool   // the administrator made it, and what the host has on it
	Bridge    string // the host's bridge that the network is joined with, or with Interface the name of a new one
	Interface string // an interface of the host that goes into a new bridge
	Tag       int    // not the interface itself does, but what has this 802.1Q tag on it
	VLAN      vnet.VLAN

	Address    netip.Addr // the host's own on the network
	Address6   netip.Addr
	Masquerade bool
	Forward    bool
	ProxyARP   bool
	DNS        []netip.Addr // name servers that the machines ask
}

// Bridged says whether the network is one with another one of the host's.
func (u *Uplink) Bridged() bool { return u.Bridge != "" || u.Interface != "" }

// Leads says whether machines without another way out go over the host.
func (u *Uplink) Leads() bool {
	return u.Address.IsValid() && (u.Given || u.Masquerade || u.Forward || u.ProxyARP)
}

// hostSide says whether anything of what the host itself has is asked for.
func (u *Uplink) hostSide() bool {
	return u.Address.IsValid() || u.Address6.IsValid() || u.forwards()
}

func (u *Uplink) forwards() bool { return u.Masquerade || u.Forward || u.ProxyARP }

// told is what of an uplink the machines know.
func (u *Uplink) told() any {
	if u == nil {
		u = &Uplink{}
	}
	return []any{u.Bridged(), u.Leads(), u.Address, u.Address6, u.DNS}
}

func uplinkKeys() []key[Uplink] {
	return append([]key[Uplink]{
		{"tap", "The name of the interface that the host gets on the network; on a VLAN the network's own, with the number behind it.", textShape("tap0"),
			func(d *decoder, n ast.Node, u *Uplink) { parsed(d, n, "tap", parseInterface, &u.Tap) }},
		{"given", "Whether the administrator made the tap for you, which needs no privilege then: ip tuntap add dev tap0 mode tap user YOU. It stays as it is.", boolShape(),
			func(d *decoder, n ast.Node, u *Uplink) { d.flag(n, "given", &u.Given) }},
		{"bridge", "The bridge of the host that the network is joined with; with interface, the name of the one that is made.", textShape("br0"),
			func(d *decoder, n ast.Node, u *Uplink) { parsed(d, n, "bridge", parseInterface, &u.Bridge) }},
		{"interface", "An interface of the host that is put into a bridge with the network. The host's addresses and routes move to the bridge, and back when the lab goes down.", textShape("eth0"),
			func(d *decoder, n ast.Node, u *Uplink) { parsed(d, n, "interface", parseInterface, &u.Interface) }},
		{"tag", "With interface: what goes into the bridge is the VLAN with this 802.1Q tag on it; the interface itself stays as it is.", intShape(1, vnet.MaxVLAN),
			func(d *decoder, n ast.Node, u *Uplink) { d.number(n, "tag", 1, vnet.MaxVLAN, &u.Tag) }},
		{"address", "The host's IPv4 address on the network, of its subnet.", textShape("192.168.7.1"),
			func(d *decoder, n ast.Node, u *Uplink) { parsed(d, n, "address", parseAddr4, &u.Address) }},
		{"address6", "The host's IPv6 address, of its subnet6.", textShape("fd00:7::1"),
			func(d *decoder, n ast.Node, u *Uplink) { parsed(d, n, "address6", parseAddr6, &u.Address6) }},
		{"masquerade", "Whether what the machines send beyond the host has the host's address there. The host is their router then.", boolShape(),
			func(d *decoder, n ast.Node, u *Uplink) { d.flag(n, "masquerade", &u.Masquerade) }},
		{"forward", "Whether the host is the machines' router, their addresses left as they are.", boolShape(),
			func(d *decoder, n ast.Node, u *Uplink) { d.flag(n, "forward", &u.Forward) }},
		{"proxy-arp", "Whether the host answers for the machines' addresses on its other networks, so that those can be of the same subnet. It is their router then.", boolShape(),
			func(d *decoder, n ast.Node, u *Uplink) { d.flag(n, "proxy-arp", &u.ProxyARP) }},
		{"dns", "Name servers that the machines ask.", listShape(textShape("192.0.2.53")),
			func(d *decoder, n ast.Node, u *Uplink) { u.DNS = d.addresses(n, "dns") }},
	}, vlanKeys(func(u *Uplink) *vnet.VLAN { return &u.VLAN })...)
}

// uplink reads how a network is joined with the host's.
func (d *decoder) uplink(n ast.Node) *Uplink {
	u := &Uplink{}
	before := len(d.errs)
	object(d, n, "an uplink", uplinkKeys(), u)
	if len(d.errs) > before {
		return u
	}
	vlan := u.VLAN.Check()
	switch {
	case u.Bridged() && u.Tap != "":
		d.fail(n, "an uplink is a tap, or a bridge, and this is tap %s and %s", u.Tap, cmp.Or(u.Bridge, u.Interface))
	case u.Bridged() && u.hostSide():
		d.fail(n, "an uplink with a bridge has no address, masquerade, forward or proxy-arp: the bridge is the host's, with the addresses that it has")
	case u.Tag != 0 && u.Interface == "":
		d.fail(n, "tag %d needs the interface that has it", u.Tag)
	case u.Given && u.Tap == "":
		d.fail(n, "given needs the name of the tap: tap")
	case u.Given && (u.forwards()):
		d.fail(n, "tap %s is given, so that masquerade, forward and proxy-arp are up to whoever made it", u.Tap)
	case u.forwards() && !u.Address.IsValid():
		d.fail(n, "masquerade, forward and proxy-arp need the host's address on the network, which is the machines' way out: address")
	case vlan != nil:
		d.fail(n, "the uplink: %s", vlan)
	}
	return u
}

func (d *decoder) addresses(n ast.Node, what string) (out []netip.Addr) {
	for _, item := range d.sequence(n, what) {
		var a netip.Addr
		if parsed(d, item, what, parseAnyAddr, &a); a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

func parseAnyAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is no address; write one such as 192.0.2.53 or 2001:db8::53", s)
	}
	return a.Unmap(), nil
}

func parseAddr6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is no IPv6 address; write one such as fd00:7::1", s)
	}
	return a, nil
}

// interfaceName is narrower than what the kernel takes, so that a name is a word
// in a shell and in a rule.
var interfaceName = lazy.Regexp(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)

func parseInterface(s string) (string, error) {
	if !interfaceName().MatchString(s) || slices.Contains([]string{"lo", "all", "default"}, s) {
		return "", fmt.Errorf("%q can't name an interface; write one such as tap0: at most 15 letters, digits, dots, dashes and underscores", s)
	}
	return s, nil
}

// checkUplinks holds how the network and its VLANs are joined with the host's
// against the rest of what the file says of them.
func (s *Spec) checkUplinks(n *Network, at *places) {
	for _, g := range n.Segments() {
		if g.Uplink == nil {
			continue
		}
		in := []string{"networks", n.Name}
		if g.VLAN != 0 {
			in = append(in, "vlans", strconv.Itoa(g.VLAN))
		}
		if g.VLAN != 0 {
			s.checkVLANUplink(n, g, at, append(in, "uplink"))
		}
		s.settleUplink(g.Network, at, in)
		s.checkUplinkAddresses(g.Network, at, append(in, "uplink"))
	}
}

// settleUplink fills in what follows from an uplink: who is on it has no gateway
// of the lab's own unless the file says so, and who is on a bridge gets what a
// DHCP server there gives.
func (s *Spec) settleUplink(n *Network, at *places, in []string) {
	u := n.Uplink
	fail := func(format string, args ...any) { at.fail(append(slices.Clone(in), "uplink"), 0, format, args...) }
	switch wants := at.has(append(slices.Clone(in), "gateway")...) && !n.NoGateway; {
	case !wants:
		n.NoGateway = true
	case u.Bridged():
		fail("network %q can't have a gateway and a bridge: the gateway would answer DHCP to everybody on the bridge", n.Name)
	case u.forwards():
		fail("network %q has two ways out, its gateway and the host's; leave gateway: auto out, or masquerade, forward and proxy-arp", n.Name)
	}
	if n.Router != "" && u.Leads() {
		fail("network %q has two ways out, router %s and the host's", n.Name, n.Router)
	}
	if u.Bridged() && !at.has(append(slices.Clone(in), "subnet")...) {
		n.Subnet = netip.Prefix{}
	}
}

func (s *Spec) checkUplinkAddresses(n *Network, at *places, path []string) {
	u := n.Uplink
	fail := func(format string, args ...any) { at.fail(path, 0, format, args...) }
	a := u.Address
	switch {
	case !a.IsValid():
	case !n.Subnet.IsValid():
		fail("network %q has no subnet for the host's address %s", n.Name, a)
	case !n.Subnet.Contains(a) || a == n.Subnet.Addr() || !n.Subnet.Contains(a.Next()):
		fail("%s is no address of the host on network %q, %s", a, n.Name, n.Subnet)
	case !n.NoGateway && (a == hostNumber(n.Subnet, 2) || a == hostNumber(n.Subnet, 3)):
		fail("%s belongs to the gateway of network %q", a, n.Name)
	}
	switch {
	case !u.Address6.IsValid():
	case !n.Subnet6.IsValid():
		fail("the host's address %s needs a subnet6 of network %q", u.Address6, n.Name)
	case !n.Subnet6.Contains(u.Address6) || u.Address6 == n.Subnet6.Addr():
		fail("%s is no address of the host on network %q, %s", u.Address6, n.Name, n.Subnet6)
	}
}

// checkVLANUplink holds a VLAN's uplink to what a subinterface of the network's
// tap can be.
func (s *Spec) checkVLANUplink(n *Network, g Segment, at *places, path []string) {
	u, trunk := g.Uplink, n.Uplink
	switch {
	case u.Bridged() || u.Tap != "" || u.Given || u.VLAN.Access != 0 || u.VLAN.All || u.VLAN.Trunk != nil:
		at.fail(path, 0, "the uplink of a VLAN is a part of its network's tap: give the network itself the tap or the bridge")
	case trunk != nil && (trunk.Bridged() || trunk.Given):
		at.fail(path, 0, "network %q is joined with an interface that the host has already, where VLAN %d is the host's own business", n.Name, g.VLAN)
	case trunk != nil && (trunk.VLAN.Access != 0 || trunk.VLAN.All || trunk.VLAN.Trunk != nil):
		at.fail(path, 0, "the tap of network %q carries the VLANs that have an uplink by themselves; leave vlan and trunk out", n.Name)
	case trunk != nil && len(trunk.Tap) > 15-len(".4094"):
		at.fail(path, 0, "tap %s has VLANs: its name may have 10 letters", trunk.Tap)
	}
}

// checkUplinkNames finds what two networks ask of the host at the same time.
func (s *Spec) checkUplinkNames(at *places) {
	taken := map[string]string{}
	for _, name := range s.NetworkNames() {
		u := s.Networks[name].Uplink
		if u == nil {
			continue
		}
		claims := []string{u.Tap}
		if u.Interface != "" {
			up := u.Interface
			if u.Tag != 0 {
				up += fmt.Sprintf(".%d", u.Tag)
			}
			claims = append(claims, up, u.Bridge)
		}
		for _, c := range claims {
			if c != "" && taken[c] != "" {
				at.fail([]string{"networks", name, "uplink"}, 0, "networks %q and %q both want %s of the host", taken[c], name, c)
			}
			taken[c] = name
		}
	}
}

// settleCard gives a card on a bridge the addresses that a server there hands
// out, unless the file says another one.
func (s *Spec) settleCard(c *Card) {
	if s.Networks[c.Network] == nil || c.Config != CardAuto || c.Addr.IsValid() {
		return
	}
	n := s.Networks[c.Network]
	if g := s.Segment(c); g.Uplink != nil && g.Uplink.Bridged() || g != n && n.Uplink != nil && n.Uplink.Bridged() && !g.Subnet.IsValid() {
		c.Config = CardDHCP
	}
}

// has says whether the file has a key.
func (p *places) has(path ...string) bool {
	n := p.root
	for _, step := range path {
		i := slices.IndexFunc(p.d.mapping(n, step), func(e entry) bool { return e.name == step })
		if i < 0 {
			return false
		}
		n = p.d.mapping(n, step)[i].value
	}
	return true
}
