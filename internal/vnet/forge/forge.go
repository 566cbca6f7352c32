// Package forge makes frames as a hostile guest sends them, for tests: for the
// switch and the gateway alone, and for machines that flood a lab. Whatever it
// makes up, hardware addresses and IP addresses of senders, is nobody's in the
// tests' networks, 10.0.2.0/24 and its IPv6 prefix: a guest may take another's
// place, as on any Ethernet, and that is no flood.
//
//	f := forge.New(forge.Target{MAC: mac, Addr: gateway})
//	frame := forge.Floods()["ARP"](f)
package forge

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"wolffia/internal/vnet"
)

// Forge makes frames of random numbers, the same each time.
type Forge struct {
	rand *rand.Rand
	to   Target
}

// Target is whom frames are for.
type Target struct {
	MAC   [6]byte
	Addr  netip.Addr     // IPv4
	Addr6 netip.Addr     // IPv6
	DNS   netip.Addr     // where it answers questions about names
	Open  uint16         // a TCP port where it takes connections
	Dead  netip.AddrPort // where nobody is, behind it
}

// New is a forge of frames for a target.
func New(to Target) *Forge { return &Forge{rand.New(rand.NewPCG(1, 2)), to} }

// mac is one that a guest makes up.
func (r *Forge) mac() [6]byte {
	var m [6]byte
	binary.BigEndian.PutUint32(m[2:], r.rand.Uint32())
	m[0] = 6
	return m
}

// ip is an address that a guest makes up, but for those that the test's own
// guests have.
func (r *Forge) ip() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + r.rand.IntN(150))})
}

func (r *Forge) ip6() netip.Addr {
	a := netip.MustParseAddr("fd00:77:6f6c:66::").As16()
	binary.BigEndian.PutUint64(a[8:], r.rand.Uint64()|1<<63)
	return netip.AddrFrom16(a)
}

func (r *Forge) port() uint16 { return uint16(1024 + r.rand.IntN(64000)) }

func (r *Forge) ether(dst [6]byte, kind uint16, payload []byte) []byte {
	m := r.mac()
	f := append(append(make([]byte, 0, 60), dst[:]...), m[:]...)
	f = append(binary.BigEndian.AppendUint16(f, kind), payload...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// ip4 makes a packet. flags is the word with the fragment's offset.
func (r *Forge) ip4(src, dst netip.Addr, proto byte, flags uint16, options, body []byte) []byte {
	h := make([]byte, 20, 20+len(options)+len(body))
	h[0], h[8], h[9] = 0x40|byte(5+len(options)/4), 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(cap(h)))
	binary.BigEndian.PutUint16(h[4:], uint16(r.rand.Uint32()))
	binary.BigEndian.PutUint16(h[6:], flags)
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	h = append(h, options...)
	binary.BigEndian.PutUint16(h[10:], ^vnet.Checksum(h, 0))
	return r.ether(r.to.MAC, 0x0800, append(h, body...))
}

func (r *Forge) packet6(src, dst netip.Addr, next, hops byte, body []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, hops
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	if next == 58 && len(body) >= 4 {
		sum := make([]byte, 0, 40)
		sum = append(append(sum, h[8:40]...), 0, 0, byte(len(body)>>8), byte(len(body)), 0, 0, 0, 58)
		binary.BigEndian.PutUint16(body[2:], ^vnet.Checksum(body, vnet.Checksum(sum, 0)))
	}
	return r.ether(r.to.MAC, 0x86dd, append(h, body...))
}

func (r *Forge) udp(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return r.ip4(src.Addr(), dst.Addr(), 17, 0, nil, append(b, payload...))
}

func (r *Forge) tcp(src, dst netip.AddrPort, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], r.rand.Uint32())
	b[12], b[13], b[14] = 5<<4, flags, 0xff
	sum := append(append(append([]byte{}, src.Addr().AsSlice()...), dst.Addr().AsSlice()...), 0, 6, 0, 20)
	binary.BigEndian.PutUint16(b[16:], ^vnet.Checksum(b, vnet.Checksum(sum, 0)))
	return r.ip4(src.Addr(), dst.Addr(), 6, 0, nil, b)
}

func (r *Forge) echo(dst netip.Addr, flags uint16, options []byte, size int) []byte {
	b := make([]byte, 8+size)
	b[0] = 8
	binary.BigEndian.PutUint32(b[4:], r.rand.Uint32())
	binary.BigEndian.PutUint16(b[2:], ^vnet.Checksum(b, 0))
	return r.ip4(r.ip(), dst, 1, flags, options, b)
}

