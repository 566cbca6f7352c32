package gateway_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"wolffia/internal/vnet/gateway"
)

// nameServer is a name server of the host's, over UDP and TCP on one port. It
// knows *.test, answers big.test in full over TCP alone, and counts questions.
type nameServer struct {
	addr  netip.AddrPort
	asked atomic.Int32
}

func newNameServer(t *testing.T) *nameServer {
	s := &nameServer{}
	for {
		l := listenTCP(t, "127.0.0.1:0", s.stream)
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(l))
		if err != nil {
			continue // the port is taken for UDP
		}
		t.Cleanup(func() { c.Close() })
		s.addr = l
		go s.packets(c)
		return s
	}
}

func (s *nameServer) packets(c *net.UDPConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort(s.answer(b[:n], false), from)
	}
}

func (s *nameServer) stream(c *net.TCPConn) {
	var size [2]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		r := s.answer(b, true)
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
	}
}

func (s *nameServer) answer(b []byte, tcp bool) []byte {
	s.asked.Add(1)
	var p dnsmessage.Parser
	h, _ := p.Start(b)
	q, _ := p.Question()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true}, Questions: []dnsmessage.Question{q}}
	count := 1
	switch name := q.Name.String(); {
	case name == "big.test.":
		m.Truncated = !tcp
		count = 100
		if !tcp {
			count = 0
		}
	case !strings.HasSuffix(name, ".test."):
		m.RCode = dnsmessage.RCodeNameError
		count = 0
	}
	for i := range count {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{198, 51, 100, byte(i)}},
		})
	}
	r, _ := m.Pack()
	return r
}

func TestDNS(t *testing.T) {
	upstream := newNameServer(t)
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.1.1 myhost\n::1 myhost\n192.0.2.7 printer printer.office\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	n := newStatic(t, gateway.Config{
		Domain: "Net.Example", Hosts: hosts,
		Nameservers: []netip.AddrPort{dead, upstream.addr},
		Names: map[string][]netip.Addr{
			"bob":                   {netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("fd00:77:6f6c:66::15")},
			"Carol.net.example":     {netip.MustParseAddr("10.0.2.16")},
			"www.elsewhere.invalid": {netip.MustParseAddr("10.0.2.17")},
		},
	})
	dig := func(args ...string) string {
		return strings.TrimSpace(n.run(append([]string{"dig", "+tries=1", "+time=10"}, args...)...))
	}
	for _, c := range []struct{ ask, want string }{
		{"+short bob.net.example", "10.0.2.15"},
		{"+short bob", "10.0.2.15"},
		{"+short BOB.Net.Example AAAA", "fd00:77:6f6c:66::15"},
		{"+short carol", "10.0.2.16"},
		{"+short carol AAAA", ""},
		{"+short www.elsewhere.invalid", "10.0.2.17"},
		{"+short gateway.net.example", "10.0.2.2"},
		{"+short host", "10.0.2.2"},
		{"+short dns AAAA", "fd00:77:6f6c:66::3"},
		{"+short -x 10.0.2.15", "bob.net.example."},
		{"+short -x 10.0.2.2", "gateway.net.example."},
		{"+short -x fd00:77:6f6c:66::15", "bob.net.example."},
		{"+short myhost", "10.0.2.2"},
		{"+short myhost AAAA", "fd00:77:6f6c:66::2"},
		{"+short printer.office", "192.0.2.7"},
		{"+short -x 192.0.2.7", "printer."},
		{"+short localhost", "127.0.0.1"},
		{"+short some.test", "198.51.100.0"},
		{"+short +tcp bob", "10.0.2.15"},
		{"+short +tcp some.test", "198.51.100.0"},
	} {
		for _, server := range []string{"@10.0.2.3", "@10.0.2.2", "@fd00:77:6f6c:66::3"} {
			if got := dig(append([]string{server}, strings.Fields(c.ask)...)...); got != c.want {
				t.Errorf("dig %s %s: got %q, want %q", server, c.ask, got, c.want)
			}
		}
	}
	if got := dig("@10.0.2.3", "+short", "big.test"); strings.Count(got, "198.51.100.") != 100 {
		t.Errorf("a truncated answer was not asked for again over TCP:\n%s", got)
	}
	before := upstream.asked.Load()
	for _, ask := range []string{"nobody.net.example", "net.example", "-x 10.0.2.200", "-x fd00:77:6f6c:66::200"} {
		if out := dig(append([]string{"@10.0.2.3"}, strings.Fields(ask)...)...); !strings.Contains(out, "status: NXDOMAIN") {
			t.Errorf("%s:\n%s", ask, out)
		}
	}
	if upstream.asked.Load() != before {
		t.Error("names of the network were asked outside")
	}
	if out := dig("@10.0.2.3", "nobody.elsewhere"); !strings.Contains(out, "status: NXDOMAIN") {
		t.Errorf("the name server's answer does not come through:\n%s", out)
	}
	if out := dig("@10.0.2.3", "some.test", "+opcode=status"); !strings.Contains(out, "NOTIMP") {
		t.Errorf("another opcode:\n%s", out)
	}
}

