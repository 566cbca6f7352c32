package supervisor

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/hostnet"
	"wolffia/internal/lab"
)

// LabConfig is what a lab is made from.
type LabConfig struct {
	// Dir is the lab's own folder for logs; it exists, and stays.
	Dir string
	// Prepare makes what a machine is started from, however often. Apply calls it,
	// for one machine after the other; free is called when the machine has left the
	// lab, or what was prepared is what it has already.
	Prepare func(ctx context.Context, spec *lab.Spec, m *lab.Machine) (cfg Config, free func(), err error)
	// Dirs of plugs and shares that are relative start here.
	Base   string
	Events event.Sink
	// Host says where it is kept what networks with an uplink change of the
	// host's own; without a Journal they are not joined.
	Host hostnet.Options
}

// Lab is the machines and networks of one file while they run. All methods may
// be called from any goroutine.
type Lab struct {
	cfg    LabConfig
	events event.Sink
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	turns  *turns

	host     hostSide
	applying chan struct{} // holds a token of Apply's, so that changes don't mix

	mu      sync.Mutex
	spec    *lab.Spec // nil before the first Apply
	plan    *plan
	nets    networks
	spoilt  map[string]bool // networks that could not be changed, and want it still
	members map[string]*member
	hubs    map[string]*hub // consoles, which outlast what becomes of a machine's description
}

