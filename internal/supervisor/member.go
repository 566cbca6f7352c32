package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/vnet/link"
)

// State is what a machine of a lab does.
type State string

// The states.
const (
	StateWaiting  State = "waiting"  // for the machines that it starts after, or for its turn to boot
	StateBooting  State = "booting"  // and until it is ready
	StateReady    State = "ready"    //
	StateStopping State = "stopping" // it was asked to shut down
	StateStopped  State = "stopped"  // it was told to end, or powered off
	StateFailed   State = "failed"   // it did not come up, or died
)

// settled says whether nothing more will happen by itself.
func (s State) settled() bool { return s == StateReady || s == StateStopped || s == StateFailed }

// member is one machine of a lab, over all of its lives.
type member struct {
	lab  *Lab
	name string
	hub  *hub

	wiring sync.Mutex // held while something is done to its cables; before mu

	mu       sync.Mutex
	spec     *lab.Machine
	prepared preparation
	state    State
	err      error // of StateFailed
	since    time.Time
	changed  chan struct{} // closed, and replaced, when the state changes
	guest    *Guest        // while its kernel runs
	lives    int
	halt     context.CancelCauseFunc // ends the life that is on, and the lives after it; nil before the first
	halting  bool                    // halt was called
	over     chan struct{}           // closed when run has returned
	again    bool                    // once it has, the next life begins
	waitsFor string                  // of StateWaiting: the machine that it is to start after
	gone     bool                    // it has left the lab: no life begins any more
}

// newMember makes a machine that will start from p, which it owns from then on.
func (l *Lab) newMember(name string, spec *lab.Machine, p preparation) (*member, error) {
	h, err := l.hub(name)
	if err != nil {
		return nil, err
	}
	return &member{
		lab: l, name: name, hub: h, spec: ownCards(spec), prepared: p,
		state: StateStopped, since: time.Now(), changed: make(chan struct{}),
	}, nil
}

// ownCards is a machine whose cards can be changed without the file's being so.
func ownCards(m *lab.Machine) *lab.Machine {
	own := *m
	own.Cards = slices.Clone(own.Cards)
	return &own
}

// errStopped is what ends a life on request.
var errStopped = errors.New("it was stopped")

// launch starts the machine's lives, if none is on. One that is ending is waited
// for.
func (m *member) launch(ctx context.Context) error {
	for {
		over, err := m.tryLaunch()
		if over == nil {
			return err
		}
		select {
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tryLaunch is launch that gives what to wait for first, if there is something.
func (m *member) tryLaunch() (over <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.gone || m.lab.ctx.Err() != nil:
		return nil, errClosed
	case m.halt != nil && !isClosed(m.over) && m.halting:
		return m.over, nil
	case m.halt != nil && !isClosed(m.over):
		return nil, nil
	}
	ctx, halt := context.WithCancelCause(m.lab.ctx)
	m.halt, m.halting, m.over = halt, false, make(chan struct{})
	m.set(StateWaiting, nil)
	go func(over chan struct{}) {
		m.run(ctx)
		halt(nil)
		m.mu.Lock()
		again := m.again
		m.again = false
		close(over)
		m.mu.Unlock()
		if again { // even if nobody waits for that any more
			_, _ = m.tryLaunch() // but of a lab that goes down
		}
	}(m.over)
	return nil, nil
}

// revive starts a machine again that has stopped or failed.
func (m *member) revive(ctx context.Context) error {
	m.mu.Lock()
	failed := m.state == StateFailed
	m.mu.Unlock()
	if failed { // it may wait for its next try
		return m.renew(ctx, m.ask(errStopped, true))
	}
	return m.launch(ctx)
}

// set notes a new state; m is locked.
func (m *member) set(s State, err error) {
	m.state, m.err, m.since = s, err, time.Now()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *member) enter(s State, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(s, err)
}

// halted notes the end of a life that was asked for: the next one comes, or none.
func (m *member) halted() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.again && !m.gone && m.lab.ctx.Err() == nil {
		m.set(StateWaiting, nil)
		return
	}
	m.set(StateStopped, nil)
}

// Waits before a machine is started again that failed, or that ended before it
// was up for long: the first, and the longest. A machine that was up for longer
// than that begins anew.
const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// run has the machine live until it is to end.
func (m *member) run(ctx context.Context) {
	backoff := time.Duration(0) // it may restart once, at once
	for {
		began := time.Now()
		exit, err := m.live(ctx)
		policy := m.policy()
		switch {
		case ctx.Err() != nil:
			m.halted()
			return
		case err == nil && !exit.Reboot && policy != lab.RestartAlways:
			m.enter(StateStopped, nil)
			return
		case err != nil && policy == lab.RestartNo:
			m.enter(StateFailed, err)
			return
		}
		if time.Since(began) > maxBackoff {
			backoff = 0
		}
		if err != nil {
			backoff = max(backoff, firstBackoff)
			m.enter(StateFailed, err)
			m.lab.events.Emit(event.Event{Kind: event.Warn, Task: "lab", Subject: m.name, Message: fmt.Sprintf("%v; it is started again in %v", err, backoff)})
		} else {
			m.enter(StateWaiting, nil)
		}
		select {
		case <-ctx.Done():
			m.halted()
			return
		case <-time.After(backoff):
		}
		backoff = min(max(2*backoff, firstBackoff), maxBackoff)
	}
}

func (m *member) policy() lab.RestartPolicy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spec.Restart
}

