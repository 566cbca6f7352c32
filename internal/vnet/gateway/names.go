package gateway

import (
	"net/netip"
	"strings"
	"sync"
)

// names knows the network's own names: those of the configuration, and those
// of guests that have a reservation or a lease.
type names struct {
	g *Gateway

	mu     sync.Mutex
	static map[string][]netip.Addr // by name without the domain
}

func newNames(g *Gateway) *names {
	n := &names{g: g}
	n.set(g.cfg.Names)
	return n
}

// SetNames replaces Config.Names.
func (g *Gateway) SetNames(m map[string][]netip.Addr) { g.names.set(m) }

func (n *names) set(m map[string][]netip.Addr) {
	c := &n.g.cfg
	gw, dns := []netip.Addr{c.Gateway()}, []netip.Addr{c.DNS()}
	if !c.NoIPv6 {
		gw, dns = append(gw, c.Gateway6()), append(dns, c.DNS6())
	}
	static := map[string][]netip.Addr{"gateway": gw, "host": gw, "dns": dns}
	for name, addrs := range m {
		base, _ := n.base(name)
		static[base] = append([]netip.Addr(nil), addrs...)
	}
	n.mu.Lock()
	n.static = static
	n.mu.Unlock()
}

// base strips the domain from a name, in lower case, and says whether the name
// belongs to the network for sure.
func (n *names) base(name string) (base string, inDomain bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == n.g.cfg.Domain {
		return "", true
	}
	return strings.CutSuffix(name, "."+n.g.cfg.Domain)
}

// lookup gives a name's addresses. mine says that the name is the network's to
// answer for, whether or not it exists.
func (n *names) lookup(name string) (addrs []netip.Addr, mine bool) {
	base, inDomain := n.base(name)
	n.mu.Lock()
	addrs, ok := n.static[base]
	n.mu.Unlock()
	if ok {
		return addrs, true
	}
	l, ok := n.g.dhcp.ofName(base)
	if !ok {
		return nil, inDomain
	}
	addrs = []netip.Addr{l.Addr}
	if a, ok := n.g.near.address6([6]byte(l.MAC), n.g.cfg.Prefix6); ok {
		addrs = append(addrs, a)
	}
	return addrs, true
}

// reverse gives the full name of one of the network's addresses. mine says that
// the address is the network's.
func (n *names) reverse(a netip.Addr) (name string, mine bool) {
	mine = n.g.cfg.Subnet.Contains(a) || n.g.behind(a) || !n.g.cfg.NoIPv6 && n.g.cfg.Prefix6.Contains(a)
	n.mu.Lock()
	for base, addrs := range n.static {
		for _, b := range addrs {
			// Of several names the shortest, then the first, so that the answer
			// is always the same; "host" is another word for the gateway.
			if b == a && base != "host" && (name == "" || len(base) < len(name) || len(base) == len(name) && base < name) {
				name = base
			}
		}
	}
	n.mu.Unlock()
	if name == "" && !n.g.behind(a) { // or the card would be that of who routes
		mac, _ := n.g.near.macOf(a)
		name = n.g.dhcp.nameOf(a, mac)
	}
	switch {
	case name == "":
		return "", mine
	case strings.Contains(name, "."):
		return name, true
	}
	return name + "." + n.g.cfg.Domain, true
}

// reverseAddr reads the address out of a PTR query's name (RFC 1035, 3.5; RFC
// 3596, 2.5).
func reverseAddr(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(s, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(s) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		c := strings.IndexByte("0123456789abcdef", s[2*i])
		if c < 0 || i < 31 && s[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(c) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
