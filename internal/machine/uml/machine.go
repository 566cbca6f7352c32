package uml

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/program"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// running is a started machine.
type running struct {
	spec    machine.Spec
	argv    []string
	proc    *keeper.Process
	console *console
	log     *os.File
	status  *os.File
	ports   []vnet.Port
	killed  atomic.Bool

	fault machine.Fault // what the guest says of its disks' room

	done chan struct{}
	exit machine.Exit // valid after done
}

// start opens what the machine needs and starts it. On failure everything is
// closed again.
func (b Backend) start(ctx context.Context, p *plan) (_ *running, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start machine %s: %w", p.spec.Name, err)
	}
	dir, err := p.memoryDir()
	if err != nil {
		return nil, err
	}
	m := &running{spec: p.spec, argv: append([]string{p.spec.Kernel}, p.argv[1:]...), console: &console{}, done: make(chan struct{})}
	var theirs []*os.File // descriptors 3 and up
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			m.close()
			var known *machine.StartError
			if !errors.As(err, &known) {
				err = fmt.Errorf("start machine %s: %w", p.spec.Name, err)
			}
		}
	}()
	if theirs, err = m.open(ctx, p); err != nil {
		return nil, err
	}
	host, err := os.Create(filepath.Join(p.spec.Dir, hostLog))
	if err != nil {
		return nil, err
	}
	defer host.Close()
	first := func() {}
	var joined error
	var meanwhile func() error
	if p.join {
		initramfs := theirs[len(theirs)-1]
		if first, err = forget(initramfs); err != nil {
			return nil, err
		}
		meanwhile = func() error {
			joined = fillInitramfs(initramfs, p.spec)
			return joined
		}
	}
	jail, err := p.jail(dir)
	if err != nil {
		return nil, err
	}
	if jail != nil {
		if err := os.MkdirAll(jail.Dir, 0o700); err != nil {
			return nil, err
		}
	}
	m.proc, err = keeper.Start(keeper.Command{
		Meanwhile: meanwhile, Jail: jail,
		Path: p.spec.Kernel, Argv: p.argv, Env: append(p.env, "TMPDIR="+dir), Dir: p.spec.Dir,
		Stdio: [3]*os.File{1: host, 2: host}, Files: theirs, FixedLayout: true, OneCPU: true, CPU: p.spec.CPU, Mode: b.Hold, Group: b.Group,
	})
	if joined != nil {
		return nil, joined
	}
	if err != nil {
		return nil, explainExec(p, err)
	}
	stop := context.AfterFunc(ctx, m.Kill)
	go m.own(first, stop)
	return m, nil
}

// forget gives a function that frees the content of a file in memory, which
// the kernel keeps open for as long as it runs but reads only once.
func forget(f *os.File) (func(), error) {
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	mine := os.NewFile(uintptr(fd), "initramfs")
	return func() {
		_ = mine.Truncate(0)
		mine.Close()
	}, nil
}

// open makes the near sides of the machine's descriptors, and gives the far
// ones in the order of the plan.
func (m *running) open(ctx context.Context, p *plan) (theirs []*os.File, err error) {
	if err := p.spec.CheckFiles(); err != nil {
		return nil, err
	}
	if err := linkDisks(p.spec); err != nil {
		return nil, err
	}
	// Left by a machine that was killed: the kernel would take it for one in use,
	// and have its management console elsewhere.
	if err := os.RemoveAll(filepath.Join(p.spec.Dir, umid)); err != nil {
		return nil, err
	}
	if p.runtime != "" {
		link := filepath.Join(p.spec.Dir, program.RuntimeDir)
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.Symlink(p.runtime, link); err != nil {
			return nil, err
		}
	}
	if m.log, err = os.Create(filepath.Join(p.spec.Dir, consoleLog)); err != nil {
		return nil, err
	}
	m.console.Log = m.log
	near, far, err := openPTY()
	if err != nil {
		return nil, err
	}
	m.console.pty = near
	theirs = append(theirs, far)
	r, w, err := os.Pipe()
	if err != nil {
		return theirs, err
	}
	m.status = r
	theirs = append(theirs, w)
	for range p.spec.NICs {
		port, guest, err := wire.Socketpair(wire.Seqpacket)
		if err != nil {
			return theirs, err
		}
		m.ports = append(m.ports, port)
		theirs = append(theirs, guest)
	}
	locks, err := p.spec.HoldDisks(ctx, overlays{})
	if err != nil {
		return theirs, err
	}
	theirs = append(theirs, locks...)
	if p.join {
		f, err := machine.NewInitramfs()
		if err != nil {
			return theirs, err
		}
		theirs = append(theirs, f)
	}
	return theirs, nil
}

