package gateway

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func card(n byte) [6]byte { return [6]byte{2, 0, 0, 0, 1, n} }

func reservation(n byte, addr, name string) Reservation {
	r := Reservation{MAC: net.HardwareAddr{2, 0, 0, 0, 1, n}, Name: name}
	if addr != "" {
		r.Addr = netip.MustParseAddr(addr)
	}
	return r
}

func mustParseOption(t *testing.T, code uint8, value string) []byte {
	t.Helper()
	b, err := ParseOption(code, value)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDHCPRange(t *testing.T) {
	b := newBench(t, Config{
		DHCP:         DHCP{First: netip.MustParseAddr("10.0.2.50"), Last: netip.MustParseAddr("10.0.2.52")},
		Reservations: []Reservation{reservation(9, "10.0.2.51", ""), reservation(8, "10.0.2.20", "")},
	})
	for n, want := range map[byte]string{9: "10.0.2.51", 8: "10.0.2.20"} {
		if a := b.lease(card(n), nil); a.String() != want {
			t.Errorf("card %d: %v, want %s", n, a, want)
		}
	}
	if a := b.lease(card(1), net.IPv4(10, 0, 2, 60)); a.String() != "10.0.2.50" {
		t.Errorf("a wish outside of the range: %v", a)
	}
	if a := b.lease(card(2), nil); a.String() != "10.0.2.52" {
		t.Errorf("the second lease: %v", a)
	}
	if m := b.dhcp(dhcpv4.MessageTypeRequest, card(3), wants(net.IPv4(10, 0, 2, 53))); m.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("a range of three gave more: %v", m)
	}
	for _, bad := range []DHCP{
		{First: netip.MustParseAddr("10.0.3.1")},
		{Last: netip.MustParseAddr("10.0.2.255")},
		{First: netip.MustParseAddr("10.0.2.9"), Last: netip.MustParseAddr("10.0.2.8")},
		{Last: netip.MustParseAddr("10.0.2.14")}, // before the first that is not given
		{NextServer: netip.MustParseAddr("fd00::1")},
		{BootFile: strings.Repeat("x", 128)},
		{Options: map[uint8][]byte{53: {1}}},
		{Options: map[uint8][]byte{100: make([]byte, 255), 101: make([]byte, 255), 102: {0}}},
		{TFTP: "/nonexistent/folder"},
	} {
		if err := b.g.SetDHCP(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
		if in, _ := newPipeEnd(); in != nil {
			if g, err := New(in, Config{DHCP: bad}); err == nil {
				g.Close()
				t.Errorf("New accepted %+v", bad)
			}
		}
	}
	if a := b.lease(card(2), nil); a.String() != "10.0.2.52" {
		t.Errorf("after changes that failed: %v", a)
	}
}

func TestDHCPOptions(t *testing.T) {
	b := newBench(t, Config{DHCP: DHCP{
		BootFile: "pxelinux.0",
		Options: map[uint8][]byte{
			119: mustParseOption(t, 119, "lan, lab.example"),
			42:  mustParseOption(t, 42, "10.0.2.9 192.0.2.1"),
			3:   mustParseOption(t, 3, ""),
			224: mustParseOption(t, 224, "0x0102ff"),
			15:  mustParseOption(t, 15, "other.example"),
		},
	}})
	o := b.dhcp(dhcpv4.MessageTypeDiscover, guestMAC)
	for code, want := range map[uint8]string{
		119: "\x03lan\x00\x03lab\x07example\x00", 42: "\x0a\x00\x02\x09\xc0\x00\x02\x01",
		224: "\x01\x02\xff", 15: "other.example", 66: "10.0.2.2", 67: "pxelinux.0", 6: "\x0a\x00\x02\x03",
	} {
		if got := o.Options[code]; string(got) != want {
			t.Errorf("option %d is %q, want %q", code, got, want)
		}
	}
	if o.Options.Has(dhcpv4.OptionRouter) {
		t.Error("an option without bytes was not left out")
	}
	if o.BootFileName != "pxelinux.0" || o.ServerIPAddr.String() != "10.0.2.2" {
		t.Errorf("boot fields: %q at %v", o.BootFileName, o.ServerIPAddr)
	}
	if err := b.g.SetDHCP(DHCP{NextServer: netip.MustParseAddr("10.0.2.77"), BootFile: "other"}); err != nil {
		t.Fatal(err)
	}
	o = b.dhcp(dhcpv4.MessageTypeDiscover, guestMAC)
	if o.BootFileName != "other" || o.ServerIPAddr.String() != "10.0.2.77" || !o.Options.Has(dhcpv4.OptionRouter) || o.Options.Has(dhcpv4.OptionNTPServers) {
		t.Errorf("after a change: %v", o.Summary())
	}
}

// An answer is never longer than its client takes, and keeps what it asked for.
func TestDHCPShortens(t *testing.T) {
	b := newBench(t, Config{DHCP: DHCP{Options: map[uint8][]byte{224: make([]byte, 250), 225: make([]byte, 250)}}})
	for size, want := range map[uint16]string{576: "225", 1500: "224 225", 300: "225"} {
		o := b.dhcp(dhcpv4.MessageTypeDiscover, guestMAC, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(size)), dhcpv4.WithRequestedOptions(dhcpv4.GenericOptionCode(225)))
		var got []string
		for _, code := range []uint8{224, 225} {
			if _, ok := o.Options[code]; ok {
				got = append(got, fmt.Sprint(code))
			}
		}
		if strings.Join(got, " ") != want || !o.Options.Has(dhcpv4.OptionSubnetMask) || len(o.ToBytes())+28 > max(int(size), 576) {
			t.Errorf("a client that takes %d bytes got %v in %d", size, got, len(o.ToBytes())+28)
		}
	}
}

