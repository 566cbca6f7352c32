package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// route is a route through one interface, with all that the kernel keeps about
// it and takes back (rtnetlink(7), RTM_NEWROUTE).
type route struct {
	To       netip.Prefix
	Src      netip.Prefix `json:",omitzero"` // of source-specific IPv6 routes
	Gateway  netip.Addr   `json:",omitzero"`
	PrefSrc  netip.Addr   `json:",omitzero"`
	Table    uint32
	Priority uint32            `json:",omitempty"`
	TOS      uint8             `json:",omitempty"`
	Proto    uint8             `json:",omitempty"`
	Scope    uint8             `json:",omitempty"`
	Type     uint8             `json:",omitempty"`
	OnLink   bool              `json:",omitempty"`
	Pref     uint8             `json:",omitempty"` // ICMPV6_ROUTER_PREF_*
	Expires  uint32            `json:",omitempty"` // seconds; 0 means never
	Metrics  map[uint16]uint32 `json:",omitempty"` // by RTAX_*
	// Odd says what of the route can't be moved; empty for those that can.
	Odd string `json:",omitempty"`
}

// metricWords are the route metrics that are moved, as ip calls them.
var metricWords = map[uint16]string{
	unix.RTAX_LOCK: "lock", unix.RTAX_MTU: "mtu", unix.RTAX_WINDOW: "window", unix.RTAX_CWND: "cwnd", unix.RTAX_ADVMSS: "advmss",
	unix.RTAX_REORDERING: "reordering", unix.RTAX_HOPLIMIT: "hoplimit", unix.RTAX_INITCWND: "initcwnd",
	unix.RTAX_INITRWND: "initrwnd", unix.RTAX_QUICKACK: "quickack",
}

const userHZ = 100 // what rta_expires counts in

// parseRoute gives the interfaces that the route leads through, none for what is
// no route but a memory of one.
func parseRoute(msg []byte) (through []int, r route, err error) {
	if len(msg) < unix.SizeofRtMsg {
		return nil, r, errors.New("read a route: the kernel's message is short")
	}
	fam := msg[0]
	r.TOS, r.Table, r.Proto, r.Scope, r.Type = msg[3], uint32(msg[4]), msg[5], msg[6], msg[7]
	flags := uint32At(msg, 8)
	if flags&unix.RTM_F_CLONED != 0 {
		return nil, r, nil
	}
	r.OnLink = flags&unix.RTNH_F_ONLINK != 0
	attrs, err := nl.ParseRouteAttr(msg[unix.SizeofRtMsg:])
	if err != nil {
		return nil, r, fmt.Errorf("read a route: %w", err)
	}
	zero := netip.IPv4Unspecified()
	if fam == unix.AF_INET6 {
		zero = netip.IPv6Unspecified()
	}
	to, src := zero, zero
	for _, at := range attrs {
		v := at.Value
		switch at.Attr.Type {
		case unix.RTA_DST:
			to, _ = netip.AddrFromSlice(v)
		case unix.RTA_SRC:
			src, _ = netip.AddrFromSlice(v)
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(v)
		case unix.RTA_PREFSRC:
			r.PrefSrc, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			through = []int{int(uint32At(v, 0))}
		case unix.RTA_PRIORITY:
			r.Priority = uint32At(v, 0)
		case unix.RTA_TABLE:
			r.Table = uint32At(v, 0)
		case unix.RTA_PREF:
			if len(v) > 0 {
				r.Pref = v[0]
			}
		case unix.RTA_CACHEINFO:
			if fam == unix.AF_INET6 {
				r.Expires = uint32At(v, 8) / userHZ // rta_expires
			}
		case unix.RTA_METRICS:
			r.parseMetrics(v)
		case unix.RTA_MULTIPATH:
			r.Odd = "several next hops"
			through = nextHops(v)
		default:
			r.Odd = fmt.Sprintf("an attribute of kind %d", at.Attr.Type)
		}
	}
	r.To = netip.PrefixFrom(to, int(msg[1]))
	if msg[2] != 0 {
		r.Src = netip.PrefixFrom(src, int(msg[2]))
	}
	if !r.To.IsValid() {
		return nil, r, errors.New("read a route: the kernel's message has no destination")
	}
	return through, r, nil
}

