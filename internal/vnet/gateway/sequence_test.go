package gateway

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// script is a hostile guest's: five bytes make a frame, of few enough cards,
// addresses, ports and identifiers that frames have to do with each other.
type script struct {
	gw   [6]byte
	step [5]byte
}

func (s *script) card() [6]byte { return [6]byte{2, 0, 0, 0, 0, s.step[1] % 8} }

func (s *script) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 2, []byte{15, 16, 17, 2, 3, 255}[s.step[2]%6]})
}

func (s *script) addr6() netip.Addr {
	a := [][]byte{{0xfe, 0x80}, {0xfd, 0, 0, 0x77, 0x6f, 0x6c, 0, 0x66}, {}}[s.step[2]%3]
	var b [16]byte
	copy(b[:], a)
	b[15] = s.step[2] / 3 % 4
	return netip.AddrFrom16(b)
}

func (s *script) dhcp(kind dhcpv4.MessageType) []byte {
	mac := s.card()
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(mac[:]), dhcpv4.WithMessageType(kind), wants(s.addr().AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptHostName([]string{"alice", "bob", "gateway", "x.y", ""}[s.step[3]%5])))
	if err != nil {
		panic(err)
	}
	if s.step[4]&1 != 0 {
		m.ClientIPAddr = s.addr().AsSlice()
	}
	return udp4Frame(mac, broadcast, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes())
}

// frame makes the frame of the script's step.
func (s *script) frame() []byte {
	gw, b := netip.AddrFrom4([4]byte{10, 0, 2, 2}), s.step
	proto := []byte{protoICMP, protoTCP, protoUDP, 0, 44}[b[3]%5]
	switch b[0] % 10 {
	case 0:
		return arpFrame(1+b[3]%2, s.card(), broadcast, s.addr().String(), netip.AddrFrom4([4]byte{10, 0, 2, b[4] % 20}).String())
	case 1:
		return s.dhcp(dhcpv4.MessageType(b[3] % 9))
	case 2: // a fragment
		p := origPacket(s.addr(), gw, proto, [8]byte{b[4]}, int(b[4]%5)*8)
		p = append(p, make([]byte, int(b[4]%5)*8)...)
		binary.BigEndian.PutUint16(p[4:], uint16(b[1]%2))
		binary.BigEndian.PutUint16(p[6:], uint16(b[4]&0x20)<<8|uint16(b[3]/5%8))
		return s.ip4(p)
	case 3: // a segment, to the name server or to nobody
		p := origPacket(s.addr(), gw, protoTCP, [8]byte{0x10, b[3] % 2, 0, []byte{53, 54}[b[3]/2%2]}, 12+int(b[4]%4))
		binary.BigEndian.PutUint32(p[24:], uint32(b[4]%4))
		p = append(p, 0, 0, 0, b[4]/16, 5<<4, b[3]/4, 0x10, 0, 0, 0, 0, 0)
		return s.ip4(append(p, make([]byte, b[4]%4)...))
	case 4: // IP options
		p := origPacket(s.addr(), gw, protoICMP, [8]byte{echo4, 0, 0, 0, 0, 1, 0, 1}, 0)
		p[0] = 0x40 | 5 + b[3]%3
		copy(p[20:], []byte{b[3], b[4], b[1]})
		return s.ip4(p)
	case 5: // an ICMP error about something
		inner := origPacket(gw, s.addr(), proto, [8]byte{0, 53, 0x10, 0}, 0)
		p := origPacket(s.addr(), gw, protoICMP, [8]byte{b[4] % 16, b[1] % 6}, len(inner))
		return s.ip4(append(p, inner...))
	case 6:
		q := query([]string{"gateway.lan.", "alice.lan.", "2.2.0.10.in-addr.arpa.", "x."}[b[3]%4], dnsmessage.Type(b[4]))
		return udp4Frame(s.card(), s.gw, netip.AddrPortFrom(s.addr(), uint16(b[1])), netip.AddrPortFrom(gw, 53), q[:len(q)-int(b[1]%4)])
	case 7: // neighbour discovery
		body := append([]byte{133 + b[3]%5, 0, 0, 0, 0, 0, 0, 0}, s.addr6().AsSlice()...)
		return ip6Frame(s.card(), allNodesMAC, s.addr6(), netip.MustParseAddr("fd00:77:6f6c:66::2"), protoICMPv6, append(body, 1, b[4]%3, 2, 0, 0, 0, 0, 9), 2)
	case 8: // headers before the transport's
		body := []byte{protoICMPv6, b[4] % 3, b[3] & 0xf8, b[3] & 1, 0, 0, 0, b[1] % 2, echo6, 0, 0, 0, 0, 1, 0, 1}
		f := ip6Frame(s.card(), s.gw, s.addr6(), netip.MustParseAddr("fd00:77:6f6c:66::2"), []byte{0, 43, 44, 60, 59}[b[3]/8%5], body, 10)
		return f
	}
	f := s.dhcp(dhcpv4.MessageTypeDiscover)
	binary.BigEndian.PutUint16(f[12:], uint16(b[3])<<8|uint16(b[4]))
	return f[:14+int(b[1])]
}

func (s *script) ip4(p []byte) []byte {
	f := make([]byte, ethLen, ethLen+len(p))
	mac := s.card()
	ethernet(f, mac, s.gw, etherIPv4)
	return append(f, p...)
}

// FuzzSequence gives the gateway frames that follow from each other, and looks
// whether it still keeps its books, and answers.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 2, 1, 1, 0, 1, 0, 1, 1, 0, 3, 0, 1, 2, 0, 1, 0})                 // ARP, discover, request
	f.Add([]byte{2, 0, 0, 0, 0x24, 2, 0, 0, 5, 0x24, 2, 0, 0, 10, 4, 2, 1, 0, 5, 0x21})       // fragments that overlap
	f.Add([]byte{3, 0, 0, 8, 0, 3, 0, 0, 64, 17, 3, 0, 0, 96, 18, 5, 0, 0, 1, 3})             // a connection, and an error about it
	f.Add([]byte{7, 1, 4, 2, 1, 7, 1, 4, 3, 1, 7, 2, 2, 1, 0, 8, 1, 4, 16, 0, 8, 1, 4, 0x81}) // neighbours, fragments
	f.Add([]byte{6, 9, 0, 0, 1, 6, 9, 0, 2, 12, 4, 1, 0, 7, 131, 9, 60, 0, 8, 6})
	b := newBench(f, Config{Restrict: true, Reservations: []Reservation{reservation(1, "10.0.2.17", "alice")}})
	f.Fuzz(func(t *testing.T, steps []byte) {
		c := coalescer{deliver: func(pkt *stack.PacketBuffer) {
			b.g.link.dispatcher.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
			pkt.DecRef()
		}}
		s := script{gw: b.g.mac}
		for n := 0; n < 100 && len(steps) >= 5; n++ {
			copy(s.step[:], steps)
			steps = steps[5:]
			from := guest(s.step[1] % 4)
			if fr := s.frame(); len(fr) >= ethLen && b.g.filter(from, fr, int64(n)) {
				c.add(from, fr)
			}
		}
		c.flush()
		checkLeases(t, b.g.dhcp)
		if full, over := b.g.Tables(); over != nil {
			t.Errorf("%v; %v", over, full)
		}
		if reply, _ := b.g.dns.local(query("gateway.lan.", dnsmessage.TypeA)); len(reply) == 0 {
			t.Error("the name server is silent")
		}
	})
}
