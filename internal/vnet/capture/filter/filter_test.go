package filter

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// tcpOver4 is a frame from 10.0.0.1 port 40000 to 10.0.2.15 port 80.
func tcpOver4() []byte {
	return eth(macB, macA, etherIPv4, ip4(6, "10.0.0.1", "10.0.2.15", 0, 0, tcp(40000, 80, 2, "")))
}

func match(t *testing.T, expression string, o Options, p Packet) bool {
	t.Helper()
	f, err := Parse(expression, o)
	if err != nil {
		t.Fatalf("%q: %v", expression, err)
	}
	return f.Match(p)
}

func TestNames(t *testing.T) {
	o := Options{
		Hosts:    map[string][]netip.Addr{"alice": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}, "bob.lan": {netip.MustParseAddr("10.0.9.9")}, "six": {netip.MustParseAddr("::1")}},
		Ethers:   map[string][]net.HardwareAddr{"alice": {macA}, "odd": {{1, 2, 3}}},
		Networks: map[string][]netip.Prefix{"lan": {netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}},
	}
	four := Packet{Data: tcpOver4(), Length: 54}
	six := Packet{Data: eth(macA, macB, etherIPv6, ip6(6, "2001:db8::9", "2001:db8::1", tcp(1, 2, 0, ""))), Length: 74}
	for expression, want := range map[string][2]bool{
		"host alice": {true, true}, "src host alice": {true, false}, "dst alice": {false, true}, "src alice or bob.lan": {true, false},
		"ip host alice": {true, false}, "ip6 host alice": {false, true}, "host bob.lan": {false, false}, "host \\alice": {true, true},
		"ether src alice": {true, false}, "ether host alice": {true, true}, "net lan": {true, true}, "src net lan": {false, true},
		"ip6 net lan": {false, true}, "not host alice": {false, false},
	} {
		if got := match(t, expression, o, four); got != want[0] {
			t.Errorf("%q over IPv4: %v", expression, got)
		}
		if got := match(t, expression, o, six); got != want[1] {
			t.Errorf("%q over IPv6: %v", expression, got)
		}
	}
	for expression, problem := range map[string]string{
		"host alise":     `column 6: no machine's address is known by the name "alise"`,
		"net lam":        `column 5: no network is known by the name "lam"`,
		"ether host odd": `column 12: no machine's hardware address is known by the name "odd"`,
		"ip host six":    `column 9: "six" has no address that ip could carry`,
	} {
		if _, err := Parse(expression, o); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %v", expression, err)
		}
	}
}

func TestWordsBeyondTcpdump(t *testing.T) {
	lldp := Packet{Data: eth(group, macA, 0x88cc, make([]byte, 46)), Length: 60}
	if !match(t, "lldp", Options{}, lldp) || match(t, "lldp", Options{}, Packet{Data: tcpOver4()}) {
		t.Error("lldp")
	}
	if !match(t, "ether proto lldp or ip", Options{}, lldp) || !match(t, "ip proto tcp", Options{}, Packet{Data: tcpOver4()}) {
		t.Error("a protocol's word without a backslash")
	}
	if !match(t, "inbound", Options{}, Packet{In: true}) || !match(t, "outbound", Options{}, Packet{}) || match(t, "inbound and tcp", Options{}, Packet{Data: tcpOver4()}) {
		t.Error("inbound and outbound")
	}
	if !match(t, "net 10/8", Options{}, Packet{Data: tcpOver4()}) {
		t.Error("net 10/8")
	}
}

// Where libpcap is odd, this package is not.
func TestDiffersFromLibpcap(t *testing.T) {
	p := Packet{Data: tcpOver4(), Length: 54}
	if !match(t, "ip[8] % 7 + 1 = 2", Options{}, p) {
		t.Error("% does not bind as * does")
	}
	if !match(t, "ip[8] ^ 1 & 3 = 65", Options{}, p) {
		t.Error("^ binds more tightly than &")
	}
	arp := Packet{Data: eth(all1s, macA, etherARP, arp(1, "10.0.0.1", "10.0.0.2")), Length: 42}
	if match(t, "len - ip[0] > 1", Options{}, arp) {
		t.Error("ip[0] is found in an ARP frame")
	}
}

