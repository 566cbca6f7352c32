package supervisor

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/link"
	"wolffia/internal/vnet/wire"
)

const gateways = "networks: {lan: {subnet: 10.9.0.0/24}, far: {subnet: 10.8.0.0/24}}\nmachines: {anna: {networks: [lan, far]}, bert: {networks: [far]}, carl: {networks: []}}\n"

// linkAt is what is known of one link of a lab; it ends the test where there is none.
func linkAt(t *testing.T, l *Lab, network, name string) LinkStatus {
	t.Helper()
	for _, s := range l.Links() {
		if s.Network == network && s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no %s on %s", name, network)
	return LinkStatus{}
}

// TestLinkNames: only machines' links could be changed, though others were listed.
func TestLinkNames(t *testing.T) {
	l := play(t, newPuppets())
	apply(t, l, gateways)
	if err := l.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	names := LinkNames(l.Status(), l.Links())
	if want := []string{"anna/lan", "anna/far", "bert/far", "far/gateway", "lan/gateway"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	for name, at := range map[string][2]string{
		"bert": {"far", "bert/eth0"}, "anna/lan": {"lan", "anna/eth0"}, "anna/eth1": {"far", "anna/eth1"},
		"lan/anna/eth0": {"lan", "anna/eth0"}, "lan/gateway": {"lan", "gateway"}, "far/gateway": {"far", "gateway"},
	} {
		x, err := l.Link(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := x.SetUp(false); err != nil {
			t.Error(name, err)
		}
		for _, s := range l.Links() {
			if cut := [2]string{s.Network, s.Name} == at; s.Up == cut {
				t.Errorf("%s is out, and of %s the link is up: %v", name, s.Name, s.Up)
			}
		}
		if err := x.SetUp(true); err != nil {
			t.Error(name, err)
		}
	}
	for name, want := range map[string]string{
		"gateway":     "link gateway is on far, lan; name one, as in far/gateway",
		"anna":        "machine anna is on lan, far; name one, as in anna/lan",
		"carl":        "machine carl is on no network",
		"anna/lna":    `unknown network of machine anna "lna"; did you mean "lan"?`,
		"lan/gatway":  `unknown link of network lan "gatway"; did you mean "gateway"?`,
		"gatway":      `unknown link "gatway"; it is one of anna, anna/far, anna/lan, bert, bert/far, carl, far/gateway, lan/gateway`,
		"berrt":       `unknown link "berrt"; did you mean "bert"?`,
		"lan":         `unknown link "lan"; it is one of`,
		"lan/bert/e0": `unknown link of network lan "bert/e0"`,
	} {
		if _, err := l.Link(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A machine goes before what has its name.
	apply(t, l, strings.Replace(gateways, "bert:", "gateway:", 1))
	if err := l.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	if x, err := l.Link("gateway"); err != nil || x.machine == nil {
		t.Errorf("%+v, %v", x, err)
	}
	if names := LinkNames(l.Status(), l.Links()); !slices.Contains(names, "lan/gateway") || slices.Contains(names, "gateway") {
		t.Error(names)
	}
}

// TestLinkStays: what a gateway's link does is the same when another file makes the
// gateway anew.
func TestLinkStays(t *testing.T) {
	l := play(t, newPuppets())
	apply(t, l, gateways)
	x, err := l.Link("lan/gateway")
	if err != nil {
		t.Fatal(err)
	}
	delay := link.Impairment{Delay: 20 * time.Millisecond}
	if err := x.SetImpairment(&delay, nil); err != nil {
		t.Fatal(err)
	}
	if err := x.SetImpairment(&link.Impairment{Loss: 2}, nil); err == nil {
		t.Error("a loss of 200% is accepted")
	}
	if err := x.SetUp(false); err != nil {
		t.Fatal(err)
	}
	before := l.network("lan").cable("gateway")
	apply(t, l, strings.Replace(gateways, "{subnet: 10.9.0.0/24}", "{subnet: 10.9.0.0/24, host: false}", 1))
	if l.network("lan").cable("gateway") == before {
		t.Error("the gateway is the one before")
	}
	if s := linkAt(t, l, "lan", "gateway"); s.Up || s.OutImpairment != "delay 20ms" || s.InImpairment != "none" {
		t.Errorf("%+v", s)
	}
	if s := linkAt(t, l, "far", "gateway"); !s.Up || s.OutImpairment != "none" {
		t.Errorf("%+v", s)
	}
	whole := l.network("lan")
	apply(t, l, strings.Replace(gateways, "{subnet: 10.9.0.0/24}", "{subnet: 10.9.0.0/24, mtu: 1400}", 1))
	if l.network("lan") == whole {
		t.Error("the network is the one before")
	}
	if s := linkAt(t, l, "lan", "gateway"); s.Up || s.OutImpairment != "delay 20ms" || s.InImpairment != "none" {
		t.Errorf("of a network that began anew: %+v", s)
	}
}

// TestLinkOfMachine: what is done to a machine's link holds until a file is applied,
// the same one, too; also what is done before the machine has begun.
func TestLinkOfMachine(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, two)
	x, err := l.Link("anna")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(x.SetUp(false), x.SetImpairment(&link.Impairment{Loss: 1}, nil)); err != nil {
		t.Fatal(err)
	}
	if err := l.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s := linkAt(t, l, "lan", "anna/eth0"); s.Up || s.OutImpairment != "loss 100%" {
		t.Errorf("after a restart: %+v", s)
	}
	apply(t, l, two)
	if s := linkAt(t, l, "lan", "anna/eth0"); !s.Up || s.OutImpairment != "none" {
		t.Errorf("after up: %+v", s)
	}
	b.boot = func(string) {
		if err := errors.Join(x.SetUp(false), x.SetImpairment(nil, &link.Impairment{Loss: 1})); err != nil {
			t.Error(err)
		}
	}
	if err := l.Restart(context.Background(), "anna"); err != nil {
		t.Fatal(err)
	}
	if s := linkAt(t, l, "lan", "anna/eth0"); s.Up || s.InImpairment != "loss 100%" {
		t.Errorf("what was done while it began: %+v", s)
	}
	// One that ends at once ends for its own reason, which a cut cable hid.
	b.live = func(p *puppet) { p.end(machine.Exit{Stage: "kernel", Cause: "the kernel panicked"}) }
	b.boot = func(string) { x.SetImpairment(nil, &link.Impairment{Loss: 0.5}) }
	for range 20 {
		l.Restart(context.Background(), "anna") // which may have seen it ready
		for state := StateReady; state != StateFailed; {
			if state, err = l.Wait(t.Context(), "anna", state); err != nil {
				t.Fatal(err)
			}
		}
		if said := l.Status()[0].Error; !strings.Contains(said, "the kernel panicked") {
			t.Errorf("it ended with %q", said)
		}
		if err := x.SetImpairment(nil, &link.Impairment{}); err != nil {
			t.Error(err)
		}
	}
}

// TestLinkWhileItBegins: what is done last to a link is how it is, whenever its machine
// begins anew.
func TestLinkWhileItBegins(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, two)
	x, err := l.Link("anna")
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.member("anna")
	if err != nil {
		t.Fatal(err)
	}
	restarted := make(chan error, 1)
	go func() {
		var errs []error
		for range 200 {
			errs = append(errs, l.Restart(context.Background(), "anna"))
		}
		restarted <- errors.Join(errs...)
	}()
	down, loss, lost := false, link.Probability(0), 0
	for done := false; !done; {
		select {
		case err := <-restarted:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
		down, loss = !down, 1-loss
		if err := errors.Join(x.SetUp(!down), x.SetImpairment(nil, &link.Impairment{Loss: loss})); err != nil {
			t.Fatal(err)
		}
		if c := m.description().Cards[0]; c.Down != down || c.Link.In.Loss != loss {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("what was done was lost %d times", lost)
	}
	if c := l.network("lan").cable("anna/eth0"); c.Up() == down || c.Impairment(link.In).Loss != loss {
		t.Errorf("at the end it is up: %v, loss %v; want %v, %v", c.Up(), c.Impairment(link.In).Loss, !down, loss)
	}
}

// TestNextOfThatName: who has plugged in keeps its link when the one before, by the
// same name, is found to have left.
func TestNextOfThatName(t *testing.T) {
	n := newNetwork(&lab.Network{Name: "lan"}, networkOptions{})
	defer n.close()
	const name = "lan.vde:1"
	var cables []*cable
	for range 2 {
		port, _ := vnet.Pipe(vnet.PipeOptions{})
		n.newcomer(name)
		if err := n.attach(port, name, &lab.Card{}, nil); err != nil {
			t.Fatal(err)
		}
		c := n.cable(name)
		if !c.Up() {
			t.Error("the next one is cut since the one before was")
		}
		cables = append(cables, c)
		cut := func(to *lab.Card, c *cable) error { to.Down = true; c.SetUp(false); return nil }
		if err := n.setPort(name, cut); err != nil {
			t.Fatal(err)
		}
	}
	n.left(name, cables[0])
	if n.cable(name) != cables[1] {
		t.Error("the one that is plugged in has no link")
	}
	n.left(name, cables[1])
	if n.cable(name) != nil {
		t.Error("the link of one that has left is there")
	}
}

// TestLinkOfClient: what is done to the link of who has plugged in ends with it.
func TestLinkOfClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "far.stream")
	l := play(t, newPuppets())
	apply(t, l, strings.Replace(two, "gateway: none", "gateway: none, plugs: [stream: "+path+"]", 1))
	const name = "far.stream:1"
	await := func(there bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			listed := slices.ContainsFunc(l.Links(), func(s LinkStatus) bool { return s.Name == name })
			if cable := l.network("lan").cable(name) != nil; listed == there && cable == there {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("plugged in: %v", !there)
			}
		}
	}
	for range 2 {
		port, err := wire.DialStream(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		await(true)
		if s := linkAt(t, l, "lan", name); !s.Up || s.InImpairment != "none" {
			t.Errorf("%+v", s)
		}
		x, err := l.Link(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(x.SetUp(false), x.SetImpairment(nil, &link.Impairment{Loss: 1})); err != nil {
			t.Fatal(err)
		}
		if s := linkAt(t, l, "lan", name); s.Up || s.InImpairment != "loss 100%" {
			t.Errorf("%+v", s)
		}
		port.Close()
		await(false)
		if err := x.SetUp(true); err == nil || !strings.Contains(err.Error(), "no longer plugged into network lan") {
			t.Error(err)
		}
	}
}

// TestLinkCounters: what the switch itself did not pass on was to be seen nowhere.
func TestLinkCounters(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, `
networks: {lan: {gateway: none, vlans: {10: {subnet: 10.9.0.0/24, gateway: none}, 20: {subnet: 10.8.0.0/24, gateway: none}}}}
machines:
  anna: {networks: [{network: lan, vlan: 10}]}
  bert: {networks: [{network: lan, trunk: [20], native: 10}]}
  carl: {networks: [{network: lan, trunk: [10]}]}
`)
	if err := l.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	full, err := l.network("lan").sw.Plug(vnet.PortOptions{Name: "full", Offloads: true, Queue: 1}) // which nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	await := func(what, from string, send []byte, at string, is func(LinkStatus) bool) {
		t.Helper()
		p, _ := b.last(from)
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, err := p.cards[0].WriteFrames([]vnet.Frame{{Data: send}}); err != nil {
				t.Fatal(err)
			}
			s := linkAt(t, l, "lan", at)
			if is(s) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, s)
			}
		}
	}
	plain := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x00" + strings.Repeat("x", 1400))
	tagged := func(vlan byte, data []byte) []byte { return slices.Insert(slices.Clone(data), 12, 0x81, 0, 0, vlan) }
	await("a tag on an access port", "anna", tagged(20, plain), "anna/eth0", func(s LinkStatus) bool {
		return s.Out.Switch == SwitchDrops{Filtered: s.Out.Frames} && s.Out.Frames > 0 && s.VLAN == 10
	})
	await("a runt", "anna", plain[:10], "anna/eth0", func(s LinkStatus) bool { return s.Out.Switch.Dropped > 0 })
	if s := linkAt(t, l, "lan", "bert/eth0"); s.In.Frames != 0 || s.In.Switch != (SwitchDrops{}) {
		t.Errorf("%+v", s)
	}
	await("a second tag below that of the native VLAN", "carl", tagged(10, tagged(20, plain)), "bert/eth0", func(s LinkStatus) bool {
		return s.In.Switch.Filtered > 0 && s.In.Switch.Dropped == 0 && s.In.Frames == 0
	})
	await("a full queue", "anna", plain, "full", func(s LinkStatus) bool {
		return s.In.Switch.Dropped > 0 && s.In.Switch.Filtered == 0
	})
}
