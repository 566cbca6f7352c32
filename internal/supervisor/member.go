package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"wolffia/internal/access"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
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

	mu       sync.Mutex
	spec     *lab.Machine
	prepared preparation
	state    State
	err      error // of StateFailed
	since    time.Time
	changed  chan struct{} // closed, and replaced, when the state changes
	guest    *Guest        // while its kernel runs
	lives    int
	halt     context.CancelCauseFunc // ends the life that is on, and the lives after it; nil while there is none
	over     chan struct{}           // closed when run has returned
}

func (l *Lab) newMember(name string, spec *lab.Machine) (*member, error) {
	h, err := newHub(filepath.Join(l.cfg.Dir, name+".log"))
	if err != nil {
		return nil, err
	}
	return &member{lab: l, name: name, hub: h, spec: ownCards(spec), state: StateStopped, since: time.Now(), changed: make(chan struct{})}, nil
}

// ownCards is a machine whose cards can be changed without the file's being so.
func ownCards(m *lab.Machine) *lab.Machine {
	own := *m
	own.Cards = slices.Clone(own.Cards)
	return &own
}

// errStopped is what ends a life on request.
var errStopped = errors.New("it was stopped")

// begin starts the machine's lives, from p, which it owns from then on.
func (m *member) begin(p preparation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prepared = p
	m.launch()
}

