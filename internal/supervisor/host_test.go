package supervisor

import (
	"net/netip"
	"reflect"
	"regexp"
	"testing"

	"wolffia/internal/hostnet"
	"wolffia/internal/lab"
)

// TestHostPlan: what the file says, and what that is to the host.
func TestHostPlan(t *testing.T) {
	plan := func(text string) hostnet.Plan {
		t.Helper()
		s, err := lab.Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		p := HostPlan("/state/labs/pair-0123abcd", s)
		if err := p.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		return p
	}
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	for text, want := range map[string]hostnet.Plan{
		"networks: {lan: }": {},
		"networks: {lan: {uplink: {tap: t, given: true}}}": {Taps: []hostnet.Tap{{Name: "t", Given: true}}},
		"networks: {lan: {mtu: 1400, subnet6: 'fd01::/64', uplink: {tap: t, address: 10.0.2.1, address6: 'fd01::1', forward: true}}}": {
			Taps: []hostnet.Tap{{Name: "t", MTU: 1400, Side: hostnet.Side{Addr: prefix("10.0.2.1/24"), Addr6: prefix("fd01::1/64"), Forward: true}}}},
		"networks: {lan: {uplink: {tap: t, address: 10.0.2.9, proxy-arp: true}}}\nmachines: {a: {networks: [lan]}, b: {networks: [{network: lan, address: 10.0.2.7}]}}": {
			Taps: []hostnet.Tap{{Name: "t", MTU: 1500, Side: hostnet.Side{Addr: prefix("10.0.2.9/32"), ProxyARP: []netip.Addr{addr("10.0.2.1"), addr("10.0.2.7")}}}}},
		"networks: {lan: {uplink: {tap: t}, vlans: {7: {subnet: 10.7.0.0/24, uplink: {address: 10.7.0.1, masquerade: true}}, 8: }}}": {
			Taps: []hostnet.Tap{{Name: "t", MTU: 1500, VLANs: []hostnet.VLAN{{ID: 7, Side: hostnet.Side{Addr: prefix("10.7.0.1/24"), Masquerade: true}}}}}},
		"networks: {lan: {uplink: {bridge: b, interface: eth0, tag: 30}}}": {
			Bridges: []hostnet.Bridge{{Name: "b", Uplink: "eth0", UplinkVLAN: 30}}, Taps: []hostnet.Tap{{Name: "wt", Bridge: "b"}}},
		"networks: {lan: {uplink: {tap: t, address: 10.0.2.9}, routes: [{to: 10.5.0.0/16, via: 10.0.2.8}, {to: 0.0.0.0/0, via: 10.0.2.8}]}}": {
			Taps: []hostnet.Tap{{Name: "t", MTU: 1500, Side: hostnet.Side{Addr: prefix("10.0.2.9/24"), Routes: []hostnet.Route{{To: prefix("10.5.0.0/16"), Via: addr("10.0.2.8")}}}}}},
	} {
		want.Name = "pair-0123abcd"
		got := plan(text)
		for i := range got.Taps { // the names that are made up
			if regexp.MustCompile(`^wt[0-9a-f]{8}$`).MatchString(got.Taps[i].Name) {
				got.Taps[i].Name = "wt"
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%+v, want\n%+v", text, got, want)
		}
	}
}

func TestHostName(t *testing.T) {
	long := "/s/" + "0123456789012345678901234567890123456789012345678901234567890-2345-89abcdef"
	for dir, want := range map[string]int{"/s/pair-0123abcd": 13, long: 64} {
		p := hostnet.Plan{Name: hostName(dir)}
		if len(p.Name) != want || p.Check() != nil {
			t.Errorf("%s: %q, %v", dir, p.Name, p.Check())
		}
	}
}

// TestOverHost: which way a machine goes that is on several networks.
func TestOverHost(t *testing.T) {
	s, err := lab.Parse("f", []byte(`
networks:
  plain: {subnet: 10.1.0.0/24}
  first: {subnet: 10.2.0.0/24, uplink: {address: 10.2.0.1, masquerade: true}}
  second: {subnet: 10.3.0.0/24, subnet6: "fd03::/64", uplink: {address: 10.3.0.1, address6: "fd03::1", forward: true}}
  there: {subnet: 10.4.0.0/24, uplink: {address: 10.4.0.1}}
machines:
  a: {networks: [there, first, second]}
  b: {networks: [plain, first]}
  c: {networks: [second]}
`))
	if err != nil {
		t.Fatal(err)
	}
	p := newPlan(s, nil)
	for machine, want := range map[string]string{"a": "10.2.0.1 ", "b": "", "c": "10.3.0.1 fd03::1 "} {
		got := ""
		for _, c := range s.Machines[machine].Cards {
			for _, r := range p.routes(s.Machines[machine], s.Segment(&c)) {
				got += r.Via.String() + " "
			}
		}
		if got != want {
			t.Errorf("%s goes by %q, not %q", machine, got, want)
		}
	}
	if at := p.at(s.Machines["c"], s.Machines["c"].Card("second")); at.v4.Addr() == netip.MustParseAddr("10.3.0.1") {
		t.Error("a machine has the host's address")
	}
}