// TestDNSOfALab: machines are on several networks, and which of them this one
// knows is said from outside, also while it runs.
func TestDNSOfALab(t *testing.T) {
	upstream := newNameServer(t)
	far := netip.MustParseAddr("10.9.9.9")
	n := newStatic(t, gateway.Config{
		Nameservers: []netip.AddrPort{upstream.addr},
		Names: map[string][]netip.Addr{
			"alice": {netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("fd00:77:6f6c:66::15")},
			"bob":   {far, netip.MustParseAddr("fd00:99::9")}, // on another network, there is a way
			"carol": nil,                                      // on another network, there is none
		},
	})
	ask := func(what string) string {
		t.Helper()
		out := n.run(append([]string{"dig", "+tries=1", "+time=10", "+domain=lan", "+search", "@10.0.2.3"}, strings.Fields(what)...)...)
		if strings.Contains(out, "status: NXDOMAIN") {
			return "NXDOMAIN"
		}
		return strings.TrimSpace(n.run(append([]string{"dig", "+short", "+tries=1", "+time=10", "+domain=lan", "+search", "@10.0.2.3"}, strings.Fields(what)...)...))
	}
	for what, want := range map[string]string{
		"alice": "10.0.2.15", "alice.lan": "10.0.2.15", "alice AAAA": "fd00:77:6f6c:66::15", "-x 10.0.2.15": "alice.lan.",
		"bob": "10.9.9.9", "bob.lan. AAAA": "fd00:99::9", "-x 10.9.9.9": "bob.lan.", "-x fd00:99::9": "bob.lan.",
		"carol": "NXDOMAIN", "carol.lan AAAA": "NXDOMAIN", "dave.lan": "NXDOMAIN",
	} {
		if got := ask(what); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	if n := upstream.asked.Load(); n != 0 {
		t.Errorf("%d questions left the network", n)
	}
	n.gw.SetNames(map[string][]netip.Addr{"carol": {far}})
	if a, b, c := ask("alice.lan"), ask("-x 10.9.9.9"), ask("carol"); a != "NXDOMAIN" || b != "carol.lan." || c != "10.9.9.9" {
		t.Errorf("after a change: alice %s, %v is %s, carol %s", a, far, b, c)
	}
}

func TestDNSFollowsResolvConf(t *testing.T) {
	upstream := newNameServer(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	n := newStatic(t, gateway.Config{ResolvConf: conf})
	if out := n.run("dig", "+tries=1", "+time=10", "@10.0.2.3", "some.test"); !strings.Contains(out, "SERVFAIL") {
		t.Errorf("without name servers:\n%s", out)
	}
	// A resolv.conf names no port: the server must be at 53, which a namespace
	// of one's own has room for.
	relay := listenTCP(t, "127.0.0.9:53", func(c *net.TCPConn) { upstream.stream(c) })
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	go upstream.packets(u)
	if err := os.WriteFile(conf, []byte("# new\nnameserver 127.0.0.9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new name server is asked", func() bool {
		return strings.Contains(n.run("dig", "+tries=1", "+time=10", "@10.0.2.3", "some.test"), "198.51.100.0")
	})
}

func TestDNSRestricted(t *testing.T) {
	upstream := newNameServer(t)
	n := newStatic(t, gateway.Config{Restrict: true, Nameservers: []netip.AddrPort{upstream.addr}})
	if out := n.run("dig", "+tries=1", "@10.0.2.3", "some.test"); !strings.Contains(out, "REFUSED") {
		t.Errorf("a foreign name:\n%s", out)
	}
	if out := n.run("dig", "+short", "@10.0.2.3", "gateway.lan"); strings.TrimSpace(out) != "10.0.2.2" {
		t.Errorf("the network's name: %q", out)
	}
	if upstream.asked.Load() != 0 {
		t.Error("the host's name server was asked")
	}
}

// TestLink: one cable, one guest, connections from here and nothing else.
func TestLink(t *testing.T) {
	g := newGuest(t, false)
	for _, c := range []string{
		"link set lo up", "link set eth0 address 02:00:00:00:77:02 up", "addr add 169.254.77.2/30 dev eth0",
		"-6 addr add fd00:77::1/64 dev lo", "route add default via 169.254.77.1",
	} {
		g.run(append([]string{"ip"}, strings.Fields(c)...)...)
	}
	l, err := gateway.NewLink(g.port, gateway.LinkConfig{
		Local: netip.MustParsePrefix("169.254.77.1/30"), Peer: netip.MustParseAddr("169.254.77.2"),
		PeerMAC: net.HardwareAddr{2, 0, 0, 0, 0x77, 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := g.command(t.Context(), "sh", "-c", "head -c 3000000 /dev/zero | nc -N -l 169.254.77.2 22 | wc -c")
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	var c net.Conn
	eventually(t, "nc listens", func() bool {
		c, err = l.DialContext(t.Context(), "tcp", "169.254.77.2:22")
		return err == nil
	})
	b, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(b, make([]byte, 3000000)) {
		t.Errorf("read %d bytes: %v", len(b), err)
	}
	_, _ = c.Write([]byte("12345"))
	c.Close()
	if b, _ := io.ReadAll(out); strings.TrimSpace(string(b)) != "5" {
		t.Errorf("the guest counted %q", b)
	}
	// Nothing answers but the link's own address, and nothing leads out.
	g.run("ping", "-c", "1", "-W", "5", "169.254.77.1")
	listen := listenTCP(t, "192.0.2.1:0", func(c *net.TCPConn) { _, _ = c.Write([]byte("out")) })
	if out, err := g.try("nc", "-d", "-w", "1", "192.0.2.1", listen.String()[len("192.0.2.1:"):]); err == nil && out != "" {
		t.Errorf("the guest got out: %q", out)
	}
}
