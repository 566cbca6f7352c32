package gateway

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// behind6 puts a packet's transport header behind an extension header of 8 bytes.
func behind6(f []byte, kind byte, ext [8]byte) []byte {
	p := bytes.Clone(f)
	ext[0], p[ethLen+6] = p[ethLen+6], kind
	binary.BigEndian.PutUint16(p[ethLen+4:], binary.BigEndian.Uint16(p[ethLen+4:])+8)
	return append(append(p[:ethLen+40:ethLen+40], ext[:]...), p[ethLen+40:]...)
}

// Extension headers of IPv6, after the byte that says what comes next.
var (
	padding6  = [8]byte{2: 1, 3: 4}       // options: nothing in six bytes
	routing6  = [8]byte{}                 // no segments left
	fragment6 = [8]byte{3: 1, 7: 9}       // the first one, more to come
	atomic6   = [8]byte{7: 10}            // the only one
	later6    = [8]byte{2: 1, 3: 1, 7: 9} // one from the middle
)

// TestFilterDisguise: what a guest has to pay for, or may not say, it does not get
// past the filter in an extension header's or a fragment's shade.
func TestFilterDisguise(t *testing.T) {
	b := newBench(t, Config{})
	src, gw := netip.MustParseAddr("fd00:77:6f6c:66::15"), b.g.cfg.Gateway6()
	packet := func(proto byte, body []byte) []byte {
		sum := 6
		if proto == protoICMPv6 {
			sum = 2
		}
		return ip6Frame(guestMAC, b.g.mac, src, gw, proto, body, sum)
	}
	tcp := func(flags byte) []byte {
		h := make([]byte, 20)
		h[1], h[3], h[12], h[13] = 9, 80, 5<<4, flags
		return h
	}
	solicit := append([]byte{ndpNeighbourSolicit, 0, 0, 0, 0, 0, 0, 0}, netip.MustParseAddr("fd00:77:6f6c:66::99").AsSlice()...)
	// An error about a packet between the gateway and another guest.
	reject := append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, origPacket(netip.MustParseAddr("fd00:77:6f6c:66::16"), gw, protoTCP, [8]byte{}, 12)...)

	const rich, poor guest = 1, 2
	for b.g.police.pays(poor, 1) {
	}
	for _, c := range []struct {
		what       string
		frame      []byte
		rich, poor bool // whether it passes
	}{
		{"SYN", packet(protoTCP, tcp(tcpSYN)), true, false},
		{"segment", packet(protoTCP, tcp(tcpACK)), true, true},
		{"SYN behind options", behind6(packet(protoTCP, tcp(tcpSYN)), 60, padding6), false, false},
		{"SYN behind hop-by-hop options", behind6(packet(protoTCP, tcp(tcpSYN)), 0, padding6), false, false},
		{"SYN behind a routing header", behind6(packet(protoTCP, tcp(tcpSYN)), 43, routing6), false, false},
		{"SYN in a fragment", behind6(packet(protoTCP, tcp(tcpSYN)), 44, fragment6), true, false},
		{"half a SYN", behind6(packet(protoTCP, tcp(tcpSYN)[:8]), 44, fragment6), false, false},
		{"SYN behind options in a fragment", behind6(behind6(packet(protoTCP, tcp(tcpSYN)), 60, padding6), 44, fragment6), false, false},
		{"fragment in a fragment", behind6(behind6(packet(protoTCP, tcp(tcpSYN)), 44, atomic6), 44, atomic6), false, false},
		{"later fragment", behind6(packet(protoTCP, tcp(tcpSYN)), 44, later6), true, true},
		{"segment in a fragment", behind6(packet(protoTCP, tcp(tcpACK)), 44, atomic6), true, true},
		{"DNS in a fragment", behind6(packet(protoUDP, []byte{0, 9, 0, 53, 0, 8, 0, 0}), 44, atomic6), true, false},
		{"ping in a fragment", behind6(packet(protoICMPv6, []byte{echo6, 0, 0, 0, 0, 0, 0, 0}), 44, fragment6), true, false},
		{"solicitation for another's address", packet(protoICMPv6, solicit), false, false},
		{"the same behind options", behind6(packet(protoICMPv6, solicit), 60, padding6), false, false},
		{"the same in a fragment", behind6(packet(protoICMPv6, solicit), 44, atomic6), false, false},
		{"error about another's packet", packet(protoICMPv6, reject), false, false},
		{"the same behind options", behind6(packet(protoICMPv6, reject), 60, padding6), false, false},
		{"the same in a fragment", behind6(packet(protoICMPv6, reject), 44, atomic6), false, false},
		{"a protocol that the gateway does not know", packet(132, make([]byte, 20)), true, false},
		{"a fragment cut short", ip6Frame(guestMAC, b.g.mac, src, gw, 44, make([]byte, 4), 2), false, false},
	} {
		for from, want := range map[guest]bool{rich: c.rich, poor: c.poor} {
			if got := b.g.filter(from, bytes.Clone(c.frame), 1); got != want {
				t.Errorf("%s of guest %d passes: %v, want %v", c.what, from, got, want)
			}
		}
	}
}

// TestFilterTinyFragment: a SYN that is spread over two fragments is nothing that
// anybody sends who means well (RFC 1858).
func TestFilterTinyFragment(t *testing.T) {
	b := newBench(t, Config{})
	f := tcpFrame(b.g.mac, 1, tcpSYN, nil)
	if !b.g.filter(nobody, bytes.Clone(f), 1) {
		t.Fatal("a whole SYN does not pass")
	}
	head := ethLen + 20
	f = f[:head+8]
	binary.BigEndian.PutUint16(f[ethLen+2:], 28)
	f[ethLen+6] = 0x20 // more to come
	if b.g.filter(nobody, f, 1) {
		t.Error("the first eight bytes of one pass")
	}
}

// TestSolicitDisguised: the gateway does not speak for addresses that it does not
// have, however it is asked.
func TestSolicitDisguised(t *testing.T) {
	b := newBench(t, Config{})
	src, other := netip.MustParseAddr("fd00:77:6f6c:66::15"), netip.MustParseAddr("fd00:77:6f6c:66::99")
	body := append([]byte{ndpNeighbourSolicit, 0, 0, 0, 0, 0, 0, 0}, other.AsSlice()...)
	body = append(append(body, 1, 1), guestMAC[:]...) // the option with the sender's hardware address
	f := ip6Frame(guestMAC, b.g.mac, src, b.g.cfg.Gateway6(), protoICMPv6, body, 2)
	b.silent("a solicitation behind options", behind6(f, 60, padding6), func(f []byte) bool {
		return len(f) > 54 && f[20] == protoICMPv6 && f[54] == ndpNeighbourAdvert
	})
}
