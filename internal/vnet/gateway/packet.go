package gateway

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"wolffia/internal/vnet"
)

// icmpKind is a message of ICMP in either version.
type icmpKind struct {
	type4, code4 byte
	type6, code6 byte
}

// What the gateway tells guests by ICMP (RFC 792, RFC 4443).
var (
	icmpEchoReply       = icmpKind{0, 0, 129, 0}
	icmpNetUnreachable  = icmpKind{3, 0, 1, 0}
	icmpHostUnreachable = icmpKind{3, 1, 1, 3}
	icmpPortUnreachable = icmpKind{3, 3, 1, 4}
	icmpProhibited      = icmpKind{3, 13, 1, 1}
	icmpTimeExceeded    = icmpKind{11, 0, 3, 0}
)

// sendError tells dst that the packet that starts with orig, its IP header and
// at least 8 bytes more, went wrong at src.
func (g *Gateway) sendError(src, dst netip.Addr, kind icmpKind, orig []byte) {
	g.sendICMP(src, dst, kind, 0, orig)
}

// sendICMP sends one message. rest is the second word of its header. It does
// not wait: resolving the neighbour is netstack's work.
func (g *Gateway) sendICMP(src, dst netip.Addr, kind icmpKind, rest uint32, payload []byte) {
	route, err := g.stack.FindRoute(nicID, toStack(src), toStack(dst), protocolOf(dst), false)
	if err != nil {
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()) + 8,
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	h := pkt.TransportHeader().Push(8)
	proto := header.ICMPv4ProtocolNumber
	h[0], h[1] = kind.type4, kind.code4
	sum := uint16(0)
	if dst.Is6() {
		proto = header.ICMPv6ProtocolNumber
		h[0], h[1] = kind.type6, kind.code6
		sum = pseudo6(src, dst, protoICMPv6, 8+len(payload))
	}
	binary.BigEndian.PutUint32(h[4:], rest)
	binary.BigEndian.PutUint16(h[2:], ^vnet.Checksum(h, vnet.Checksum(payload, sum)))
	pkt.TransportProtocolNumber = proto
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: proto, TTL: 64}, pkt)
}

// origPacket rebuilds the start of a guest's packet, as an ICMP error quotes
// it: the IP header and the first 8 bytes of what follows.
func origPacket(src, dst netip.Addr, proto byte, next [8]byte, payload int) []byte {
	var b []byte
	if src.Is4() {
		b = make([]byte, 20, 28)
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(28+payload))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^vnet.Checksum(b, 0))
	} else {
		b = make([]byte, 40, 48)
		b[0], b[6], b[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(b[4:], uint16(8+payload))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
	}
	return append(b, next[:]...)
}

// pseudo6 sums the pseudo header of RFC 8200, 8.1.
func pseudo6(src, dst netip.Addr, proto byte, size int) uint16 {
	var b [40]byte
	copy(b[:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint32(b[32:], uint32(size))
	b[39] = proto
	return vnet.Checksum(b[:], 0)
}

// udp4Frame builds a whole frame, for a receiver that can't be asked for its
// hardware address yet.
func udp4Frame(srcMAC, dstMAC [6]byte, src, dst netip.AddrPort, payload []byte) []byte {
	f := make([]byte, ethLen+28, ethLen+28+len(payload))
	ethernet(f, srcMAC, dstMAC, etherIPv4)
	ip := f[ethLen:]
	ip[0], ip[8], ip[9] = 0x45, 64, protoUDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^vnet.Checksum(ip[:20], 0))
	binary.BigEndian.PutUint16(ip[20:], src.Port())
	binary.BigEndian.PutUint16(ip[22:], dst.Port())
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(payload)))
	f = append(f, payload...)
	ip = f[ethLen:]
	sum := vnet.Checksum(ip[12:20], protoUDP)
	sum = vnet.Checksum(ip[20:], vnet.Checksum(ip[24:26], sum))
	putUDPSum(ip[26:], sum)
	return f
}

// ip6Frame builds a whole frame around an ICMPv6 message or a UDP datagram,
// whose checksum, at the offset sumAt, is filled in.
func ip6Frame(srcMAC, dstMAC [6]byte, src, dst netip.Addr, proto byte, body []byte, sumAt int) []byte {
	f := make([]byte, ethLen+40, ethLen+40+len(body))
	ethernet(f, srcMAC, dstMAC, etherIPv6)
	ip := f[ethLen:]
	ip[0], ip[6], ip[7] = 0x60, proto, 255
	binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	f = append(f, body...)
	body = f[ethLen+40:]
	body[sumAt], body[sumAt+1] = 0, 0
	putUDPSum(body[sumAt:], vnet.Checksum(body, pseudo6(src, dst, proto, len(body))))
	return f
}

// putUDPSum stores a checksum; zero would mean that there is none (RFC 768),
// and its ones' complement twin is as good for ICMPv6.
func putUDPSum(b []byte, sum uint16) {
	if sum = ^sum; sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b, sum)
}

func ethernet(f []byte, src, dst [6]byte, kind uint16) {
	copy(f, dst[:])
	copy(f[6:], src[:])
	binary.BigEndian.PutUint16(f[12:], kind)
}
