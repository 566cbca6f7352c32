package lab

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// Action is what is done to a machine or a network of a running lab.
type Action string

// The actions.
const (
	ActionStart   Action = "start"   // it is new
	ActionStop    Action = "stop"    // it is no longer in the file
	ActionRestart Action = "restart" // it can't be changed while it runs
	ActionChange  Action = "change"  // it is changed while it runs
)

// Step is one change of a running lab.
type Step struct {
	Kind   string   `json:"kind"` // "network" or "machine"
	Name   string   `json:"name"`
	Action Action   `json:"action"`
	Why    []string `json:"why,omitempty"` // what differs, by the file's keys
}

func (s Step) String() string {
	text := fmt.Sprintf("%s %s %s", s.Action, s.Kind, s.Name)
	for i, w := range s.Why {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		text += sep + w
	}
	return text
}

// Diff says what makes the lab now from the lab before, which is nil where
// nothing runs: networks first, then machines in the order in which they start.
func Diff(before, now *Spec) []Step {
	if before == nil {
		before = newSpec()
	}
	var steps []Step
	reborn := map[string]bool{} // networks whose machines have to be started again
	for _, name := range union(before.NetworkNames(), now.NetworkNames()) {
		step := Step{Kind: "network", Name: name}
		old, new := before.Networks[name], now.Networks[name]
		switch {
		case old == nil:
			step.Action = ActionStart
		case new == nil:
			step.Action = ActionStop
		default:
			step.Action, step.Why = diffNetwork(before, old, now, new)
			reborn[name] = step.Action == ActionRestart
		}
		if step.Action != "" {
			steps = append(steps, step)
		}
	}
	for _, name := range before.MachineNames() {
		if now.Machines[name] == nil {
			steps = append(steps, Step{Kind: "machine", Name: name, Action: ActionStop})
		}
	}
	order, _ := now.Order()
	for _, name := range order {
		step := Step{Kind: "machine", Name: name}
		old, new := before.Machines[name], now.Machines[name]
		if old == nil {
			step.Action = ActionStart
		} else if step.Action, step.Why = diffMachine(before, old, now, new); step.Action != ActionRestart {
			for _, c := range new.Cards {
				if reborn[c.Network] {
					step.Action = ActionRestart
					step.Why = append(step.Why, "network "+c.Network)
				}
			}
		}
		if step.Action != "" {
			steps = append(steps, step)
		}
	}
	return steps
}

// prefixes6 are the IPv6 prefixes of a network's segments: those that the file
// leaves open may be others once there is a second network.
func (s *Spec) prefixes6(n *Network) (out []netip.Prefix) {
	for _, g := range n.Segments() {
		out = append(out, s.Prefix6(g.Network))
	}
	return out
}

// diffNetwork says whether a network has to begin anew: that is so for what its
// machines were told when they started.
func diffNetwork(before *Spec, old *Network, now *Spec, new *Network) (Action, []string) {
	var why []string
	action := Action("")
	note := func(key string, differs bool, a Action) {
		if !differs {
			return
		}
		why = append(why, key)
		if action != ActionRestart {
			action = a
		}
	}
	note("mtu", old.MTU != new.MTU, ActionRestart)
	note("subnet", old.Subnet != new.Subnet, ActionRestart)
	note("subnet6", !slices.Equal(before.prefixes6(old), now.prefixes6(new)), ActionRestart)
	note("gateway", old.NoGateway != new.NoGateway, ActionRestart)
	note("router", old.Router != new.Router, ActionRestart)
	note("routes", !reflect.DeepEqual(old.Routes, new.Routes), ActionRestart)
	note("uplink", !reflect.DeepEqual(old.Uplink.told(), new.Uplink.told()), ActionRestart)
	note("uplink", reflect.DeepEqual(old.Uplink.told(), new.Uplink.told()) && !reflect.DeepEqual(old.Uplink, new.Uplink), ActionChange)
	note("vlans", !reflect.DeepEqual(old.VLANs, new.VLANs), ActionRestart)
	note("dhcp", old.DHCP.Off != new.DHCP.Off, ActionRestart)
	note("dhcp", old.DHCP.Off == new.DHCP.Off && !reflect.DeepEqual(old.DHCP, new.DHCP), ActionChange)
	note("host", old.NoHost != new.NoHost, ActionChange)
	note("restrict", old.Restrict != new.Restrict, ActionChange)
	note("plugs", !reflect.DeepEqual(old.Plugs, new.Plugs), ActionChange)
	note("ring", old.Ring != new.Ring, ActionChange)
	return action, why
}

func diffMachine(before *Spec, old *Machine, now *Spec, new *Machine) (Action, []string) {
	var why []string
	action := Action("")
	note := func(key string, a, b any, does Action) {
		if reflect.DeepEqual(a, b) {
			return
		}
		why = append(why, key)
		if action != ActionRestart {
			action = does
		}
	}
	note("image", before.Images[old.Image], now.Images[new.Image], ActionRestart)
	note("backend", old.Backend, new.Backend, ActionRestart)
	note("arch", old.Arch, new.Arch, ActionRestart)
	type memory struct {
		size Size
		own  bool
	}
	note("memory", memory{old.Memory, old.OwnMemory}, memory{new.Memory, new.OwnMemory}, ActionRestart)
	note("type", old.Type, new.Type, ActionRestart)
	note("boot", old.Boot, new.Boot, ActionRestart)
	note("root", old.Root, new.Root, ActionRestart)
	note("console", old.Console, new.Console, ActionRestart)
	note("kernel", old.Kernel, new.Kernel, ActionRestart)
	note("cmdline", old.Cmdline, new.Cmdline, ActionRestart)
	note("modules", old.Modules, new.Modules, ActionRestart)
	note("shares", old.Shares, new.Shares, ActionRestart)
	note("disks", old.Disks, new.Disks, ActionRestart)
	note("forwarding", old.Forwarding, new.Forwarding, ActionRestart)
	note("networks", wiring(old), wiring(new), ActionRestart)
	note("links", cables(old), cables(new), ActionChange)
	note("forwards", old.Forwards, new.Forwards, ActionChange)
	note("ready", old.Ready, new.Ready, ActionChange)
	note("restart", old.Restart, new.Restart, ActionChange)
	note("after", old.After, new.After, ActionChange)
	return action, why
}

// wiring is what of a machine's cards the machine itself knows.
func wiring(m *Machine) []Card {
	out := slices.Clone(m.Cards)
	for i := range out {
		out[i].Down, out[i].Link = false, Cable{}
	}
	return out
}

// cables is what of a machine's cards can change while it runs.
func cables(m *Machine) []Card {
	out := make([]Card, len(m.Cards))
	for i, c := range m.Cards {
		out[i] = Card{Network: c.Network, Down: c.Down, Link: c.Link}
	}
	return out
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
