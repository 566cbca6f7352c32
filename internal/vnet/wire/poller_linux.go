package wire

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
)

// poller waits for many sockets in one thread, and moves there what comes to those
// that are driven. Go's own poller has to find a goroutine and a thread for each
// socket that is ready, wakes up for room to write that nobody waits for, and keeps
// the runtime's monitor awake; for a switch that is a quarter of its work.
type poller struct {
	epoll, quit int // quit, an eventfd, ends it

	mu    sync.Mutex
	socks map[int32]*sock // by the number that the kernel gives back with an event
	last  int32
}

// quitKey is the number of quit; sockets have others.
const quitKey = 0

// pollers are those that run. There are none while there are no sockets.
var pollers struct {
	mu  sync.Mutex
	all []*poller
}

// maxPollers leaves other processors to whom the frames are for.
func maxPollers() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// joinPoller gives a socket to the poller that has least to do.
func joinPoller(s *sock) error {
	pollers.mu.Lock()
	defer pollers.mu.Unlock()
	if len(pollers.all) < maxPollers() {
		p, err := newPoller()
		switch {
		case err == nil:
			pollers.all = append(pollers.all, p)
			go p.run()
		case len(pollers.all) == 0:
			return err
		}
	}
	p := slices.MinFunc(pollers.all, func(a, b *poller) int { return a.len() - b.len() })
	err := p.add(s)
	retirePoller(p)
	return err
}

// leavePoller is called after the socket's descriptor was taken out.
func leavePoller(s *sock) {
	pollers.mu.Lock()
	defer pollers.mu.Unlock()
	s.poller.mu.Lock()
	delete(s.poller.socks, s.key)
	s.poller.mu.Unlock()
	retirePoller(s.poller)
}

// retirePoller ends a poller that has no sockets. The caller holds pollers.mu.
func retirePoller(p *poller) {
	if p.len() > 0 {
		return
	}
	pollers.all = slices.DeleteFunc(pollers.all, func(x *poller) bool { return x == p })
	one := [8]byte{1} // any number but 0, in either byte order
	_, _ = unix.Write(p.quit, one[:])
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	quit, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		if err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, quit, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: quitKey}); err != nil {
			unix.Close(quit)
		}
	}
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	return &poller{epoll: epoll, quit: quit, socks: map[int32]*sock{}}, nil
}

func (p *poller) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.socks)
}

// add begins to wait for a socket, of which nothing is wanted yet.
func (p *poller) add(s *sock) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.last++; p.last == quitKey || p.socks[p.last] != nil; p.last++ {
	}
	s.poller, s.key = p, p.last
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, s.fd, s.event()); err != nil {
		return fmt.Errorf("wait for socket: %w", err)
	}
	p.socks[s.key] = s
	return nil
}

func (p *poller) sock(key int32) *sock {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.socks[key]
}

// yieldTime is how long the poller's goroutine has a processor of Go's at most, of
// the 10 ms after which the runtime takes it away, by a signal, and wakes its monitor.
const yieldTime = 5 * time.Millisecond

// When there is much to do, the poller waits in a system call of its own; a thread of
// Go's that does so for long wakes the runtime's monitor, many times, which is more
// than what a few frames take. So it waits by Go's poller until there were busyEvents
// within busyTime, and does so again when nothing comes for that long.
const (
	busyTime   = 5 * time.Millisecond
	busyEvents = 16
)

func (p *poller) run() {
	defer unix.Close(p.epoll)
	defer unix.Close(p.quit)
	bufs := vnet.NewBatch(maxBatch, vnet.MaxFrame)
	for p.calm(bufs) && p.busy(bufs) {
	}
}

