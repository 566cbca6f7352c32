package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	xterm "golang.org/x/term"

	"wolffia/internal/access"
)

// How a machine is asked whether it is there while a command runs in it, and
// after how many looks in vain for the answer that counts as silence.
const (
	askEvery     = time.Second
	interruptsAt = 2  // an interrupt, which nothing would come of in the machine, ends the command
	saidAt       = 4  // it is said what is waited for
	givenUpAt    = 60 // the command is lost
)

// vigil watches over a machine in which a command runs: a machine that hangs
// takes no signal and no key any more, so that nobody would get out.
type vigil struct {
	env     Env
	machine string

	mu          sync.Mutex
	vain        int    // looks in vain for an answer
	interrupted bool   // somebody wants out since the last answer
	leave       func() // ends the command; nil while none runs
}

// alive is how the machine is asked.
func (v *vigil) alive() access.Alive {
	return access.Alive{Every: askEvery, Patient: givenUpAt, Vain: v.look}
}

// look takes notice of a look in vain, or with 0 of an answer.
func (v *vigil) look(vain int) {
	v.mu.Lock()
	v.vain = vain
	if vain == 0 {
		v.interrupted = false
	}
	leave, out := v.leave, v.interrupted && vain >= interruptsAt
	v.mu.Unlock()
	switch {
	case leave == nil: // what happens before has its own way of saying so
	case out:
		leave()
	case vain == saidAt:
		end := "\n"
		if xterm.IsTerminal(int(v.env.Stderr.Fd())) { // which may be raw
			end = "\r\n"
		}
		fmt.Fprintf(v.env.Stderr, "wolffia: machine %s has not answered for %v; waiting for it, up to %v; Ctrl-C ends that%s",
			v.machine, saidAt*askEvery, givenUpAt*askEvery, end)
	}
}

// during has interrupts end a command of a machine that is silent, and the silence
// said, until done.
func (v *vigil) during(leave func()) (done func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leave = leave
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.leave = nil
	}
}

// interrupt is somebody who wants out. A machine that answers gets it as what it
// is, and does with it what it likes.
func (v *vigil) interrupt() {
	v.mu.Lock()
	v.interrupted = true
	leave := v.leave
	if v.vain < interruptsAt {
		leave = nil
	}
	v.mu.Unlock()
	if leave != nil {
		leave()
	}
}

// keys are what is typed on a raw terminal, where Ctrl-C is a letter.
type keys struct {
	from io.Reader
	*vigil
}

const ctrlC = 3

func (k *keys) Read(b []byte) (int, error) {
	n, err := k.from.Read(b)
	for _, c := range b[:n] {
		if c == ctrlC {
			k.interrupt()
		}
	}
	return n, err
}
