package keeper

import (
	"bytes"
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

	"golang.org/x/sys/unix"
)

// Group holds trees with one keeper for all of them, which takes some 3 MB and
// 5 ms less for each tree but the first. Every tree is in a PID namespace of its
// own, within the keeper's. When the keeper dies, all of them end; when one ends,
// the others do not notice.
//
// A tree that can't be held so, as one in a [Jail], gets a keeper of its own.
//
// The zero value is ready for use, from any goroutine.
type Group struct {
	mu    sync.Mutex
	home  *home // the keeper's process; nil before the first tree
	unfit bool  // it was closed, or can't be had on this host
}

// home is a keeper of many trees, as the process that started it sees it.
type home struct {
	proc *os.Process
	done chan struct{} // closed when no process of any tree is left
	held atomic.Bool   // it has held a tree

	mu  sync.Mutex
	ctl *os.File // the caller's end of the socket; nil once it is closed
}

// errNoGroup is a tree that can't be held together with others, and errNoTree a
// host on which none can: no namespaces can be made within others.
var (
	errNoGroup = errors.New("this tree can't be held together with others")
	errNoTree  = errors.New("no tree can be held together with others")
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

// Close ends every tree. It waits until nothing is left, and no tree is started by
// way of g any more.
func (g *Group) Close() {
	g.mu.Lock()
	g.unfit = true
	h := g.home
	g.mu.Unlock()
	if h != nil {
		_ = h.proc.Kill() // which no keeper can put off
		<-h.done
	}
}

// start starts a tree. An error that is neither an [*execError] nor a
// [*meanwhileError] says that it needs a keeper of its own.
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
	if errors.Is(err, errNoTree) {
		g.mu.Lock()
		g.unfit = true
		g.mu.Unlock()
	}
	return p, err
}

// keeper gives the keeper that is there, or else a new one, of which env tells whose
// it is to who looks at processes.
func (g *Group) keeper(env []string) (*home, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unfit {
		return nil, errNoGroup
	}
	if h := g.home; h != nil {
		select {
		case <-h.done:
			if !h.held.Load() { // it can't, and will not
				g.unfit = true
				return nil, errNoGroup
			}
		default:
			return h, nil
		}
	}
	var errs []error
	for _, sys := range attributes(Namespace) {
		sys.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // for namespaces; none of it is a tree's
		h, err := newHome(sys, env)
		if err == nil {
			g.home = h
			return h, nil
		}
		errs = append(errs, err)
	}
	g.unfit = true
	return nil, errors.Join(errs...)
}

// newHome starts a keeper of many trees.
func newHome(sys *syscall.SysProcAttr, env []string) (*home, error) {
	mine, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	h := &home{ctl: mine, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // see Process.own
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
		return nil, err
	}
	p := &Process{mode: Namespace, keeper: h.proc, home: h, ctl: mine, done: make(chan struct{})}
	err = h.ask(c, theirs)
	theirs.Close()
	if err == nil {
		err = p.started(c)
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
		return errNoGroup
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctl == nil {
		return errNoGroup
	}
	raw, err := h.ctl.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), text, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN && sent != unix.EINTR
	}); err != nil {
		return err
	}
	if sent != nil {
		return fmt.Errorf("ask the keeper for a tree: %w", sent)
	}
	return nil
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
	kind, v, err := p.receive()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errNoGroup, err)
	case kind == msgFailed:
		return &execError{c.Path, syscall.Errno(v)}
	case kind == msgNoTree:
		return fmt.Errorf("%w: %w", errNoTree, syscall.Errno(v))
	}
	return nil
}

// await waits for the end of a tree of a group.
func (p *Process) await() {
	defer close(p.done)
	defer p.ctl.Close()
	kind, v, err := p.receive()
	if err == nil && kind == msgKilled {
		p.heard.Store(true)
		kind, v, err = p.receive()
	}
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
		return nil, errNoGroup
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