func TestErrorsHelp(t *testing.T) {
	for expression, want := range map[string]struct {
		column     int
		says, near string
	}{
		"tpc port 80":                 {1, "unknown word", "tcp"},
		"tcp prot 80":                 {5, "was expected", "port"},
		"tcp port 80 hots 10.0.0.1":   {13, `"and", "or" or the end`, "host"},
		"udp and 10.0.0.1":            {9, "says nothing by itself", "host 10.0.0.1"},
		"udp and 80":                  {9, "says nothing by itself", ""},
		"port htpt":                   {6, "no service", "http"},
		"port 80-90":                  {6, "is a range", "portrange 80-90"},
		"host 10.0.0.0/8":             {14, "only networks", "net"},
		"host 52:54:00:12:34:56":      {6, "hardware address", "ether host 52:54:00:12:34:56"},
		"tcp host 10.0.0.1":           {10, "no addresses of its own", "tcp and host 10.0.0.1"},
		"ip broadcast":                {4, "mask", "ether broadcast"},
		"(tcp or udp":                 {12, `")" for the parenthesis of column 1`, ""},
		"tcp[13 & 2 != 0":             {12, `"]" for the bracket`, ""},
		"mpls 5":                      {1, "not supported here", ""},
		"tcp and ümlaut":              {9, `"ü" is not part`, ""},
		"len":                         {1, "not compared", ""},
		"ether proto arpp":            {13, "no protocol", "arp"},
		strings.Repeat("(", 70):       {65, "nests deeper", ""},
		strings.Repeat("not ", 70):    {261, "nests deeper", ""},
		strings.Repeat("ip or ", 9e3): {maxExpression + 1, "longer than", ""},
	} {
		_, err := Parse(expression, Options{})
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.40q: %v", expression, err)
			continue
		}
		if syntax.Offset+1 != want.column || !strings.Contains(syntax.Problem, want.says) || syntax.Suggestion != want.near {
			t.Errorf("%.40q: column %d: %s; near %q", expression, syntax.Offset+1, syntax.Problem, syntax.Suggestion)
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	f, err := Parse("tcp port 443 or (host 10.0.0.1 and tcp[tcpflags] & tcp-syn != 0)", Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := Packet{Data: tcpOver4(), Length: 54}
	if n := testing.AllocsPerRun(100, func() { f.Match(p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var none *Filter
	if !none.Match(p) {
		t.Error("no filter selects nothing")
	}
}

func FuzzFilter(f *testing.F) {
	o := Options{Hosts: map[string][]netip.Addr{"a": {{}, netip.MustParseAddr("::1")}}, Networks: map[string][]netip.Prefix{"n": {{}}}}
	f.Fuzz(func(t *testing.T, expression string, frame []byte) {
		compiled, err := Parse(expression, o)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(expression) {
				t.Fatalf("%q: %#v", expression, err)
			}
			return
		}
		p := Packet{Data: frame, Length: len(frame)}
		opposite, err := Parse("not ("+expression+")", o)
		if err == nil && compiled.Match(p) && opposite.Match(p) {
			t.Fatalf("%q and its opposite both select", expression)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for _, e := range []string{"tcp", "host 10.0.0.9", "tcp port 443 or (host 10.0.0.1 and tcp[tcpflags] & tcp-syn != 0)"} {
		b.Run(e, func(b *testing.B) {
			f, err := Parse(e, Options{})
			if err != nil {
				b.Fatal(err)
			}
			p := Packet{Data: tcpOver4(), Length: 54}
			for b.Loop() {
				f.Match(p)
			}
		})
	}
}
