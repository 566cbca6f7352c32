package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/lab"
)

// LabConfig is what a lab is made from.
type LabConfig struct {
	// Dir is the lab's own folder for logs; it exists, and stays.
	Dir string
	// Prepare makes what a machine is started from. It is called for one machine
	// at a time, each time it starts; free is called when the machine has ended.
	Prepare func(ctx context.Context, spec *lab.Spec, m *lab.Machine) (cfg Config, free func(), err error)
	// Dirs of plugs and shares that are relative start here.
	Base   string
	Events event.Sink
}

// Lab is the machines and networks of one file while they run. All methods may
// be called from any goroutine.
type Lab struct {
	cfg    LabConfig
	events event.Sink
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	starts chan struct{} // a token for each machine that may boot at the same time

	applying sync.Mutex // held by Apply, so that changes don't mix

	mu      sync.Mutex
	spec    *lab.Spec // nil before the first Apply
	plan    *plan
	nets    networks
	members map[string]*member
}

// atOnce is how many machines boot at the same time: more would only make each
// slower, and those that wait for one would wait longer.
func atOnce() int { return max(4, 2*runtime.NumCPU()) }

// Open makes a lab without machines.
func Open(cfg LabConfig) *Lab {
	l := &Lab{cfg: cfg, events: event.Or(cfg.Events), nets: networks{}, members: map[string]*member{}, starts: make(chan struct{}, atOnce())}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Apply makes the lab that spec describes of what runs: what is the same stays
// as it is. It returns when every machine is ready, or has failed; the error
// joins what is wrong with those. Ending ctx ends the wait, not the machines.
func (l *Lab) Apply(ctx context.Context, spec *lab.Spec) error {
	l.applying.Lock()
	defer l.applying.Unlock()
	steps := lab.Diff(l.Spec(), spec)
	// First what can fail without anything being lost.
	prepared, err := l.prepare(ctx, spec, steps)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.Kind == "machine" && (s.Action == lab.ActionStop || s.Action == lab.ActionRestart) {
			l.drop(ctx, s.Name)
		}
	}
	if err := l.rewire(spec, steps); err != nil {
		prepared.free()
		return err
	}
	return errors.Join(l.start(spec, prepared), l.Ready(ctx))
}

// preparations are what machines are to be started from, by their names.
type preparations map[string]preparation

type preparation struct {
	cfg  Config
	free func()
}

func (p preparations) free() {
	for _, q := range p {
		q.free()
	}
}

// prepare makes what the machines are started from that will start. A machine
// that is the same but for the files of its image starts again, too.
func (l *Lab) prepare(ctx context.Context, spec *lab.Spec, steps []lab.Step) (preparations, error) {
	out := preparations{}
	for _, name := range slices.Sorted(maps.Keys(spec.Machines)) {
		i := slices.IndexFunc(steps, func(s lab.Step) bool { return s.Kind == "machine" && s.Name == name })
		if i >= 0 && steps[i].Action == lab.ActionChange {
			continue
		}
		m := spec.Machines[name]
		cfg, free, err := l.cfg.Prepare(ctx, spec, m)
		if err != nil {
			out.free()
			return nil, err
		}
		out[name] = preparation{cfg, free}
	}
	return out, nil
}

// drop ends a machine and forgets it.
func (l *Lab) drop(ctx context.Context, name string) {
	l.mu.Lock()
	m := l.members[name]
	delete(l.members, name)
	l.mu.Unlock()
	if m != nil {
		m.stop(ctx)
		m.close()
	}
}

// rewire makes the networks of spec.
func (l *Lab) rewire(spec *lab.Spec, steps []lab.Step) error {
	p := newPlan(spec, nil)
	p.base = l.cfg.Base
	l.mu.Lock()
	old := l.spec
	l.spec, l.plan = spec, p
	l.mu.Unlock()
	for _, s := range steps {
		if s.Kind != "network" {
			continue
		}
		l.mu.Lock()
		n := l.nets[s.Name]
		l.mu.Unlock()
		if n != nil && s.Action != lab.ActionChange {
			n.close()
			l.mu.Lock()
			delete(l.nets, s.Name)
			l.mu.Unlock()
		}
		switch s.Action {
		case lab.ActionStart, lab.ActionRestart:
			n = newNetwork(spec.Networks[s.Name], networkOptions{ring: spec.Networks[s.Name].Ring})
			l.mu.Lock()
			l.nets[s.Name] = n
			l.mu.Unlock()
			if err := n.open(p, l.cfg.Base, l.events); err != nil {
				return l.undo(old, err)
			}
		case lab.ActionChange:
			if err := n.change(spec.Networks[s.Name], p, l.cfg.Base, l.events); err != nil {
				return l.undo(old, err)
			}
		}
	}
	for _, name := range spec.NetworkNames() {
		if err := l.nets[name].update(spec.Networks[name], p); err != nil {
			return l.undo(old, err)
		}
	}
	return nil
}

