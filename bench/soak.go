package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"wolffia/bench/stream"
	"wolffia/internal/access"
	"wolffia/internal/api"
	"wolffia/internal/supervisor"
)

// soak has a lab do the same for long: machines that restart in every way that
// they can, beside streams that have to stay whole; links that change; captures.
// It fails when a stream breaks or brings other bytes, when a machine does not
// come back, or when the supervisor grows.
func soak(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("bench soak", flag.ContinueOnError)
	b := &bench{log: log}
	length := flags.Duration("for", time.Hour, "how long")
	flags.StringVar(&b.wolffia, "wolffia", "", "the program to measure (default: built from ./cmd/wolffia)")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q? usage: bench soak [-for 1h]", flags.Arg(0))
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "wolffia-soak-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.build(ctx); err != nil {
		return err
	}
	s := &soakLab{bench: b, start: time.Now(), watch: newWatch(*length)}
	defer s.close()
	err = s.run(ctx, *length)
	if err != nil && s.api != nil {
		s.explain()
	}
	s.report(out, err)
	return err
}

// soakLab is a lab under test.
type soakLab struct {
	*bench
	lab   *labProcess
	api   *api.Client
	start time.Time
	watch watch
	port  string // of the host, forwarded into a machine

	tasks  sync.WaitGroup
	fail   context.CancelCauseFunc
	long   []*longStream
	frames atomic.Int64 // bytes of the capture that never ends

	cycles, restarts, short int
}

// longStream is one that lasts from the beginning to the end.
type longStream struct {
	name     string
	received atomic.Int64
	before   int64 // at the last look
}

const (
	// soakRate is what each direction of a long stream carries, in bytes a second:
	// enough to be always on the way, and little enough that two processors have
	// time for the rest.
	soakRate = 500_000
	// pause follows each round; what has ended in it is gone when it is measured.
	pause = 2 * time.Second
)

// soakFile is the lab: far is behind a router; one, two and three restart.
const soakFile = `
name: soak
images:
  base:
    packages: [busybox-static, dropbear-bin]
    deps: elf
    files: [{from: ./peer, to: /usr/bin/peer}]
networks:
  lan: {routes: [{to: far, via: router}]}
  far: {subnet: 10.9.0.0/24, router: router}
machines:
  anna: {networks: [lan], forwards: ["%s:7000"]}
  bert: {networks: [lan]}
  carl: {networks: [far], after: [router]}
  router: {networks: [lan, far]}
  one: {networks: [{network: lan, out: delay 1ms}]}
  two: {networks: [lan], restart: on-failure}
  three: {networks: [lan, far], restart: always}
`

func (s *soakLab) close() {
	if s.api != nil {
		s.api.Close()
	}
	if s.lab != nil {
		s.lab.down()
	}
}

func (s *soakLab) run(ctx context.Context, length time.Duration) error {
	ctx, s.fail = context.WithCancelCause(ctx)
	defer s.tasks.Wait()
	defer s.fail(nil)
	if err := s.up(ctx); err != nil {
		return err
	}
	if err := s.background(ctx); err != nil {
		return err
	}
	for end := time.Now().Add(length); time.Now().Before(end); s.cycles++ {
		if err := s.round(ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("round %d: %w", s.cycles+1, err)
		}
	}
	return nil
}

// explain shows what kernels said last, and what the supervisor noted.
func (s *soakLab) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	machines, err := s.api.Machines(ctx)
	if err != nil {
		fmt.Fprintln(s.log, err)
	}
	for _, m := range machines {
		said, err := s.in(ctx, m.Name, "dmesg | tail -n 20; free")
		if err != nil {
			said += err.Error()
		}
		fmt.Fprintf(s.log, "--- %s, %s, %s\n%s\n", m.Name, m.State, m.Error, said)
	}
}

