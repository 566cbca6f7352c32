package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"wolffia/internal/vnet"
)

// Network is one virtual switch and, unless NoGateway, its router.
type Network struct {
	Name      string
	Subnet    netip.Prefix // IPv4
	Subnet6   netip.Prefix // IPv6, /64; zero means the gateway's own choice
	NoGateway bool
	NoHost    bool // the host itself can't be reached
	Restrict  bool // nothing outside the network can be reached
	MTU       int  // bytes
	DHCP      DHCP
	Router    string           // the machine that routes for the others; none but with NoGateway
	Routes    []Route          // that its machines have besides
	VLANs     map[int]*Network // what has an 802.1Q tag, by its number: networks of their own
	Plugs     []Plug           // what else is plugged in
	Ring      Size             // how much of the traffic is kept for captures
	Uplink    *Uplink          // how it is joined with the host's own network; nil means not at all
}

// DHCP is how a network's gateway gives out addresses.
type DHCP struct {
	Off         bool
	First, Last netip.Addr        // of the leases; zero means the gateway's choice
	NextServer  netip.Addr        // where machines that boot from the network get their file
	BootFile    string            // its name there
	TFTP        string            // folder of the host that the gateway serves by TFTP
	Options     map[string]string // further options, by their numbers or names

	Reservations []Reservation // of what is not of the lab
}

// given says whether anything but an address for each machine is asked for.
func (c DHCP) given() bool {
	return c.First.IsValid() || c.Last.IsValid() || c.NextServer.IsValid() || c.BootFile != "" || c.TFTP != "" || len(c.Options) > 0 ||
		len(c.Reservations) > 0
}

// Route is a way to other networks.
type Route struct {
	To       string         // a network of the lab, by its name, or a prefix
	Prefixes []netip.Prefix // what that means
	Via      string         // a machine of the network, or an address
}

// Plug is something outside of the lab that a network is joined with.
type Plug struct {
	Kind PlugKind
	Path string // of a socket or folder; relative to the file
	VLAN vnet.VLAN
}

// PlugKind says what a plug is.
type PlugKind string

// The kinds of plugs.
const (
	PlugVDESwitch PlugKind = "vde-switch" // we are a vde_switch, for whoever plugs in
	PlugVDE       PlugKind = "vde"        // we plug into somebody's vde_switch
	PlugStream    PlugKind = "stream"     // QEMUs started elsewhere plug in: -netdev stream
	PlugBess      PlugKind = "bess"       // User-Mode Linuxes started elsewhere plug in: vecN:transport=bess
)

// PlugKinds are the words for the kinds of plugs.
func PlugKinds() []string {
	return []string{string(PlugVDESwitch), string(PlugVDE), string(PlugStream), string(PlugBess)}
}

// DefaultRing is how much of a network's traffic is kept for captures.
const DefaultRing = 8 * MiB

func newNetwork(name string) *Network {
	return &Network{Name: name, Subnet: defaultSubnet(), MTU: DefaultMTU, Ring: DefaultRing}
}

// defaultSubnet is QEMU's own, so that its users find what they know.
func defaultSubnet() netip.Prefix { return netip.MustParsePrefix("10.0.2.0/24") }

