// Package keeper starts a process tree that can't outlive the process that
// started it, however that one ends, SIGKILL included.
//
// Between the caller and the program stands the keeper: the caller's own
// executable, started again, which does nothing but own what it started.
// There are two ways, tried in this order:
//
//   - [Namespace]: the keeper is process 1 of a PID namespace (and of a user
//     namespace that maps the caller's own ids, unless the caller is root).
//     When it dies, the kernel kills everything in the namespace. It dies with
//     its parent (PR_SET_PDEATHSIG) and when the socket between the two closes.
//   - [Subreaper]: where namespaces are not allowed, the keeper adopts every
//     orphan below it (PR_SET_CHILD_SUBREAPER) and, once the socket closes,
//     kills what is there until nothing is left. Here a keeper that is itself
//     killed leaves the clean-up to its parent: it is enough for accidents, not
//     against someone who means it.
//
// With namespaces, one keeper may hold many trees: [Group].
//
// Nothing but the tree is ever signalled. The program gets a process group of
// its own, since some programs (User-Mode Linux, when it panics) signal their
// whole group. A program may be kept from all but some of the host's files:
// [Jail].
//
// Every main, and every TestMain of a package that starts keepers, begins with
//
//	keeper.Main()
//
// which returns at once unless the process was started as a keeper. This
// package imports next to nothing, so that a keeper is up in milliseconds.
//
// See pid_namespaces(7) and PR_SET_PDEATHSIG(2const). Deliberately absent:
// cgroups (delegation is rare), and a limit on what the tree uses.
package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/schedule"
)

// Mode is how the tree is held.
type Mode string

// The modes; the zero value of [Command.Mode] picks the first that works.
const (
	Namespace Mode = "namespace"
	Subreaper Mode = "subreaper"
)

// Command is a program to start.
type Command struct {
	Path  string   // of the executable; relative to Dir if it holds a slash
	Argv  []string // with argv[0]
	Env   []string
	Dir   string      // working folder; empty for the caller's
	Stdio [3]*os.File // descriptors 0 to 2; nil for /dev/null
	Files []*os.File  // descriptors 3 and up; the caller closes its own copies
	// FixedLayout switches address space randomization off for the program.
	FixedLayout bool
	// OneCPU keeps the tree on one processor: for processes that only ever hand
	// over to each other, which a second processor slows down.
	OneCPU bool
	// CPU is the number of that processor; nil for the one that the scheduler finds
	// for the tree at its start.
	CPU *int
	// Meanwhile, if set, is what can be done while the keeper comes up, which
	// takes milliseconds, such as filling one of Files: the program starts
	// after it, and not at all if it fails. It is called once.
	Meanwhile func() error
	// Mode forces a way of holding the tree; empty for the best that works.
	Mode Mode
	// Group, if set, has a keeper that holds the tree together with others, where
	// that can be.
	Group *Group
	// Jail, if set, is all that the program sees of the host's files. It needs
	// [Namespace]; where it can't be had the error is a [*NoJailError].
	Jail *Jail
}

// Process is a started tree. Its methods may be called from any goroutine.
type Process struct {
	mode      Mode
	keeper    *os.Process
	home      *home     // of a tree of a group
	insisting sync.Once // on its end
	ctl       *os.File  // the caller's end of the socket
	group     int       // the program's process group as seen from here, or 0
	done      chan struct{}
	status    syscall.WaitStatus // valid after done
	err       error              // valid after done

	mu    sync.Mutex // orders Signal and Kill against the closing of ctl
	ended bool
}

const (
	argv0     = "wolffia-keeper"
	envPrefix = "KEEP_"
	anyCPU    = "any"            // where the keeper's argument says a processor
	selfExe   = "/proc/self/exe" // right even when the file was replaced or deleted

	msgGo      = 'g' // the only one to the keeper that is no signal
	msgStarted = 's' // then the program's pid, as the keeper sees it
	msgFailed  = 'e' // then errno
	msgNoJail  = 'j' // then step and errno
	msgNoTree  = 'n' // then errno; of a group
	msgHeard   = 'h' // of a group, to a request
	msgExited  = 'x' // then the wait status
	msgLen     = 5
)