// up starts the lab.
func (s *soakLab) up(ctx context.Context) (err error) {
	if _, err := (command{
		argv: []string{"go", "build", "-trimpath", "-o", filepath.Join(s.dir, "lab", "peer"), "wolffia/bench/peer"},
		env:  []string{"CGO_ENABLED=0"},
	}).run(ctx); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	s.port = port
	if s.lab, err = s.newLab("lab", fmt.Sprintf(soakFile, port)); err != nil {
		return err
	}
	if _, err := s.lab.wolffia("up", "-q").run(ctx); err != nil {
		return err
	}
	s.api, err = s.lab.dial()
	return err
}

// background starts what goes on all the time.
func (s *soakLab) background(ctx context.Context) error {
	for _, m := range []string{"anna", "bert", "carl"} {
		if err := s.serve(ctx, m); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	s.tasks.Go(func() { s.host(ctx, l) })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s.stream(ctx, "bert", "anna:7000")
	s.stream(ctx, "carl", "bert:7000")
	s.stream(ctx, "bert", hostAtGW+":"+port)
	in, err := s.api.Capture(ctx, supervisor.CaptureOptions{Network: "lan"})
	if err != nil {
		return err
	}
	s.tasks.Go(func() {
		defer in.Close()
		if _, err := io.Copy(tally{&s.frames}, in); ctx.Err() == nil {
			s.fail(fmt.Errorf("the capture ended: %w", errors.Join(err, io.ErrUnexpectedEOF)))
		}
	})
	return nil
}

type tally struct{ n *atomic.Int64 }

func (t tally) Write(p []byte) (int, error) {
	t.n.Add(int64(len(p)))
	return len(p), nil
}

// serve has a machine answer streams, as long as it lasts.
func (s *soakLab) serve(ctx context.Context, machine string) error {
	serving := make(chan struct{})
	c, err := s.api.Enter(ctx, machine)
	if err != nil {
		return err
	}
	var once sync.Once
	said := writer(func(p []byte) {
		if string(p) != "serving\n" {
			s.fail(fmt.Errorf("%s: %s", machine, p))
		}
		once.Do(func() { close(serving) })
	})
	s.tasks.Go(func() {
		defer c.Close()
		st, err := c.Run(ctx, access.Command{Argv: []string{"peer", "serve", ":7000"}, Stdout: said, Stderr: said})
		s.fail(fmt.Errorf("%s does not serve any more: %w", machine, errors.Join(err, fmt.Errorf("status %d", st.Code))))
	})
	select {
	case <-serving:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

// host answers streams on the host.
func (s *soakLab) host(ctx context.Context, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.tasks.Go(func() {
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := stream.Answer(c); err != nil && ctx.Err() == nil {
				s.fail(fmt.Errorf("on the host: %w", err))
			}
		})
	}
}

// stream begins a stream that must not end.
func (s *soakLab) stream(ctx context.Context, from, to string) {
	l := &longStream{name: from + " to " + to}
	s.long = append(s.long, l)
	seed := len(s.long)
	s.tasks.Go(func() {
		var complaint atomic.Pointer[string]
		err := func() error {
			c, err := s.api.Enter(ctx, from)
			if err != nil {
				return err
			}
			defer c.Close()
			st, err := c.Run(ctx, access.Command{
				Argv: []string{"peer", "send", to, fmt.Sprint(seed), fmt.Sprint(int64(1) << 60), fmt.Sprint(soakRate)},
				Stdout: writer(func(p []byte) {
					var n int64
					if _, err := fmt.Sscan(string(p), &n); err == nil {
						l.received.Store(n)
					}
				}),
				Stderr: writer(func(p []byte) { text := string(p); complaint.Store(&text) }),
			})
			if text := complaint.Load(); text != nil {
				return errors.New(*text)
			}
			return errors.Join(err, fmt.Errorf("it ended with status %d", st.Code))
		}()
		if ctx.Err() == nil {
			s.fail(fmt.Errorf("stream from %s after %d bytes: %w", l.name, l.received.Load(), err))
		}
	})
}

// freePort is one of the host's loopback that nobody has just now.
func freePort() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
