package lab

import (
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestPrefix6: two networks of one machine must not look like one.
func TestPrefix6(t *testing.T) {
	s, err := Parse("f", []byte("networks: {lan: }\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p := s.Prefix6(s.Networks["lan"]); p.IsValid() {
		t.Errorf("an only network has %v, not the gateway's choice", p)
	}
	s, err = Parse("f", []byte(`networks: {lan: , dmz: {subnet: 10.1.0.0/24}, given: {subnet6: "fd00:9::/64"}}`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := s.Prefix6(s.Networks["lan"]), s.Prefix6(s.Networks["dmz"])
	if a == b || !a.IsValid() || a.Bits() != 64 || a != a.Masked() || !a.Addr().IsPrivate() {
		t.Errorf("prefixes %v and %v", a, b)
	}
	if p := s.Prefix6(s.Networks["given"]); p != netip.MustParsePrefix("fd00:9::/64") {
		t.Errorf("%v", p)
	}
}

func TestRoutesByName(t *testing.T) {
	const rest = `
  back: {subnet: 10.9.0.0/24, subnet6: "fd00:9::/64", router: r, vlans: {10: {subnet: 10.10.0.0/24}, 20: }}
images: {base: }
machines:
  r: {networks: [lan, back]}
  web: {networks: [back], forwards: ["8080:80"]}
`
	parse := func(to string) (*Spec, error) {
		return Parse("f", []byte("networks:\n  lan: {routes: [{to: \""+to+"\", via: r}]}"+rest))
	}
	prefixes := func(s *Spec) (out []string) {
		for _, p := range s.Networks["lan"].Routes[0].Prefixes {
			out = append(out, p.String())
		}
		return out
	}
	for to, want := range map[string][]string{
		"back":         {"10.9.0.0/24", "fd00:9::/64"},
		"10.8.0.0/15":  {"10.8.0.0/15"},
		"fd00:1::/64":  {"fd00:1::/64"},
		"back.10":      {"10.10.0.0/24", ""}, // the second follows from the name
		"10.9.0.77/32": {"10.9.0.77/32"},
	} {
		s, err := parse(to)
		leads := to == "back" || to == "10.8.0.0/15"
		if leads != (err == nil) {
			t.Errorf("to %s: %v", to, err)
			continue
		}
		if err != nil { // no route leads to the machine with a forward
			if !strings.Contains(err.Error(), `f:7:38: machine "web" has forwards, and no network with a gateway to forward over`) {
				t.Errorf("to %s: %v", to, err)
			}
			s, err = Parse("f", []byte(strings.Replace("networks:\n  lan: {routes: [{to: \""+to+"\", via: r}]}"+rest, `, forwards: ["8080:80"]`, "", 1)))
			if err != nil {
				t.Errorf("to %s: %v", to, err)
				continue
			}
		} else if e := s.Entry(s.Machines["web"]); e == nil || e.Name != "lan" {
			t.Errorf("to %s: forwards come by %v", to, e)
		}
		got := prefixes(s)
		if len(got) == 2 && want[1] == "" {
			got[1] = ""
		}
		if !slices.Equal(got, want) {
			t.Errorf("to %s: %q, want %q", to, got, want)
		}
	}
	for to, want := range map[string]string{
		"bakc":         `f:2:18: unknown network "bakc"; did you mean "back"?`,
		"back.20":      `f:2:18: network "back.20" has no addresses`,
		"10.9.0.1/24":  `f:2:23: network 10.9.0.1/24 has host bits set; did you mean 10.9.0.0/24?`,
		"10.9.0.0/240": `f:2:23: "10.9.0.0/240" is no network`,
	} {
		if _, err := parse(to); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("to %s: %v\nwant %s", to, err, want)
		}
	}
}

func TestReservations(t *testing.T) {
	const text = `
networks:
  lan: {dhcp: {reservations: [{mac: "02:00:00:00:00:05", address: 10.0.2.77, name: pc}, {mac: "02:00:00:00:00:06", address: 10.0.2.78}]},
    vlans: {10: {subnet: 10.10.0.0/24, dhcp: {reservations: [{mac: "02:00:00:00:00:05", address: 10.10.0.77, name: pc}]}}, 20: {subnet: 10.20.0.0/24, gateway: none}}}
machines:
  a: {networks: [{network: lan, mac: "02:00:00:00:00:0a", address: 10.0.2.50}]}
  b: {networks: [{network: lan, mac: "02:00:00:00:00:0b", address: none}]}
`
	s, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	lan := s.Networks["lan"]
	for _, c := range []struct{ got, want any }{
		{lan.DHCP.Reservations, []Reservation{
			{net.HardwareAddr{2, 0, 0, 0, 0, 5}, netip.MustParseAddr("10.0.2.77"), "pc"},
			{net.HardwareAddr{2, 0, 0, 0, 0, 6}, netip.MustParseAddr("10.0.2.78"), ""}}},
		{lan.VLANs[10].DHCP.Reservations, []Reservation{{net.HardwareAddr{2, 0, 0, 0, 0, 5}, netip.MustParseAddr("10.10.0.77"), "pc"}}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
	for _, c := range []struct{ old, new, want string }{
		{`02:00:00:00:00:06`, `02:00:00:00:00:0b`, ""}, // a machine's card that sets itself up
		{`02:00:00:00:00:06`, `03:00:00:00:00:06`, `f:3:95: "03:00:00:00:00:06" is no hardware address of a card`},
		{`02:00:00:00:00:06`, `02:00:00:00:00:05`, `f:3:95: two reservations are of 02:00:00:00:00:05`},
		{`02:00:00:00:00:06`, `02:00:00:00:00:0a`, `f:3:95: 02:00:00:00:00:0a is machine "a"'s; reserve its address there: networks: [{network: lan, address: 10.0.2.78}]`},
		{`10.0.2.78`, `10.0.2.77`, `f:3:125: two reservations are of 10.0.2.77`},
		{`10.0.2.78`, `10.0.2.50`, `f:3:125: 10.0.2.50 is machine "a"'s`},
		{`10.0.2.78`, `10.0.2.3`, `f:3:125: 10.0.2.3 belongs to the gateway of network "lan"`},
		{`10.0.2.78`, `10.0.2.255`, `f:3:125: 10.0.2.255 is no address of a machine on network "lan", 10.0.2.0/24`},
		{`10.0.2.78`, `"fd00:1::5"`, `f:3:125: "fd00:1::5" is no IPv4 address`},
		{`10.10.0.77`, `10.0.2.79`, `f:4:98: 10.0.2.79 is no address of a machine on network "lan.10", 10.10.0.0/24`},
		{`10.0.2.78}`, `10.0.2.78, name: pc}`, `f:3:142: two reservations are called "pc"`},
		{`name: pc`, `name: b`, `f:3:84: "b" is a machine`},
		{`name: pc`, `name: dns`, `f:3:84: "dns" is the gateway's name`},
		{`name: pc`, `name: PC`, `f:3:84: name "PC": a name is 1 to 63 lower-case letters`},
		{`, address: 10.0.2.78`, ``, `f:3:89: a reservation needs the hardware address of a card (mac) and an address (address)`},
		{`20.0.0/24, gateway: none`, `20.0.0/24, gateway: none, dhcp: {reservations: [{mac: "02:00:00:00:00:05", address: 10.20.0.7}]}`, `f:4:172: network "lan.20" has no gateway to answer DHCP`},
	} {
		_, err := Parse("f", []byte(strings.Replace(text, c.old, c.new, 1)))
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.new, err, c.want)
		}
	}
}
