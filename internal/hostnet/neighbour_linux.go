package hostnet

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// neighbour is an entry of the neighbour table that somebody has made: a
// permanent one, or, without a hardware address, an address that the host
// answers for (arp(7), rtnetlink(7)).
type neighbour struct {
	IP     netip.Addr
	MAC    net.HardwareAddr `json:",omitempty"`
	Router bool             `json:",omitempty"`
}

func (n *neighbour) proxy() bool { return len(n.MAC) == 0 }

// name is what tells the entry from others.
func (n *neighbour) name() string {
	if n.proxy() {
		return "proxy " + n.IP.String()
	}
	return n.IP.String()
}

// String is the entry as ip neigh add takes it, without the interface.
func (n *neighbour) String() string {
	if n.proxy() {
		return n.name()
	}
	s := n.IP.String() + " lladdr " + n.MAC.String() + " nud permanent"
	if n.Router {
		s += " router"
	}
	return s
}

func (n *neighbour) entry(index int) *netlink.Neigh {
	e := &netlink.Neigh{LinkIndex: index, Family: int(family(n.IP)), IP: n.IP.AsSlice()}
	if n.proxy() {
		e.Flags = netlink.NTF_PROXY
		return e
	}
	e.State, e.HardwareAddr = netlink.NUD_PERMANENT, n.MAC
	if n.Router {
		e.Flags = netlink.NTF_ROUTER
	}
	return e
}

func (n *neighbour) add(index int) error    { return netlink.NeighAdd(n.entry(index)) }
func (n *neighbour) remove(index int) error { return netlink.NeighDel(n.entry(index)) }

// neighbours reads the entries of all interfaces that somebody has made.
func neighbours() (map[int][]neighbour, error) {
	out := map[int][]neighbour{}
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		known, err := netlink.NeighList(0, fam)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		proxies, err := netlink.NeighProxyList(0, fam)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, e := range append(known, proxies...) {
			ip, ok := netip.AddrFromSlice(e.IP)
			proxy := e.Flags&netlink.NTF_PROXY != 0
			if !ok || !proxy && (e.State&netlink.NUD_PERMANENT == 0 || len(e.HardwareAddr) == 0) {
				continue
			}
			n := neighbour{IP: ip.Unmap(), Router: !proxy && e.Flags&netlink.NTF_ROUTER != 0}
			if !proxy {
				n.MAC = e.HardwareAddr
			}
			out[e.LinkIndex] = append(out[e.LinkIndex], n)
		}
	}
	return out, nil
}