func TestParseOption(t *testing.T) {
	for _, c := range []struct {
		code        uint8
		value, want string
	}{
		{12, "name", "name"},
		{26, "9000", "\x23\x28"},
		{2, "-3600", "\xff\xff\xf1\xf0"},
		{23, "64", "\x40"},
		{19, "true", "\x01"},
		{3, "10.0.2.1,10.0.2.2", "\x0a\x00\x02\x01\x0a\x00\x02\x02"},
		{119, "a.b", "\x01a\x01b\x00"},
		{3, "0x00", "\x00"},
		{3, "", ""},
	} {
		if got, err := ParseOption(c.code, c.value); err != nil || string(got) != c.want {
			t.Errorf("option %d, %q: %q, %v; want %q", c.code, c.value, got, err, c.want)
		}
	}
	for _, c := range []struct {
		code  uint8
		value string
	}{
		{0, "x"}, {255, "x"}, {53, "1"}, {3, "host"}, {3, "fd00::1"}, {26, "65536"}, {26, "x"}, {23, "256"},
		{19, "perhaps"}, {119, "a..b"}, {224, "0xf"}, {224, "0xzz"}, {224, strings.Repeat("x", 256)},
	} {
		if b, err := ParseOption(c.code, c.value); err == nil {
			t.Errorf("option %d, %q was accepted: %x", c.code, c.value, b)
		}
	}
	if code, ok := OptionCode("domain-search"); !ok || code != 119 {
		t.Errorf("domain-search is %d", code)
	}
}

