package supervisor

import (
	"maps"
	"reflect"
	"slices"

	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
)

// Diff says what makes the lab now from the lab before, as [lab.Diff] does, and
// which machines start again because they were told addresses, when they started,
// that are no longer theirs or the others': those that the file leaves open follow
// from the order of the machines in it.
func Diff(before, now *lab.Spec) []lab.Step {
	if before == nil {
		return lab.Diff(nil, now)
	}
	return diff(before, newPlan(before, nil), now)
}

// diff is Diff from a lab with the addresses that was says; a nil one is of a lab
// that has none yet.
func diff(before *lab.Spec, was *plan, now *lab.Spec) []lab.Step {
	steps := lab.Diff(before, now)
	if before == nil || was == nil {
		return steps
	}
	is := newPlan(now, nil)
	order, _ := now.Order()
	for _, name := range order {
		old, m := before.Machines[name], now.Machines[name]
		i := slices.IndexFunc(steps, func(s lab.Step) bool { return s.Kind == "machine" && s.Name == name })
		switch {
		case old == nil || i >= 0 && steps[i].Action != lab.ActionChange:
		case reflect.DeepEqual(was.told(old), is.told(m)):
		case i >= 0:
			steps[i].Action, steps[i].Why = lab.ActionRestart, append(steps[i].Why, "addresses")
		default:
			steps = append(steps, lab.Step{Kind: "machine", Name: name, Action: lab.ActionRestart, Why: []string{"addresses"}})
		}
	}
	return steps
}

// told is what a machine was told of addresses when it started, by its networks.
func (p *plan) told(m *lab.Machine) map[string]told {
	out := map[string]told{}
	for i := range m.Cards {
		c := &m.Cards[i]
		out[c.Network] = told{p.at(m, c), p.routes(m, p.spec.Segment(c))}
	}
	return out
}

type told struct {
	at     place
	routes []rootfs.Route
}

// left is the plan of what is left of a lab: nobody's address is another one.
func (p *plan) left(spec *lab.Spec) *plan {
	out := &plan{spec: spec, base: p.base, places: maps.Clone(p.places)}
	for _, m := range p.machines {
		if spec.Machines[m.Name] != nil {
			out.machines = append(out.machines, spec.Machines[m.Name])
		}
	}
	return out
}
