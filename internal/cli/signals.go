package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// signals owns the process's signals. The first one ends the context, so that
// everything is shut down cleanly; the next one ends the process at once.
// While a command runs in a machine it takes them over with [signals.pass].
type signals struct {
	incoming chan os.Signal
	cancel   context.CancelCauseFunc
	done     sync.WaitGroup
	stop     chan struct{}

	mu   sync.Mutex
	take func(unix.Signal)
}

// passed are the signals that wolffia takes notice of.
var passed = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
}

// watchSignals starts to take notice of signals until close.
func watchSignals(ctx context.Context) (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &signals{incoming: make(chan os.Signal, 8), cancel: cancel, stop: make(chan struct{})}
	s.notice(unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	s.done.Go(s.loop)
	return ctx, s
}

// notice starts to take notice of signals, but not of those that whoever
// started wolffia has it ignore, as nohup does.
func (s *signals) notice(all ...os.Signal) {
	for _, sig := range all {
		if !signal.Ignored(sig) {
			signal.Notify(s.incoming, sig)
		}
	}
}

func (s *signals) close() {
	signal.Stop(s.incoming)
	close(s.stop)
	s.done.Wait()
	s.cancel(nil)
}

func (s *signals) loop() {
	for {
		select {
		case <-s.stop:
			return
		case sig := <-s.incoming:
			s.mu.Lock()
			take := s.take
			s.mu.Unlock()
			if take != nil {
				take(sig.(unix.Signal))
				continue
			}
			s.cancel(errInterrupted)
			signal.Reset(passed...) // the next one ends the process
		}
	}
}

// pass hands every signal to take until the returned function is called.
func (s *signals) pass(take func(unix.Signal)) (end func()) {
	s.mu.Lock()
	s.take = take
	s.mu.Unlock()
	s.notice(passed...)
	return func() {
		s.mu.Lock()
		s.take = nil
		s.mu.Unlock()
		signal.Reset(unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	}
}
