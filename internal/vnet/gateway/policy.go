package gateway

import (
	"net/netip"
	"sync"
	"time"
)

// targets says which addresses of the host's world a guest's destination stands
// for, in the order to try; none means that the guest may not go there.
func (g *Gateway) targets(dst netip.Addr) []netip.Addr {
	if g.cfg.Restrict {
		return nil
	}
	loop4, loop6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	switch {
	case dst == g.cfg.Gateway() && !g.cfg.NoHost:
		return []netip.Addr{loop4, loop6}
	case dst == g.cfg.Gateway6() && !g.cfg.NoHost:
		return []netip.Addr{loop6, loop4}
	case g.local[dst] || g.cfg.Subnet.Contains(dst) || g.cfg.Prefix6.Contains(dst) || g.behind(dst) || !routable(dst):
		return nil
	case g.host.refuses(dst, g.cfg.NoHost):
		return nil
	}
	return []netip.Addr{dst}
}

// martians are networks that mean the host itself, a link or nobody, and that a
// router does not pass on (RFC 6890).
var martians = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast, reserved, broadcast
	netip.MustParsePrefix("::/96"),       // unspecified, loopback, IPv4-compatible
	netip.MustParsePrefix("::ffff:0:0:0/96"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// routable says whether an address can lie beyond a router. IPv4-mapped IPv6
// addresses can't: the host would take them for IPv4, past every rule here.
func routable(a netip.Addr) bool {
	if !a.IsValid() || a.Is4In6() {
		return false
	}
	for _, p := range martians {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// hostAddrs knows which addresses are the host's own. Addresses come and go, so
// what it knows is at most hostAddrsAge old.
type hostAddrs struct {
	mu    sync.Mutex
	known map[netip.Addr]hostAddr
}

type hostAddr struct {
	kind routeKind
	at   time.Time
}

const (
	hostAddrsAge = 2 * time.Second
	hostAddrsMax = 256 // then all are forgotten
)

// routeKind is what the host's routing says of an address.
type routeKind int

const (
	routeUnknown   routeKind = iota // the host could not be asked
	routeAway                       // elsewhere, or nowhere
	routeLocal                      // one of the host's own, or of a range that it answers for, or an anycast address
	routeBroadcast                  //
)

// refuses says whether dst is a broadcast address of the host's networks, or
// with own also one of the host's addresses.
func (h *hostAddrs) refuses(dst netip.Addr, own bool) bool {
	switch h.kind(dst) {
	case routeBroadcast:
		return true
	case routeAway:
		return false
	}
	return own // not to know is no reason to let anyone in
}

func (h *hostAddrs) kind(dst netip.Addr) routeKind {
	now := time.Now()
	h.mu.Lock()
	a, ok := h.known[dst]
	h.mu.Unlock()
	if ok && now.Sub(a.at) < hostAddrsAge {
		return a.kind
	}
	a = hostAddr{lookupRoute(dst), now}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil || len(h.known) >= hostAddrsMax {
		h.known = map[netip.Addr]hostAddr{}
	}
	h.known[dst] = a
	return a.kind
}