// segmentKeys are those of a network and of a VLAN on it.
func segmentKeys() []key[Network] {
	gateways := []string{"auto", "none"}
	return []key[Network]{
		{"subnet", "IPv4 network: gateway .2, name server .3, leases from .15.", textShape("10.0.2.0/24"),
			func(d *decoder, n ast.Node, w *Network) { parsed(d, n, "subnet", ParseSubnet, &w.Subnet) }},
		{"subnet6", "IPv6 network, /64.", textShape("fd00:1::/64"),
			func(d *decoder, n ast.Node, w *Network) { parsed(d, n, "subnet6", ParseSubnet6, &w.Subnet6) }},
		{"gateway", "Whether the network has a router to the host; without one its machines get fixed addresses.", wordShape(gateways...),
			func(d *decoder, n ast.Node, w *Network) {
				word := "auto"
				choice(d, n, "gateway", gateways, &word)
				w.NoGateway = word == "none"
			}},
		{"router", "The machine that is the router of the others, in place of a gateway.", textShape("carol"),
			func(d *decoder, n ast.Node, w *Network) {
				d.name(n, "router", &w.Router)
				w.NoGateway = true
			}},
		{"routes", "Ways to other networks that its machines have besides.", listShape(objectShape(routeKeys())),
			func(d *decoder, n ast.Node, w *Network) { w.Routes = d.routes(n) }},
		{"dhcp", "Whether the gateway hands out addresses (true or false), or how.",
			shape{"type": []string{"boolean", "object"}, "additionalProperties": false, "properties": objectShape(dhcpKeys())["properties"]},
			func(d *decoder, n ast.Node, w *Network) { d.dhcp(n, &w.DHCP) }},
		{"host", "Whether the host's loopback can be reached at the gateway's address.", boolShape(),
			func(d *decoder, n ast.Node, w *Network) {
				v, ok := d.boolean(n, "host")
				w.NoHost = ok && !v
			}},
		{"restrict", "Close everything outside the network.", boolShape(),
			func(d *decoder, n ast.Node, w *Network) { d.flag(n, "restrict", &w.Restrict) }},
		{"uplink", "How it is joined with the host's own network, which wolffia up does: by a tap, or by a bridge. It takes a privilege, and the place of the gateway; see docs/hostnet.md. Of a VLAN: what the host has on the network's tap with that tag.",
			objectShape(uplinkKeys()),
			func(d *decoder, n ast.Node, w *Network) { w.Uplink = d.uplink(n) }},
	}
}

func networkKeys() []key[Network] {
	return append(segmentKeys(), []key[Network]{
		{"mtu", "Largest packet, in bytes.", intShape(MinMTU, MaxMTU),
			func(d *decoder, n ast.Node, w *Network) { d.number(n, "mtu", MinMTU, MaxMTU, &w.MTU) }},
		{"vlans", "Networks with an 802.1Q tag on the same switch, by its number, each with addresses and a gateway of its own; none (gateway: none) where only a number is given.",
			shape{"type": "object", "propertyNames": shape{"pattern": "^[1-9][0-9]{0,3}$"}, "additionalProperties": objectShape(segmentKeys())},
			func(d *decoder, n ast.Node, w *Network) { w.VLANs = d.vlans(n, w.Name) }},
		{"plugs", "What else is plugged into the network, from outside of the lab.", listShape(objectShape(plugKeys())),
			func(d *decoder, n ast.Node, w *Network) { w.Plugs = d.plugs(n) }},
		{"ring", "How much of the traffic is kept for wolffia capture --last; 0 keeps nothing.", scalarShape(DefaultRing.String()),
			func(d *decoder, n ast.Node, w *Network) { parsed(d, n, "ring", parseRing, &w.Ring) }},
	}...)
}

func dhcpKeys() []key[DHCP] {
	return []key[DHCP]{
		{"first", "The first address for machines that ask without being of the lab.", textShape("10.0.2.50"),
			func(d *decoder, n ast.Node, c *DHCP) { parsed(d, n, "first", parseAddr4, &c.First) }},
		{"last", "The last one.", textShape("10.0.2.99"),
			func(d *decoder, n ast.Node, c *DHCP) { parsed(d, n, "last", parseAddr4, &c.Last) }},
		{"next-server", "Where machines that boot from the network get their file.", textShape("10.0.2.2"),
			func(d *decoder, n ast.Node, c *DHCP) { parsed(d, n, "next-server", parseAddr4, &c.NextServer) }},
		{"boot-file", "The name of that file.", textShape("pxelinux.0"),
			func(d *decoder, n ast.Node, c *DHCP) { d.set(n, "boot-file", &c.BootFile) }},
		{"tftp", "A folder of the host that the gateway serves by TFTP.", textShape("./tftp"),
			func(d *decoder, n ast.Node, c *DHCP) { d.set(n, "tftp", &c.TFTP) }},
		{"options", "Further options, by their numbers or names, such as 42 or ntp-servers: text, addresses with blanks between, or bytes as in 0x0102.",
			shape{"type": "object", "additionalProperties": shape{"type": []string{"string", "integer", "boolean"}}},
			func(d *decoder, n ast.Node, c *DHCP) { c.Options = d.dhcpOptions(n) }},
		{"reservations", "Addresses of cards that no machine of the lab has: those of what is plugged in.", listShape(objectShape(reservationKeys())),
			func(d *decoder, n ast.Node, c *DHCP) { c.Reservations = d.reservations(n) }},
	}
}