// live is one life of the machine: it waits for those before it, boots, becomes
// ready, and ends. The error is a machine that failed.
func (m *member) live(ctx context.Context) (machine.Exit, error) {
	m.enter(StateWaiting, nil)
	if err := m.await(ctx); err != nil {
		return machine.Exit{}, err
	}
	turn, err := m.lab.turns.take(ctx)
	if err != nil {
		return machine.Exit{}, err
	}
	defer turn.over()
	m.enter(StateBooting, nil)
	g, free, err := m.start(ctx, turn.place.cpu)
	if err != nil {
		return machine.Exit{}, m.report(err)
	}
	defer free()
	defer g.Close()
	var showing sync.WaitGroup
	defer showing.Wait()
	showing.Go(func() { m.hub.follow(g.Console()) })
	m.mu.Lock()
	m.guest = g
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.guest = nil
		m.mu.Unlock()
	}()
	if err := m.relink(g.cfg.Machine.Cards); err != nil { // a machine that has ended says why below
		m.lab.events.Emit(event.Event{Kind: event.Warn, Task: "net", Subject: m.name, Message: "a link is not as it was set: " + err.Error()})
	}
	if err := m.becomeReady(ctx, g, turn.booted); err != nil {
		g.Close()
		return machine.Exit{}, m.report(err)
	}
	m.enter(StateReady, nil)
	select {
	case <-g.Over():
	case <-ctx.Done():
		m.shutDown(ctx, g)
	}
	exit := g.Wait()
	switch {
	case exit.Clean:
	case ctx.Err() == nil:
		return exit, m.report(exit.Err(m.name, machine.StageRunning))
	case exit.Stage != "": // it was asked to end, and not killed: what it wrote last may be lost
		warn := event.Event{Kind: event.Warn, Task: "stop", Subject: m.name, Message: "it failed while it shut down: " + exit.Cause}
		if exit.Fix != "" {
			warn.Message += "; " + exit.Fix
		}
		m.lab.events.Emit(warn)
	}
	return exit, nil
}

// shutDown asks the machine to end, and sees to it that it does.
func (m *member) shutDown(ctx context.Context, g *Guest) {
	m.enter(StateStopping, nil)
	defer m.task("stop", m.name)()
	stopping, cancel := context.WithTimeout(context.Background(), StopPatience)
	defer cancel()
	if errors.Is(context.Cause(ctx), errKilled) {
		cancel()
	}
	_ = g.Machine().Stop(stopping) // one that had to be killed has ended, too
}