// hooked says that Main was called: without it a keeper would be a second run
// of the whole program.
var hooked atomic.Bool

// Main turns the process into a keeper if it was started as one, and never
// returns then. Otherwise it returns at once.
func Main() {
	if len(os.Args) > 0 && os.Args[0] == argv0 {
		syscall.Exit(keep(os.Args[1:])) // at once: there is nothing to flush
	}
	hooked.Store(true)
}

// Start starts the program and returns once it was executed. An error of the
// execution itself is the [syscall.Errno], wrapped.
func Start(c Command) (*Process, error) {
	if !hooked.Load() {
		return nil, errors.New("start process tree: keeper.Main was not called at the start of main")
	}
	if c.Meanwhile != nil { // once, however many ways are tried
		c.Meanwhile = sync.OnceValue(c.Meanwhile)
	}
	if c.Group != nil && c.Jail == nil && c.Mode != Subreaper {
		p, err := c.Group.start(c)
		if !errors.Is(err, errNoGroup) {
			return p, err
		}
	}
	modes := []Mode{c.Mode}
	switch {
	case c.Jail != nil && c.Mode == Subreaper:
		return nil, &NoJailError{errors.New("the process tree is to be held without namespaces")}
	case c.Jail != nil:
		modes = []Mode{Namespace}
	case c.Mode == "":
		modes = []Mode{Namespace, Subreaper}
	}
	var errs []error
	for _, m := range modes {
		for _, sys := range attributes(m) {
			if c.Jail != nil {
				sys.Cloneflags |= syscall.CLONE_NEWNS
				sys.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // in the user namespace; for the keeper alone
			}
			p, err := start(c, m, sys)
			if err == nil || errors.As(err, new(*execError)) || errors.As(err, new(*meanwhileError)) {
				return p, err
			}
			errs = append(errs, err)
		}
	}
	if c.Jail != nil {
		return nil, &NoJailError{errors.Join(errs...)}
	}
	return nil, fmt.Errorf("start process tree: %w", errors.Join(errs...))
}

// attributes are the ways to make the keeper's process in a mode, best first.
func attributes(m Mode) []*syscall.SysProcAttr {
	if m == Subreaper {
		return []*syscall.SysProcAttr{{Setsid: true}}
	}
	plain := &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	user := &syscall.SysProcAttr{
		Setsid: true, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
	}
	if os.Geteuid() == 0 {
		return []*syscall.SysProcAttr{plain, user}
	}
	return []*syscall.SysProcAttr{user}
}

type execError struct {
	path string
	err  syscall.Errno
}

func (e *execError) Error() string { return fmt.Sprintf("execute %s: %v", e.path, e.err) }
func (e *execError) Unwrap() error { return e.err }

// meanwhileError is a failure of Command.Meanwhile, which no other way of
// holding the tree would mend.
type meanwhileError struct{ error }

func (e *meanwhileError) Unwrap() error { return e.error }

