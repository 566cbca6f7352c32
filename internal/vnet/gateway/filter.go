package gateway

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Numbers on the wire that the filter and the servers look for.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	// Headers of IPv6 that others follow (RFC 8200, 4).
	protoHopByHop    = 0
	protoRouting     = 43
	protoFragment    = 44
	protoDestOptions = 60

	portDNS       = 53
	portDHCP      = 67
	portDHCPGuest = 68
	portTFTP      = 69
	portDHCP6     = 547

	ndpRouterSolicit    = 133
	ndpRouterAdvert     = 134
	ndpNeighbourSolicit = 135
	ndpNeighbourAdvert  = 136
	ndpRedirect         = 137
)

// filter looks at a frame before the stack does, and says whether the stack
// gets it. It answers what must not depend on the sender having an address
// (DHCP, router solicitations), and keeps away what would make the stack, which
// takes every address for its own here, speak for addresses that it does not
// have: ARP and neighbour discovery for others, foreign sources, broadcasts. What
// the gateway answers itself the guest pays for; see police. now is in Unix
// seconds.
func (g *Gateway) filter(from guest, f []byte, now int64) bool {
	if f[6]&1 != 0 || [6]byte(f[6:12]) == g.mac {
		return false
	}
	if f[0]&1 == 0 && [6]byte(f[:6]) != g.mac {
		return false // flooded by a switch that does not know better
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherARP:
		return g.filterARP(from, f, now)
	case etherIPv4:
		return g.filter4(from, f, now)
	case etherIPv6:
		return !g.cfg.NoIPv6 && g.filter6(from, f, now)
	}
	return false
}

// filterARP takes what concerns the gateway's addresses (RFC 826). A sender
// of 0.0.0.0 probes whether an address is taken (RFC 5227).
func (g *Gateway) filterARP(from guest, f []byte, now int64) bool {
	p := f[ethLen:]
	if len(p) < 28 || binary.BigEndian.Uint32(p) != 0x00010800 || p[4] != 6 || p[5] != 4 {
		return false
	}
	sender := netip.AddrFrom4([4]byte(p[14:18]))
	target := netip.AddrFrom4([4]byte(p[24:28]))
	if !g.local[target] || !g.police.pays(from, costPacket) {
		return false
	}
	// One that routes asks in the name of any of its addresses.
	return sender.IsUnspecified() || (g.guest4(sender) || g.behind(sender)) && g.near.admit(from, [6]byte(f[6:12]), sender, now)
}

// guest4 says whether an address can be a guest's.
func (g *Gateway) guest4(a netip.Addr) bool {
	return g.cfg.Subnet.Contains(a) && !g.local[a] && a != g.cfg.Subnet.Addr() && a != lastAddr(g.cfg.Subnet)
}

// guest6 says whether an address can be a guest's.
func (g *Gateway) guest6(a netip.Addr) bool {
	return (g.cfg.Prefix6.Contains(a) || linkLocalNet.Contains(a)) && !g.local[a]
}

func (g *Gateway) filter4(from guest, f []byte, now int64) bool {
	p := f[ethLen:]
	if len(p) < 20 || p[0]>>4 != 4 {
		return false
	}
	head, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if head < 20 || total < head || total > len(p) {
		return false
	}
	whole := binary.BigEndian.Uint16(p[6:])&0x3fff == 0
	if p[9] == protoUDP && whole && total >= head+8 &&
		binary.BigEndian.Uint16(p[head+2:]) == portDHCP {
		if size := int(binary.BigEndian.Uint16(p[head+4:])); size >= 8 && head+size <= total && g.police.pays(from, costDHCP) {
			g.dhcp.handle(from, [6]byte(f[6:12]), p[head+8:head+size])
		}
		return false
	}
	src, dst := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	if !g.guest4(src) && !g.behind(src) || f[0]&1 != 0 || dst.IsMulticast() {
		return false
	}
	first := binary.BigEndian.Uint16(p[6:])&0x1fff == 0
	if first && !g.affords(from, p[9], dst, p[head:total]) ||
		first && p[9] == protoICMP && !plausible4(p[12:16], p[head:total], whole) ||
		!g.near.admit(from, [6]byte(f[6:12]), src, now) {
		return false
	}
	if g.local[dst] {
		return true
	}
	if g.cfg.Subnet.Contains(dst) || !routable(dst) {
		return false // a guest's, nobody's or a martian: not ours to answer for
	}
	if p[8] <= 1 { // the time to live ends here (RFC 1812, 5.3.1)
		if first && g.police.pays(from, costPacket) {
			g.sendError(g.cfg.Gateway(), src, icmpTimeExceeded, p[:min(total, head+8)])
		}
		return false
	}
	return true
}

// affords says whether the guest can pay for what comes of a packet, whose
// transport header body begins with. Segments of connections and datagrams of
// flows cost nothing; what begins one pays where that is done, but for a SYN.
func (g *Gateway) affords(from guest, proto byte, dst netip.Addr, body []byte) bool {
	switch proto {
	case protoTCP:
		if len(body) < 20 { // cut, so that what it is can't be told (RFC 1858)
			return false
		}
		return body[13]&(tcpSYN|tcpACK) != tcpSYN || g.police.pays(from, costSYN)
	case protoUDP:
		return len(body) < 4 || binary.BigEndian.Uint16(body[2:]) != portDNS || !g.local[dst] || g.police.pays(from, costQuery)
	case protoICMP, protoICMPv6:
		return !g.local[dst] || g.police.pays(from, costPacket*float64(1+len(body)/g.cfg.MTU)) // so many come back
	}
	return g.police.pays(from, costPacket) // netstack says that it does not know it
}

