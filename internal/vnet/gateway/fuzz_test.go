package gateway

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"wolffia/internal/vnet"
)

// FuzzFrames gives the gateway frames as a hostile guest would: through the
// filter, the coalescer and the stack behind them. Restrict keeps what gets
// through from leaving.
func FuzzFrames(f *testing.F) {
	gw := netip.MustParseAddr("10.0.2.2")
	cfg, _ := Config{}.withDefaults()
	mac := [6]byte(cfg.MAC)
	f.Add(arpFrame(1, guestMAC, broadcast, "10.0.2.15", "10.0.2.2"))
	f.Add(udp4Frame(guestMAC, broadcast, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), discover(guestMAC)))
	f.Add(udp4Frame(guestMAC, mac, netip.MustParseAddrPort("10.0.2.15:999"), netip.AddrPortFrom(gw, 53), query("gateway.lan.", dnsmessage.TypeA)))
	f.Add(tcpFrame(mac, 1, tcpACK, []byte("data")))
	f.Add(ip6Frame(guestMAC, mac, cfg.Address6(guestMAC[:]), cfg.Gateway6(), protoICMPv6, []byte{echo6, 0, 0, 0, 0, 1, 0, 1}, 2))
	f.Add(ip6Frame(guestMAC, allNodesMAC, linkLocal(guestMAC[:]), allNodes, protoICMPv6, []byte{ndpRouterSolicit, 0, 0, 0, 0, 0, 0, 0}, 2))
	frag := udp4Frame(guestMAC, mac, netip.MustParseAddrPort("10.0.2.15:1"), netip.AddrPortFrom(gw, 2), make([]byte, 64))
	frag[ethLen+6] = 0x20
	f.Add(frag)
	f.Add(udp4Frame(guestMAC, mac, netip.MustParseAddrPort("10.0.2.15:1"), netip.AddrPortFrom(gw, 53), make([]byte, 9000)))
	f.Add(origFrame(mac, origPacket(guestIP, gw, protoICMP, [8]byte{3, 1}, 0)))
	b := newBench(f, Config{Restrict: true})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > vnet.MaxFrame || len(frame) < ethLen {
			return
		}
		c := coalescer{deliver: func(pkt *stack.PacketBuffer) {
			b.g.link.dispatcher.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
			pkt.DecRef()
		}}
		orig := bytes.Clone(frame)
		for range 2 {
			if b.g.filter(nobody, frame, 1) {
				c.add(nobody, frame)
			}
		}
		c.flush()
		if !bytes.Equal(orig, frame) {
			t.Error("the receiver's buffer was written to")
		}
	})
}

func origFrame(mac [6]byte, p []byte) []byte {
	f := make([]byte, ethLen)
	ethernet(f, guestMAC, mac, etherIPv4)
	return append(f, p...)
}

func query(name string, kind dnsmessage.Type) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET,
	}}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func tcpFrame(mac [6]byte, seq uint32, flags byte, payload []byte) []byte {
	p := origPacket(guestIP, netip.MustParseAddr("10.0.2.2"), protoTCP, [8]byte{0x10, 0, 0, 80}, 12+len(payload))
	binary.BigEndian.PutUint32(p[24:], seq)
	p = append(p, 0, 0, 0, 1, 5<<4, flags, 0x10, 0, 0, 0, 0, 0)
	return append(origFrame(mac, p), payload...)
}

func FuzzDHCP(f *testing.F) {
	f.Add(discover(guestMAC))
	f.Add(discover(guestMAC)[:240])
	f.Add([]byte{})
	b := newBench(f, Config{DHCP: DHCP{
		BootFile: strings.Repeat("x", maxBootFile), Options: map[uint8][]byte{43: make([]byte, 250), 224: make([]byte, 250)},
	}})
	f.Fuzz(func(t *testing.T, payload []byte) {
		now := time.Unix(1e9, 0)
		reply, to := b.g.dhcp.answer(nobody, guestMAC, payload, now)
		if reply != nil && (len(reply) < 300 || len(reply) > 1400 || !to.Is4()) {
			t.Errorf("a reply of %d bytes to %v", len(reply), to)
		}
		if len(b.g.dhcp.byAddr) > maxLeases {
			t.Error("too many leases")
		}
		b.g.adv.answer6(payload)
	})
}

