package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"wolffia/internal/api"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/rootfs"
	"wolffia/internal/supervisor"
)

// upRequest is what wolffia up asks of the supervisor.
type upRequest struct {
	File     string        `json:"file"` // absolute
	Mirror   string        `json:"mirror,omitempty"`
	Keyrings []string      `json:"keyrings,omitempty"` // absolute
	Offline  bool          `json:"offline,omitempty"`
	Update   bool          `json:"update,omitempty"`
	Expired  bool          `json:"expired,omitempty"`
	Patience time.Duration `json:"patience"`
}

// newSupervise is the process behind a lab. People start it by wolffia up.
func newSupervise(env Env, sig *signals) *cobra.Command {
	return &cobra.Command{
		Use:     "supervise FOLDER NAME FILE",
		Short:   "Own a lab in the background; wolffia up starts it",
		Hidden:  true,
		Example: "  wolffia supervise ~/.local/state/wolffia/labs/pair-0123abcd pair ~/pair/wolffia.yaml",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := newSupervisor(env, labDir{args[0]}, os.NewFile(readyFD, "ready"))
			err := s.run(cmd.Context(), args[1], args[2])
			if err != nil && s.ready != nil {
				fmt.Fprintln(s.ready, err)
			}
			return err
		},
	}
}

// readyFD is the descriptor on which a supervisor says that it answers, or why
// it can't.
const readyFD = 3

// supervise owns one lab.
type supervise struct {
	env   Env
	dir   labDir
	ready *os.File
	lab   *supervisor.Lab

	keepers keeper.Group // holds the machines

	journal  *journal
	applying chan struct{} // holds a token of the apply that is on

	mu        sync.Mutex
	project   *project                 // of the apply that is on, or was last
	patience  time.Duration            // likewise
	listeners map[*event.Sink]struct{} // those who wait for something
	idle      *time.Timer              // ends a lab that nothing became of
}

func newSupervisor(env Env, dir labDir, ready *os.File) *supervise {
	return &supervise{
		env: env, dir: dir, ready: ready, journal: &journal{path: dir.join(labJournal), files: []*os.File{env.Stdout, env.Stderr}},
		applying: make(chan struct{}, 1), listeners: map[*event.Sink]struct{}{},
	}
}

// errOwned is a lab that another process has.
var errOwned = errors.New("another process has this lab")

// idlePatience is how long a supervisor waits for somebody to tell it what the lab
// is, or, when nothing came of that, for somebody to end it. Who does so at once,
// unless they were killed.
const idlePatience = time.Minute

func (s *supervise) run(ctx context.Context, name, file string) error {
	lock, free, err := s.dir.lock()
	if err != nil {
		return err
	}
	if !free {
		return errOwned
	}
	defer lock.Close()
	l, err := s.open()
	if err != nil {
		return err
	}
	defer s.keepers.Close()
	s.lab = supervisor.Open(supervisor.LabConfig{
		Dir: s.dir.path, Base: filepath.Dir(file), Prepare: s.prepare, Events: event.Func(s.emit),
		Host: s.dir.host(),
	})
	idle := make(chan struct{})
	s.idle = time.AfterFunc(idlePatience, func() { close(idle) })
	defer s.idle.Stop()
	info := api.Info{Name: name, File: file, PID: os.Getpid(), Version: version().Version, Started: time.Now()}
	server := api.Serve(l, api.Handlers{Info: info, Lab: s.lab, Listen: s.listen, Apply: s.apply, Down: s.down})
	err = s.dir.writeRecord(info)
	if err == nil {
		fmt.Fprintln(s.ready, "ready")
		s.ready.Close()
		s.ready = nil
		select {
		case <-server.Down():
		case <-ctx.Done(): // a signal: as if it had been taken down
		case <-idle:
		}
		err = s.shut()
	}
	server.Close()
	s.dir.forget()
	return err
}

// open opens the lab's socket. What is there of a supervisor that was killed
// goes: the lock says that nobody answers on it.
func (s *supervise) open() (*net.UnixListener, error) {
	path := s.dir.join(labSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the lab's socket: %w", err)
	}
	short, free, err := socketName(s.dir.path, labSocket)
	if err != nil {
		return nil, fmt.Errorf("open the lab's socket: %w", err)
	}
	defer free()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the lab's socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // by the short name it may be another's by then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("open the lab's socket: %w", err)
	}
	return l, nil
}

