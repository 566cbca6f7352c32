package gateway

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"wolffia/internal/vnet"
)

// bench is a gateway whose guest is the test, frame by frame.
type bench struct {
	t    testing.TB
	g    *Gateway
	port vnet.Port
	got  chan []byte
}

var (
	guestMAC  = [6]byte{2, 0, 0, 0, 0, 5}
	otherMAC  = [6]byte{2, 0, 0, 0, 0, 6}
	broadcast = [6]byte{255, 255, 255, 255, 255, 255}
	guestIP   = netip.MustParseAddr("10.0.2.15")
)

func newBench(t testing.TB, cfg Config) *bench {
	inside, outside := vnet.Pipe(vnet.PipeOptions{Offloads: true, Queue: PortQueue})
	g, err := New(inside, cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, done := guestBench(t, g, outside)
	t.Cleanup(func() { g.Close(); <-done })
	return b
}

// guestBench is the guest at the other end of a port, until that is closed.
func guestBench(t testing.TB, g *Gateway, port vnet.Port) (*bench, <-chan struct{}) {
	b := &bench{t: t, g: g, port: port, got: make(chan []byte, 4096)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		bufs := vnet.NewBatch(8, vnet.MaxFrame)
		for {
			n, err := port.ReadFrames(bufs)
			if err != nil {
				return
			}
			for _, f := range bufs[:n] {
				select {
				case b.got <- bytes.Clone(f.Data):
				default:
				}
			}
		}
	}()
	return b, done
}

func (b *bench) send(f []byte) {
	if _, err := b.port.WriteFrames([]vnet.Frame{{Data: f}}); err != nil {
		b.t.Fatal(err)
	}
}

// next waits for a frame that ok likes.
func (b *bench) next(what string, ok func([]byte) bool) []byte {
	b.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case f := <-b.got:
			if ok(f) {
				return f
			}
		case <-limit:
			b.t.Fatalf("no frame came: %s", what)
		}
	}
}

// silent sends a frame, then a question that is answered for sure, and fails if
// anything that ok likes came first.
func (b *bench) silent(what string, f []byte, ok func([]byte) bool) {
	b.t.Helper()
	b.send(f)
	b.send(arpFrame(1, guestMAC, broadcast, "10.0.2.99", "10.0.2.3"))
	b.next("an answer to the fence", func(f []byte) bool {
		if isARPReply(f, "10.0.2.3") {
			return true
		}
		if ok(f) {
			b.t.Errorf("%s was answered: %x", what, f)
		}
		return false
	})
}

func arpFrame(op byte, src, dst [6]byte, from, to string) []byte {
	f := make([]byte, ethLen, 60)
	ethernet(f, src, dst, etherARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, op)
	f = append(append(f, src[:]...), netip.MustParseAddr(from).AsSlice()...)
	f = append(append(f, 0, 0, 0, 0, 0, 0), netip.MustParseAddr(to).AsSlice()...)
	return f[:60] // as a card pads it
}

func isARPReply(f []byte, from string) bool {
	return len(f) >= 42 && binary.BigEndian.Uint16(f[12:]) == etherARP && f[21] == 2 &&
		netip.AddrFrom4([4]byte(f[28:32])) == netip.MustParseAddr(from)
}

func TestARP(t *testing.T) {
	b := newBench(t, Config{})
	for _, a := range []string{"10.0.2.2", "10.0.2.3"} {
		for _, from := range []string{"10.0.2.15", "0.0.0.0"} {
			b.send(arpFrame(1, guestMAC, broadcast, from, a))
			f := b.next("ARP reply", func(f []byte) bool { return isARPReply(f, a) })
			if [6]byte(f[6:12]) != b.g.mac || [6]byte(f[:6]) != guestMAC {
				t.Errorf("addresses of the reply: %x", f[:12])
			}
		}
	}
	any := func(f []byte) bool { return binary.BigEndian.Uint16(f[12:]) == etherARP && f[21] == 2 }
	for what, f := range map[string][]byte{
		"another guest's address": arpFrame(1, guestMAC, broadcast, "10.0.2.15", "10.0.2.16"),
		"an address outside":      arpFrame(1, guestMAC, broadcast, "10.0.2.15", "192.0.2.1"),
		"the guest's own address": arpFrame(1, guestMAC, broadcast, "10.0.2.15", "10.0.2.15"),
		"a sender outside":        arpFrame(1, guestMAC, broadcast, "192.0.2.7", "10.0.2.2"),
		"the gateway's address":   arpFrame(1, guestMAC, broadcast, "10.0.2.2", "10.0.2.2"),
		"a frame for another":     arpFrame(1, guestMAC, otherMAC, "10.0.2.15", "10.0.2.2"),
		"a short frame":           arpFrame(1, guestMAC, broadcast, "10.0.2.15", "10.0.2.2")[:30],
	} {
		b.silent(what, f, any)
	}
}