// plausible4 says whether an ICMP message is one that a guest may send: no word
// on routes, and an error only about a packet that went to itself, or one guest
// could end the connections of another. Errors come whole.
func plausible4(src, body []byte, whole bool) bool {
	if len(body) < 8 {
		return false
	}
	switch body[0] {
	case 3, 4, 11, 12: // unreachable, quench, time exceeded, bad parameter
		return whole && len(body) >= 8+20 && body[8]>>4 == 4 && bytes.Equal(body[8+16:8+20], src)
	case 5, 9: // redirect, router advertisement
		return false
	}
	return true
}

// plausible6 is plausible4 for ICMPv6. Neighbour discovery comes whole (RFC 6980)
// and then does not come here.
func plausible6(src, body []byte, whole bool) bool {
	switch {
	case len(body) < 8, body[0] == ndpRouterAdvert, body[0] == ndpRedirect:
		return false
	case body[0] == ndpRouterSolicit, body[0] == ndpNeighbourSolicit, body[0] == ndpNeighbourAdvert:
		return false
	case body[0] < 128: // an error (RFC 4443, 2.1)
		return whole && len(body) >= 8+40 && body[8]>>4 == 6 && bytes.Equal(body[8+24:8+40], src)
	}
	return true
}

// transport6 says what an IPv6 packet carries, and whether that is whole, or at
// least the first of its fragments. It is not ok behind extension headers other
// than the fragment's: nothing that the gateway carries has those, and netstack
// would look behind them for what the filter is to keep away.
func transport6(next byte, payload []byte) (proto byte, body []byte, first, whole, ok bool) {
	proto, body, first, whole = next, payload, true, true
	if next == protoFragment {
		if len(body) < 8 {
			return proto, body, false, false, false
		}
		first, whole = binary.BigEndian.Uint16(body[2:])>>3 == 0, false
		proto, body = body[0], body[8:]
	}
	ok = true
	switch proto {
	case protoHopByHop, protoRouting, protoFragment, protoDestOptions:
		ok = !first // of the others netstack does not read it
	}
	return proto, body, first, whole, ok
}

func (g *Gateway) filter6(from guest, f []byte, now int64) bool {
	p := f[ethLen:]
	if len(p) < 40 || p[0]>>4 != 6 {
		return false
	}
	size := int(binary.BigEndian.Uint16(p[4:]))
	if 40+size > len(p) {
		return false
	}
	src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	body := p[40 : 40+size]
	if p[6] == protoICMPv6 && size >= 8 {
		switch body[0] {
		case ndpRouterSolicit:
			if g.police.pays(from, costPacket) {
				g.adv.solicited([6]byte(f[6:12]), src, p[7], body)
			}
			return false
		case ndpNeighbourSolicit, ndpNeighbourAdvert:
			return g.police.pays(from, costPacket) && g.filterND(from, f, src, now)
		}
	}
	if p[6] == protoUDP && size >= 8 && binary.BigEndian.Uint16(body[2:]) == portDHCP6 {
		if n := int(binary.BigEndian.Uint16(body[4:])); n >= 8 && n <= size && g.police.pays(from, costDHCP) {
			g.adv.dhcp6([6]byte(f[6:12]), src, body[8:n])
		}
		return false
	}
	if !g.guest6(src) && !g.behind(src) || dst.IsMulticast() || f[0]&1 != 0 {
		return false
	}
	proto, body, first, whole, ok := transport6(p[6], body)
	if !ok || first && !g.affords(from, proto, dst, body) ||
		first && proto == protoICMPv6 && !plausible6(p[8:24], body, whole) ||
		!g.near.admit(from, [6]byte(f[6:12]), src, now) {
		return false
	}
	if g.local[dst] {
		return true
	}
	if g.cfg.Prefix6.Contains(dst) || linkLocalNet.Contains(src) || !routable(dst) {
		return false
	}
	if p[7] <= 1 {
		if first && g.police.pays(from, costPacket) {
			g.sendError(g.cfg.Gateway6(), src, icmpTimeExceeded, p[:min(40+size, 88)])
		}
		return false
	}
	return true
}

// filterND takes neighbour discovery that concerns the gateway's addresses
// (RFC 4861, 7.1), and notes which addresses guests have given themselves.
func (g *Gateway) filterND(from guest, f []byte, src netip.Addr, now int64) bool {
	p := f[ethLen:]
	body := p[40 : 40+int(binary.BigEndian.Uint16(p[4:]))]
	if p[7] != 255 || len(body) < 24 || !(g.guest6(src) || g.behind(src) || src.IsUnspecified()) {
		return false
	}
	target := netip.AddrFrom16([16]byte(body[8:24]))
	if body[0] == ndpNeighbourAdvert {
		return !g.local[target] && g.guest6(src) && g.near.admit(from, [6]byte(f[6:12]), src, now)
	}
	if src.IsUnspecified() { // the guest wants to use the address
		if g.guest6(target) {
			g.near.admit(from, [6]byte(f[6:12]), target, now)
		}
		return g.local[target]
	}
	return g.near.admit(from, [6]byte(f[6:12]), src, now) && g.local[target]
}