func start(c Command, m Mode, sys *syscall.SysProcAttr) (*Process, error) {
	mine, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := &Process{mode: m, ctl: mine, done: make(chan struct{})}
	started := make(chan error)
	go p.own(c, sys, theirs, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// controlPair makes the two ends of a keeper's socket. What is written to one
// arrives as it was written, and a keeper's end is read by system calls alone.
func controlPair() (mine, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	_ = syscall.SetNonblock(fds[0], true) // so that who waits at it takes no thread
	return os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "keeper"), nil
}

// processor writes OneCPU and CPU for the keeper.
func (c Command) processor() string {
	switch {
	case !c.OneCPU:
		return ""
	case c.CPU == nil:
		return anyCPU
	}
	return strconv.Itoa(*c.CPU)
}

// prepare does what can be done while a keeper comes up.
func (c Command) prepare() error {
	if c.Meanwhile == nil {
		return nil
	}
	return c.Meanwhile()
}

// own makes the keeper and waits for it. The parent-death signal is sent when
// the thread that made the keeper ends, so the thread is kept until then.
func (p *Process) own(c Command, sys *syscall.SysProcAttr, theirs *os.File, started chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	schedule.Ordinary()
	defer close(p.done)
	defer p.ctl.Close()

	files, closeNull, err := stdio(c)
	if err != nil {
		started <- err
		return
	}
	prepared := make(chan error, 1)
	go func() { prepared <- c.prepare() }()
	ctl := len(files)
	argv := append([]string{argv0, string(p.mode), strconv.Itoa(ctl), strconv.FormatBool(c.FixedLayout), c.processor()}, c.Jail.arguments()...)
	argv = append(append(argv, c.Path), c.Argv...)
	p.keeper, err = os.StartProcess(selfExe, argv, &os.ProcAttr{
		Dir: c.Dir, Env: hideEnv(c.Env), Files: append(files, theirs), Sys: sys,
	})
	theirs.Close()
	closeNull()
	meanwhile := <-prepared
	if err != nil {
		started <- fmt.Errorf("make keeper (%s): %w", p.mode, err)
		return
	}
	if meanwhile != nil {
		p.keeper.Kill()
		p.reap()
		started <- &meanwhileError{meanwhile}
		return
	}
	_, _ = p.ctl.Write([]byte{msgGo}) // a keeper that has died shows below
	kind, v, err := p.receive()
	if err == nil && kind == msgFailed {
		p.reap()
		started <- &execError{c.Path, syscall.Errno(v)}
		return
	}
	if err == nil && kind == msgNoJail {
		p.reap()
		started <- c.Jail.unpack(v)
		return
	}
	if err != nil || kind != msgStarted {
		p.keeper.Kill()
		state := p.reap()
		started <- fmt.Errorf("make keeper (%s): ended before it started the program: %v", p.mode, state)
		return
	}
	if p.mode == Subreaper {
		p.group = int(v)
	}
	started <- nil

	kind, v, err = p.receive()
	state := p.reap()
	if err == nil && kind == msgExited {
		p.status = syscall.WaitStatus(v)
		return
	}
	if p.group > 0 { // the keeper was killed: what it held is still there
		_ = syscall.Kill(-p.group, syscall.SIGKILL)
	}
	p.status = syscall.WaitStatus(syscall.SIGKILL)
	p.err = fmt.Errorf("keeper ended first: %v", state)
}

// hideEnv makes the program's environment one that means nothing to the keeper:
// an LD_LIBRARY_PATH or GODEBUG is not for it.
func hideEnv(env []string) []string {
	out := make([]string, len(env))
	for i, e := range env {
		out[i] = envPrefix + e
	}
	return out
}

func (p *Process) reap() *os.ProcessState {
	state, _ := p.keeper.Wait()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	return state
}

func (p *Process) receive() (kind byte, v uint32, err error) {
	var b [msgLen]byte
	n, err := p.ctl.Read(b[:])
	if err != nil {
		return 0, 0, err
	}
	if n != msgLen {
		return 0, 0, errors.New("keeper closed its socket")
	}
	return b[0], binary.NativeEndian.Uint32(b[1:]), nil
}

func stdio(c Command) (files []*os.File, done func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("start process tree: %w", err)
	}
	for _, f := range c.Stdio {
		if f == nil {
			f = null
		}
		files = append(files, f)
	}
	return append(files, c.Files...), func() { null.Close() }, nil
}

// Mode says how the tree is held.
func (p *Process) Mode() Mode { return p.mode }

// Pid is the keeper's process id.
func (p *Process) Pid() int { return p.keeper.Pid }

// Done is closed when no process of the tree is left.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until no process of the tree is left, and gives the program's
// own wait status. The error says that the keeper itself was killed.
func (p *Process) Wait() (syscall.WaitStatus, error) {
	<-p.done
	return p.status, p.err
}

// Signal sends sig to the program, not to the rest of its tree.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return os.ErrProcessDone
	}
	_, err := p.ctl.Write([]byte{byte(sig)})
	return err
}

// Kill ends the whole tree with SIGKILL. It does not wait.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if raw, err := p.ctl.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_WR) })
	}
	switch {
	case p.home != nil:
		p.insisting.Do(func() { time.AfterFunc(p.home.deaf, p.insist) })
	case p.mode == Namespace:
		_ = p.keeper.Kill()
	}
}