// TestSetReservations: a lab's machines come, go and change places while guests
// hold leases.
func TestSetReservations(t *testing.T) {
	b := newBench(t, Config{Reservations: []Reservation{reservation(1, "10.0.2.20", "alice"), reservation(2, "", "bob")}})
	addr := func(n byte) string { return b.lease(card(n), nil).String() }
	if a, b := addr(1), addr(2); a != "10.0.2.20" || b != "10.0.2.15" {
		t.Errorf("alice %s, bob %s", a, b)
	}
	if a := addr(3); a != "10.0.2.16" {
		t.Errorf("a guest without a reservation: %s", a)
	}
	// alice gets the address of a guest; carol comes with alice's.
	set := func(list ...Reservation) {
		t.Helper()
		if err := b.g.SetReservations(list); err != nil {
			t.Fatal(err)
		}
	}
	set(reservation(1, "10.0.2.16", "alice"), reservation(2, "", "bob"), reservation(4, "10.0.2.20", "carol"))
	renew := func(n byte, a string) dhcpv4.MessageType {
		return b.dhcp(dhcpv4.MessageTypeRequest, card(n), dhcpv4.WithClientIP(net.ParseIP(a))).MessageType()
	}
	if k := renew(3, "10.0.2.16"); k != dhcpv4.MessageTypeNak {
		t.Errorf("the guest whose address is now alice's renewed it: %v", k)
	}
	if k := renew(1, "10.0.2.20"); k != dhcpv4.MessageTypeNak {
		t.Errorf("alice renewed her old address: %v", k)
	}
	if a, b, c := addr(1), addr(2), addr(4); a != "10.0.2.16" || b != "10.0.2.15" || c != "10.0.2.20" {
		t.Errorf("alice %s, bob %s, carol %s", a, b, c)
	}
	// Two exchange their addresses.
	set(reservation(1, "10.0.2.20", "alice"), reservation(2, "", "bob"), reservation(4, "10.0.2.16", "carol"))
	if a, b := addr(1), addr(4); a != "10.0.2.20" || b != "10.0.2.16" {
		t.Errorf("alice %s, carol %s", a, b)
	}
	// bob goes, but his machine is still there; carol never was; dora comes.
	set(reservation(1, "10.0.2.20", "alice"), reservation(5, "10.0.2.30", "dora"))
	if k := renew(2, "10.0.2.15"); k != dhcpv4.MessageTypeAck {
		t.Errorf("a guest whose reservation has gone may not renew: %v", k)
	}
	if _, mine := b.g.names.lookup("bob"); mine {
		t.Error("bob's name is still there")
	}
	if addrs, _ := b.g.names.lookup("dora.lan"); len(addrs) != 1 || addrs[0].String() != "10.0.2.30" {
		t.Errorf("dora.lan is %v", addrs)
	}
	for _, bad := range [][]Reservation{
		{reservation(1, "10.0.2.2", "")},
		{reservation(1, "10.0.2.20", ""), reservation(2, "10.0.2.20", "")},
		{reservation(1, "10.0.2.20", ""), reservation(1, "10.0.2.21", "")},
	} {
		if b.g.SetReservations(bad) == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	if a := addr(1); a != "10.0.2.20" {
		t.Errorf("after changes that failed alice is %s", a)
	}
	checkLeases(t, b.g.dhcp)
}

// checkLeases compares what a server knows twice.
func checkLeases(t *testing.T, d *dhcpServer) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	held := map[guest]int{}
	for a, l := range d.byAddr {
		if l.addr != a || l.mac != [6]byte{} && d.byMAC[l.mac] != l || l.reserved && l.holds {
			t.Errorf("%v: %+v", a, l)
		}
		if l.holds {
			held[l.owner]++
		}
	}
	for mac, l := range d.byMAC {
		if l.mac != mac || l.addr.IsValid() && d.byAddr[l.addr] != l {
			t.Errorf("%x: %+v", mac, l)
		}
	}
	for name, l := range d.byName {
		if strings.ToLower(l.name) != name || d.byMAC[l.mac] != l {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if sum := d.room.used; fmt.Sprint(held) != fmt.Sprint(d.room.held) && sum > 0 {
		t.Errorf("%v hold room, %v is counted", held, d.room.held)
	}
}

// A guest that gives itself the name of another does not get it.
func TestNamesAreNotTaken(t *testing.T) {
	b := newBench(t, Config{Reservations: []Reservation{reservation(1, "", "alice"), reservation(2, "", "alice")}, Names: map[string][]netip.Addr{"www": {netip.MustParseAddr("10.0.2.99")}}})
	called := func(n byte, name string) {
		b.dhcp(dhcpv4.MessageTypeDiscover, card(n), dhcpv4.WithOption(dhcpv4.OptHostName(name)))
	}
	called(3, "alice")
	called(4, "dave")
	called(5, "Dave")
	called(6, "www")
	called(7, "gateway")
	for name, want := range map[string]string{"alice": "10.0.2.15", "dave.lan": "10.0.2.18", "www": "10.0.2.99", "gateway": "10.0.2.2"} {
		if addrs, _ := b.g.names.lookup(name); len(addrs) == 0 || addrs[0].String() != want {
			t.Errorf("%s is %v, want %s", name, addrs, want)
		}
	}
	// A reservation takes a name from whoever chose it.
	if err := b.g.SetReservations([]Reservation{reservation(2, "", "alice"), reservation(9, "10.0.2.90", "Dave")}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"alice": "10.0.2.16", "dave": "10.0.2.90"} {
		if addrs, _ := b.g.names.lookup(name); len(addrs) == 0 || addrs[0].String() != want {
			t.Errorf("%s is %v, want %s", name, addrs, want)
		}
	}
	checkLeases(t, b.g.dhcp)
}

// One guest takes all the addresses that it can get, with cards that it makes
// up; another still gets one, and reservations are not touched.
func TestDHCPStarvation(t *testing.T) {
	b := newBench(t, Config{Reservations: []Reservation{reservation(1, "10.0.2.20", "alice"), reservation(2, "", "bob")}})
	ask := func(from guest, mac [6]byte) bool {
		r, _ := b.g.dhcp.answer(from, mac, discover(mac), testTime)
		return r != nil
	}
	got := 0
	for n := range 1000 {
		if ask(1, [6]byte{2, 66, 0, 0, byte(n >> 8), byte(n)}) {
			got++
		}
	}
	if got < 100 || got > 120 {
		t.Errorf("one guest got %d addresses of 238", got)
	}
	for n := range byte(40) {
		if !ask(guest(2+n%3), card(100+n)) {
			t.Errorf("guest %d got no address", n)
		}
	}
	if !ask(1, card(1)) || !ask(1, card(2)) {
		t.Error("a reservation got no address")
	}
	// What has run out is the guest's to use again.
	later := testTime.Add(2 * offerTime)
	mac := [6]byte{2, 67}
	if r, _ := b.g.dhcp.answer(1, mac, discover(mac), later); r == nil {
		t.Error("a guest whose offers have run out gets no address")
	}
	checkLeases(t, b.g.dhcp)
}

// TestLiveChanges: everything that can change while a gateway runs changes under
// load.
func TestLiveChanges(t *testing.T) {
	b := newBench(t, Config{})
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "file"), bytes.Repeat([]byte{7}, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			var err error
			var list []Reservation
			for i := range n % 5 {
				list = append(list, reservation(byte(i), fmt.Sprintf("10.0.2.%d", 15+(n+i)%20), fmt.Sprint("m", i)))
			}
			switch n % 4 {
			case 0:
				err = b.g.SetReservations(list)
			case 1:
				b.g.SetNames(map[string][]netip.Addr{fmt.Sprint("n", n): {guestIP}})
			case 2:
				err = b.g.SetForwards([]Forward{{Guest: netip.AddrPortFrom(guestIP, uint16(1+n%3))}, {Network: "udp", Guest: netip.AddrPortFrom(guestIP, 9)}})
			case 3:
				err = b.g.SetDHCP(DHCP{TFTP: []string{"", folder}[n/4%2], BootFile: fmt.Sprint("file", n)})
			}
			if err != nil {
				t.Error(err)
			}
		}
	}()
	for n := range 300 {
		mac := card(byte(n % 8))
		if o := b.dhcp(dhcpv4.MessageTypeDiscover, mac); o.MessageType() == dhcpv4.MessageTypeOffer {
			b.dhcp(dhcpv4.MessageTypeRequest, mac, wants(o.YourIPAddr))
		}
		b.g.dns.local(query(fmt.Sprintf("m%d.lan.", n%5), 1))
		b.g.names.reverse(guestIP)
	}
	close(stop)
	<-done
	checkLeases(t, b.g.dhcp)
}

