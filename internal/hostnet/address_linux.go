package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forever is the lifetime of an address or route that has no end
// (INFINITY_LIFE_TIME).
const forever = 0xffffffff

// address is an address of an interface, with all that the kernel keeps about
// it and takes back (rtnetlink(7), RTM_NEWADDR).
type address struct {
	Local     netip.Prefix
	Peer      netip.Addr `json:",omitzero"` // of a point-to-point address
	Broadcast netip.Addr `json:",omitzero"`
	Label     string     `json:",omitempty"`
	Scope     uint8      `json:",omitempty"`
	Flags     uint32     `json:",omitempty"` // IFA_F_*
	Metric    uint32     `json:",omitempty"` // of the route that comes with it
	Proto     uint8      `json:",omitempty"` // who gave it
	Valid     uint32     // seconds
	Preferred uint32     // seconds
}

const (
	ifaRtPriority = 9  // IFA_RT_PRIORITY
	ifaProto      = 11 // IFA_PROTO, from Linux 5.18 on
	// kernelFlags tell how an address fares, and can't be set.
	kernelFlags = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_PERMANENT | unix.IFA_F_STABLE_PRIVACY
)

// secondary is IFA_F_SECONDARY of an IPv4 address, which follows from the order
// of the addresses; of an IPv6 address the same bit is IFA_F_TEMPORARY.
func (a *address) secondary() bool { return a.Local.Addr().Is4() && a.Flags&unix.IFA_F_SECONDARY != 0 }
func (a *address) temporary() bool { return a.Local.Addr().Is6() && a.Flags&unix.IFA_F_TEMPORARY != 0 }

func parseAddress(msg []byte) (index int, a address, err error) {
	if len(msg) < unix.SizeofIfAddrmsg {
		return 0, a, errors.New("read an address: the kernel's message is short")
	}
	bits := int(msg[1])
	a.Flags, a.Scope = uint32(msg[2]), msg[3]
	index = int(binary.NativeEndian.Uint32(msg[4:]))
	attrs, err := nl.ParseRouteAttr(msg[unix.SizeofIfAddrmsg:])
	if err != nil {
		return 0, a, fmt.Errorf("read an address: %w", err)
	}
	a.Valid, a.Preferred = forever, forever
	var local, other netip.Addr
	for _, at := range attrs {
		v := at.Value
		switch at.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(v)
		case unix.IFA_BROADCAST:
			a.Broadcast, _ = netip.AddrFromSlice(v)
		case unix.IFA_LABEL:
			a.Label = strings.TrimRight(string(v), "\x00")
		case unix.IFA_FLAGS:
			a.Flags = uint32At(v, 0)
		case ifaRtPriority:
			a.Metric = uint32At(v, 0)
		case ifaProto:
			if len(v) > 0 {
				a.Proto = v[0]
			}
		case unix.IFA_CACHEINFO:
			a.Preferred, a.Valid = uint32At(v, 0), uint32At(v, 4)
		}
	}
	if !local.IsValid() {
		local, other = other, netip.Addr{}
	}
	if other != local {
		a.Peer = other
	}
	a.Local = netip.PrefixFrom(local, bits)
	if !a.Local.IsValid() {
		return 0, a, errors.New("read an address: the kernel's message has none")
	}
	return index, a, nil
}

// change adds (RTM_NEWADDR) or removes (RTM_DELADDR) the address on an
// interface.
func (a *address) change(what, index int) error {
	flags := unix.NLM_F_ACK
	if what == unix.RTM_NEWADDR {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	req := nl.NewNetlinkRequest(what, flags)
	local := a.Local.Addr()
	msg := &nl.IfAddrmsg{}
	msg.Family, msg.Prefixlen, msg.Scope, msg.Index = family(local), uint8(a.Local.Bits()), a.Scope, uint32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, local.AsSlice()))
	other := local
	if a.Peer.IsValid() {
		other = a.Peer
	}
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, other.AsSlice()))
	if a.Label != "" {
		req.AddData(nl.NewRtAttr(unix.IFA_LABEL, nl.ZeroTerminated(a.Label)))
	}
	if what == unix.RTM_NEWADDR {
		a.addAttributes(req)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (a *address) addAttributes(req *nl.NetlinkRequest) {
	if a.Broadcast.IsValid() {
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, a.Broadcast.AsSlice()))
	}
	flags := a.Flags &^ kernelFlags
	if a.Local.Addr().Is4() {
		flags &^= unix.IFA_F_SECONDARY
	}
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	if a.Metric != 0 {
		req.AddData(nl.NewRtAttr(ifaRtPriority, nl.Uint32Attr(a.Metric)))
	}
	if a.Proto != 0 {
		req.AddData(nl.NewRtAttr(ifaProto, []byte{a.Proto}))
	}
	if a.Valid != forever || a.Preferred != forever {
		info := make([]byte, 16) // struct ifa_cacheinfo
		binary.NativeEndian.PutUint32(info, a.Preferred)
		binary.NativeEndian.PutUint32(info[4:], a.Valid)
		req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, info))
	}
}

// name is what tells the address from others.
func (a *address) name() string {
	if a.Peer.IsValid() {
		return a.Local.Addr().String() + " peer " + netip.PrefixFrom(a.Peer, a.Local.Bits()).String()
	}
	return a.Local.String()
}

// String is the address as ip addr add takes it, without the interface.
func (a *address) String() string {
	words := []string{a.name()}
	add := func(w ...string) { words = append(words, w...) }
	if a.Broadcast.IsValid() {
		add("broadcast", a.Broadcast.String())
	}
	if a.Scope != 0 {
		add("scope", scopeWord(a.Scope))
	}
	if a.Metric != 0 {
		add("metric", strconv.FormatUint(uint64(a.Metric), 10))
	}
	for _, f := range []struct {
		bit  uint32
		word string
	}{
		{unix.IFA_F_NOPREFIXROUTE, "noprefixroute"}, {unix.IFA_F_NODAD, "nodad"}, {unix.IFA_F_HOMEADDRESS, "home"},
		{unix.IFA_F_MANAGETEMPADDR, "mngtmpaddr"}, {unix.IFA_F_MCAUTOJOIN, "autojoin"},
	} {
		if a.Flags&f.bit != 0 {
			add(f.word)
		}
	}
	if a.Proto != 0 {
		add("proto", strconv.Itoa(int(a.Proto)))
	}
	if a.Valid != forever {
		add("valid_lft", lifetimeWord(a.Valid), "preferred_lft", lifetimeWord(a.Preferred))
	}
	return strings.Join(words, " ")
}

func lifetimeWord(seconds uint32) string {
	if seconds == forever {
		return "forever"
	}
	return strconv.FormatUint(uint64(seconds), 10)
}

// scopeWord is a scope as ip has it without /etc/iproute2/rt_scopes.
func scopeWord(scope uint8) string {
	switch scope {
	case unix.RT_SCOPE_UNIVERSE:
		return "global"
	case unix.RT_SCOPE_LINK:
		return "link"
	case unix.RT_SCOPE_HOST:
		return "host"
	}
	return strconv.Itoa(int(scope))
}

// addresses reads those of all interfaces, in the kernel's order.
func addresses() (map[int][]address, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	msgs, err := dump(req, unix.RTM_NEWADDR)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := map[int][]address{}
	for _, m := range msgs {
		index, a, err := parseAddress(m)
		if err != nil {
			return nil, err
		}
		out[index] = append(out[index], a)
	}
	return out, nil
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// uint32At reads a native-endian number that the kernel wrote; a short message
// reads as 0.
func uint32At(b []byte, at int) uint32 {
	if len(b) < at+4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b[at:])
}
