package main

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSignals sends every signal that is passed on to wolffia while a command
// runs, which has to get each, and no other.
func TestSignals(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		r := w.start(t, "sh", "-c", `
			for s in HUP INT USR1 USR2; do trap "echo got $s" $s; done
			trap 'echo got TERM; exit 42' TERM
			echo ready
			while :; do sleep 0.05; done`)
		r.out.expect(t, "ready\n")
		for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM} {
			if err := r.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			r.out.expect(t, "^got "+unix.SignalName(s)[3:]+"\n$")
		}
		if got := r.end(t); got != 42 || r.err.String() != "" {
			t.Errorf("status %d, standard error: %s", got, r.err)
		}
	})
}

// TestSignalsEnd ends a command that has no trap by a signal to wolffia.
func TestSignalsEnd(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
			t.Run(unix.SignalName(s), func(t *testing.T) {
				r := w.start(t, "sh", "-c", "echo ready; exec sleep 1000")
				r.out.expect(t, "ready\n")
				r.Process.Signal(s)
				if got := r.end(t); got != 128+int(s) || r.err.String() != "" {
					t.Errorf("status %d, standard error: %s", got, r.err)
				}
			})
		}
	})
}

// TestSignalsUnheeded ends a command that ignores signals when they are sent
// three times in a row.
func TestSignalsUnheeded(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		r := w.start(t, "sh", "-c", "trap '' INT; echo ready; while :; do sleep 1; done")
		r.out.expect(t, "ready\n")
		eventually(t, patience, "three signals end it", func() bool {
			r.Process.Signal(unix.SIGINT) // two at the same time may count as one
			select {
			case <-r.ended:
				return true
			case <-time.After(500 * time.Millisecond):
				return false
			}
		})
		if got := r.end(t); got != 130 {
			t.Errorf("status %d, standard error: %s", got, r.err)
		}
	})
}

// TestInterruptedBoot ends wolffia while it boots.
func TestInterruptedBoot(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	// Init never says anything, so that the boot lasts.
	r := p.start(t, call{}, "run", "--cmdline", "rdinit=/bin/cat", "--", "true")
	eventually(t, patience, "the kernel runs", func() bool { return len(p.processes()) > 3 })
	r.Process.Signal(unix.SIGINT)
	if got := r.end(t); got != 130 || r.err.String() != "wolffia: interrupted\n" {
		t.Errorf("status %d, standard error: %s", got, r.err)
	}
}