func routeKeys() []key[Route] {
	return []key[Route]{
		{"to", "The network that is reached: one of the lab, by its name, with all its addresses; or a prefix such as 10.1.0.0/24.", textShape("back"),
			func(d *decoder, n ast.Node, r *Route) {
				d.set(n, "to", &r.To)
				if !strings.ContainsAny(r.To, "/:") {
					return // a name, which is looked for once all are known
				}
				var p netip.Prefix
				if parsed(d, n, "to", parsePrefix, &p); p.IsValid() {
					r.Prefixes = []netip.Prefix{p}
				}
			}},
		{"via", "The machine of this network, or the address, that leads there.", textShape("carol"),
			func(d *decoder, n ast.Node, r *Route) { d.set(n, "via", &r.Via) }},
	}
}

func plugKeys() []key[Plug] {
	kind := func(k PlugKind, doc, example string) key[Plug] {
		return key[Plug]{string(k), doc, textShape(example), func(d *decoder, n ast.Node, p *Plug) {
			if p.Kind != "" {
				d.fail(n, "a plug is one thing, and this is %s and %s", p.Kind, k)
			}
			p.Kind = k
			d.set(n, string(k), &p.Path)
		}}
	}
	return append([]key[Plug]{
		kind(PlugVDESwitch, "A folder where the network answers as a vde_switch, made and removed with the lab.", "./lan.vde"),
		kind(PlugVDE, "The folder of a vde_switch that the network plugs into.", "/run/vde2/switch.ctl"),
		kind(PlugStream, "A socket for QEMUs started elsewhere: -netdev stream,server=off,addr.type=unix,addr.path=PATH.", "./lan.stream"),
		kind(PlugBess, "A socket for User-Mode Linuxes started elsewhere: vec0:transport=bess,dst=PATH.", "./lan.bess"),
	}, vlanKeys(func(p *Plug) *vnet.VLAN { return &p.VLAN })...)
}

// vlanKeys are those of whatever is plugged into a network.
func vlanKeys[T any](of func(*T) *vnet.VLAN) []key[T] {
	trunk := shape{"oneOf": []shape{{"const": "all"}, listShape(intShape(1, vnet.MaxVLAN))}}
	return []key[T]{
		{"vlan", "The VLAN that it is on, without tags.", intShape(1, vnet.MaxVLAN),
			func(d *decoder, n ast.Node, v *T) { d.number(n, "vlan", 1, vnet.MaxVLAN, &of(v).Access) }},
		{"trunk", "The VLANs that it carries, with their tags; or all.", trunk,
			func(d *decoder, n ast.Node, v *T) { d.trunk(n, of(v)) }},
		{"native", "With trunk: the VLAN of frames without a tag.", intShape(1, vnet.MaxVLAN),
			func(d *decoder, n ast.Node, v *T) { d.number(n, "native", 1, vnet.MaxVLAN, &of(v).Native) }},
	}
}

func (d *decoder) trunk(n ast.Node, v *vnet.VLAN) {
	if s, ok := n.(ast.ScalarNode); ok && scalarText(s) == "all" {
		v.All = true
		return
	}
	for _, item := range d.sequence(n, "trunk") {
		id := 0
		if d.number(item, "a VLAN", 1, vnet.MaxVLAN, &id); id != 0 {
			v.Trunk = append(v.Trunk, id)
		}
	}
}

func (d *decoder) dhcp(n ast.Node, c *DHCP) {
	if b, ok := n.(*ast.BoolNode); ok {
		c.Off = !b.Value
		return
	}
	object(d, n, "dhcp (true, false or how)", dhcpKeys(), c)
}