// calm moves few frames, until there are many. It says false at the end.
func (p *poller) calm(bufs []vnet.Frame) bool {
	// A file made of a non-blocking descriptor is served by Go's poller, as long as it
	// is open.
	fd, err := unix.FcntlInt(uintptr(p.epoll), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return true // no descriptor is left: it works without
	}
	file := os.NewFile(uintptr(fd), "poller")
	defer file.Close()
	conn, err := file.SyscallConn()
	if err != nil {
		return true
	}
	var events [64]unix.EpollEvent
	n, began, count := 0, time.Now(), 0
	look := func(uintptr) bool {
		n = p.wait(events[:], 0)
		return n > 0
	}
	for {
		if err := conn.Read(look); err != nil {
			return true // Go's poller does not serve it
		}
		if !p.dispatch(events[:n], bufs) {
			return false
		}
		if now := time.Now(); now.Sub(began) > busyTime {
			began, count = now, 0
		}
		if count++; count > busyEvents {
			return true
		}
	}
}

// busy moves many frames, until there are none. It says false at the end.
func (p *poller) busy(bufs []vnet.Frame) bool {
	var events [64]unix.EpollEvent
	yielded := time.Now()
	for {
		n := p.wait(events[:], int(busyTime/time.Millisecond))
		if n == 0 {
			return true
		}
		if !p.dispatch(events[:n], bufs) {
			return false
		}
		if now := time.Now(); now.Sub(yielded) > yieldTime {
			yielded = now
			runtime.Gosched()
		}
	}
}

// wait gives how many events there are, after so many milliseconds at most.
func (p *poller) wait(events []unix.EpollEvent, timeout int) int {
	for {
		n, err := unix.EpollWait(p.epoll, events, timeout)
		switch err {
		case nil:
			return n
		case unix.EINTR:
		default:
			panic("wait for sockets: " + err.Error()) // a descriptor that is no epoll instance
		}
	}
}

// dispatch says false if the poller is to end.
func (p *poller) dispatch(events []unix.EpollEvent, bufs []vnet.Frame) bool {
	for _, e := range events {
		if e.Fd == quitKey {
			return false
		}
		if s := p.sock(e.Fd); s != nil {
			s.ready(e.Events, bufs)
		}
	}
	return true
}

// sock is a non-blocking socket that a poller waits for.
type sock struct {
	fd     int
	poller *poller
	key    int32

	in, out chan struct{} // a token for whoever waits

	mu     sync.RWMutex // held for reading during a system call on fd
	closed bool
	want   uint32 // of EPOLLIN and EPOLLOUT
	drive  *drive
}

// drive is what moves the frames of a socket that is read by the poller.
type drive struct {
	sock    *sock
	read    func(bufs []vnet.Frame) (n int, more bool, err error)
	receive func(frames []vnet.Frame) (pause time.Duration)
	ended   func()
	timer   *time.Timer // ends a pause
	over    sync.Once
	moving  sync.Mutex // held while frames are read and received
	gone    bool       // nothing more is received
}

// newSock owns the descriptor, also when it returns an error.
func newSock(fd int) (*sock, error) {
	s := &sock{fd: fd, in: make(chan struct{}, 1), out: make(chan struct{}, 1)}
	if err := joinPoller(s); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

// enter begins a system call that does not wait, unless the socket is closed.
func (s *sock) enter() bool {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return false
	}
	return true
}

func (s *sock) leave() { s.mu.RUnlock() }

// event is what epoll shall wait for. Ends and errors it tells of always: once,
// while nothing is wanted.
func (s *sock) event() *unix.EpollEvent {
	e := &unix.EpollEvent{Events: s.want, Fd: s.key}
	if s.want == 0 {
		e.Events = unix.EPOLLET
	}
	return e
}

// change says what is wanted from now on. The caller holds mu.
func (s *sock) change(want uint32) {
	if want == s.want {
		return
	}
	s.want = want
	// It can only fail for a descriptor that is not there.
	_ = unix.EpollCtl(s.poller.epoll, unix.EPOLL_CTL_MOD, s.fd, s.event())
}