// dhcp sends a message and gives the answer.
func (b *bench) dhcp(kind dhcpv4.MessageType, mac [6]byte, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	b.t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac[:]), dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.send(udp4Frame(mac, broadcast, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes()))
	if kind == dhcpv4.MessageTypeRelease || kind == dhcpv4.MessageTypeDecline {
		return nil
	}
	f := b.next("DHCP answer", func(f []byte) bool {
		return len(f) > 300 && f[23] == protoUDP && binary.BigEndian.Uint16(f[34:]) == portDHCP && bytes.Equal(f[46:50], m.TransactionID[:])
	})
	r, err := dhcpv4.FromBytes(f[42:])
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func wants(a net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a)) }

// lease goes through the whole exchange.
func (b *bench) lease(mac [6]byte, want net.IP) net.IP {
	b.t.Helper()
	var mods []dhcpv4.Modifier
	if want != nil {
		mods = append(mods, wants(want))
	}
	o := b.dhcp(dhcpv4.MessageTypeDiscover, mac, mods...)
	if o.MessageType() != dhcpv4.MessageTypeOffer {
		b.t.Fatalf("got %v", o)
	}
	a := b.dhcp(dhcpv4.MessageTypeRequest, mac, wants(o.YourIPAddr), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(o.ServerIdentifier())))
	if a.MessageType() != dhcpv4.MessageTypeAck || !a.YourIPAddr.Equal(o.YourIPAddr) {
		b.t.Fatalf("offered %v, then %v", o, a)
	}
	return a.YourIPAddr
}

func TestDHCP(t *testing.T) {
	b := newBench(t, Config{MTU: 9000, Reservations: []Reservation{
		{MAC: net.HardwareAddr{2, 9, 9, 9, 9, 9}, Addr: netip.MustParseAddr("10.0.2.17"), Name: "carol"},
	}})
	first := b.lease(guestMAC, nil)
	if first.String() != "10.0.2.15" {
		t.Errorf("the first lease is %v", first)
	}
	if a := b.lease(guestMAC, nil); !a.Equal(first) {
		t.Errorf("the same card got %v, then %v", first, a)
	}
	if a := b.lease(otherMAC, nil); a.String() != "10.0.2.16" {
		t.Errorf("the second lease is %v", a)
	}
	if a := b.lease([6]byte{2, 1}, nil); a.String() != "10.0.2.18" {
		t.Errorf("the third lease is %v: .17 is reserved", a)
	}
	if a := b.lease([6]byte{2, 2}, net.IPv4(10, 0, 2, 200)); a.String() != "10.0.2.200" {
		t.Errorf("asked for .200, got %v", a)
	}
	if a := b.lease([6]byte{2, 9, 9, 9, 9, 9}, net.IPv4(10, 0, 2, 201)); a.String() != "10.0.2.17" {
		t.Errorf("the reserved lease is %v", a)
	}
	for _, bad := range []net.IP{net.IPv4(10, 0, 2, 16), net.IPv4(192, 0, 2, 1), net.IPv4(10, 0, 2, 2)} {
		if m := b.dhcp(dhcpv4.MessageTypeRequest, [6]byte{2, 3}, wants(bad)); m.MessageType() != dhcpv4.MessageTypeNak {
			t.Errorf("a request for %v got %v", bad, m.MessageType())
		}
	}
	renew := b.dhcp(dhcpv4.MessageTypeRequest, guestMAC, dhcpv4.WithClientIP(first))
	if renew.MessageType() != dhcpv4.MessageTypeAck || !renew.YourIPAddr.Equal(first) {
		t.Errorf("renewing got %v", renew.Summary())
	}
	if mtu := renew.Options.Get(dhcpv4.OptionInterfaceMTU); !bytes.Equal(mtu, []byte{9000 >> 8, 9000 & 255}) {
		t.Errorf("MTU option %x", mtu)
	}
	inform := b.dhcp(dhcpv4.MessageTypeInform, guestMAC, dhcpv4.WithClientIP(first))
	if inform.MessageType() != dhcpv4.MessageTypeAck || !inform.YourIPAddr.IsUnspecified() || len(inform.Options.Get(dhcpv4.OptionIPAddressLeaseTime)) != 0 {
		t.Errorf("inform got %v", inform.Summary())
	}
	b.dhcp(dhcpv4.MessageTypeDecline, guestMAC, wants(first))
	if a := b.lease(guestMAC, nil); a.Equal(first) {
		t.Errorf("a declined address was given out again: %v", a)
	}
}

