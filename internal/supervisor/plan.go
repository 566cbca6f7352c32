package supervisor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
	"wolffia/internal/vnet/gateway"
)

// plan is which addresses the cards of a lab have.
type plan struct {
	spec     *lab.Spec
	base     string         // where relative paths start
	machines []*lab.Machine // in the order in which they choose
	places   map[cardKey]place
}

// cardKey tells a card.
type cardKey struct{ machine, network string }

// at gives the addresses of a machine's card.
func (p *plan) at(m *lab.Machine, c *lab.Card) place { return p.places[cardKey{m.Name, c.Network}] }

// place is the addresses of one card; zero where it has none of ours.
type place struct{ v4, v6 netip.Prefix }

// newPlan gives every card its addresses: those that the file says, and for the
// others the next that is free, in the file's order. only, unless it is nil, is
// the one machine that there is.
func newPlan(spec *lab.Spec, only *lab.Machine) *plan {
	p := &plan{spec: spec, places: map[cardKey]place{}}
	if only != nil {
		p.machines = []*lab.Machine{only}
	} else {
		for _, name := range spec.MachineNames() {
			p.machines = append(p.machines, spec.Machines[name])
		}
		slices.SortStableFunc(p.machines, func(a, b *lab.Machine) int { return a.Place - b.Place })
	}
	taken := map[string]map[netip.Addr]bool{}
	each := func(f func(*lab.Machine, *lab.Card, *lab.Network, map[netip.Addr]bool)) {
		for _, m := range p.machines {
			for i := range m.Cards {
				c := &m.Cards[i]
				g := spec.Segment(c)
				if taken[g.Name] == nil {
					taken[g.Name] = reserved(g)
				}
				f(m, c, g, taken[g.Name])
			}
		}
	}
	each(func(_ *lab.Machine, c *lab.Card, _ *lab.Network, taken map[netip.Addr]bool) { taken[c.Addr] = true })
	each(func(m *lab.Machine, c *lab.Card, g *lab.Network, taken map[netip.Addr]bool) {
		p.places[cardKey{m.Name, c.Network}] = p.place(m, c, g, taken)
	})
	return p
}

// reserved are addresses that no machine gets by itself.
func reserved(g *lab.Network) map[netip.Addr]bool {
	taken := map[netip.Addr]bool{}
	if g.Uplink != nil {
		taken[g.Uplink.Address] = true
	}
	for _, r := range g.DHCP.Reservations {
		taken[r.Addr] = true
	}
	if !g.NoGateway {
		cfg := gateway.Config{Subnet: g.Subnet}
		taken[cfg.Gateway()], taken[cfg.DNS()] = true, true
	}
	return taken
}

func (p *plan) place(m *lab.Machine, c *lab.Card, g *lab.Network, taken map[netip.Addr]bool) place {
	var out place
	if c.Config != lab.CardAuto || !g.Subnet.IsValid() || g.DHCP.Off && !c.Addr.IsValid() {
		return out
	}
	a := c.Addr
	if !a.IsValid() {
		a = g.Subnet.Addr().Next()
		if !g.NoGateway {
			a = gateway.Config{Subnet: g.Subnet}.FirstLease()
		}
		for taken[a] {
			a = a.Next()
		}
		if !g.Subnet.Contains(a.Next()) {
			return out // more machines than addresses: the others ask by DHCP, in vain, and say so
		}
		taken[a] = true
	}
	out.v4 = netip.PrefixFrom(a, g.Subnet.Bits())
	cfg := gateway.Config{Prefix6: p.spec.Prefix6(g)}
	out.v6 = netip.PrefixFrom(cfg.Address6(p.spec.CardMAC(m, c)), 64)
	return out
}

// addresses are those of a machine, of its card on segment before the others;
// near says whether it has one there.
func (p *plan) addresses(m *lab.Machine, segment string) (addrs []netip.Addr, near bool) {
	for _, here := range []bool{true, false} {
		for i := range m.Cards {
			c := &m.Cards[i]
			at := p.at(m, c)
			if !at.v4.IsValid() || (p.spec.Segment(c).Name == segment) != here {
				continue
			}
			addrs = append(addrs, at.v4.Addr())
			if here || !only4(p.spec.Segment(c)) {
				addrs = append(addrs, at.v6.Addr())
			}
		}
		if here {
			near = len(addrs) > 0
		}
		if near {
			break // the ways round about would only confuse
		}
	}
	return addrs, near
}