// Guests are told of networks behind others; who routes is not told that they
// lie behind itself.
func TestDHCPRoutes(t *testing.T) {
	router := netip.MustParseAddr("10.0.2.17")
	b := newBench(t, Config{
		Routes:       []Route{{To: netip.MustParsePrefix("10.9.0.0/22"), Via: router}, {To: netip.MustParsePrefix("10.16.0.0/12"), Via: netip.MustParseAddr("10.0.2.18")}},
		Reservations: []Reservation{{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 17}, Addr: router}},
	})
	o := b.dhcp(dhcpv4.MessageTypeDiscover, guestMAC)
	if got, want := o.Options[121], "\x16\x0a\x09\x00\x0a\x00\x02\x11"+"\x0c\x0a\x10\x0a\x00\x02\x12"+"\x00\x0a\x00\x02\x02"; string(got) != want {
		t.Errorf("a guest is told %q, want %q", got, want)
	}
	o = b.dhcp(dhcpv4.MessageTypeDiscover, [6]byte{2, 0, 0, 0, 0, 17})
	if got, want := o.Options[121], "\x0c\x0a\x10\x0a\x00\x02\x12"+"\x00\x0a\x00\x02\x02"; string(got) != want {
		t.Errorf("the router is told %q, want %q", got, want)
	}
}