func FuzzDNS(f *testing.F) {
	f.Add(query("gateway.lan.", dnsmessage.TypeA))
	f.Add(query("2.2.0.10.in-addr.arpa.", dnsmessage.TypePTR))
	f.Add(query(strings.Repeat("0.", 32)+"ip6.arpa.", dnsmessage.TypePTR))
	f.Add(query("nobody.lan.", dnsmessage.TypeAAAA)[:20])
	f.Add([]byte{0, 1, 0x80, 0, 0, 1})
	b := newBench(f, Config{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		reply, forward := b.g.dns.local(msg)
		if reply != nil && forward {
			t.Error("both answered and passed on")
		}
		if reply == nil {
			return
		}
		var p dnsmessage.Parser
		h, err := p.Start(reply)
		if err != nil || !h.Response || !bytes.Equal(reply[:2], msg[:2]) || len(reply) > 1232 {
			t.Errorf("a bad reply of %d bytes: %v", len(reply), err)
		}
		sameQuestion(msg, reply)
		sameQuestion(reply, msg)
	})
}

func FuzzEchoReply(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 7, 0, 1, 'x'}, false, false)
	f.Add(append([]byte{0x46}, make([]byte, 40)...), true, false)
	f.Add([]byte{129, 0, 0, 0, 0, 7, 0, 1}, true, true)
	f.Fuzz(func(t *testing.T, b []byte, raw, six bool) {
		s := &echoSocket{raw: raw, dst: netip.MustParseAddr("192.0.2.1"), ident: 7}
		if six {
			s.dst = netip.MustParseAddr("2001:db8::1")
		}
		s.parse(b)
		if len(b) >= 16 {
			s.report(b)
		}
	})
}

// FuzzHostFiles: the host's files are trusted to be small, not to be right.
func FuzzHostFiles(f *testing.F) {
	f.Add("nameserver 192.0.2.53\n# nothing\noptions edns0\nnameserver fe80::1%eth0\n")
	f.Add("127.0.0.1 localhost\n::1 ip6-localhost # loopback\n192.0.2.7\tserver server.example\n")
	f.Fuzz(func(t *testing.T, s string) {
		if n := len(parseResolvConf(strings.NewReader(s))); n > maxServers {
			t.Errorf("%d name servers", n)
		}
		parseHosts(strings.NewReader(s))
	})
}

// FuzzCoalescer: what comes out is what went in, joined or not.
func FuzzCoalescer(f *testing.F) {
	f.Add([]byte{5, 5, 5, 2, 0x18, 9})
	f.Add([]byte{1, 0x80, 1, 7, 7, 7, 7, 7, 3})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			return
		}
		var sent, got []byte
		c := coalescer{deliver: func(pkt *stack.PacketBuffer) {
			b := pkt.Data().AsRange().ToSlice()
			pkt.DecRef()
			if total := int(binary.BigEndian.Uint16(b[2:])); total != len(b) {
				t.Fatalf("the IP header says %d bytes of %d", total, len(b))
			}
			if seq := binary.BigEndian.Uint32(b[24:]); int(seq) != len(got) {
				t.Fatalf("sequence number %d after %d bytes", seq, len(got))
			}
			got = append(got, b[40:]...)
		}}
		for i, n := range script {
			payload := bytes.Repeat([]byte{byte(i)}, int(n&0x7f))
			flags := byte(tcpACK)
			if n&0x80 != 0 {
				flags |= tcpPSH
			}
			frame := tcpFrame([6]byte{2}, uint32(len(sent)), flags, payload)
			for len(frame) < 60 {
				frame = append(frame, 0xee) // padding is no payload
			}
			c.add(nobody, frame)
			sent = append(sent, payload...)
		}
		c.flush()
		if !bytes.Equal(sent, got) {
			t.Fatalf("sent %d bytes, got %d", len(sent), len(got))
		}
	})
}

// FuzzParseOption: what is accepted fits an option.
func FuzzParseOption(f *testing.F) {
	for code, value := range map[uint8]string{3: "10.0.2.1, 10.0.2.2", 26: "1500", 119: "lan lab.example", 224: "0x0102", 19: "true"} {
		f.Add(code, value)
	}
	f.Fuzz(func(t *testing.T, code uint8, value string) {
		b, err := ParseOption(code, value)
		if len(b) > 255 || err != nil && b != nil {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}
