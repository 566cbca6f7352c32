package access

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Alive is how [Client.KeepAlive] asks.
type Alive struct {
	Every   time.Duration // between two looks at whether an answer has come; 0 means 5 seconds
	Patient int           // how many looks in vain a question survives; 0 means 12
	// Hopeless is asked at every look in vain whether more would be in vain too;
	// nil means that nothing is known of it.
	Hopeless func() bool
	// Vain is told of each look in vain, how many of them there were in a row, and
	// of each answer, by 0. It must not block; nil tells nobody.
	Vain func(looks int)
}

// SilentError is a machine that no longer answers, though its process may run: its
// kernel hangs, or was halted.
type SilentError struct {
	For time.Duration // how long it was waited for an answer, at least
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("it has not answered for %v: its kernel hangs, or was halted", e.For)
}

// watched is what is known of a connection under [Client.KeepAlive]; the zero value
// is one without.
type watched struct {
	silent atomic.Pointer[SilentError]
	cancel context.CancelFunc
	done   chan struct{}
}

// KeepAlive has the machine asked from now on, until Close, whether it is there;
// a guest that hangs does not end its connections. One that gives no answer has
// its connection closed, and what runs over it fails with a [*SilentError]. It may
// be called once, before the first command; not for a machine whose kernel stands
// still in a debugger.
//
// What counts is looks, not time: a process that was stopped itself, or a host
// that slept, finds the answer when it goes on.
func (c *Client) KeepAlive(a Alive) {
	c.watched.watch(a, c.question, func() { c.ssh.Close() })
}

// watch begins to ask by question, whose answer is an error when the connection has
// ended; end ends a connection without an answer.
func (w *watched) watch(a Alive, question func() chan error, end func()) {
	a.Every, a.Patient = cmp.Or(a.Every, 5*time.Second), cmp.Or(a.Patient, 12)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.done = cancel, make(chan struct{})
	go w.ask(ctx, a, question, end)
}

// stop ends it, and waits for that.
func (w *watched) stop() {
	if w.cancel != nil {
		w.cancel()
		<-w.done
	}
}

// ask asks and looks until the connection ends, or ctx.
func (w *watched) ask(ctx context.Context, a Alive, question func() chan error, end func()) {
	defer close(w.done)
	var answer chan error
	ticker := time.NewTicker(a.Every)
	defer ticker.Stop()
	for looks := 0; ; {
		select {
		case <-ctx.Done():
			return
		case err := <-answer:
			if err != nil { // the connection has ended
				return
			}
			answer, looks = nil, 0
			a.tell(looks)
			continue
		case <-ticker.C:
		}
		if answer == nil {
			answer = question()
			continue
		}
		if looks++; looks < a.Patient && (a.Hopeless == nil || !a.Hopeless()) {
			a.tell(looks)
			continue
		}
		w.silent.Store(&SilentError{For: time.Duration(looks) * a.Every})
		end()
		return
	}
}

func (a Alive) tell(looks int) {
	if a.Vain != nil {
		a.Vain(looks)
	}
}

// question asks the machine for what no server knows, and what each has to refuse
// (RFC 4254, 4). It is answered, if not by the machine, at the connection's end.
func (c *Client) question() chan error {
	answer := make(chan error, 1)
	go func() {
		_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
		answer <- err
	}()
	return answer
}

// lost is why the connection has ended, where that is known better than from err.
func (w *watched) lost(err error) error {
	if silent := w.silent.Load(); err != nil && silent != nil {
		return silent
	}
	return err
}