// task tells that something begins that is waited for, and that it is over.
func (m *member) task(what, subject string) (over func()) {
	m.lab.events.Emit(event.Event{Kind: event.Begin, Task: what, Subject: subject})
	return func() { m.lab.events.Emit(event.Event{Kind: event.Done, Task: what, Subject: subject}) }
}

// report makes a machine's one report of what went wrong in a life of its. It names
// the log that stays when the life's own is gone.
func (m *member) report(err error) error {
	var start *machine.StartError
	if !errors.As(err, &start) {
		start = &machine.StartError{Machine: m.name, Stage: "start", Cause: "it could not be started", Err: err}
		var fixed interface{ Fix() string }
		if errors.As(err, &fixed) {
			start.Fix = fixed.Fix()
		}
		err = start
	}
	start.Log = m.hub.path
	return err
}

// errKilled is what ends a life at once.
var errKilled = errors.New("it was killed")

// start starts the kernel on a processor, in a folder of its own for each life.
func (m *member) start(ctx context.Context, cpu int) (*Guest, func(), error) {
	m.mu.Lock()
	cfg := m.prepared.cfg
	m.lives++
	life := m.lives
	m.mu.Unlock()
	cfg.Dir, cfg.CPU = filepath.Join(cfg.Dir, strconv.Itoa(life)), &cpu
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make a folder for machine %s: %w", m.name, err)
	}
	m.lab.mu.Lock()
	cfg.Lab, cfg.plan = m.lab.spec, m.lab.plan
	nets := maps.Clone(m.lab.nets) // which may change while the machine starts
	m.lab.mu.Unlock()
	free := func() {
		for _, n := range nets {
			n.unplug(m.name)
		}
		os.RemoveAll(cfg.Dir)
	}
	m.mu.Lock()
	cfg.Machine = withCards(cfg.Machine, m.spec)
	m.mu.Unlock()
	// The kernel's end is asked for: ctx must not kill it.
	g, err := startGuest(context.WithoutCancel(ctx), cfg, func() (networks, error) { return nets, nil })
	if err != nil {
		free()
		return nil, nil, err
	}
	for i := range cfg.Machine.Cards {
		if cfg.Machine.Cards[i].Down && err == nil {
			err = setCarrier(g.machine, i, false)
		}
	}
	if err == nil {
		err = m.lab.writeKeys(m.name, g.keys)
	}
	if err != nil {
		g.Close()
		free()
		return nil, nil, err
	}
	return g, free, nil
}

// withCards is a prepared machine with the cards of the newest file.
func withCards(prepared, newest *lab.Machine) *lab.Machine {
	m := *prepared
	m.Cards, m.Forwards, m.Ready, m.After, m.Restart = slices.Clone(newest.Cards), newest.Forwards, newest.Ready, newest.After, newest.Restart
	return &m
}

// stop asks the machine to end, and waits for that. Ending ctx ends the wait.
func (m *member) stop(ctx context.Context) error { return m.end(ctx, errStopped) }

// kill ends the machine at once.
func (m *member) kill() { _ = m.end(context.Background(), errKilled) } // that wait does not end

