package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"wolffia/internal/access"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
)

// await waits until the machines are ready that this one starts after.
func (m *member) await(ctx context.Context) error {
	m.mu.Lock()
	after := m.spec.After
	m.mu.Unlock()
	defer m.waits("")
	for _, name := range after {
		other, err := m.lab.member(name)
		if err != nil {
			return err
		}
		m.waits(name)
		over := m.task("wait", "for "+name+", before "+m.name)
		err = m.awaitOne(ctx, other)
		over()
		if err != nil {
			return err
		}
	}
	return nil
}

// waits notes which machine this one waits for.
func (m *member) waits(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waitsFor = name
}

// awaitOne waits until another machine is ready, or the file no longer asks for
// it. One that has failed and is started again by itself is waited for.
func (m *member) awaitOne(ctx context.Context, other *member) error {
	troubled := false
	for {
		m.mu.Lock()
		asked, mine := slices.Contains(m.spec.After, other.name), m.changed
		m.mu.Unlock()
		other.mu.Lock()
		ready, final, changed := other.up(), other.final(), other.changed
		other.mu.Unlock()
		if ready || !asked {
			return nil
		}
		err := other.trouble()
		switch {
		case isClosed(changed):
			continue
		case final:
			return m.behind(other, err)
		case troubled != (err != nil): // who waits for this machine hears of it
			troubled = err != nil
			m.poke()
		}
		select {
		case <-changed:
		case <-mine:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// behind is a machine that can't start because of one before it.
func (m *member) behind(other *member, err error) error {
	return &machine.StartError{Machine: m.name, Stage: "waiting", Cause: fmt.Sprintf("it starts after machine %s, which is not ready", other.name), Err: err}
}

// poke has those look again who wait for a change.
func (m *member) poke() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// up says whether the machine is ready and to stay so; it is locked.
func (m *member) up() bool { return m.state == StateReady && !m.halting }

// final says whether a machine will not become ready by itself; it is locked.
func (m *member) final() bool {
	switch m.state {
	case StateStopped:
		return true
	case StateFailed:
		return m.spec.Restart == lab.RestartNo || isClosed(m.over)
	}
	return false
}

// trouble is why a machine is not ready, if more is wrong than that it takes time.
func (m *member) trouble() error {
	var chain []*member
	var err error
	for {
		m.mu.Lock()
		state, failed, before := m.state, m.err, m.waitsFor
		m.mu.Unlock()
		switch {
		case state == StateFailed:
			err = failed
		case state == StateStopped:
			err = &machine.StartError{Machine: m.name, Stage: "running", Cause: "it was stopped"}
		case state == StateWaiting && before != "":
			// Where a file was applied meanwhile, they might wait for each other.
			if other, _ := m.lab.member(before); other != nil && !slices.Contains(chain, m) {
				chain = append(chain, m)
				m = other
				continue
			}
		}
		break
	}
	for _, waiting := range slices.Backward(chain) {
		if err != nil {
			err = waiting.behind(m, err)
		}
		m = waiting
	}
	return err
}

// ready waits until the machine is ready; the error says why it is not, even if it
// may be started again by itself.
func (m *member) ready(ctx context.Context) error {
	for {
		m.mu.Lock()
		up, changed := m.up(), m.changed
		m.mu.Unlock()
		if up {
			return nil
		}
		if err := m.trouble(); err != nil && !isClosed(changed) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// becomeReady waits until the machine is up, calls booted, and waits until it does
// what the file asks of it: others may boot meanwhile, which may be what it takes.
func (m *member) becomeReady(ctx context.Context, g *Guest, booted func()) error {
	m.mu.Lock()
	want := m.spec.Ready
	m.mu.Unlock()
	err := g.Ready(ctx)
	booted()
	if e := (*machine.StartError)(nil); errors.As(err, &e) && ctx.Err() == nil {
		m.saveFrames(e)
	}
	if err != nil {
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
	subject := m.name + ": " + want.Command
	if want.Port != 0 {
		subject = fmt.Sprintf("%s: port %d", m.name, want.Port)
	}
	defer m.task("check", subject)()
	err = g.check(limited, want)
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
	m.saveFrames(e)
	return e
}

// saveFrames keeps what passed on the cards of a machine that did not become ready,
// and has its report say where that is.
func (m *member) saveFrames(e *machine.StartError) {
	var where string
	switch path, err := m.lab.saveCapture(m.name); {
	case err != nil:
		where = fmt.Sprintf("what passed on its cards is lost: %v", err)
	case path != "":
		where = "what passed on its cards is in " + path
	default:
		return
	}
	if e.Fix != "" {
		where = e.Fix + "; " + where
	}
	e.Fix = where
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
		err := s.try(ctx, client, want)
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

func (s *Guest) try(ctx context.Context, client *access.Client, want lab.Ready) error {
	if want.Port != 0 {
		return s.connect(ctx, client, strconv.Itoa(want.Port))
	}
	st, err := client.Run(ctx, access.Command{Argv: []string{"sh", "-c", want.Command}, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("exit status %d", st.Code)
	}
	return err
}

// cardPatience is how long a connection to a card's own address may take. Where the
// machine has given the card another one, nobody might answer, for minutes.
const cardPatience = 5 * time.Second

// connect tries whether a port of the machine takes connections, at 127.0.0.1 or
// where a service may be bound to alone: the address of a card. The error is that
// of 127.0.0.1.
func (s *Guest) connect(ctx context.Context, client *access.Client, port string) error {
	conn, err := client.Connect(ctx, net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return conn.Close()
	}
	m := s.cfg.Machine
	for i := range m.Cards {
		at := s.cfg.plan.at(m, &m.Cards[i])
		if !at.v4.IsValid() {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, cardPatience)
		conn, err := client.Connect(limited, net.JoinHostPort(at.v4.Addr().String(), port))
		cancel()
		if err == nil {
			return conn.Close()
		}
	}
	return err
}