// await waits until it is worth while to read (EPOLLIN) or write (EPOLLOUT) again,
// or the socket is closed.
func (s *sock) await(what uint32) {
	token := s.in
	if what == unix.EPOLLOUT {
		token = s.out
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	select {
	case <-token: // that of another wait
	default:
	}
	s.change(s.want | what)
	s.mu.Unlock()
	<-token
}

// readBy reads frames by a function that does not wait, when there are some.
func (s *sock) readBy(read func([]vnet.Frame) (int, bool, error), bufs []vnet.Frame) (int, error) {
	for {
		n, _, err := read(bufs)
		if err == errAgain {
			s.await(unix.EPOLLIN)
			continue
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func wake(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// ready is what the poller's goroutine does about an event.
func (s *sock) ready(events uint32, bufs []vnet.Frame) {
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		events |= unix.EPOLLIN | unix.EPOLLOUT // there is an end to be read, and an error
	}
	s.mu.Lock()
	if s.closed { // meanwhile, and its descriptor may be another's
		s.mu.Unlock()
		return
	}
	events &= s.want
	d := s.drive
	if events&unix.EPOLLOUT != 0 {
		s.change(s.want &^ unix.EPOLLOUT)
		wake(s.out)
	}
	if events&unix.EPOLLIN != 0 && d == nil {
		s.change(s.want &^ unix.EPOLLIN)
		wake(s.in)
	}
	s.mu.Unlock()
	if d != nil && events&unix.EPOLLIN != 0 {
		d.move(bufs)
	}
}

// driveBy has the poller read the socket from now on. The functions are those of
// [vnet.Driven], and one that reads without waiting: it says whether there is more
// that the kernel does not know of, and gives errAgain where there is nothing.
func (s *sock) driveBy(read func([]vnet.Frame) (int, bool, error), receive func([]vnet.Frame) time.Duration, ended func()) {
	d := &drive{sock: s, read: read, receive: receive, ended: ended}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		d.end()
		return
	}
	d.timer = time.AfterFunc(time.Hour, func() { d.pausing(false) })
	d.timer.Stop()
	s.drive = d
	s.change(s.want | unix.EPOLLIN)
}

// move reads once, and what came with that: others wait, too. A pause begins behind
// it, since the kernel would not tell of what was read already.
func (d *drive) move(bufs []vnet.Frame) {
	d.moving.Lock()
	defer d.moving.Unlock()
	var pause time.Duration
	for more := true; more && !d.gone; {
		n, rest, err := d.read(bufs)
		if err == errAgain {
			break
		}
		if err != nil {
			d.pausing(true) // for ever: nobody reads any more
			d.end()
			return
		}
		if n > 0 {
			pause = max(pause, d.receive(bufs[:n]))
		}
		more = rest
	}
	if pause > 0 {
		d.pausing(true)
		d.timer.Reset(pause)
	}
}

// pausing says that nothing is read for a while, or again.
func (d *drive) pausing(yes bool) {
	s := d.sock
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
	case yes:
		s.change(s.want &^ unix.EPOLLIN)
	default:
		s.change(s.want | unix.EPOLLIN)
	}
}

// end tells, in a goroutine of its own, that nothing more is received.
func (d *drive) end() {
	d.over.Do(func() {
		go func() {
			d.moving.Lock() // what is under way is received before
			d.gone = true
			d.moving.Unlock()
			d.ended()
		}()
	})
}

// close frees the descriptor and ends whoever waits.
func (s *sock) close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	// A copy of the socket that somebody inherits would keep it in the set.
	_ = unix.EpollCtl(s.poller.epoll, unix.EPOLL_CTL_DEL, s.fd, nil)
	unix.Close(s.fd)
	wake(s.in)
	wake(s.out)
	d := s.drive
	s.mu.Unlock()
	leavePoller(s)
	if d != nil {
		d.timer.Stop()
		d.end()
	}
}

// errAgain is what reading or writing gives that would have to wait.
var errAgain = errors.New("not now")

// waitMemory waits where the kernel has no memory for a frame, of which no event
// tells the end.
func waitMemory() { time.Sleep(time.Millisecond) }
