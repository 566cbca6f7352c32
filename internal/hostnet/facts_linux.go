package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// facts are what the host has before a plan is applied.
type facts struct {
	links []hostLink // in the order of their indexes
	ipv6  bool       // the kernel has IPv6
}

// hostLink is an interface of the host.
type hostLink struct {
	name     string
	index    int
	kind     string // as ip -d link has it: bridge, vlan, tun; empty for hardware
	mac      net.HardwareAddr
	mtu      int
	up       bool
	master   string
	ethernet bool
	wireless bool
	addrs    []address
	routes   []route
	neighs   []neighbour
}

func (f *facts) link(name string) *hostLink {
	for i := range f.links {
		if f.links[i].name == name {
			return &f.links[i]
		}
	}
	return nil
}

// without takes out what a plan that is live has made, and gives uplinks back
// what their bridges have of theirs.
func (f *facts) without(p *Plan) {
	ours := map[string]bool{}
	for _, b := range p.Bridges {
		ours[b.Name] = true
		if b.UplinkVLAN != 0 {
			ours[vlanName(b.Uplink, b.UplinkVLAN)] = true
			continue
		}
		if up, bridge := f.link(b.Uplink), f.link(b.Name); up != nil && bridge != nil {
			up.master = ""
			up.addrs, up.routes, up.neighs = bridge.addrs, bridge.routes, bridge.neighs
		}
	}
	for _, t := range p.Taps {
		ours[t.Name] = !t.Given
		for _, v := range t.VLANs {
			ours[vlanName(t.Name, v.ID)] = true
		}
	}
	f.links = slices.DeleteFunc(f.links, func(l hostLink) bool { return ours[l.name] })
	for _, at := range p.faces() {
		for i := range f.links {
			l := &f.links[i]
			l.neighs = slices.DeleteFunc(l.neighs, func(n neighbour) bool { return n.proxy() && slices.Contains(at.ProxyARP, n.IP) })
		}
	}
}

// undone takes out what steps have made, or may have: taps are gone already, with
// their owner, and shared sysctls are looked at by their ledger.
func (f *facts) undone(steps []step) {
	at := func(d dev) *hostLink {
		for i := range f.links {
			if l := &f.links[i]; l.index == d.Index {
				return l
			}
		}
		return &hostLink{} // it is gone, and what becomes of it nobody's business
	}
	for _, s := range slices.Backward(steps) {
		switch s := s.(type) {
		case *linkStep:
			f.links = slices.DeleteFunc(f.links, func(l hostLink) bool { return l.index == s.Index })
		case *masterStep:
			at(s.dev).master = ""
		case *upStep:
			if s.Host {
				at(s.dev).up = false
			}
		case *moveStep:
			l := at(s.From)
			l.addrs, l.routes, l.neighs = s.Addrs, s.Routes, s.Neighs
		case *neighStep:
			l := at(s.dev)
			l.neighs = slices.DeleteFunc(l.neighs, func(n neighbour) bool { return n.proxy() && n.IP == s.Neigh.IP })
		}
	}
}

// hasPorts says whether there are interfaces in a bridge.
func (f *facts) hasPorts(bridge *hostLink) bool {
	return slices.ContainsFunc(f.links, func(l hostLink) bool { return l.master == bridge.name })
}

// readFacts looks at the network namespace of the process. It looks again when
// that changed meanwhile.
func readFacts() (*facts, error) {
	for attempt := 0; ; attempt++ {
		f, err := tryFacts()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || attempt == 9 {
			return f, err
		}
	}
}

func tryFacts() (*facts, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := addresses()
	if err != nil {
		return nil, err
	}
	ways, err := routes()
	if err != nil {
		return nil, err
	}
	neighs, err := neighbours()
	if err != nil {
		return nil, err
	}
	byIndex := map[int]string{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	f := &facts{}
	for _, l := range links {
		at := l.Attrs()
		_, wifi := os.Stat(filepath.Join("/sys/class/net", at.Name, "phy80211"))
		h := hostLink{
			name: at.Name, index: at.Index, mac: at.HardwareAddr, mtu: at.MTU, up: at.Flags&net.FlagUp != 0,
			ethernet: at.EncapType == "ether", wireless: wifi == nil,
			addrs: addrs[at.Index], routes: ways[at.Index], neighs: neighs[at.Index],
		}
		if l.Type() != "device" {
			h.kind = l.Type()
		}
		if at.MasterIndex != 0 {
			h.master = byIndex[at.MasterIndex]
		}
		f.links = append(f.links, h)
	}
	_, err = os.Stat("/proc/sys/net/ipv6/conf/all")
	f.ipv6 = err == nil
	return f, nil
}

// atHome are the interfaces of the host in whose subnets an address is.
func (f *facts) atHome(a netip.Addr) (out []string) {
	for i := range f.links {
		l := &f.links[i]
		for _, on := range l.addrs {
			if l.ethernet && on.Local.Contains(a) && !on.Local.IsSingleIP() {
				out = append(out, l.name)
				break
			}
		}
	}
	return out
}

// readSysctl gives the value of a sysctl, named by its path under /proc/sys.
func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", key))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func writeSysctl(key, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", key), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	_, err = f.WriteString(value + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}