// gateway describes the gateway of a segment.
func (p *plan) gateway(g *lab.Network, mtu int, events event.Sink) (gateway.Config, error) {
	cfg := gateway.Config{
		Subnet: g.Subnet, Prefix6: p.spec.Prefix6(g), MTU: mtu,
		NoDHCP: g.DHCP.Off, NoHost: g.NoHost, Restrict: g.Restrict, Events: events,
		Names: p.names(g),
	}
	cfg.Reservations = p.reservations(g)
	for _, m := range p.machines {
		cfg.Forwards = append(cfg.Forwards, p.forwards(m, g)...)
	}
	for _, r := range g.Routes {
		for _, w := range p.ways(r, g) {
			// The gateway itself leads to everywhere else.
			if w.To.Bits() > 0 && !w.To.Overlaps(cfg.Subnet) && !w.To.Overlaps(cfg.Prefix6) {
				cfg.Routes = append(cfg.Routes, gateway.Route{To: w.To, Via: w.Via})
			}
		}
	}
	var err error
	if cfg.DHCP, err = p.dhcp(g); err != nil {
		return cfg, fmt.Errorf("network %s: %w", g.Name, err)
	}
	return cfg, nil
}

// dhcp is what a gateway tells by DHCP.
func (p *plan) dhcp(g *lab.Network) (gateway.DHCP, error) {
	d := gateway.DHCP{First: g.DHCP.First, Last: g.DHCP.Last, NextServer: g.DHCP.NextServer, BootFile: g.DHCP.BootFile}
	if g.DHCP.TFTP != "" {
		d.TFTP = under(p.base, g.DHCP.TFTP)
	}
	for name, value := range g.DHCP.Options {
		code, err := optionCode(name)
		if err != nil {
			return d, err
		}
		data, err := gateway.ParseOption(code, value)
		if err != nil {
			return d, err
		}
		if d.Options == nil {
			d.Options = map[uint8][]byte{}
		}
		d.Options[code] = data
	}
	return d, nil
}

// optionCode reads the number or the name of a DHCP option.
func optionCode(s string) (uint8, error) {
	if code, ok := gateway.OptionCode(s); ok {
		return code, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("dhcp: option %q is neither a number from 1 to 254 nor a name that is known", s)
	}
	return uint8(n), nil
}

// names are those of all machines, as seen from a segment.
func (p *plan) names(g *lab.Network) map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	for _, m := range p.machines {
		if addrs, _ := p.addresses(m, g.Name); len(addrs) > 0 {
			names[m.Name] = addrs
		}
	}
	return names
}

// reservations are the addresses of the machines that are on a segment, and those
// that the file reserves for others.
func (p *plan) reservations(g *lab.Network) (out []gateway.Reservation) {
	if g.Uplink != nil && g.Uplink.Address.IsValid() { // nobody's lease
		out = append(out, gateway.Reservation{MAC: lab.MAC(p.spec.Name, "", g.Name), Addr: g.Uplink.Address})
	}
	for _, m := range p.machines {
		for i := range m.Cards {
			c := &m.Cards[i]
			if at := p.at(m, c); at.v4.IsValid() && p.spec.Segment(c).Name == g.Name {
				out = append(out, gateway.Reservation{MAC: p.spec.CardMAC(m, c), Addr: at.v4.Addr(), Name: m.Name})
			}
		}
	}
	for _, r := range g.DHCP.Reservations {
		out = append(out, gateway.Reservation{MAC: r.MAC, Addr: r.Addr, Name: r.Name})
	}
	return out
}

// forwards are those that lead into a machine from a segment.
func (p *plan) forwards(m *lab.Machine, g *lab.Network) (out []gateway.Forward) {
	entry := p.spec.Entry(m)
	addrs, _ := p.addresses(m, g.Name)
	if entry == nil || entry.Name != g.Name || len(addrs) == 0 {
		return nil
	}
	for _, f := range m.Forwards {
		out = append(out, gateway.Forward{Network: f.Network, Bind: f.Host, Guest: netip.AddrPortFrom(addrs[0], f.Port), Name: m.Name})
	}
	return out
}