func (r *Forge) dns(name string) []byte {
	q := binary.BigEndian.AppendUint16(nil, uint16(r.rand.Uint32()))
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 1, 0, 1)
}

// dhcp sends a message with options.
func (r *Forge) dhcp(options ...byte) []byte { return r.bootp(append(r.header(), options...)) }

// header is what comes before the options of DHCP.
func (r *Forge) header() []byte {
	m := r.mac()
	b := make([]byte, 240, 300)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], r.rand.Uint32())
	copy(b[28:], m[:])
	copy(b[236:], []byte{99, 130, 83, 99})
	return b
}

// bootp goes to the gateway alone: broadcasts at this rate leave udhcpc, which
// looks at all of them, no time for its own answer.
func (r *Forge) bootp(b []byte) []byte {
	f := r.udp(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), b)
	if len(b) >= 34 {
		copy(f[6:], b[28:34])
	}
	return f
}

// badDHCP is a message that is cut, has bits flipped, or options whose lengths
// lie.
func (r *Forge) badDHCP() []byte {
	b := append(r.header(), 53, 1, byte(1+r.rand.IntN(9)), 50, 4, 10, 0, 2, 9, 12, 3, 'x', '.', 'y', 61, 7, 1, 2, 3, 4, 5, 6, 7, 255)
	switch r.rand.IntN(4) {
	case 0:
		b = b[:r.rand.IntN(len(b))]
	case 1:
		for range 1 + r.rand.IntN(20) {
			b[r.rand.IntN(len(b))] ^= 1 << r.rand.IntN(8)
		}
	case 2:
		for _, at := range []int{241, 244, 250, 255} { // the options' lengths
			b[at] = byte(r.rand.Uint32())
		}
	case 3: // without an end, and with more in the other fields, where there are none
		b = append(b[:243], 52, 1, 3, 57, 2, 0, byte(r.rand.Uint32()), 12, 255)
	}
	return r.bootp(b)
}

// badDNS is a question with names that lead to themselves, with numbers that lie,
// or cut.
func (r *Forge) badDNS() []byte {
	q := r.dns(fmt.Sprintf("n%d.lan", r.rand.Uint32()))
	switch r.rand.IntN(5) {
	case 0:
		q = append(q[:12], 0xc0, 12, 0, 1, 0, 1) // a name that is itself
	case 1:
		q = append(q[:12], 1, 'a', 0xc0, 16, 1, 'b', 0xc0, 12, 0, 1, 0, 1) // two that are each other
	case 2:
		binary.BigEndian.PutUint16(q[4+2*r.rand.IntN(4):], []uint16{0, 2, 65535}[r.rand.IntN(3)])
	case 3:
		q[12] = byte(r.rand.Uint32()) // a label longer than the message, or of no known kind
	case 4:
		q = q[:r.rand.IntN(len(q))]
	}
	return r.udp(netip.AddrPortFrom(r.ip(), r.port()), netip.AddrPortFrom(r.to.DNS, 53), q)
}

