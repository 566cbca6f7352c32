package lab

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestUplinkMistakes(t *testing.T) {
	for text, want := range map[string]string{
		`{uplink: {tpa: tap0}}`:                                                                  `f:1:27: unknown key "tpa" in an uplink; did you mean "tap"?`,
		`{uplink: {tap: "a b"}}`:                                                                 `f:1:32: "a b" can't name an interface`,
		`{uplink: {tap: lo}}`:                                                                    `f:1:32: "lo" can't name an interface`,
		`{uplink: {tap: tap0, bridge: br0}}`:                                                     `f:1:26: an uplink is a tap, or a bridge, and this is tap tap0 and br0`,
		`{uplink: {bridge: br0, address: 10.0.2.1}}`:                                             `an uplink with a bridge has no address`,
		`{uplink: {bridge: br0, tag: 10}}`:                                                       `tag 10 needs the interface that has it`,
		`{uplink: {interface: eth0, tag: 4095}}`:                                                 `tag is 4095; it must be 1 to 4094`,
		`{uplink: {given: true}}`:                                                                `given needs the name of the tap`,
		`{uplink: {tap: t, given: true, masquerade: true}}`:                                      `tap t is given, so that`,
		`{uplink: {masquerade: true}}`:                                                           `need the host's address on the network`,
		`{uplink: {address: 10.9.0.1}}`:                                                          `f:1:26: 10.9.0.1 is no address of the host on network "lan", 10.0.2.0/24`,
		`{uplink: {address: "fd00::1"}}`:                                                         `"fd00::1" is no IPv4 address`,
		`{uplink: {address: 10.0.2.1, address6: "fd00::1"}}`:                                     `needs a subnet6 of network "lan"`,
		`{uplink: {address: 10.0.2.2}, gateway: auto}`:                                           `10.0.2.2 belongs to the gateway of network "lan"`,
		`{uplink: {bridge: br0}, gateway: auto}`:                                                 `the gateway would answer DHCP to everybody on the bridge`,
		`{uplink: {address: 10.0.2.9, forward: true}, gateway: auto}`:                            `network "lan" has two ways out`,
		`{uplink: {dns: [nowhere]}}`:                                                             `f:1:33: "nowhere" is no address`,
		`{uplink: {bridge: br0, vlan: 3, trunk: [4]}}`:                                           `access VLAN 3 and a trunk exclude each other`,
		`{vlans: {10: {subnet: 10.1.0.0/24, uplink: {tap: t}}}}`:                                 `f:1:60: the uplink of a VLAN is a part of its network's tap`,
		`{uplink: {bridge: b}, vlans: {10: {subnet: 10.1.0.0/24, uplink: {address: 10.1.0.1}}}}`: `VLAN 10 is the host's own business`,
		`{uplink: {tap: elevenchars}, vlans: {10: {subnet: 10.1.0.0/24, uplink: {}}}}`:           `its name may have 10 letters`,
		`{uplink: {tap: t}}, far: {subnet: 10.9.0.0/24, uplink: {tap: t}}`:                       `networks "far" and "lan" both want t of the host`,
		`{uplink: {interface: e}}, far: {uplink: {interface: e}}`:                                `networks "far" and "lan" both want e of the host`,
	} {
		_, err := Parse("f", []byte("networks: {lan: "+text+"}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", text, err, want)
		}
	}
	_, err := Parse("f", []byte("networks: {lan: {uplink: {address: 10.0.2.9}}}\nmachines: {a: {networks: [{network: lan, address: 10.0.2.9}]}}\n"))
	if err == nil || !strings.Contains(err.Error(), `10.0.2.9 is the host's on network "lan"`) {
		t.Error(err)
	}
	_, err = Parse("f", []byte("networks: {lan: {uplink: {bridge: b}}}\nmachines: {a: {networks: [{network: lan, address: 10.0.2.9}]}}\n"))
	if err == nil || !strings.Contains(err.Error(), `network "lan" has no subnet for the address 10.0.2.9`) {
		t.Error(err)
	}
}

// TestUplinkFollows: what an uplink means for the rest of the lab.
func TestUplinkFollows(t *testing.T) {
	s, err := Parse("f", []byte(`
networks:
  tapped: {uplink: {address: 10.0.2.1, masquerade: true}}
  bridged: {uplink: {bridge: br0}}
  served: {subnet: 10.3.0.0/24, gateway: auto, uplink: {address: 10.3.0.1}}
  tagged: {subnet: 10.4.0.0/24, vlans: {10: {subnet: 10.5.0.0/24, uplink: {address: 10.5.0.1}}}}
machines:
  a: {networks: [tapped, bridged, {network: served, address: 10.3.0.9}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	n := s.Networks
	if !n["tapped"].NoGateway || !n["bridged"].NoGateway || n["served"].NoGateway || n["tagged"].NoGateway || !n["tagged"].VLANs[10].NoGateway {
		t.Error("gateways are where they should not be, or not where they should")
	}
	if n["bridged"].Subnet.IsValid() || s.Machines["a"].Card("bridged").Config != CardDHCP || s.Machines["a"].Card("tapped").Config != CardAuto {
		t.Error("who is on a bridge asks there")
	}
	if !n["tapped"].Uplink.Leads() || n["served"].Uplink.Leads() || n["bridged"].Uplink.Leads() {
		t.Error("the host is the router of others than it should be")
	}
	// It comes over the control API whole.
	data, err := json.Marshal(s)
	var back Spec
	if err == nil {
		err = json.Unmarshal(data, &back)
	}
	if err != nil || !reflect.DeepEqual(back.Networks, s.Networks) {
		t.Errorf("%v: %s", err, data)
	}
	if steps := Diff(&back, s); len(steps) != 0 {
		t.Errorf("steps %v", steps)
	}
}

func TestUplinkDiff(t *testing.T) {
	parse := func(uplink string) *Spec {
		t.Helper()
		s, err := Parse("f", []byte("networks: {lan: {gateway: none"+uplink+"}}\nmachines: {a: {networks: [lan]}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct{ from, to, want string }{
		{"", ", uplink: {}", "change network lan: uplink"},
		{", uplink: {}", ", uplink: {tap: t}", "change network lan: uplink"},
		{", uplink: {address: 10.0.2.9, forward: true}", ", uplink: {address: 10.0.2.9, masquerade: true}", "change network lan: uplink"},
		{", uplink: {}", ", uplink: {address: 10.0.2.9, masquerade: true}", "restart network lan: uplink; restart machine a: network lan"},
		{", uplink: {bridge: b}", "", "restart network lan: subnet, uplink; restart machine a: networks"},
	} {
		var got []string
		for _, s := range Diff(parse(c.from), parse(c.to)) {
			got = append(got, s.String())
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%s to %s: %q, want %q", c.from, c.to, s, c.want)
		}
	}
}
