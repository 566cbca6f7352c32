package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"wolffia/internal/host"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// TestVLANs has the host on a VLAN of a tap, and puts a VLAN of the uplink into a
// bridge, while the uplink itself stays as it is. A kernel without 802.1Q says so,
// and nothing is left; a test of the whole program runs this one on a kernel that has
// it, with the plan of a file.
func TestVLANs(t *testing.T) {
	if !apart(t) {
		return
	}
	world(t, "out")
	_, err := try(in("out") + "ip link add link eth0 name eth0.30 type vlan id 30; " + in("out") + "ip addr add 10.30.0.1/24 dev eth0.30; " + in("out") + "ip link set eth0.30 up")
	kernel := err == nil
	plan := Plan{
		Name:    "vlan",
		Bridges: []Bridge{{Name: "br30", Uplink: "eth0", UplinkVLAN: 30}},
		Taps: []Tap{
			{Name: "tap0", VLANs: []VLAN{{ID: 10, Side: Side{Addr: prefix("192.168.10.1/24"), Masquerade: true}}}},
			{Name: "tap1", Bridge: "br30"},
		},
	}
	if file := os.Getenv("WOLFFIA_TEST_VLANS"); file != "" {
		if !kernel {
			t.Fatalf("this kernel was to know 802.1Q: %v", err)
		}
		plan = Plan{}
		must(t, json.Unmarshal([]byte(file), &plan))
	}
	before := snapshot(t)
	o := options(t)
	live, err := Apply(plan, o)
	if !kernel {
		var u *host.UnsupportedError
		if !errors.As(err, &u) || u.Fix == "" {
			t.Errorf("without 8021q: %v", err)
		}
		same(t, before)
		return
	}
	must(t, err)
	defer live.Close()
	settled(t)
	applied := comparable(t, snapshot(t))
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	defer sw.Close()
	_, err = sw.Attach(live.Tap(plan.Taps[0].Name), vnet.PortOptions{Name: "host"})
	must(t, err)
	guestOn(t, "ten", sw, vnet.VLAN{Access: 10}, "192.168.10.2/24", "192.168.10.1")
	guestOn(t, "none", sw, vnet.VLAN{}, "192.168.10.3/24", "")
	guest(t, "thirty", network(t, live, plan.Taps[1].Name), "10.30.0.50/24", "")
	reaches(t, in("ten"), "192.168.10.1")
	reaches(t, in("ten"), "203.0.113.7")
	reaches(t, in("thirty"), "10.30.0.1")
	reaches(t, "", "10.9.0.1")
	if _, err := try("%s ping -n -c 1 -W 1 192.168.10.1", in("none")); err == nil {
		t.Error("who sends no tag is on the VLAN")
	}
	must(t, live.Close())
	same(t, before)

	// Killed, and undone by whoever comes next.
	if !killed(t, plan, o, 0) {
		t.Error("the owner was not killed")
	}
	must(t, Recover(o))
	same(t, before)

	// The commands make the same by hand.
	commands, err := Commands(plan, Plan{}, o)
	must(t, err)
	run(t, "%s", strings.Join(commands, "\n"))
	for _, tap := range plan.Taps {
		f, err := wire.OpenTap(wire.TapOptions{Name: tap.Name, VNetHdr: true})
		must(t, err)
		defer f.Close()
	}
	eventually(t, func() error {
		if byHand := comparable(t, snapshot(t)); byHand != applied {
			return fmt.Errorf("what the commands did and what Apply did differ:\n%s", difference(byHand, applied))
		}
		return nil
	})
}
