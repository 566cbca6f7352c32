package keeper

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/schedule"
)

// Group holds trees with one keeper for all of them, which takes some 2 MB and
// 5 ms less for each tree but the first. Every tree is in a PID namespace of its
// own, within the keeper's. When the keeper dies, all of them end; when one ends,
// the others do not notice.
//
// A tree that can't be held so, as one in a [Jail], gets a keeper of its own.
//
// The zero value is ready for use, from any goroutine.
type Group struct {
	mu     sync.Mutex
	home   *home // the keeper's process; nil before the first tree
	unfit  bool  // this host lets no keeper hold many trees
	closed bool

	deaf time.Duration // for tests; 0 means deafPatience
}

// home is a keeper of many trees, as the process that started it sees it.
type home struct {
	proc *os.Process
	done chan struct{} // closed when no process of any tree is left
	held atomic.Bool   // it has held a tree
	deaf time.Duration // see deafPatience

	mu  sync.Mutex
	ctl *os.File // the caller's end of the socket; nil once it is closed
}

var (
	errClosed  = errors.New("start process tree: its group was closed")
	errNoGroup = errors.New("this tree can't be held together with others") // it needs a keeper of its own
)

// groupMode is, in a keeper's arguments, one for many trees.
const groupMode = "group"

// Bounds of a request to start a tree: the bytes of its arguments and environment,
// which are one message, and its descriptors, of which the kernel takes no more
// (SCM_MAX_FD).
const (
	maxRequest = 128 << 10
	maxFiles   = 253
)

// deafPatience is when a keeper of a group that was told something, and does nothing,
// is looked after: somebody may have stopped it.
const deafPatience = 10 * time.Second

// Close ends every tree. It waits until nothing is left, and no tree is started by
// way of g any more.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	h := g.home
	g.mu.Unlock()
	if h != nil {
		_ = h.proc.Kill() // which no keeper can put off
		<-h.done
	}
}

// start starts a tree; errNoGroup says that it needs a keeper of its own.
func (g *Group) start(c Command) (*Process, error) {
	prepared := make(chan error, 1)
	go func() { prepared <- c.prepare() }()
	h, err := g.keeper(c.Env)
	if failed := <-prepared; failed != nil {
		return nil, &meanwhileError{failed}
	}
	if err != nil {
		return nil, err
	}
	p, err := h.start(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unfit = g.unfit || never(err)
	if g.closed && errors.Is(err, errNoGroup) {
		err = errClosed
	}
	return p, err
}

// never says of a failure that it would be the same for every other tree.
func never(err error) bool {
	if !errors.Is(err, errNoGroup) {
		return false
	}
	return slices.ContainsFunc([]error{unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOSYS, unix.ENOEXEC}, func(e error) bool { return errors.Is(err, e) })
}

// keeper gives the keeper that is there, or else a new one, of which env tells whose
// it is to who looks at processes.
func (g *Group) keeper(env []string) (*home, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.home; h != nil && !g.closed {
		select {
		case <-h.done:
			g.unfit = g.unfit || !h.held.Load() // it can't, and will not
		default:
			return h, nil
		}
	}
	switch {
	case g.closed:
		return nil, errClosed
	case g.unfit:
		return nil, errNoGroup
	}
	var errs []error
	for _, sys := range attributes(Namespace) {
		sys.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // for namespaces; none of it is a tree's
		h, err := newHome(sys, env, cmp.Or(g.deaf, deafPatience))
		if err == nil {
			g.home = h
			return h, nil
		}
		errs = append(errs, err)
	}
	err := fmt.Errorf("%w: %w", errNoGroup, errors.Join(errs...))
	g.unfit = never(err)
	return nil, err
}

// newHome starts a keeper of many trees.
func newHome(sys *syscall.SysProcAttr, env []string, deaf time.Duration) (*home, error) {
	mine, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	h := &home{ctl: mine, done: make(chan struct{}), deaf: deaf}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // see Process.own
		schedule.Ordinary()
		defer close(h.done)
		defer h.close()
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			started <- err
			return
		}
		const ctl = 3
		h.proc, err = os.StartProcess(selfExe, []string{argv0, groupMode, strconv.Itoa(ctl)},
			&os.ProcAttr{Env: hideEnv(env), Dir: "/", Files: []*os.File{null, null, null, theirs}, Sys: sys})
		null.Close()
		started <- err
		if err == nil {
			_, _ = h.proc.Wait()
		}
	}()
	if err := <-started; err != nil {
		mine.Close()
		return nil, fmt.Errorf("make keeper (%s): %w", groupMode, err)
	}
	return h, nil
}