func TestDHCPExhausted(t *testing.T) {
	b := newBench(t, Config{Subnet: netip.MustParsePrefix("192.168.7.0/29")})
	for i := range byte(3) { // .4, .5, .6
		if a := b.lease([6]byte{2, 0, 0, 0, 1, i}, nil); a.String() != "192.168.7."+string(rune('4'+i)) {
			t.Errorf("lease %d is %v", i, a)
		}
	}
	m, _ := dhcpv4.New(dhcpv4.WithHwAddr(otherMAC[:]), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	if r, _ := b.g.dhcp.answer(nobody, otherMAC, m.ToBytes(), time.Now()); r != nil {
		t.Error("a fourth lease was offered")
	}
	// An address given back goes to the next who needs it; one that ran out, too.
	b.dhcp(dhcpv4.MessageTypeRelease, [6]byte{2, 0, 0, 0, 1, 1}, dhcpv4.WithClientIP(net.IPv4(192, 168, 7, 5)))
	if a := b.lease(otherMAC, nil); a.String() != "192.168.7.5" {
		t.Errorf("after a release: %v", a)
	}
	if r, _ := b.g.dhcp.answer(nobody, [6]byte{2, 8}, discover([6]byte{2, 8}), time.Now().Add(2*leaseTime)); r == nil {
		t.Error("leases never run out")
	}
}

func discover(mac [6]byte) []byte {
	m, _ := dhcpv4.New(dhcpv4.WithHwAddr(mac[:]), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	return m.ToBytes()
}

func TestDHCPIgnores(t *testing.T) {
	b := newBench(t, Config{})
	to := netip.MustParseAddrPort("255.255.255.255:67")
	from := netip.MustParseAddrPort("0.0.0.0:68")
	answer := func(f []byte) bool { return f[23] == protoUDP && f[35] == portDHCP }
	good := discover(guestMAC)
	reply := bytes.Clone(good)
	reply[0] = 2
	for what, f := range map[string][]byte{
		"a reply":              udp4Frame(guestMAC, broadcast, from, to, reply),
		"another card's":       udp4Frame(otherMAC, broadcast, from, to, good),
		"a message cut short":  udp4Frame(guestMAC, broadcast, from, to, good[:200]),
		"nothing":              udp4Frame(guestMAC, broadcast, from, to, nil),
		"a length that lies":   lie(udp4Frame(guestMAC, broadcast, from, to, good)),
		"an IP length that is": udp4Frame(guestMAC, broadcast, from, to, good)[:100],
	} {
		b.silent(what, f, answer)
	}
}

func lie(f []byte) []byte {
	binary.BigEndian.PutUint16(f[ethLen+24:], 60000)
	return f
}

func TestRouterAdvertisement(t *testing.T) {
	b := newBench(t, Config{MTU: 1400, Domain: "net.example"})
	src := linkLocal(guestMAC[:])
	rs := solicitation()
	b.send(rs)
	f := b.next("router advertisement", isAdvert)
	body := f[54:]
	if vnet.Checksum(body, pseudo6(b.g.ll, src, protoICMPv6, len(body))) != 0xffff {
		t.Error("bad checksum")
	}
	for what, want := range map[string][]byte{
		"prefix": append([]byte{3, 4, 64, 0xc0}, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0, 0xfd, 0, 0, 0x77, 0x6f, 0x6c, 0, 0x66),
		"MTU":    {5, 1, 0, 0, 0, 0, 1400 >> 8, 1400 & 255},
		"RDNSS":  append([]byte{25, 3, 0, 0, 0, 0, 7, 8}, b.g.cfg.DNS6().AsSlice()...),
		"DNSSL":  []byte("\x03net\x07example\x00"),
	} {
		if !bytes.Contains(body, want) {
			t.Errorf("%s is missing: %x", what, body)
		}
	}
	rs[ethLen+7] = 64 // from beyond a router
	b.silent("a solicitation with a hop limit of 64", rs, isAdvert)
}

// solicitation asks for routers.
func solicitation() []byte {
	all := netip.MustParseAddr("ff02::2")
	return ip6Frame(guestMAC, [6]byte{0x33, 0x33, 0, 0, 0, 2}, linkLocal(guestMAC[:]), all, protoICMPv6, []byte{ndpRouterSolicit, 0, 0, 0, 0, 0, 0, 0}, 2)
}

// isAdvert says whether a frame answers it: the router advertises by itself, too,
// to everybody.
func isAdvert(f []byte) bool {
	return [6]byte(f[:6]) == guestMAC && f[20] == protoICMPv6 && f[54] == ndpRouterAdvert
}

// TestNoDHCP: addresses are others' to give. Nothing is leased, and the prefix is
// on the link, but forms no addresses.
func TestNoDHCP(t *testing.T) {
	b := newBench(t, Config{NoDHCP: true})
	answer := func(f []byte) bool {
		return len(f) > 42 && f[23] == protoUDP && binary.BigEndian.Uint16(f[34:]) == portDHCP
	}
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform} {
		m, err := dhcpv4.New(dhcpv4.WithHwAddr(guestMAC[:]), dhcpv4.WithMessageType(kind), wants(net.IPv4(10, 0, 2, 15)))
		if err != nil {
			t.Fatal(err)
		}
		b.silent(kind.String(), udp4Frame(guestMAC, broadcast, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes()), answer)
	}
	if l := b.g.Leases(); len(l) != 0 {
		t.Errorf("leases: %v", l)
	}
	b.send(solicitation())
	f := b.next("router advertisement", isAdvert)
	if want := []byte{3, 4, 64, 0x80}; !bytes.Contains(f[54:], append(want, 0, 1, 0x51, 0x80)) { // L, and no A
		t.Errorf("no prefix with flags %#x: %x", want[3], f[54:])
	}
}

func TestDHCPv6Information(t *testing.T) {
	b := newBench(t, Config{})
	req := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeInformationRequest, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	reply, err := dhcpv6.MessageFromBytes(b.g.adv.answer6(req.ToBytes()))
	if err != nil {
		t.Fatal(err)
	}
	if dns := reply.Options.DNS(); len(dns) != 1 || dns[0].String() != b.g.cfg.DNS6().String() || reply.TransactionID != req.TransactionID {
		t.Errorf("got %v", reply.Summary())
	}
	if b.g.adv.answer6((&dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}).ToBytes()) != nil {
		t.Error("a solicit was answered: there are no addresses to give")
	}
}