// launch starts the machine's lives again; m is locked, and no life is on.
func (m *member) launch() {
	ctx, halt := context.WithCancelCause(m.lab.ctx)
	m.halt, m.over = halt, make(chan struct{})
	m.set(StateWaiting, nil)
	go func(over chan struct{}) {
		defer close(over)
		defer halt(nil)
		m.run(ctx)
	}(m.over)
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

// Waits before a machine that failed is started again: the first, and the
// longest. A machine that was up for longer than that begins anew.
const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// run has the machine live until it is to end.
func (m *member) run(ctx context.Context) {
	backoff := firstBackoff
	for {
		began := time.Now()
		exit, err := m.live(ctx)
		policy := m.policy()
		switch {
		case ctx.Err() != nil:
			m.enter(StateStopped, nil)
			return
		case err == nil && exit.Reboot:
			continue
		case err == nil && policy != lab.RestartAlways:
			m.enter(StateStopped, nil)
			return
		case err != nil && policy == lab.RestartNo:
			m.enter(StateFailed, err)
			return
		}
		if err != nil {
			m.enter(StateFailed, err)
			m.lab.events.Emit(event.Event{Kind: event.Warn, Task: "lab", Subject: m.name, Message: fmt.Sprintf("%v; it is started again in %v", err, backoff)})
		}
		if time.Since(began) > maxBackoff {
			backoff = firstBackoff
		}
		select {
		case <-ctx.Done():
			continue // to the end of it
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
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
	select {
	case m.lab.starts <- struct{}{}:
	case <-ctx.Done():
		return machine.Exit{}, context.Cause(ctx)
	}
	var once sync.Once
	settled := func() { once.Do(func() { <-m.lab.starts }) }
	defer settled()
	m.enter(StateBooting, nil)
	g, free, err := m.start(ctx)
	if err != nil {
		return machine.Exit{}, err
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
	if err := m.becomeReady(ctx, g); err != nil {
		g.Close()
		return machine.Exit{}, err
	}
	settled()
	m.enter(StateReady, nil)
	select {
	case <-g.Over():
	case <-ctx.Done():
		m.enter(StateStopping, nil)
		stopping, cancel := context.WithTimeout(context.Background(), StopPatience)
		if errors.Is(context.Cause(ctx), errKilled) {
			cancel()
		}
		_ = g.Machine().Stop(stopping) // one that had to be killed has ended, too
		cancel()
	}
	exit := g.Wait()
	if !exit.Clean && ctx.Err() == nil {
		return exit, exit.Err(m.name, machine.StageRunning)
	}
	return exit, nil
}

// errKilled is what ends a life at once.
var errKilled = errors.New("it was killed")

// start starts the kernel, in a folder of its own for each life.
func (m *member) start(ctx context.Context) (*Guest, func(), error) {
	m.mu.Lock()
	cfg := m.prepared.cfg
	m.lives++
	life := m.lives
	m.mu.Unlock()
	cfg.Dir = filepath.Join(cfg.Dir, strconv.Itoa(life))
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make a folder for machine %s: %w", m.name, err)
	}
	free := func() { os.RemoveAll(cfg.Dir) }
	m.lab.mu.Lock()
	cfg.Lab, cfg.plan = m.lab.spec, m.lab.plan
	nets := m.lab.nets
	m.lab.mu.Unlock()
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

// await waits until the machines are ready that this one starts after.
func (m *member) await(ctx context.Context) error {
	m.mu.Lock()
	after := m.spec.After
	m.mu.Unlock()
	for _, name := range after {
		other, err := m.lab.member(name)
		if err != nil {
			return err
		}
		if err := other.ready(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &machine.StartError{Machine: m.name, Stage: "waiting", Cause: fmt.Sprintf("it starts after machine %s, which is not ready", name), Err: err}
		}
	}
	return nil
}

// ready waits until the machine is ready; the error says why it will not be.
func (m *member) ready(ctx context.Context) error {
	for {
		m.mu.Lock()
		state, err, changed := m.state, m.err, m.changed
		m.mu.Unlock()
		switch {
		case state == StateReady:
			return nil
		case state == StateFailed:
			return err
		case state == StateStopped:
			return &machine.StartError{Machine: m.name, Stage: "running", Cause: "it was stopped"}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// becomeReady waits until the machine is up and does what the file asks of it.
func (m *member) becomeReady(ctx context.Context, g *Guest) error {
	m.mu.Lock()
	want := m.spec.Ready
	m.mu.Unlock()
	if err := g.Ready(ctx); err != nil {
		return err
	}
	if want.Port == 0 && want.Command == "" {
		return nil
	}
	timeout := want.Timeout
	if timeout == 0 {
		timeout = lab.DefaultReadyTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := g.check(limited, want)
	if err == nil || ctx.Err() != nil {
		return err
	}
	e := &machine.StartError{Machine: m.name, Stage: "ready", Err: err, Log: m.hub.path}
	if want.Port != 0 {
		e.Cause = fmt.Sprintf("port %d took no connection within %v", want.Port, timeout)
	} else {
		e.Cause = fmt.Sprintf("the command %q did not end well within %v", want.Command, timeout)
	}
	e.Fix = "see what the machine says: wolffia logs " + m.name
	if path, cerr := m.lab.saveCapture(m.name); cerr == nil && path != "" {
		e.Fix += "; and what passed on its networks: " + path
	}
	return e
}

// checkEvery is how often a machine is looked at that is to become ready.
const checkEvery = 100 * time.Millisecond

// check waits until what is wanted of the machine holds. The error is that of
// the last try.
func (s *Guest) check(ctx context.Context, want lab.Ready) error {
	client, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		err := try(ctx, client, want)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-s.Over():
			return errors.New("the machine has ended")
		case <-time.After(checkEvery):
		}
	}
}

func try(ctx context.Context, client *access.Client, want lab.Ready) error {
	if want.Port != 0 {
		conn, err := client.Connect(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(want.Port)))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	st, err := client.Run(ctx, access.Command{Argv: []string{"sh", "-c", want.Command}, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("exit status %d", st.Code)
	}
	return err
}

// stop ends the machine, and waits for that; ctx ends its patience.
func (m *member) stop(ctx context.Context) { m.end(ctx, errStopped) }

func (m *member) kill() { m.end(context.Background(), errKilled) }

func (m *member) end(ctx context.Context, why error) {
	m.mu.Lock()
	halt, over := m.halt, m.over
	m.mu.Unlock()
	if halt == nil {
		return
	}
	halt(why)
	select {
	case <-over:
	case <-ctx.Done():
		m.mu.Lock()
		if m.guest != nil {
			m.guest.machine.Kill()
		}
		m.mu.Unlock()
		<-over
	}
}

// restart ends the machine, starts it again, and waits until it is ready.
func (m *member) restart(ctx context.Context) error {
	m.stop(ctx)
	if m.lab.ctx.Err() != nil {
		return errClosed
	}
	m.mu.Lock()
	m.launch()
	m.mu.Unlock()
	return m.ready(ctx)
}

// close ends the machine and frees what belongs to it.
func (m *member) close() {
	m.kill()
	m.hub.close()
	if m.prepared.free != nil {
		m.prepared.free()
	}
}

// same says whether what a machine is started from is what it runs from.
func (m *member) same(cfg Config) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.prepared.cfg
	return old.Arch == cfg.Arch && old.Backend.Name() == cfg.Backend.Name() && old.Kernel == cfg.Kernel && old.Image == cfg.Image &&
		old.Modules == cfg.Modules && old.Firmware == cfg.Firmware && reflect.DeepEqual(old.Disks, cfg.Disks) && reflect.DeepEqual(old.Cmdline, cfg.Cmdline)
}

// change takes over what a file says anew of a machine that runs.
func (m *member) change(spec *lab.Machine) error {
	m.mu.Lock()
	m.spec = ownCards(spec)
	m.mu.Unlock()
	var errs []error
	for i := range spec.Cards {
		c := &spec.Cards[i]
		errs = append(errs, m.lab.nets[c.Network].setCable(m.name+"/"+cardName(i), c.Link), m.setLink(i, !c.Down))
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
	g := m.guest
	m.spec.Cards[card].Down = !up // for its next life, too
	network := m.spec.Cards[card].Network
	m.mu.Unlock()
	if g == nil {
		return nil
	}
	m.lab.mu.Lock()
	n := m.lab.nets[network]
	m.lab.mu.Unlock()
	if cable := n.cable(m.name + "/" + cardName(card)); cable != nil {
		cable.SetUp(up)
	}
	return setCarrier(g.machine, card, up)
}

// setCarrier has a machine see its cable, where its backend can.
func setCarrier(m machine.Machine, card int, up bool) error {
	if s, ok := m.(machine.LinkSetter); ok {
		return s.SetLink(card, up)
	}
	return nil
}