func (r *route) parseMetrics(nested []byte) {
	attrs, err := nl.ParseRouteAttr(nested)
	if err != nil {
		r.Odd = "metrics that can't be read"
		return
	}
	for _, at := range attrs {
		if _, known := metricWords[at.Attr.Type]; !known {
			r.Odd = fmt.Sprintf("a metric of kind %d", at.Attr.Type)
			continue
		}
		if r.Metrics == nil {
			r.Metrics = map[uint16]uint32{}
		}
		r.Metrics[at.Attr.Type] = uint32At(at.Value, 0)
	}
}

// nextHops are the interfaces of a list of struct rtnexthop.
func nextHops(list []byte) (out []int) {
	for len(list) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(list))
		if size < unix.SizeofRtNexthop {
			break
		}
		out = append(out, int(uint32At(list, 4)))
		list = list[min((size+3)&^3, len(list)):] // RTNH_ALIGN
	}
	return out
}

// change adds (RTM_NEWROUTE) or removes (RTM_DELROUTE) the route through an
// interface.
func (r *route) change(what, index int) error {
	flags := unix.NLM_F_ACK
	if what == unix.RTM_NEWROUTE {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	req := nl.NewNetlinkRequest(what, flags)
	msg := &nl.RtMsg{}
	msg.Family, msg.Dst_len, msg.Tos = family(r.To.Addr()), uint8(r.To.Bits()), r.TOS
	msg.Protocol, msg.Scope, msg.Type = r.Proto, r.Scope, r.Type
	if r.Table < 256 {
		msg.Table = uint8(r.Table)
	}
	if r.OnLink {
		msg.Flags = unix.RTNH_F_ONLINK
	}
	if r.Src.IsValid() {
		msg.Src_len = uint8(r.Src.Bits())
	}
	req.AddData(msg)
	addr := func(kind int, a netip.Addr) {
		if a.IsValid() {
			req.AddData(nl.NewRtAttr(kind, a.AsSlice()))
		}
	}
	number := func(kind int, v uint32) {
		if v != 0 {
			req.AddData(nl.NewRtAttr(kind, nl.Uint32Attr(v)))
		}
	}
	addr(unix.RTA_DST, r.To.Addr())
	addr(unix.RTA_SRC, r.Src.Addr())
	addr(unix.RTA_GATEWAY, r.Gateway)
	addr(unix.RTA_PREFSRC, r.PrefSrc)
	number(unix.RTA_OIF, uint32(index))
	number(unix.RTA_TABLE, r.Table)
	number(unix.RTA_PRIORITY, r.Priority)
	number(unix.RTA_EXPIRES, r.Expires)
	if r.Pref != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_PREF, []byte{r.Pref}))
	}
	if len(r.Metrics) > 0 {
		nested := nl.NewRtAttr(unix.RTA_METRICS, nil)
		for _, kind := range r.metricKinds() {
			nested.AddRtAttr(int(kind), nl.Uint32Attr(r.Metrics[kind]))
		}
		req.AddData(nested)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (r *route) metricKinds() []uint16 {
	var kinds []uint16
	for k := range r.Metrics {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	return kinds
}

// words are the route as ip route add takes it, through an interface.
func (r *route) words(dev string) string {
	var words []string
	add := func(w ...string) { words = append(words, w...) }
	number := func(word string, v uint64) {
		if v != 0 {
			add(word, strconv.FormatUint(v, 10))
		}
	}
	add(typeWord(r.Type)...)
	to := r.To.String()
	if r.To.Bits() == 0 {
		to = "default"
	}
	add(to)
	if r.Src.IsValid() {
		add("from", r.Src.String())
	}
	if r.TOS != 0 {
		add("tos", fmt.Sprintf("%#x", r.TOS))
	}
	if r.Gateway.IsValid() {
		add("via", r.Gateway.String())
	}
	add("dev", dev)
	if r.Table != unix.RT_TABLE_MAIN {
		number("table", uint64(r.Table))
	}
	number("proto", uint64(r.Proto))
	if r.To.Addr().Is4() {
		add("scope", scopeWord(r.Scope))
	}
	if r.PrefSrc.IsValid() {
		add("src", r.PrefSrc.String())
	}
	number("metric", uint64(r.Priority))
	locked := r.Metrics[unix.RTAX_LOCK]
	for _, k := range r.metricKinds() {
		if k == unix.RTAX_LOCK {
			continue
		}
		add(metricWords[k])
		if locked&(1<<k) != 0 {
			add("lock")
		}
		add(strconv.FormatUint(uint64(r.Metrics[k]), 10))
	}
	if r.OnLink {
		add("onlink")
	}
	number("expires", uint64(r.Expires))
	switch r.Pref {
	case 1:
		add("pref", "high")
	case 3:
		add("pref", "low")
	}
	return strings.Join(words, " ")
}

func typeWord(kind uint8) []string {
	switch kind {
	case unix.RTN_UNICAST:
		return nil
	case unix.RTN_LOCAL:
		return []string{"local"}
	case unix.RTN_BROADCAST:
		return []string{"broadcast"}
	case unix.RTN_ANYCAST:
		return []string{"anycast"}
	case unix.RTN_MULTICAST:
		return []string{"multicast"}
	}
	return []string{strconv.Itoa(int(kind))}
}

// key is what makes it another route for the kernel: all of it but how long it
// lasts.
func (r *route) key() string {
	c := *r
	c.Expires = 0
	return c.words("")
}

// comesWith says whether the kernel makes the route, and takes it away, with
// one of these addresses.
func (r *route) comesWith(addrs []address) bool {
	if r.Proto != unix.RTPROT_KERNEL || r.Gateway.IsValid() {
		return false
	}
	for i := range addrs {
		a := &addrs[i]
		if a.Flags&unix.IFA_F_NOPREFIXROUTE != 0 {
			continue
		}
		on := a.Local
		if a.Peer.IsValid() {
			on = netip.PrefixFrom(a.Peer, a.Local.Bits())
		}
		if on.Masked() != r.To || a.secondary() {
			continue
		}
		if r.To.Addr().Is6() || r.PrefSrc == a.Local.Addr() {
			return true
		}
	}
	return false
}

// ownRoute says whether the kernel makes the route for every interface that is
// up: link-local, multicast, and those to the interface's own addresses.
func (r *route) ownRoute() bool {
	to := r.To.Addr()
	return r.Table == unix.RT_TABLE_LOCAL || to.Is6() && (to.IsLinkLocalUnicast() || to.IsMulticast()) && r.Proto == unix.RTPROT_KERNEL
}

// routes reads those of all interfaces and tables, in the kernel's order.
func routes() (map[int][]route, error) {
	out := map[int][]route{}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: fam}})
		msgs, err := dump(req, unix.RTM_NEWROUTE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, m := range msgs {
			through, r, err := parseRoute(m)
			if err != nil {
				return nil, err
			}
			if r.ownRoute() {
				continue
			}
			for _, index := range through {
				out[index] = append(out[index], r)
			}
		}
	}
	return out, nil
}

// dump reads a list again when it changed while it was being read.
func dump(req *nl.NetlinkRequest, kind uint16) ([][]byte, error) {
	for attempt := 0; ; attempt++ {
		msgs, err := req.Execute(unix.NETLINK_ROUTE, kind)
		if err == nil || !errors.Is(err, nl.ErrDumpInterrupted) || attempt == 9 {
			return msgs, err
		}
	}
}

// mainRoute is a route of the plan's.
func mainRoute(r Route) route {
	out := route{To: r.To, Gateway: r.Via, Table: unix.RT_TABLE_MAIN, Proto: unix.RTPROT_BOOT, Type: unix.RTN_UNICAST}
	if r.To.Addr().Is4() && !r.Via.IsValid() {
		out.Scope = unix.RT_SCOPE_LINK
	}
	return out
}
