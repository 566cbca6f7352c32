package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	for _, name := range after {
		other, err := m.lab.member(name)
		if err != nil {
			return err
		}
		m.waits(name, nil)
		over := m.task("wait", "for "+name+", before "+m.name)
		err = m.awaitOne(ctx, other)
		over()
		if err != nil {
			return err
		}
	}
	m.waits("", nil)
	return nil
}

// awaitOne waits until another machine is ready. One that has failed and is
// started again by itself is waited for, and those who wait for this machine hear
// of it.
func (m *member) awaitOne(ctx context.Context, other *member) error {
	for {
		other.mu.Lock()
		hope, changed := other.hope(), other.changed
		other.mu.Unlock()
		err := other.ready(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		err = &machine.StartError{Machine: m.name, Stage: "waiting", Cause: fmt.Sprintf("it starts after machine %s, which is not ready", other.name), Err: err}
		if !hope {
			if isClosed(changed) { // it may have come to that only now
				continue
			}
			return err
		}
		m.waits(other.name, err)
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hope says whether a machine that is not ready may become so by itself; it is
// locked.
func (m *member) hope() bool {
	on := m.halt != nil && !isClosed(m.over) && !m.halting
	return on && (m.state == StateFailed && m.spec.Restart != lab.RestartNo || m.state == StateWaiting && m.blocked != nil)
}

// waits notes which machine this one waits for, and what is wrong with that.
func (m *member) waits(name string, blocked error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waitsFor, m.blocked = name, blocked
	close(m.changed)
	m.changed = make(chan struct{})
}

// ready waits until the machine is ready; the error says why it will not be.
func (m *member) ready(ctx context.Context) error {
	for {
		m.mu.Lock()
		state, err, blocked, changed, ending := m.state, m.err, m.blocked, m.changed, m.halting
		m.mu.Unlock()
		switch {
		case state == StateReady && !ending:
			return nil
		case state == StateWaiting && blocked != nil:
			return blocked
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

// becomeReady waits until the machine is up, calls booted, and waits until it does
// what the file asks of it: others may boot meanwhile, which may be what it takes.
func (m *member) becomeReady(ctx context.Context, g *Guest, booted func()) error {
	m.mu.Lock()
	want := m.spec.Ready
	m.mu.Unlock()
	err := g.Ready(ctx)
	booted()
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
	switch path, err := m.lab.saveCapture(m.name); {
	case err != nil:
		e.Fix += fmt.Sprintf("; what passed on its networks is lost: %v", err)
	case path != "":
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