// TestForeignSources: packets from addresses that no guest can have vanish.
func TestForeignSources(t *testing.T) {
	b := newBench(t, Config{})
	echo := func(src, dst string) []byte {
		body := []byte{echo4, 0, 0, 0, 0, 1, 0, 1}
		binary.BigEndian.PutUint16(body[2:], ^vnet.Checksum(body, 0))
		p := origPacket(netip.MustParseAddr(src), netip.MustParseAddr(dst), protoICMP, [8]byte(body), 0)
		f := make([]byte, ethLen, 60)
		ethernet(f, guestMAC, b.g.mac, etherIPv4)
		return append(f, p...)
	}
	reply := func(f []byte) bool { return binary.BigEndian.Uint16(f[12:]) == etherIPv4 && f[23] == protoICMP }
	for _, src := range []string{"192.0.2.7", "10.0.2.2", "10.0.2.255", "10.0.2.0", "127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255"} {
		b.silent("ping from "+src, echo(src, "10.0.2.2"), reply)
	}
	b.send(arpFrame(2, guestMAC, b.g.mac, "10.0.2.15", "10.0.2.2"))
	b.send(echo("10.0.2.15", "10.0.2.2"))
	b.next("the gateway asks who has .15 and answers", func(f []byte) bool {
		if binary.BigEndian.Uint16(f[12:]) == etherARP && f[21] == 1 {
			b.send(arpFrame(2, guestMAC, b.g.mac, "10.0.2.15", "10.0.2.2"))
		}
		return reply(f)
	})
}

// testTime is when tests of the DHCP server take place.
var testTime = time.Unix(1_700_000_000, 0)

func newPipeEnd() (inside, outside vnet.Port) { return vnet.Pipe(vnet.PipeOptions{}) }

func TestLookupRoute(t *testing.T) {
	for addr, want := range map[string]routeKind{
		"127.0.0.1": routeLocal, "127.9.9.9": routeLocal, "::1": routeLocal,
		"192.0.2.1": routeLocal, "192.0.2.9": routeAway, "192.0.2.255": routeBroadcast,
		"198.51.100.7": routeLocal, "2001:db8:77::7": routeLocal, // ranges of the host
		"2001:db8:1::1": routeLocal, "2001:db8:1::9": routeAway,
		"2001:db8:1::": routeLocal,                            // of all routers there (RFC 4291, 2.6.1)
		"203.0.113.1":  routeAway, "2001:db8:2::1": routeAway, // no route
	} {
		if got := lookupRoute(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if new(hostAddrs).refuses(netip.MustParseAddr("192.0.2.9"), true) || !new(hostAddrs).refuses(netip.MustParseAddr("2001:db8:1::"), true) {
		t.Error("refused is the wrong one")
	}
}

func BenchmarkLookupRoute(b *testing.B) {
	for b.Loop() {
		lookupRoute(netip.MustParseAddr("192.0.2.9"))
	}
}