// explainExec turns a failed execution into a report.
func explainExec(p *plan, err error) error {
	e := &machine.StartError{
		Machine: p.spec.Name, Stage: "start", Cause: "the kernel can't be executed",
		Argv: append([]string{p.spec.Kernel}, p.argv[1:]...), Err: err,
	}
	var none *keeper.NoJailError
	switch {
	case errors.As(err, &none):
		e.Cause = "a machine with shared folders can't be kept from the host's other files"
		e.Fix = "use the backend qemu, or allow mount and user namespaces: " + fixHost
	case errors.Is(err, syscall.EAGAIN):
		e.Cause += ": there are too many processes already"
		e.Fix = "raise the limit on them (ulimit -u), or end some"
	case errors.Is(err, syscall.EMFILE):
		e.Cause += ": too many files are open"
		e.Fix = "raise the limit on them (ulimit -n)"
	case errors.Is(err, syscall.EACCES):
		e.Cause += ": it is not an executable file, or lies on a file system mounted noexec"
		e.Fix = "chmod +x it, or keep it elsewhere (wolffia's cache follows XDG_CACHE_HOME)"
	case errors.Is(err, syscall.ENOEXEC):
		e.Cause += ": it is not a program for this host"
		e.Fix = "give a user-mode-linux kernel built for this host's architecture"
	}
	return e
}

// own waits for the machine's end and closes what belongs to it.
func (m *running) own(first func(), stop func() bool) {
	defer close(m.done)
	var once sync.Once
	var pumped sync.WaitGroup
	m.console.full.found = func(disk int) { m.stop(m.spec.NoSpace(disk)) }
	pumped.Go(func() {
		m.console.pump(func() { once.Do(first) }, func() { _ = m.proc.Signal(syscall.SIGIO) })
	})
	ws, err := m.proc.Wait()
	stop()
	once.Do(first)
	pumped.Wait() // ends by itself: no process holds the other side any more
	m.exit = m.classify(ws, err)
	m.closeAfter()
}

// stop ends the machine, for a reason that it does not know itself.
func (m *running) stop(why machine.Symptom) {
	m.fault.Set(why)
	m.proc.Kill()
}

// close frees everything of a machine that never ran.
func (m *running) close() {
	if m.status != nil {
		m.status.Close()
	}
	m.closeAfter()
}

// closeAfter frees everything but the status pipe, which still has to be read.
func (m *running) closeAfter() {
	m.console.close()
	if m.log != nil {
		m.log.Close()
	}
	for _, p := range m.ports {
		p.Close()
	}
}

// Console implements [machine.Machine].
func (m *running) Console() machine.Console { return m.console }

// Status implements [machine.Machine].
func (m *running) Status() io.Reader { return machine.StatusReader(m.status) }

// Ports implements [machine.Machine].
func (m *running) Ports() []vnet.Port { return m.ports }

// Wait implements [machine.Machine].
func (m *running) Wait() machine.Exit {
	<-m.done
	return m.exit
}

// Kill implements [machine.Machine].
func (m *running) Kill() {
	m.killed.Store(true)
	m.proc.Kill()
}

// Stop implements [machine.Machine].
func (m *running) Stop(ctx context.Context) error {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	asked := false
	for {
		if !asked { // the kernel may not have its console yet
			_, err := mconsole(filepath.Join(m.spec.Dir, umid, "mconsole"), "cad")
			asked = err == nil
		}
		tick := retry.C
		if asked {
			tick = nil
		}
		select {
		case <-m.done:
			return nil
		case <-tick:
		case <-ctx.Done():
			m.Kill()
			<-m.done
			return fmt.Errorf("stop machine %s: it had to be killed: %w", m.spec.Name, context.Cause(ctx))
		}
	}
}

// What a report shows and what is searched for its cause, in console lines.
const (
	tailLines   = 30
	searchLines = 1000
)

// classify says how the machine ended.
func (m *running) classify(ws syscall.WaitStatus, keeperErr error) machine.Exit {
	host := machine.LogTail(filepath.Join(m.spec.Dir, hostLog), tailLines)
	e := machine.Exit{Argv: m.argv, Log: m.log.Name(), Host: machine.HostEnd(ws)}
	guest := m.console.Tail(tailLines)
	e.Tail = guest
	if len(guest) == 0 { // it did not come as far as its console
		e.Tail = host
	}
	restarted := strings.Contains(strings.Join(host, "\n"), restartFailed)
	switch {
	case m.killed.Load():
		e.Cause = "killed"
	case m.fault.Explain(&e):
	case keeperErr != nil:
		e.Cause = "the process that holds the machine was killed"
	case ws.Exited() && (ws.ExitStatus() == 0 || restarted):
		e.Clean, e.Reboot = true, restarted
	default:
		s, ok := machine.Diagnose(append(host, m.console.Tail(searchLines)...), symptoms(), machine.KernelSymptoms())
		if !ok {
			s = machine.Symptom{Stage: "kernel", Cause: "the kernel ended with " + e.Host}
		}
		s = m.spec.Refine(s)
		e.Stage, e.Cause, e.Fix = s.Stage, s.Cause, s.Fix
	}
	return e
}