// Open makes a lab without machines.
func Open(cfg LabConfig) *Lab {
	l := &Lab{
		cfg: cfg, events: event.Or(cfg.Events), turns: newTurns(), applying: make(chan struct{}, 1),
		nets: networks{}, spoilt: map[string]bool{}, members: map[string]*member{}, hubs: map[string]*hub{},
	}
	l.host = hostSide{options: cfg.Host, name: hostName(cfg.Dir)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Apply makes the lab that spec describes of what runs: what is the same stays
// as it is, and machines that have stopped or failed start again. It returns
// when every machine is ready, or has failed; the error joins what is wrong with
// those. Ending ctx ends the wait, not the machines.
func (l *Lab) Apply(ctx context.Context, spec *lab.Spec) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.ctx, func() { cancel(errClosed) })()
	select {
	case l.applying <- struct{}{}:
		defer func() { <-l.applying }()
	case <-ctx.Done():
	}
	switch {
	case l.ctx.Err() != nil:
		return errClosed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	l.mu.Lock()
	was := l.plan
	l.mu.Unlock()
	steps := l.withSpoilt(diff(l.Spec(), was, spec), spec)
	// First what can fail without anything being lost.
	if err := l.host.probe(spec); err != nil {
		return err
	}
	prepared, err := l.prepare(ctx, spec)
	if err != nil {
		return err
	}
	if l.drop(ctx, spec, steps); ctx.Err() != nil {
		prepared.free()
		return context.Cause(ctx)
	}
	if err := l.rewire(spec, steps); err != nil {
		prepared.free()
		return err
	}
	return errors.Join(l.start(ctx, spec, prepared), l.Ready(ctx))
}

// withSpoilt adds to the steps the networks that could not be changed before.
func (l *Lab) withSpoilt(steps []lab.Step, spec *lab.Spec) []lab.Step {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.spoilt {
		known := slices.ContainsFunc(steps, func(s lab.Step) bool { return s.Kind == "network" && s.Name == name })
		if !known && spec.Networks[name] != nil {
			steps = append(steps, lab.Step{Kind: "network", Name: name, Action: lab.ActionChange})
		}
	}
	return steps
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

// prepare makes what the machines are started from, also for those that run: one
// that is the same but for the files of its image starts again, too.
func (l *Lab) prepare(ctx context.Context, spec *lab.Spec) (preparations, error) {
	out := preparations{}
	for _, name := range slices.Sorted(maps.Keys(spec.Machines)) {
		cfg, free, err := l.cfg.Prepare(ctx, spec, spec.Machines[name])
		if err != nil {
			out.free()
			return nil, err
		}
		out[name] = preparation{cfg, free}
	}
	return out, nil
}

// drop ends the machines that are not to be, or not as they are, and forgets
// them. The consoles of those that come again stay.
func (l *Lab) drop(ctx context.Context, spec *lab.Spec, steps []lab.Step) {
	var dropping sync.WaitGroup
	for _, s := range steps {
		if s.Kind == "machine" && (s.Action == lab.ActionStop || s.Action == lab.ActionRestart) {
			dropping.Go(func() { l.dropOne(ctx, s.Name) })
		}
	}
	dropping.Wait()
	l.mu.Lock()
	var over []*hub
	for name, h := range l.hubs {
		if l.members[name] == nil && spec.Machines[name] == nil {
			over = append(over, h)
			delete(l.hubs, name)
		}
	}
	l.mu.Unlock()
	for _, h := range over {
		h.close()
	}
}

// dropOne ends a machine, cleanly as long as ctx lasts, and forgets it.
func (l *Lab) dropOne(ctx context.Context, name string) {
	l.mu.Lock()
	m := l.members[name]
	delete(l.members, name)
	l.mu.Unlock()
	if m != nil {
		_ = m.stop(ctx) // what is left of it close ends
		m.close()
	}
}

// hub gives the console of a machine, over all that becomes of it.
func (l *Lab) hub(name string) (*hub, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.hubs[name]; h != nil {
		return h, nil
	}
	h, err := newHub(filepath.Join(l.cfg.Dir, name+".log"))
	if err != nil {
		return nil, err
	}
	l.hubs[name] = h
	return h, nil
}

// network gives a network by name; nil where there is none.
func (l *Lab) network(name string) *network {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nets[name]
}

// rewire makes the networks of spec. What could not be made is tried again by the
// next Apply.
func (l *Lab) rewire(spec *lab.Spec, steps []lab.Step) error {
	p := newPlan(spec, nil)
	p.base = l.cfg.Base
	l.mu.Lock()
	old, was := l.spec, l.plan
	l.spec, l.plan = spec, p
	l.mu.Unlock()
	err := l.leaveHost(old, spec, p, steps)
	if err == nil {
		err = l.rewireAll(spec, p, steps)
	}
	if err == nil {
		err = l.enterHost(p)
	}
	if err != nil {
		l.undo(old, was, steps)
		l.rejoinHost()
	}
	return err
}

// rewireAll does the steps that are about networks.
func (l *Lab) rewireAll(spec *lab.Spec, p *plan, steps []lab.Step) error {
	for _, s := range steps {
		if s.Kind != "network" {
			continue
		}
		if err := l.rewireOne(spec.Networks[s.Name], p, s); err != nil {
			return err
		}
	}
	for _, name := range spec.NetworkNames() {
		if err := l.network(name).update(spec.Networks[name], p); err != nil {
			return err
		}
	}
	return nil
}

// rewireOne does one step; spec is nil for a network that goes.
func (l *Lab) rewireOne(spec *lab.Network, p *plan, s lab.Step) error {
	n := l.network(s.Name)
	if n != nil && s.Action == lab.ActionChange {
		l.mu.Lock()
		l.spoilt[s.Name] = true
		l.mu.Unlock()
		if err := n.change(spec, p, l.cfg.Base, l.events); err != nil {
			return err
		}
		l.mu.Lock()
		delete(l.spoilt, s.Name)
		l.mu.Unlock()
		return nil
	}
	l.forgetNetwork(s.Name)
	if spec == nil {
		return nil
	}
	was := n
	n = newNetwork(spec, networkOptions{ring: spec.Ring})
	if was != nil {
		n.set = was.links()
	}
	if err := n.open(p, l.cfg.Base, l.events); err != nil {
		n.close()
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nets[s.Name] = n
	return nil
}

func (l *Lab) forgetNetwork(name string) {
	l.mu.Lock()
	n := l.nets[name]
	delete(l.nets, name)
	delete(l.spoilt, name)
	l.mu.Unlock()
	if n != nil {
		n.close()
	}
}

// undo says that the lab is as old described it, and was gave it addresses, as far
// as that still runs, so that the next Apply does the rest. Networks that are new, or were to begin
// anew, go: no machine is on them.
func (l *Lab) undo(old *lab.Spec, was *plan, steps []lab.Step) {
	for _, s := range steps {
		if s.Kind == "network" && s.Action != lab.ActionChange {
			l.forgetNetwork(s.Name)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old == nil {
		l.spec, l.plan = nil, nil
		return
	}
	kept := *old
	kept.Networks = map[string]*lab.Network{}
	for name := range l.nets {
		kept.Networks[name] = old.Networks[name]
	}
	kept.Machines = map[string]*lab.Machine{}
	for name, m := range l.members {
		kept.Machines[name] = m.description()
	}
	l.spec, l.plan = &kept, was.left(&kept)
}

// start starts the machines that don't run, and changes those that do.
func (l *Lab) start(ctx context.Context, spec *lab.Spec, prepared preparations) error {
	order, _ := spec.Order()
	var errs []error
	for _, name := range order {
		p := prepared[name]
		m, err := l.member(name)
		if err == nil && m.same(p.cfg) {
			p.free()
			errs = append(errs, m.change(spec.Machines[name]), m.revive(ctx))
			continue
		}
		if err == nil { // its image is another one
			l.dropOne(ctx, name)
		}
		if m, err = l.newMember(name, spec.Machines[name], p); err != nil {
			p.free()
			errs = append(errs, err)
			continue
		}
		l.mu.Lock()
		l.members[name] = m
		l.mu.Unlock()
		errs = append(errs, m.launch(ctx))
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

// Spec is a copy of the lab as it was applied last, with the machines that it has
// and what was done to their links since; nil before the first time.
func (l *Lab) Spec() *lab.Spec {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spec == nil {
		return nil
	}
	s := *l.spec
	s.Machines = map[string]*lab.Machine{}
	for name, m := range l.members {
		s.Machines[name] = m.description()
	}
	return &s
}

// StopPatience is how long a machine may take to shut down before it is killed.
const StopPatience = 10 * time.Second

// Stop asks machines to end, all of them if none is named, and waits for that;
// they stay in the lab. Ending ctx ends the wait.
func (l *Lab) Stop(ctx context.Context, names ...string) error {
	return l.each(names, func(m *member) error { return m.stop(ctx) })
}

// Restart ends machines and starts them again, and waits until they are ready.
// The others don't notice but by what those had to say to them.
// Ending ctx ends the wait; they start again all the same.
func (l *Lab) Restart(ctx context.Context, names ...string) error {
	members, err := l.named(names)
	if err != nil {
		return err
	}
	// First those that others start after, so that none finds them down still.
	var order []string
	if spec := l.Spec(); spec != nil {
		order, _ = spec.Order()
	}
	slices.SortStableFunc(members, func(a, b *member) int { return slices.Index(order, a.name) - slices.Index(order, b.name) })
	overs := map[*member]<-chan struct{}{}
	for _, m := range members {
		if overs[m], err = m.restart(); err != nil {
			return err
		}
	}
	return all(members, func(m *member) error {
		if err := m.renew(ctx, overs[m]); err != nil {
			return err
		}
		return m.ready(ctx)
	})
}

// each does something with the named machines, at the same time.
func (l *Lab) each(names []string, do func(*member) error) error {
	members, err := l.named(names)
	if err != nil {
		return err
	}
	return all(members, do)
}

func all(members []*member, do func(*member) error) error {
	errs := make([]error, len(members))
	var doing sync.WaitGroup
	for i, m := range members {
		doing.Go(func() { errs[i] = do(m) })
	}
	doing.Wait()
	return errors.Join(errs...)
}

// Kill ends machines at once, as if their power had failed.
func (l *Lab) Kill(names ...string) error {
	return l.each(names, func(m *member) error {
		m.kill()
		return nil
	})
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
// frees everything. The error is what could not be undone on the host's own
// network.
func (l *Lab) Close(ctx context.Context) error {
	l.cancel()      // which asks all to end, and lets nobody begin
	_ = l.Stop(ctx) // no name is wrong, and who is left is killed
	l.applying <- struct{}{}
	defer func() { <-l.applying }()
	l.mu.Lock()
	members, nets, hubs := l.members, l.nets, l.hubs
	l.members, l.nets, l.hubs = map[string]*member{}, networks{}, map[string]*hub{}
	l.mu.Unlock()
	var closing sync.WaitGroup
	for _, m := range members {
		closing.Go(m.close)
	}
	closing.Wait()
	for _, h := range hubs {
		h.close()
	}
	err := l.host.close(nets)
	nets.close()
	return err
}

// ClosedError is a lab that is going down, or has gone.
type ClosedError struct{}

func (ClosedError) Error() string { return "the lab is going down" }

var errClosed error = ClosedError{}