// start has the keeper start a tree.
func (h *home) start(c Command) (*Process, error) {
	mine, theirs, err := controlPair()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoGroup, err)
	}
	p := &Process{mode: Namespace, keeper: h.proc, home: h, ctl: mine, done: make(chan struct{})}
	err = h.ask(c, theirs)
	theirs.Close()
	if err == nil {
		err = p.started(c)
	} else {
		err = fmt.Errorf("%w: %w", errNoGroup, err)
	}
	if err != nil {
		mine.Close()
		return nil, err
	}
	h.held.Store(true)
	go p.await()
	return p, nil
}

// ask sends the request to start a tree that is held by ctl.
func (h *home) ask(c Command, ctl *os.File) error {
	text, err := c.request()
	if err != nil {
		return err
	}
	files, closeNull, err := stdio(c)
	if err != nil {
		return err
	}
	defer closeNull()
	fds := []int{int(ctl.Fd())}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if len(fds) > maxFiles {
		return unix.E2BIG
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctl == nil {
		return os.ErrProcessDone
	}
	raw, err := h.ctl.SyscallConn()
	if err != nil {
		return err
	}
	_ = h.ctl.SetWriteDeadline(time.Now().Add(h.deaf))
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), text, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	return errors.Join(err, sent)
}

// close frees the socket; its end would end the keeper.
func (h *home) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctl != nil {
		h.ctl.Close()
		h.ctl = nil
	}
}

// started waits until the keeper says that the program was executed.
func (p *Process) started(c Command) error {
	_ = p.ctl.SetReadDeadline(time.Now().Add(p.home.deaf))
	kind, v, err := p.receive()
	_ = p.ctl.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) { // should it ever wake up it sees that nobody waits
		return fmt.Errorf("%w: %w", errNoGroup, err)
	}
	if err == nil && kind == msgHeard {
		kind, v, err = p.receive()
	}
	switch {
	case err != nil: // it has died, and what it may have started is to be gone
		<-p.home.done
		return fmt.Errorf("%w: %w", errNoGroup, err)
	case kind == msgFailed:
		return &execError{c.Path, syscall.Errno(v)}
	case kind == msgNoTree:
		return fmt.Errorf("%w: %w", errNoGroup, syscall.Errno(v))
	}
	return nil
}

// await waits for the end of a tree of a group.
func (p *Process) await() {
	defer close(p.done)
	defer p.ctl.Close()
	kind, v, err := p.receive()
	if err == nil && kind == msgExited {
		p.status = syscall.WaitStatus(v)
	} else {
		_ = p.keeper.Kill() // it does not hold the tree any more, or was killed itself
		<-p.home.done
		p.status = syscall.WaitStatus(syscall.SIGKILL)
		p.err = errors.New("keeper ended first")
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
}

// insist looks, from time to time until the end of a tree that is to be killed, for
// somebody who has stopped its keeper. Such a keeper is ended, and with it every tree
// of the group: one that can't be killed is worse.
func (p *Process) insist() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if state, _ := stateOf(strconv.Itoa(p.keeper.Pid)); state == 'T' || state == 't' {
		_ = p.keeper.Kill()
	}
	time.AfterFunc(p.home.deaf, p.insist)
}

// request is what a keeper of many trees has to know of a Command.
type request struct {
	fixedLayout          bool
	processor, path, dir string
	argv, env            []string
}

// request packs what the keeper has to know of c. Nothing that can be executed has
// a NUL byte in any of it.
func (c Command) request() ([]byte, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	fields := slices.Concat([]string{strconv.FormatBool(c.FixedLayout), c.processor(), c.Path, dir, strconv.Itoa(len(c.Argv))}, c.Argv, c.Env)
	b := []byte(strings.Join(fields, "\x00"))
	if len(b) > maxRequest || bytes.Count(b, []byte{0}) != len(fields)-1 {
		return nil, unix.E2BIG
	}
	return b, nil
}

// readRequest unpacks what Command.request packed.
func readRequest(b []byte) (r request, ok bool) {
	fields := strings.Split(string(b), "\x00")
	if len(fields) < 5 {
		return r, false
	}
	argc, err := strconv.Atoi(fields[4])
	if err != nil || argc < 0 || argc > len(fields)-5 {
		return r, false
	}
	return request{
		fixedLayout: fields[0] == "true", processor: fields[1], path: fields[2], dir: fields[3],
		argv: fields[5 : 5+argc], env: fields[5+argc:],
	}, true
}