// emit tells news to those who wait for the lab, and to its journal.
func (s *supervise) emit(e event.Event) {
	s.mu.Lock()
	to := slices.Collect(maps.Keys(s.listeners))
	s.mu.Unlock()
	for _, l := range to {
		(*l).Emit(e)
	}
	if e.Kind == event.Warn || e.Kind == event.Fail {
		s.journal.note(e)
	}
}

// listen implements [api.Handlers].
func (s *supervise) listen(events event.Sink) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners[&events] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, &events)
	}
}

// apply implements [api.Handlers]. One is done after the other, each with the
// file as it is then.
func (s *supervise) apply(ctx context.Context, raw json.RawMessage, events event.Sink) error {
	var request upRequest
	if err := json.Unmarshal(raw, &request); err != nil {
		return api.Usage(fmt.Errorf("read the request: %w", err))
	}
	wait := event.Event{Kind: event.Begin, Task: "wait", Subject: "for another wolffia up"}
	events.Emit(wait)
	select {
	case s.applying <- struct{}{}:
		defer func() { <-s.applying }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	wait.Kind = event.Done
	events.Emit(wait)
	if s.idle.Stop() {
		defer s.rest()
	}
	o := buildOptions{
		file: request.File, mirror: request.Mirror, keyrings: request.Keyrings,
		offline: request.Offline, update: request.Update, expired: request.Expired,
	}
	p, err := o.open(s.env, event.Func(s.emit))
	if err != nil {
		return userError(err)
	}
	p.keepers = &s.keepers
	s.mu.Lock()
	s.project, s.patience = p, request.Patience
	s.mu.Unlock()
	return userError(s.lab.Apply(ctx, p.Spec))
}

// rest begins to wait for somebody who ends the lab, if it has no machine.
func (s *supervise) rest() {
	if len(s.lab.Status()) == 0 {
		s.idle.Reset(idlePatience)
	}
}

// userError marks what is wrong with the file, or with what was asked for.
func userError(err error) error {
	var usage *usageError
	var files lab.Errors
	if errors.As(err, &usage) || errors.As(err, &files) {
		return api.Usage(err)
	}
	return err
}

// prepare implements [supervisor.LabConfig].
func (s *supervise) prepare(ctx context.Context, spec *lab.Spec, m *lab.Machine) (supervisor.Config, func(), error) {
	s.mu.Lock()
	p, patience := s.project, s.patience
	s.mu.Unlock()
	r, err := p.prepare(ctx, s.env, &machineOptions{patience: patience, keep: s.dir.join(labDisks)}, m.Name, rootfs.ConsoleShell, event.Func(s.emit))
	if err != nil {
		return supervisor.Config{}, nil, asUsage(err)
	}
	return r.config, r.close, nil
}

// downPatience is how long a lab may take to shut down before what is left of
// it is killed.
const downPatience = 30 * time.Second

// down implements [api.Handlers].
func (s *supervise) down(ctx context.Context, volumes bool) error {
	err := s.shut()
	defer s.dir.forget() // before anybody hears that it is done
	if volumes {
		err = errors.Join(err, s.dir.dropDisks())
	}
	return err
}

func (s *supervise) shut() error {
	ctx, cancel := context.WithTimeout(context.Background(), downPatience)
	defer cancel()
	return s.lab.Close(ctx)
}

// startSupervisor starts the process behind a lab, and waits until it answers.
func startSupervisor(ctx context.Context, env Env, d labDir, name, file string) error {
	if err := d.create(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start the lab's supervisor: %w", err)
	}
	journal, err := (&journal{path: d.join(labJournal)}).open()
	if err != nil {
		return fmt.Errorf("start the lab's supervisor: %w", err)
	}
	defer journal.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the lab's supervisor: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(self, "supervise", d.path, name, file)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", journal, journal, []*os.File{theirs}
	// Nothing of whoever started wolffia stays open in it: a lock, or the end of a
	// pipe that somebody reads to its end.
	_ = unix.CloseRange(readyFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // before Linux 5.11 it does
	// A session of its own: what ends this one's terminal does not end the lab.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start the lab's supervisor: %w", err)
	}
	defer cmd.Process.Release()
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := io.ReadAll(io.LimitReader(ready, 1<<16))
	switch {
	case ctx.Err() != nil:
		cmd.Process.Signal(unix.SIGTERM)
		return context.Cause(ctx)
	case string(answer) == "ready\n":
		return nil
	case string(answer) == errOwned.Error()+"\n":
		return errOwned
	case err == nil && len(answer) == 0:
		err = errors.New("it ended at once; see " + journal.Name())
	case err == nil:
		err = errors.New(string(answer[:len(answer)-1]))
	}
	return fmt.Errorf("start the lab's supervisor: %w", err)
}