func (d *decoder) dhcpOptions(n ast.Node) map[string]string {
	out := map[string]string{}
	for _, e := range d.mapping(n, "options") {
		if s, ok := d.text(e.value, "option "+e.name); ok {
			out[e.name] = s
		}
	}
	return out
}

func (d *decoder) routes(n ast.Node) (out []Route) {
	for _, item := range d.sequence(n, "routes") {
		var r Route
		before := len(d.errs)
		object(d, item, "a route", routeKeys(), &r)
		if len(d.errs) == before && (r.To == "" || r.Via == "") {
			d.fail(item, "a route needs a network (to) and a machine or an address that leads there (via)")
		}
		out = append(out, r)
	}
	return out
}

func (d *decoder) plugs(n ast.Node) (out []Plug) {
	for _, item := range d.sequence(n, "plugs") {
		var p Plug
		before := len(d.errs)
		object(d, item, "a plug", plugKeys(), &p)
		err := p.VLAN.Check()
		switch {
		case len(d.errs) > before:
		case p.Kind == "":
			d.fail(item, "a plug is one of %s", strings.Join(PlugKinds(), ", "))
		case p.Path == "":
			d.fail(item, "plug %s needs a path", p.Kind)
		case err != nil:
			d.fail(item, "plug %s: %s", p.Kind, err)
		}
		out = append(out, p)
	}
	return out
}

func (d *decoder) vlans(n ast.Node, network string) map[int]*Network {
	out := map[int]*Network{}
	for _, e := range d.mapping(n, "vlans") {
		id, err := strconv.Atoi(e.name)
		if err != nil || id < 1 || id > vnet.MaxVLAN || strconv.Itoa(id) != e.name { // 010 is the same as 10, and +10
			d.fail(e.key, "%q is no VLAN; it is 1 to %d", e.name, vnet.MaxVLAN)
			continue
		}
		w := newNetwork(fmt.Sprintf("%s.%d", network, id))
		w.NoGateway, w.Subnet = true, netip.Prefix{}
		if entries := d.mapping(e.value, "VLAN "+e.name); len(entries) > 0 {
			w.NoGateway = false
			object(d, e.value, "VLAN "+e.name, segmentKeys(), w)
			if !w.Subnet.IsValid() {
				d.fail(e.key, "VLAN %d needs a subnet of its own", id)
			}
		}
		out[id] = w
	}
	return out
}

func parseRing(s string) (Size, error) {
	n, err := ParseSize(s)
	if err == nil && n > GiB {
		err = fmt.Errorf("ring %s is held in memory; give at most 1G", s)
	}
	return n, err
}

func parseAddr4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q is no IPv4 address; write one such as 10.0.2.50", s)
	}
	return a, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is no network; write one such as 10.1.0.0/24 or fd00:1::/64", s)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("network %s has host bits set; did you mean %s?", s, p.Masked())
	}
	return p, nil
}

// Segment is the addresses and the gateway of what a port without tags is on:
// the network's own, or those of one of its VLANs.
func (n *Network) Segment(v vnet.VLAN) *Network {
	id := v.Access
	if v.Native != 0 {
		id = v.Native
	}
	if id == 0 {
		return n
	}
	if w := n.VLANs[id]; w != nil {
		return w
	}
	// A VLAN that the file does not describe has neither addresses nor a gateway.
	return &Network{Name: fmt.Sprintf("%s.%d", n.Name, id), NoGateway: true, MTU: n.MTU}
}

// Segments are the network's own addresses and gateway, and those of its VLANs,
// each with the tag it has on the switch, in order.
func (n *Network) Segments() []Segment {
	out := []Segment{{0, n}}
	for id, w := range n.VLANs {
		out = append(out, Segment{id, w})
	}
	slices.SortFunc(out, func(a, b Segment) int { return a.VLAN - b.VLAN })
	return out
}

// Segment is one broadcast domain of a network.
type Segment struct {
	VLAN int // 0 for what has no tag
	*Network
}