// network describes the machine's cards to its init.
func (s *Guest) network(id *rootfs.IdentityConfig) {
	m, c := s.cfg.Machine, s.cfg
	p := c.plan
	if p == nil {
		p = newPlan(c.Lab, m)
	}
	id.Forwarding = m.Forwarding
	alone := true // no name server knows the others
	for i := range m.Cards {
		card := &m.Cards[i]
		g := c.Lab.Segment(card)
		at := p.at(m, card)
		nic := rootfs.NIC{Name: cardName(i), MAC: c.Lab.CardMAC(m, card)}
		switch {
		case card.Config == lab.CardDHCP:
			nic.DHCP = true
		case !at.v4.IsValid():
		case g.NoGateway:
			nic.Addrs = []netip.Prefix{at.v4, at.v6}
		case g.DHCP.Off, c.Throwaway:
			// A tenth of a throwaway's time would go to udhcpc. Whoever asks in it
			// is answered.
			cfg := gateway.Config{Subnet: g.Subnet, Prefix6: c.Lab.Prefix6(g)}
			addrs, gateways := []netip.Prefix{at.v4}, []netip.Addr{cfg.Gateway()}
			if g.DHCP.Off { // nor is an address made from advertisements, and a router takes no way from them
				addrs = append(addrs, at.v6)
				if m.Forwarding {
					gateways = append(gateways, cfg.Gateway6())
				}
			}
			nic.Addrs = addrs
			if len(id.DNS) == 0 { // the first network's, as with leases
				nic.Gateways, id.DNS, id.Search = gateways, []netip.Addr{cfg.DNS()}, gateway.DefaultDomain
			}
		default:
			nic.DHCP = true
		}
		id.V6 = id.V6 || !g.NoGateway && !g.DHCP.Off && at.v4.IsValid()
		alone = alone && (g.NoGateway || !at.v4.IsValid())
		nic.Routes = p.routes(m, g)
		if g.Uplink != nil && len(id.DNS) == 0 {
			id.DNS = g.Uplink.DNS
		}
		id.NICs = append(id.NICs, nic)
	}
	if !alone {
		return
	}
	id.Hosts = p.hosts(m)
	if g := c.Lab.Entry(m); g != nil && c.plan != nil && len(id.DNS) == 0 { // a way there
		id.DNS, id.Search = []netip.Addr{gateway.Config{Subnet: g.Subnet}.DNS()}, gateway.DefaultDomain
	}
}

// routes are the ways to other networks that a machine has from a segment.
func (p *plan) routes(m *lab.Machine, g *lab.Network) (out []rootfs.Route) {
	if g.Router != "" && g.Router != m.Name && p.spec.Uplink(m) == nil {
		for _, via := range p.via(g.Router, g) {
			out = append(out, rootfs.Route{Via: via})
		}
	}
	out = append(out, p.overHost(m, g)...)
	for _, r := range g.Routes {
		if r.Via != m.Name {
			out = append(out, p.ways(r, g)...)
		}
	}
	return out
}

// ways is a route of a segment, with the addresses that it means.
func (p *plan) ways(r lab.Route, g *lab.Network) (out []rootfs.Route) {
	for _, to := range r.Prefixes {
		for _, via := range p.via(r.Via, g) {
			if via.Is4() == to.Addr().Is4() {
				out = append(out, rootfs.Route{To: to, Via: via})
			}
		}
	}
	return out
}

// via is the addresses of a machine on a segment, or an address itself.
func (p *plan) via(name string, g *lab.Network) []netip.Addr {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}
	}
	for _, m := range p.machines {
		if m.Name == name {
			if addrs, near := p.addresses(m, g.Name); near {
				return addrs
			}
		}
	}
	return nil
}

// hosts are the names of the other machines, for one that no name server serves.
func (p *plan) hosts(m *lab.Machine) (out []rootfs.Host) {
	for _, other := range p.machines {
		if other.Name == m.Name {
			continue
		}
		var addrs []netip.Addr
		for i := range m.Cards {
			if a, near := p.addresses(other, p.spec.Segment(&m.Cards[i]).Name); near {
				addrs = a
				break
			}
		}
		if addrs == nil {
			addrs, _ = p.addresses(other, "")
		}
		for _, a := range addrs {
			out = append(out, rootfs.Host{Addr: a, Names: []string{other.Name + "." + gateway.DefaultDomain, other.Name}})
		}
	}
	return out
}

// mac is the hardware address of a machine's n-th card.
func (p *plan) mac(m *lab.Machine, n int) net.HardwareAddr { return p.spec.CardMAC(m, &m.Cards[n]) }