// undo forgets the networks that could not be made, so that the next Apply
// tries again.
func (l *Lab) undo(old *lab.Spec, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range l.nets {
		if old == nil || old.Networks[name] == nil {
			n.close()
			delete(l.nets, name)
		}
	}
	if old != nil {
		kept := *old
		kept.Machines = map[string]*lab.Machine{}
		for name, m := range l.members {
			kept.Machines[name] = m.description()
		}
		l.spec, l.plan = &kept, newPlan(&kept, nil)
		return err
	}
	l.spec, l.plan = nil, nil
	return err
}

// start starts the machines that don't run, and changes those that do.
func (l *Lab) start(spec *lab.Spec, prepared preparations) error {
	order, _ := spec.Order()
	var errs []error
	for _, name := range order {
		p, prepares := prepared[name]
		m, err := l.member(name)
		if err == nil && prepares && m.same(p.cfg) {
			p.free()
			prepares = false
		}
		if err == nil && !prepares {
			errs = append(errs, m.change(spec.Machines[name]))
			continue
		}
		if err == nil { // its image is another one
			l.drop(l.ctx, name)
		}
		if m, err = l.newMember(name, spec.Machines[name]); err != nil {
			p.free()
			errs = append(errs, err)
			continue
		}
		l.mu.Lock()
		l.members[name] = m
		l.mu.Unlock()
		m.begin(p)
	}
	return errors.Join(errs...)
}

// Ready waits until every machine is ready or has failed.
func (l *Lab) Ready(ctx context.Context) error {
	l.mu.Lock()
	members := slices.Collect(maps.Values(l.members))
	l.mu.Unlock()
	slices.SortFunc(members, func(a, b *member) int { return a.spec.Place - b.spec.Place })
	var errs []error
	for _, m := range members {
		if err := m.ready(ctx); err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// member finds a machine by name.
func (l *Lab) member(name string) (*member, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.members[name]; m != nil {
		return m, nil
	}
	return nil, lab.OneOf("machine", name, slices.Sorted(maps.Keys(l.members)))
}

// Spec is a copy of the lab as it was applied last, with what was done to its
// links since; nil before the first time.
func (l *Lab) Spec() *lab.Spec {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spec == nil {
		return nil
	}
	s := *l.spec
	s.Machines = maps.Clone(s.Machines)
	for name, m := range l.members {
		s.Machines[name] = m.description()
	}
	return &s
}

// StopPatience is how long a machine may take to shut down before it is killed.
const StopPatience = 10 * time.Second

// Stop ends machines, all of them if none is named; they stay in the lab.
func (l *Lab) Stop(ctx context.Context, names ...string) error {
	members, err := l.named(names)
	if err != nil {
		return err
	}
	var stopping sync.WaitGroup
	for _, m := range members {
		stopping.Go(func() { m.stop(ctx) })
	}
	stopping.Wait()
	return nil
}

// Restart ends machines and starts them again, and waits until they are ready.
// The others don't notice but by what those had to say to them.
func (l *Lab) Restart(ctx context.Context, names ...string) error {
	members, err := l.named(names)
	if err != nil {
		return err
	}
	errs := make([]error, len(members))
	var restarting sync.WaitGroup
	for i, m := range members {
		restarting.Go(func() { errs[i] = m.restart(ctx) })
	}
	restarting.Wait()
	return errors.Join(errs...)
}

// Kill ends machines at once, as if their power had failed.
func (l *Lab) Kill(names ...string) error {
	members, err := l.named(names)
	if err != nil {
		return err
	}
	for _, m := range members {
		m.kill()
	}
	return nil
}

func (l *Lab) named(names []string) (out []*member, err error) {
	if len(names) == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Collect(maps.Values(l.members)), nil
	}
	for _, name := range names {
		m, err := l.member(name)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// Close ends every machine, those that are up cleanly as long as ctx lasts, and
// frees everything.
func (l *Lab) Close(ctx context.Context) {
	_ = l.Stop(ctx) // no name is wrong
	l.cancel()
	l.applying.Lock()
	defer l.applying.Unlock()
	l.mu.Lock()
	members, nets := l.members, l.nets
	l.members, l.nets = map[string]*member{}, networks{}
	l.mu.Unlock()
	for _, m := range members {
		m.close()
	}
	nets.close()
}

// errClosed is a lab that is going down.
var errClosed = fmt.Errorf("the lab is going down")
