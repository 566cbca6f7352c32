package filter

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// The corpus is made here, by hand and by chance, so that it holds what real
// captures seldom do: fragments, options, odd headers, tags in tags, and
// frames cut anywhere.

var (
	macA  = []byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	macB  = []byte{2, 0, 0, 0, 0, 0xb}
	all1s = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	group = []byte{1, 0, 0x5e, 0, 0, 0xfb}
)

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func u16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

func eth(dst, src []byte, kind int, payload []byte) []byte {
	return join(dst, src, u16(kind), payload)
}

func tagged(id, kind int, payload []byte) []byte { return join(u16(id), u16(kind), payload) }

// ip4 makes a header with options words and a fragment field.
func ip4(proto byte, src, dst string, options, frag int, payload []byte) []byte {
	h := make([]byte, 20+4*options)
	h[0] = 0x45 + byte(options)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[6:], uint16(frag))
	h[8], h[9] = 64, proto
	copy(h[12:], netip.MustParseAddr(src).AsSlice())
	copy(h[16:], netip.MustParseAddr(dst).AsSlice())
	return join(h, payload)
}

func ip6(next byte, src, dst string, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], netip.MustParseAddr(src).AsSlice())
	copy(h[24:], netip.MustParseAddr(dst).AsSlice())
	return join(h, payload)
}

func tcp(src, dst int, flags byte, data string) []byte {
	h := make([]byte, 20)
	copy(h, join(u16(src), u16(dst)))
	h[12], h[13] = 0x50, flags
	return join(h, []byte(data))
}

func udp(src, dst, size int) []byte {
	return join(u16(src), u16(dst), u16(8+size), u16(0), make([]byte, size))
}

func arp(op int, src, dst string) []byte {
	return join([]byte{0, 1, 8, 0, 6, 4}, u16(op), macA, netip.MustParseAddr(src).AsSlice(),
		make([]byte, 6), netip.MustParseAddr(dst).AsSlice())
}

// payloads are (EtherType, packet) pairs, to be put into frames.
func payloads() map[int][][]byte {
	const a, b, c = "10.0.0.1", "10.0.2.15", "192.168.7.3"
	const a6, b6, l6, g6 = "2001:db8::1", "2001:db8:0:1::2", "fe80::1", "ff02::1"
	fragment := join([]byte{6, 0, 0, 0, 0, 0, 0, 1}, tcp(80, 80, 0x10, ""))
	packets := map[int][][]byte{
		etherIPv4: {
			ip4(6, a, b, 0, 0, tcp(40000, 80, 0x02, "")), ip4(6, b, a, 0, 0, tcp(80, 40000, 0x12, "")),
			ip4(6, a, c, 2, 0, tcp(443, 1024, 0x18, "GET / HTTP/1.0\r\n\r\n")), ip4(6, c, a, 0, 0x4000, tcp(22, 22, 0x11, "x")),
			ip4(6, a, b, 0, 0x2000, tcp(1, 80, 0x10, "more")), ip4(6, a, b, 0, 0x0010, tcp(1, 80, 0x10, "later")),
			ip4(17, a, b, 0, 0, udp(5353, 53, 20)), ip4(17, b, "224.0.0.251", 0, 0, udp(5353, 5353, 100)),
			ip4(17, "0.0.0.0", "255.255.255.255", 0, 0, udp(68, 67, 300)), ip4(17, c, b, 10, 0, udp(1500, 69, 1400)),
			ip4(132, a, b, 0, 0, join(u16(80), u16(2000), make([]byte, 8))), ip4(1, a, b, 0, 0, []byte{8, 0, 0, 0, 0, 1, 0, 1}),
			ip4(1, b, a, 1, 0, []byte{0, 0, 0, 0, 0, 1, 0, 1}), ip4(1, b, a, 0, 0, []byte{3, 1, 0, 0, 0, 0, 0, 0}),
			ip4(2, a, "224.0.0.22", 0, 0, make([]byte, 8)), ip4(103, a, b, 0, 0, make([]byte, 8)), ip4(112, a, "224.0.0.18", 0, 0, []byte{0x21, 1}),
			ip4(50, a, b, 0, 0, make([]byte, 8)), ip4(51, a, b, 0, 0, make([]byte, 12)), ip4(89, a, b, 0, 0, make([]byte, 24)),
			ip4(58, a, b, 0, 0, []byte{135, 0}), ip4(44, a, b, 0, 0, []byte{6, 0}),
		},
		etherIPv6: {
			ip6(6, a6, b6, tcp(40000, 443, 0x02, "")), ip6(6, b6, a6, tcp(443, 40000, 0x12, "")), ip6(17, a6, g6, udp(546, 547, 30)),
			ip6(17, l6, b6, udp(53, 53, 10)), ip6(58, l6, g6, []byte{135, 0, 0, 0, 0, 0, 0, 0}), ip6(58, a6, b6, []byte{128, 0, 0, 0, 0, 1, 0, 1}),
			ip6(44, a6, b6, fragment), ip6(132, a6, b6, udp(80, 81, 4)), ip6(0, l6, g6, []byte{58, 0, 5, 2, 0, 0, 1, 0, 143, 0}),
			ip6(1, a6, b6, []byte{8, 0}), ip6(103, a6, b6, make([]byte, 4)), ip6(6, "::ffff:10.0.0.1", "::1", tcp(9, 80, 4, "")),
		},
		etherARP:  {arp(1, a, b), arp(2, b, a), arp(1, c, c)},
		etherRARP: {arp(3, a, b), arp(4, "0.0.0.0", c)},
		0x88cc:    {make([]byte, 40)},
		0x0026:    {join([]byte{0x42, 0x42, 3}, make([]byte, 35))},
		0x0027:    {join([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, ip4(6, a, b, 0, 0, tcp(80, 80, 2, "")))},
		0x9000:    {make([]byte, 46)}, 0x05dd: {make([]byte, 46)}, 0x8847: {make([]byte, 46)},
	}
	return packets
}

// corpus makes the frames: each packet plain, to groups, tagged once and
// twice. The odd ones have flipped bytes, or are cut anywhere.
func corpus() (sound, odd [][]byte) {
	rnd := rand.New(rand.NewPCG(7, 11))
	kinds := payloads()
	for kind := 0; kind < 1<<16; kind++ {
		for i, packet := range kinds[kind] {
			dst := [][]byte{macB, all1s, group, macA}[i%4]
			sound = append(sound, eth(dst, macA, kind, packet), eth(macA, macB, kind, packet),
				eth(dst, macB, 0x8100, tagged(10+i%3*10, kind, packet)),
				eth(dst, macA, 0x88a8, tagged(0x2000+100, 0x8100, tagged(20, kind, packet))),
				eth(dst, macA, 0x9100, tagged(10, kind, packet)))
		}
	}
	for range 400 {
		f := append([]byte(nil), sound[rnd.IntN(len(sound))]...)
		for range 1 + rnd.IntN(4) {
			f[rnd.IntN(min(len(f), 60))] = byte(rnd.IntN(256))
		}
		odd = append(odd, f)
	}
	for range 800 {
		f := sound[rnd.IntN(len(sound))]
		odd = append(odd, f[:rnd.IntN(min(len(f), 80))+1])
	}
	return sound, odd
}