// Floods are what a hostile guest sends, one frame after the other, by name.
func Floods() map[string]func(*Forge) []byte {
	all6 := netip.MustParseAddr("ff02::1")
	everybody := [6]byte{255, 255, 255, 255, 255, 255}
	long := map[int][]byte{} // by size: thousands of them would take a gigabyte
	from := func(r *Forge) netip.AddrPort { return netip.AddrPortFrom(r.ip(), r.port()) }
	nd := func(kind byte, target netip.Addr) []byte {
		return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	}
	return map[string]func(*Forge) []byte{
		"ARP": func(r *Forge) []byte {
			m, a := r.mac(), r.ip()
			p := append([]byte{0, 1, 8, 0, 6, 4, 0, byte(1 + r.rand.IntN(2))}, m[:]...)
			p = append(append(p, a.AsSlice()...), 0, 0, 0, 0, 0, 0)
			return r.ether(everybody, 0x0806, append(p, r.to.Addr.AsSlice()...))
		},
		"hardware addresses": func(r *Forge) []byte { return r.ether(everybody, 0x88b5, nil) },
		"unknown hardware":   func(r *Forge) []byte { return r.ether(r.mac(), 0x88b5, make([]byte, 1486)) },
		"neighbours": func(r *Forge) []byte {
			kind := byte(135 + r.rand.IntN(2))
			return r.packet6(r.ip6(), r.to.Addr6, 58, 255, append(nd(kind, r.to.Addr6), 1, 1, 2, 0, 0, 0, 0, 9))
		},
		"routers": func(r *Forge) []byte {
			if r.rand.IntN(2) == 0 { // who wants to be one
				return r.packet6(netip.MustParseAddr("fe80::bad"), all6, 58, 255, append([]byte{134, 0, 0, 0, 64, 0, 7, 8}, make([]byte, 8)...))
			}
			return r.packet6(netip.IPv6Unspecified(), netip.MustParseAddr("ff02::2"), 58, 255, make([]byte, 8))
		},
		"DHCP discovers":  func(r *Forge) []byte { return r.dhcp(53, 1, 1, 255) },
		"DHCP requests":   func(r *Forge) []byte { return r.dhcp(53, 1, 3, 255) },
		"DHCP, malformed": (*Forge).badDHCP,
		"DNS, malformed":  (*Forge).badDNS,
		"DNS, own names": func(r *Forge) []byte {
			return r.udp(from(r), netip.AddrPortFrom(r.to.DNS, 53), r.dns("gateway.lan"))
		},
		"DNS, foreign names": func(r *Forge) []byte {
			return r.udp(from(r), netip.AddrPortFrom(r.to.DNS, 53), r.dns(fmt.Sprintf("n%d.example", r.rand.Uint32())))
		},
		"SYN, closed port":  func(r *Forge) []byte { return r.tcp(from(r), netip.AddrPortFrom(r.to.Addr, r.port()), 2) },
		"SYN, open port":    func(r *Forge) []byte { return r.tcp(from(r), netip.AddrPortFrom(r.to.Addr, r.to.Open), 2) },
		"SYN, nobody there": func(r *Forge) []byte { return r.tcp(from(r), r.to.Dead, 2) },
		"SYN, DNS":          func(r *Forge) []byte { return r.tcp(from(r), netip.AddrPortFrom(r.to.DNS, 53), 2) },
		"TCP of nothing": func(r *Forge) []byte {
			return r.tcp(from(r), netip.AddrPortFrom(r.to.Addr, r.port()), byte(r.rand.Uint32())&^2)
		},
		"UDP, every port": func(r *Forge) []byte { return r.udp(from(r), netip.AddrPortFrom(r.to.Addr, r.port()), []byte("x")) },
		"UDP, one port": func(r *Forge) []byte {
			return r.udp(netip.MustParseAddrPort("10.0.2.99:7"), netip.AddrPortFrom(r.to.Addr, 7), make([]byte, 1000))
		},
		"ping, everybody": func(r *Forge) []byte {
			return r.echo(netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + r.rand.IntN(250))}), 0, nil, 56)
		},
		"ping, gateway": func(r *Forge) []byte { return r.echo(r.to.Addr, 0, nil, 1400) },
		"fragments":     func(r *Forge) []byte { return r.echo(r.to.Addr, 0x2000|uint16(r.rand.IntN(100)), nil, 1384) },
		"fragments, overlap": func(r *Forge) []byte {
			f := r.echo(r.to.Addr, 0x2000|uint16(r.rand.IntN(4)), nil, 56)
			copy(f[26:], []byte{10, 0, 2, 99})
			f[18], f[19] = 0, byte(r.rand.IntN(3))
			f[24], f[25] = 0, 0
			binary.BigEndian.PutUint16(f[24:], ^vnet.Checksum(f[14:34], 0))
			return f
		},
		"IP options": func(r *Forge) []byte {
			o := make([]byte, 4*(1+r.rand.IntN(10)))
			for i := range o {
				o[i] = byte(r.rand.Uint32())
			}
			o[0] = []byte{7, 68, 130, 131, 137, 148, 0}[r.rand.IntN(7)] // record route, timestamp, source routes, alert
			return r.echo(r.to.Addr, 0, o, 8)
		},
		"time to live": func(r *Forge) []byte {
			f := r.echo(netip.MustParseAddr("192.0.2.1"), 0, nil, 56)
			f[22] = 1
			return f
		},
		"runts and giants": func(r *Forge) []byte {
			size := []int{0, 9000, 60000}[r.rand.IntN(3)]
			f := long[size]
			if f == nil {
				f = r.echo(r.to.Addr, 0, nil, size)
				long[size] = f
			}
			if r.rand.IntN(2) == 0 {
				f = f[:r.rand.IntN(60)]
			}
			return f
		},
		"ICMP errors": func(r *Forge) []byte {
			quoted := r.tcp(netip.AddrPortFrom(r.to.Addr, r.to.Open), from(r), 16)[14:]
			return r.ip4(r.ip(), r.to.Addr, 1, 0, nil, append([]byte{[]byte{3, 5, 11, 4}[r.rand.IntN(4)], byte(r.rand.IntN(6)), 0, 0, 0, 0, 0, 68}, quoted...))
		},
	}
}
