package gateway

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"wolffia/internal/vnet"
)

// summed gives a TCP frame over IPv4 its checksum.
func summed(f []byte) []byte {
	p := f[ethLen:]
	body := p[20:]
	body[16], body[17] = 0, 0
	rest := binary.BigEndian.AppendUint16([]byte{0, protoTCP}, uint16(len(body)))
	binary.BigEndian.PutUint16(body[16:], ^vnet.Checksum(body, vnet.Checksum(rest, vnet.Checksum(p[12:20], 0))))
	return f
}

// TestVerify flips every bit that a checksum covers.
func TestVerify(t *testing.T) {
	gw := [6]byte{0x52, 0x55, 10, 0, 2, 2}
	from, to := netip.MustParseAddrPort("10.0.2.15:999"), netip.MustParseAddrPort("10.0.2.3:53")
	far := netip.MustParseAddr("fd00::2")
	near := netip.MustParseAddr("fd00::5")
	icmp := make([]byte, 16)
	icmp[0] = 8
	binary.BigEndian.PutUint16(icmp[2:], ^vnet.Checksum(icmp, 0))
	ping := origFrame(gw, append(origPacket(guestIP, to.Addr(), protoICMP, [8]byte(icmp), 8), icmp[8:]...))
	udp6 := []byte{1, 2, 3, 4, 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o'}
	for name, frame := range map[string][]byte{
		"UDP":             udp4Frame(guestMAC, gw, from, to, []byte("hello")),
		"TCP":             summed(tcpFrame(gw, 1, tcpACK, []byte("odd"))),
		"TCP, long":       summed(tcpFrame(gw, 1, tcpACK, bytes.Repeat([]byte("x"), 1460))),
		"ping":            ping,
		"UDP over IPv6":   ip6Frame(guestMAC, gw, near, far, protoUDP, udp6, 6),
		"pings over IPv6": ip6Frame(guestMAC, gw, near, far, protoICMPv6, []byte{echo6, 0, 0, 0, 0, 1, 0, 1}, 2),
	} {
		padded := append(bytes.Clone(frame), 1, 2, 3) // by Ethernet, which counts for nothing
		if v := verify(vnet.Frame{Data: padded}); v != intact {
			t.Errorf("%s: %d", name, v)
		}
		begins := ethLen
		if frame[12] == 0x86 {
			begins += 8 // version and length are in no checksum
		}
		for bit := 8 * begins; bit < 8*len(frame); bit++ {
			bad := bytes.Clone(frame)
			bad[bit/8] ^= 1 << (bit % 8)
			// What is not an IP packet any more the filter drops, and netstack knows
			// what it can't put together.
			if v := verify(vnet.Frame{Data: bad}); v == intact && parses(bad) {
				t.Errorf("%s: bit %d of byte %d makes no difference", name, bit%8, bit/8)
			}
			unfinished := vnet.Frame{Data: bad, Offload: vnet.Offload{NeedsChecksum: true}}
			transport := frame[12] == 0x08 && bit >= 8*(ethLen+20+8) && (name[0] == 'U' || name[0] == 'T')
			if v := verify(unfinished); transport && v != intact {
				t.Errorf("%s: a checksum that is still to be filled in was verified", name)
			}
		}
	}
}

// parses says whether lengths in an IPv4 header are possible; those of others
// are not touched.
func parses(f []byte) bool {
	if f[12] == 0x86 {
		return true
	}
	head, total := int(f[ethLen]&15)*4, int(binary.BigEndian.Uint16(f[ethLen+2:]))
	return head >= 20 && total >= head && total <= len(f)-ethLen
}

// TestCorruptFrames has the gateway answer what arrives whole, and nothing else.
func TestCorruptFrames(t *testing.T) {
	b := newBench(t, Config{Restrict: true})
	ask := func() []byte {
		return udp4Frame(guestMAC, b.g.mac, netip.MustParseAddrPort("10.0.2.15:999"), netip.MustParseAddrPort("10.0.2.3:53"), query("gateway.lan.", dnsmessage.TypeA))
	}
	// What the name server says, and a connection's reset: nobody listens on 80.
	answered := func(f []byte) bool { return f[ethLen+9] == protoUDP && f[12] == 0x08 && f[13] == 0 }
	reset := func(f []byte) bool { return f[ethLen+9] == protoTCP && f[12] == 0x08 && f[13] == 0 }
	broken := func(f []byte) []byte {
		f[len(f)-1] ^= 4
		return f
	}
	connect := func() []byte { return summed(tcpFrame(b.g.mac, 1, tcpSYN, []byte("more"))) }
	b.send(arpFrame(1, guestMAC, broadcast, "10.0.2.15", "10.0.2.2")) // so that it knows where to answer
	b.send(ask())
	b.next("a name", answered)
	b.send(connect())
	b.next("a reset", reset)

	b.silent("a question that is broken", broken(ask()), answered)
	b.silent("a connection that is broken", broken(connect()), reset)
	b.silent("an IP header that is broken", func() []byte { f := ask(); f[ethLen+1] ^= 4; return f }(), answered)

	// One that the guest's kernel left to the receiver is right as it is.
	f := connect()
	binary.BigEndian.PutUint16(f[ethLen+20+16:], 0x1234)
	unfinished := vnet.Offload{NeedsChecksum: true, ChecksumStart: ethLen + 20, ChecksumOff: 16}
	if _, err := b.port.WriteFrames([]vnet.Frame{{Data: f, Offload: unfinished}}); err != nil {
		t.Fatal(err)
	}
	b.next("a reset", reset)

	// In fragments: netstack puts them together, and looks then.
	for _, f := range fragments(ask()) {
		b.send(f)
	}
	b.next("a name, asked for in fragments", answered)
	bad := fragments(broken(ask()))
	b.send(bad[0])
	b.silent("a question in fragments that is broken", bad[1], answered)
}

// fragments cuts a UDP frame over IPv4 in two.
func fragments(f []byte) [2][]byte {
	const cut = 16
	part := func(offset, flags int, data []byte) []byte {
		g := append(bytes.Clone(f[:ethLen+20]), data...)
		ip := g[ethLen:]
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], 77)
		binary.BigEndian.PutUint16(ip[6:], uint16(flags|offset/8))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^vnet.Checksum(ip[:20], 0))
		return g
	}
	body := f[ethLen+20:]
	return [2][]byte{part(0, 0x2000, body[:cut]), part(cut, 0, body[cut:])}
}