func (m *member) end(ctx context.Context, why error) error {
	over := m.ask(why, false)
	if over == nil {
		return nil
	}
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask has the life that is on end, and says what is closed when it has; nil if
// there was none. With again the next one begins then.
func (m *member) ask(why error, again bool) (over <-chan struct{}) {
	m.mu.Lock()
	halt, guest := m.halt, m.guest
	m.halting = true
	m.again = again && halt != nil && !isClosed(m.over)
	over = m.over
	m.mu.Unlock()
	if halt == nil {
		return nil
	}
	halt(why)
	if why == errKilled && guest != nil { // which may be asked to end already, and take its time
		guest.machine.Kill()
	}
	return over
}

// restart begins to end the machine and to start it again; over is closed when it
// has ended, and nil for one that had no life. Whether anybody waits for the rest
// or not: a machine does not stay down because nobody looks on.
func (m *member) restart() (over <-chan struct{}, err error) {
	over = m.ask(errStopped, true)
	if over == nil || isClosed(over) {
		_, err = m.tryLaunch()
	}
	return over, err
}

// renew waits until the life that was on is over, and starts the next one.
func (m *member) renew(ctx context.Context, over <-chan struct{}) error {
	if over != nil {
		select {
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return m.launch(ctx)
}

// close ends the machine for good and frees what belongs to it.
func (m *member) close() {
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	m.kill()
	m.prepared.free()
}

// same says whether what a machine is started from is what it runs from.
func (m *member) same(cfg Config) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.prepared.cfg
	return old.Arch == cfg.Arch && old.Backend.Name() == cfg.Backend.Name() && old.Kernel == cfg.Kernel && old.Image == cfg.Image &&
		old.Modules == cfg.Modules && old.Firmware == cfg.Firmware && reflect.DeepEqual(old.Disks, cfg.Disks) && reflect.DeepEqual(old.Mounts, cfg.Mounts) && reflect.DeepEqual(old.Cmdline, cfg.Cmdline)
}

// change takes over what a file says anew of a machine that runs.
func (m *member) change(spec *lab.Machine) error {
	m.mu.Lock()
	m.spec = ownCards(spec)
	m.mu.Unlock()
	m.poke() // it may wait for another one that it no longer has to
	var errs []error
	for i := range spec.Cards {
		errs = append(errs, m.wire(i, true))
	}
	return errors.Join(errs...)
}

// description is a copy of what the file says of the machine, with what was done
// to its links since.
func (m *member) description() *lab.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return ownCards(m.spec)
}

// setLink plugs a card's cable in, or pulls it out.
func (m *member) setLink(card int, up bool) error {
	m.mu.Lock()
	m.spec.Cards[card].Down = !up // for its next life, too
	m.mu.Unlock()
	return m.wire(card, true)
}

// wire does to a card's cable, and with carrier to what the machine sees of it, what is
// said of it now.
func (m *member) wire(card int, carrier bool) error {
	m.wiring.Lock() // so that who says something last has it done last
	defer m.wiring.Unlock()
	m.mu.Lock()
	c, g := m.spec.Cards[card], m.guest
	m.mu.Unlock()
	var errs []error
	if cable := m.lab.network(c.Network).cable(m.name + "/" + cardName(card)); cable != nil {
		errs = append(errs, cable.become(c.Link))
		cable.SetUp(!c.Down)
	}
	if g != nil && carrier {
		errs = append(errs, setCarrier(g.machine, card, !c.Down))
	}
	return errors.Join(errs...)
}

// relink does to the cables of a life that has begun what was said of them since its
// cards were copied.
func (m *member) relink(began []lab.Card) error {
	var errs []error
	for i, now := range m.description().Cards {
		errs = append(errs, m.wire(i, now.Down != began[i].Down))
	}
	return errors.Join(errs...)
}

// impair makes a card's cable worse, or good again, in the directions that are not
// nil.
func (m *member) impair(card int, out, in *link.Impairment) error {
	m.wiring.Lock()
	defer m.wiring.Unlock()
	m.mu.Lock()
	c := &m.spec.Cards[card]
	replace(&c.Link, out, in) // for its next life, too
	network := c.Network
	m.mu.Unlock()
	cable := m.lab.network(network).cable(m.name + "/" + cardName(card))
	if cable == nil {
		return nil
	}
	return cable.impair(out, in)
}

// setCarrier has a machine see its cable, where its backend can.
func setCarrier(m machine.Machine, card int, up bool) error {
	if s, ok := m.(machine.LinkSetter); ok {
		return s.SetLink(card, up)
	}
	return nil
}
