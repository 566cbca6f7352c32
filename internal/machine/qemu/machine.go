package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// running is a started machine.
type running struct {
	spec    machine.Spec
	argv    []string
	proc    *keeper.Process
	monitor *monitor
	conn    net.Conn // the monitor's, until there is one
	console *console
	log     *os.File
	status  *os.File
	ports   []vnet.Port
	// channels are closed by who asked for them.
	channels []*net.UnixConn
	killed   atomic.Bool
	heard    atomic.Bool   // a status line came
	debug    atomic.Bool   // a debugger stops the guest and lets it run
	fault    machine.Fault // why the guest can't go on, as QEMU tells

	began chan struct{} // closed when the guest has begun to run

	mu     sync.Mutex
	reason string // of QEMU's event SHUTDOWN

	done chan struct{}
	exit machine.Exit // valid after done
}

// start opens what the machine needs and starts it. On failure everything is
// closed again.
func (b Backend) start(ctx context.Context, p *plan) (_ *running, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start machine %s: %w", p.spec.Name, err)
	}
	m := &running{spec: p.spec, argv: p.argv, console: &console{banner: p.banner()}, began: make(chan struct{}), done: make(chan struct{})}
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
	if err := b.copyVars(p.spec); err != nil {
		return nil, err
	}
	host, err := os.Create(filepath.Join(p.spec.Dir, hostLog))
	if err != nil {
		return nil, err
	}
	defer host.Close()
	var joined error
	var meanwhile func() error
	if p.join {
		initramfs := theirs[len(theirs)-1]
		meanwhile = func() error {
			joined = machine.FillInitramfs(initramfs, p.spec.Initramfs)
			return joined
		}
	}
	m.proc, err = keeper.Start(keeper.Command{
		Path: p.argv[0], Argv: p.argv, Env: p.env, Dir: p.spec.Dir, Meanwhile: meanwhile,
		Stdio: [3]*os.File{1: host, 2: host}, Files: theirs, Mode: b.Hold, Group: b.Group,
	})
	if joined != nil {
		return nil, joined
	}
	if err != nil {
		return nil, explainExec(p, err)
	}
	m.monitor = newMonitor(m.conn, m.onEvent)
	stop := context.AfterFunc(ctx, m.Kill)
	go m.own(stop)
	return m, nil
}

// open makes the near sides of the machine's descriptors, and gives the far
// ones in the order of the plan.
func (m *running) open(ctx context.Context, p *plan) (theirs []*os.File, err error) {
	if err := p.spec.CheckFiles(); err != nil {
		return nil, err
	}
	if m.log, err = os.Create(filepath.Join(p.spec.Dir, consoleLog)); err != nil {
		return nil, err
	}
	m.console.Log = m.log
	var monitor *os.File
	for _, near := range []**os.File{&monitor, &m.console.line, &m.status} {
		ours, far, err := socketPair()
		if err != nil {
			return theirs, err
		}
		*near, theirs = ours, append(theirs, far)
	}
	m.conn, err = net.FileConn(monitor)
	monitor.Close()
	if err != nil {
		return theirs, err
	}
	for range p.spec.Channels {
		ours, far, err := socketPair()
		if err != nil {
			return theirs, err
		}
		theirs = append(theirs, far)
		conn, err := net.FileConn(ours)
		ours.Close()
		if err != nil {
			return theirs, err
		}
		m.channels = append(m.channels, conn.(*net.UnixConn))
	}
	for range p.spec.NICs {
		port, guest, err := wire.StreamPair()
		if err != nil {
			return theirs, err
		}
		m.ports, theirs = append(m.ports, port), append(theirs, guest)
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

// socketPair makes a stream between this process and QEMU.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "machine"), os.NewFile(uintptr(fds[1]), "machine"), nil
}

// explainExec turns a failed execution into a report.
func explainExec(p *plan, err error) error {
	e := &machine.StartError{Machine: p.spec.Name, Stage: "start", Cause: "QEMU can't be executed", Argv: p.argv, Err: err, Fix: fixQEMU}
	switch {
	case errors.Is(err, syscall.ENOENT):
		e.Cause += ": " + p.argv[0] + ", or the loader that it names, is not there"
	case errors.Is(err, syscall.ENOEXEC):
		e.Cause += ": it is not a program for this host"
	}
	return e
}

// own waits for the machine's end and closes what belongs to it.
func (m *running) own(stop func() bool) {
	defer close(m.done)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(m.console.pump)
	var spoke error
	work.Go(func() {
		if spoke = m.monitor.run(); spoke != nil { // nobody could end it any more
			m.proc.Kill()
		}
	})
	work.Go(func() { m.begin(ctx) })
	ws, err := m.proc.Wait()
	stop()
	cancel()
	work.Wait() // ends by itself: no process holds the other sides any more
	m.exit = m.classify(ws, err, spoke)
	m.closeAfter()
}

// begin lets the guest run, once QEMU is ready to say what becomes of it.
func (m *running) begin(ctx context.Context) {
	commands := []string{"qmp_capabilities", "cont"}
	if m.spec.Paused {
		commands = commands[:1]
	}
	for _, command := range commands {
		if err := m.monitor.do(ctx, command, nil, nil); err != nil {
			if !errors.Is(err, errMonitorGone) && ctx.Err() == nil {
				m.stop(machine.Symptom{Stage: "kernel", Cause: err.Error(), Fix: fixTCG})
			}
			return
		}
	}
	close(m.began)
}

func (m *running) onEvent(e event) {
	switch e.Name {
	case "SHUTDOWN":
		m.mu.Lock()
		m.reason = e.Data.Reason
		m.mu.Unlock()
	case "STOP": // QEMU itself stops a guest that can't go on; one that ends comes here too
		m.mu.Lock()
		ending := m.reason != ""
		m.mu.Unlock()
		if !ending && !m.debug.Load() {
			m.stop(machine.Symptom{
				Stage: "kernel", Cause: "QEMU stopped the machine: the processor or KVM met something that it can't run", Fix: fixTCG,
			})
		}
	case "BLOCK_IO_ERROR": // before STOP, if it is for lack of room; else the guest's own affair
		if e.Data.NoSpace {
			m.stop(m.spec.NoSpace(m.disk(e.Data.Device)))
		}
	}
}

// stop ends the machine, for a reason that it does not know itself.
func (m *running) stop(why machine.Symptom) {
	m.fault.Set(why)
	m.proc.Kill()
}

// disk is the number of the disk whose image QEMU calls so, or -1.
func (m *running) disk(device string) int {
	for i := range m.spec.Disks {
		if diskID(i) == device {
			return i
		}
	}
	return -1
}

// close frees everything of a machine that never ran.
func (m *running) close() {
	if m.status != nil {
		m.status.Close()
	}
	if m.conn != nil {
		m.conn.Close()
	}
	for _, c := range m.channels {
		c.Close()
	}
	m.closeAfter()
}

// closeAfter frees everything but the status line, which still has to be read.
func (m *running) closeAfter() {
	if m.console.line != nil {
		m.console.line.Close()
	}
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
func (m *running) Status() io.Reader { return machine.StatusReader(heardStatus{m, m.status}) }

// Ports implements [machine.Machine].
func (m *running) Ports() []vnet.Port { return m.ports }

// Channels implements [machine.Channeler].
func (m *running) Channels() []*net.UnixConn { return m.channels }

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

// pressAgain is how long a machine has to end after Ctrl-Alt-Del before it is
// asked again: keys are lost until its kernel has a driver for the keyboard.
const pressAgain = time.Second

// Stop implements [machine.Machine].
func (m *running) Stop(ctx context.Context) error {
	for {
		m.press(ctx, "ctrl", "alt", "delete")
		select {
		case <-m.done:
			return nil
		case <-time.After(pressAgain):
		case <-ctx.Done():
			m.Kill()
			<-m.done
			return fmt.Errorf("stop machine %s: it had to be killed: %w", m.spec.Name, context.Cause(ctx))
		}
	}
}

// press presses keys together. It does nothing when the machine is gone.
func (m *running) press(ctx context.Context, keys ...string) {
	select {
	case <-m.began:
	case <-m.done:
		return
	case <-ctx.Done():
		return
	}
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	var list []key
	for _, k := range keys {
		list = append(list, key{"qcode", k})
	}
	_ = m.monitor.do(ctx, "send-key", map[string]any{"keys": list}, nil)
}

// SetLink implements [machine.LinkSetter].
func (m *running) SetLink(nic int, up bool) error {
	if nic < 0 || nic >= len(m.spec.NICs) {
		return fmt.Errorf("set link: machine %s has no network interface %d", m.spec.Name, nic)
	}
	select {
	case <-m.began:
	case <-m.done:
		return fmt.Errorf("set link: machine %s has ended", m.spec.Name)
	}
	err := m.monitor.do(context.Background(), "set_link", map[string]any{"name": nicID(nic), "up": up}, nil)
	if err != nil {
		return fmt.Errorf("set link of machine %s: %w", m.spec.Name, err)
	}
	return nil
}

// What a report shows and what is searched for its cause, in console lines.
const (
	tailLines   = 30
	searchLines = 1000
)

// classify says how the machine ended.
func (m *running) classify(ws syscall.WaitStatus, keeperErr, monitorErr error) machine.Exit {
	host := machine.LogTail(filepath.Join(m.spec.Dir, hostLog), tailLines)
	e := machine.Exit{Argv: m.argv, Log: m.log.Name(), Host: machine.HostEnd(ws), Tail: m.console.Tail(tailLines)}
	if len(e.Tail) == 0 { // it did not come as far as its console
		e.Tail = host
	}
	m.mu.Lock()
	reason := m.reason
	m.mu.Unlock()
	said := m.console.Tail(searchLines)
	panicked := strings.Contains(strings.Join(said, "\n"), "Kernel panic - not syncing")
	switch {
	case m.killed.Load():
		e.Cause = "killed"
	case m.fault.Explain(&e):
	case keeperErr != nil:
		e.Cause = "the process that holds the machine was killed"
	case reason == "guest-reset" && len(said) == 0 && m.spec.Firmware == machine.FirmwareNone:
		e.Stage, e.Cause, e.Fix = "kernel", "the kernel crashed before it could say why: it restarted without a word on its console", fixSilence
	case reason == "" && ws.Exited() && ws.ExitStatus() == 0 && !panicked: // riscv64's power switch, before QEMU 8
		e.Clean = true
	case (reason == "guest-shutdown" || reason == "guest-reset") && !panicked:
		e.Clean, e.Reboot = true, reason == "guest-reset"
	default:
		s, ok := machine.Diagnose(append(host, said...), symptoms(), machine.KernelSymptoms())
		switch {
		case ok:
		case monitorErr != nil:
			s = machine.Symptom{Stage: "kernel", Cause: "QEMU's monitor can't be understood: " + monitorErr.Error()}
		case reason == "" && len(host) > 0:
			s = machine.Symptom{Stage: "start", Cause: "QEMU refuses: " + host[len(host)-1]}
		default:
			s = machine.Symptom{Stage: "kernel", Cause: "QEMU ended with " + e.Host}
		}
		s = m.spec.Refine(s)
		e.Stage, e.Cause, e.Fix = s.Stage, s.Cause, s.Fix
	}
	return e
}
