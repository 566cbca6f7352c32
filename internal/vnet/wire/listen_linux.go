package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
)

// ListenOptions configure a [Listener]. The zero value lets in programs of the
// same user and of root.
type ListenOptions struct {
	// MaxPeers is how many may be plugged in or about to be at a time; 0 means
	// 64. Those that come when it is reached are hung up on.
	MaxPeers int
	// Group is a group of the host, by name or number, whose members may plug
	// in, too; empty for none. Its members have to be able to reach the socket's
	// folder: that of [ServeVDE] is made so, others are the caller's.
	Group string
	// Hello is how long a peer has for its first message, where the protocol
	// has one; 0 means 5 seconds.
	Hello time.Duration
	// Gone, if not nil, hears of every peer that was accepted, when its port has
	// ended.
	Gone func(Peer)
	// Refused, if not nil, hears of those that were turned away, and why. Like
	// Gone it is called from several goroutines.
	Refused func(error)
}

// Defaults of ListenOptions.
const (
	defaultMaxPeers = 64
	defaultHello    = 5 * time.Second
)

// Peer is a program that has plugged itself in.
type Peer struct {
	ID          uint64 // unlike that of all who came to the listener before, or come later
	Name        string // for people, unlike any other's of the listener: "vde/3", "qemu/1"
	Number      int    // of the port: what a VDE client asked for, or the lowest that is free
	Description string // what a VDE client says of itself, printable; or empty
	PID         int    // 0 for one in a PID namespace that can't be seen from here
	UID, GID    uint32
}

// Accept takes the port of a program that has plugged itself in; an error hangs
// up on it. It is called in a goroutine of that peer's, and may attach the port
// to a switch; it must not close the listener.
//
// The port ends, as [vnet.Port] has it, when its peer has gone, when it is
// closed, and with the listener. That a peer without a control connection (any
// but VDE's) has gone shows when the port is read or written, which whatever it
// is attached to does.
type Accept func(Peer, vnet.Port) error

// Listener is a socket that programs started by others plug into. All its
// methods may be called from any goroutine.
type Listener struct {
	o      ListenOptions
	gid    int
	path   string
	name   string // of the socket in its folder
	folder *folder
	ino    uint64 // of the socket
	net    *net.UnixListener
	greet  greeter
	accept Accept
	kind   string // first part of the names of peers

	done  chan struct{} // closed when Close begins
	close sync.Once
	wg    sync.WaitGroup
	came  atomic.Uint64 // how many have come

	mu    sync.Mutex
	conns map[*net.UnixConn]*guest // all that are connected
}

// guest is what a connection has become.
type guest struct {
	peer Peer
	port *plugged // nil until it has been greeted
}

// greeter makes a port of a connection, which it owns from then on, and fills
// in what the peer says of itself. When the port has ended, and only then, wait
// returns.
type greeter func(l *Listener, conn *net.UnixConn, peer *Peer) (p *plugged, wait func(), err error)

// ListenStream waits at a path for QEMUs started elsewhere with
//
//	-netdev stream,id=n0,addr.type=unix,addr.path=PATH
//
// The socket's folder is made if it is not there. A socket that nobody listens
// on any more is replaced; one that somebody listens on is an [*InUseError].
func ListenStream(path string, o ListenOptions, accept Accept) (*Listener, error) {
	l := &Listener{o: o, accept: accept, kind: "qemu", greet: greetWith(func(f *os.File) (vnet.Port, error) { return NewStream(f) })}
	if err := l.listen(path, unix.SOCK_STREAM); err != nil {
		return nil, fmt.Errorf("listen for QEMU: %w", err)
	}
	l.start()
	return l, nil
}

// ListenBess is [ListenStream] for a User-Mode Linux started elsewhere with
//
//	vec0:transport=bess,dst=PATH,mac=...,mtu=...
//
// and for any program that sends each frame as a datagram of a SOCK_SEQPACKET
// socket.
func ListenBess(path string, o ListenOptions, accept Accept) (*Listener, error) {
	l := &Listener{o: o, accept: accept, kind: "uml", greet: greetWith(func(f *os.File) (vnet.Port, error) { return NewFD(f) })}
	if err := l.listen(path, unix.SOCK_SEQPACKET); err != nil {
		return nil, fmt.Errorf("listen for User-Mode Linux: %w", err)
	}
	l.start()
	return l, nil
}

// listen opens the socket of a listener whose folder may be shared with others.
func (l *Listener) listen(path string, kind int) error {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	if name == "" {
		return fmt.Errorf("%q is not the path of a socket", path)
	}
	return l.open(dir, name, kind, func(f *folder) error { return f.keepsOthersOut() })
}

// open makes the socket called name in dir. The folder is prepared under its
// lock.
func (l *Listener) open(dir, name string, kind int, prepare func(*folder) error) (err error) {
	if l.gid, err = groupID(l.o.Group); err != nil {
		return err
	}
	for range 3 { // a server that goes may take the folder with it
		if err = l.openIn(dir, name, kind, prepare); !errors.Is(err, errMoved) {
			break
		}
	}
	return err
}

// start begins to accept, once the listener is all there.
func (l *Listener) start() {
	if l.o.MaxPeers == 0 {
		l.o.MaxPeers = defaultMaxPeers
	}
	if l.o.Hello == 0 {
		l.o.Hello = defaultHello
	}
	l.done = make(chan struct{})
	l.conns = map[*net.UnixConn]*guest{}
	l.wg.Go(l.run)
}

func (l *Listener) openIn(dir, name string, kind int, prepare func(*folder) error) error {
	f, err := openFolder(dir)
	if err != nil {
		return err
	}
	l.path, l.name, l.folder = filepath.Join(f.path, name), name, f
	if len(l.path) > maxSunPath {
		f.close()
		return &PathTooLongError{Path: l.path, Max: maxSunPath}
	}
	fd := -1
	err = f.locked(func() error {
		if err := prepare(f); err != nil {
			return err
		}
		if _, err := f.clear(name, kind); err != nil {
			return err
		}
		var st unix.Stat_t
		var err error
		if fd, err = f.bind(name, kind, l.gid); err != nil {
			return err
		}
		if err = unix.Listen(fd, backlog); err == nil {
			err = unix.Fstatat(f.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
			l.ino = st.Ino
		}
		if err != nil {
			f.remove(name)
		}
		return err
	})
	if err == nil {
		l.net, err = netListener(fd, l.path)
	} else if fd >= 0 {
		unix.Close(fd)
	}
	if err != nil {
		f.close()
	}
	return err
}

// backlog is how many connections wait to be accepted at most.
const backlog = 16

// netListener makes a listener of a descriptor, and owns it.
func netListener(fd int, path string) (*net.UnixListener, error) {
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return ln.(*net.UnixListener), nil // of a unix socket it is no other
}

// Path is where the socket is, or for VDE its folder: absolute, without links.
func (l *Listener) Path() string { return l.path }

// Peers are those that are plugged in, by name.
func (l *Listener) Peers() []Peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Peer
	for _, g := range l.conns {
		if g.port != nil {
			all = append(all, g.peer)
		}
	}
	slices.SortFunc(all, func(a, b Peer) int {
		if a.Number != b.Number {
			return a.Number - b.Number
		}
		return len(a.Name) - len(b.Name)
	})
	return all
}

// Close ends the listener and every port of it, waits for what runs, Accept
// and Gone included, and removes the socket, and the folder if the listener
// made it and nothing else lies in it.
func (l *Listener) Close() error {
	l.close.Do(func() {
		// As long as we listen, nobody else takes it for dead and replaces it.
		l.folder.tidy(l.removeSocket)
		l.mu.Lock()
		close(l.done)
		for conn, g := range l.conns {
			conn.Close()
			if g.port != nil {
				g.port.Close()
			}
		}
		l.mu.Unlock()
		l.net.Close()
		l.wg.Wait()
		l.folder.close()
	})
	return nil
}

// removeSocket removes the socket, unless it is another's by now.
func (l *Listener) removeSocket() error {
	var st unix.Stat_t
	if unix.Fstatat(l.folder.fd(), l.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Ino == l.ino {
		l.folder.remove(l.name)
	}
	return nil
}

// run accepts connections until the listener is closed.
func (l *Listener) run() {
	for {
		conn, err := l.net.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors or memory, which may pass
			l.refused(fmt.Errorf("accept: %w", err))
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-l.done:
				return
			}
		}
		if err := l.admit(conn); err != nil {
			conn.Close()
			l.refused(err)
			continue
		}
		l.wg.Go(func() { l.handle(conn) })
	}
}

// refused tells that somebody was turned away, unless the listener is being
// closed, which turns away everybody.
func (l *Listener) refused(err error) {
	select {
	case <-l.done:
	default:
		if l.o.Refused != nil {
			l.o.Refused(fmt.Errorf("%s: %w", l.path, err))
		}
	}
}

// admit takes note of a connection if there is room for it.
func (l *Listener) admit(conn *net.UnixConn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		return net.ErrClosed
	default:
	}
	if len(l.conns) >= l.o.MaxPeers {
		return fmt.Errorf("%d are plugged in already", len(l.conns))
	}
	l.conns[conn] = &guest{}
	return nil
}

// handle is a peer's whole stay.
func (l *Listener) handle(conn *net.UnixConn) {
	peer, err := l.serve(conn)
	conn.Close()
	l.mu.Lock()
	delete(l.conns, conn)
	l.mu.Unlock()
	switch {
	case err != nil:
		l.refused(err)
	case l.o.Gone != nil:
		l.o.Gone(peer)
	}
}

// serve returns when a peer that was accepted has gone, or at once with the
// reason why it is not.
func (l *Listener) serve(conn *net.UnixConn) (Peer, error) {
	peer, err := l.identify(conn)
	if err != nil {
		return peer, err
	}
	port, wait, err := l.greet(l, conn, &peer)
	if err != nil {
		return peer, err
	}
	if err = l.enter(conn, peer, port); err == nil {
		err = l.accept(peer, port)
	}
	if err != nil {
		port.Close()
		err = fmt.Errorf("%s: %w", peer.Name, err)
	}
	wait()
	port.Close()
	return peer, err
}

// enter takes note of a port, unless the listener is being closed.
func (l *Listener) enter(conn *net.UnixConn, peer Peer, port *plugged) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		return net.ErrClosed
	default:
	}
	*l.conns[conn] = guest{peer: peer, port: port}
	return nil
}

// identify says who a peer is, and refuses strangers. Whether it belongs to the
// group the kernel has decided by the socket's mode.
func (l *Listener) identify(conn *net.UnixConn) (Peer, error) {
	cred, err := credentials(conn)
	if err != nil {
		return Peer{}, fmt.Errorf("ask who the peer is: %w", err)
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) && l.gid == 0 {
		return Peer{}, fmt.Errorf("process %d belongs to another user (%s), and no group is let in", cred.Pid, userName(cred.Uid))
	}
	return Peer{ID: l.came.Add(1), PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, nil
}

func credentials(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = cerr
	}
	return cred, err
}

// number gives a peer its number, and a name that no other has: the number
// that it wants, or from first on the lowest that is free. Who wants one that is
// taken gets a port of its own all the same.
func (l *Listener) number(conn *net.UnixConn, peer *Peer, want, first int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := func(has func(*Peer) bool) bool {
		for _, g := range l.conns {
			if g.peer.Name != "" && has(&g.peer) {
				return true
			}
		}
		return false
	}
	peer.Number = want
	if want < first {
		peer.Number = first
		for taken(func(p *Peer) bool { return p.Number == peer.Number }) {
			peer.Number++
		}
	}
	name := l.kind + "/" + strconv.Itoa(peer.Number)
	peer.Name = name
	for i := 2; taken(func(p *Peer) bool { return p.Name == peer.Name }); i++ {
		peer.Name = name + "." + strconv.Itoa(i)
	}
	l.conns[conn].peer = *peer
}

// greetWith makes a greeter for protocols without a first message.
func greetWith(port func(*os.File) (vnet.Port, error)) greeter {
	return func(l *Listener, conn *net.UnixConn, peer *Peer) (*plugged, func(), error) {
		l.number(conn, peer, 0, 1)
		file, err := conn.File()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", peer.Name, err)
		}
		conn.Close() // the port has a descriptor of its own
		inner, err := port(file)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", peer.Name, err)
		}
		p := newPlugged(inner, nil)
		return p, func() { <-p.ended }, nil
	}
}

// plugged is a port that closes itself when its peer has gone.
type plugged struct {
	vnet.Port
	ctl   *net.UnixConn // or nil
	once  sync.Once
	ended chan struct{}
}

func newPlugged(p vnet.Port, ctl *net.UnixConn) *plugged {
	return &plugged{Port: p, ctl: ctl, ended: make(chan struct{})}
}

// ReadFrames implements [vnet.Port].
func (p *plugged) ReadFrames(bufs []vnet.Frame) (int, error) {
	n, err := p.Port.ReadFrames(bufs)
	if err != nil {
		p.Close()
	}
	return n, err
}

// WriteFrames implements [vnet.Port].
func (p *plugged) WriteFrames(frames []vnet.Frame) (int, error) {
	n, err := p.Port.WriteFrames(frames)
	if errors.Is(err, net.ErrClosed) {
		p.Close()
	}
	return n, err
}

// TryWriteFrames implements [vnet.Prompt].
func (p *plugged) TryWriteFrames(frames []vnet.Frame) int {
	if prompt, ok := p.Port.(vnet.Prompt); ok {
		return prompt.TryWriteFrames(frames)
	}
	return 0
}

// Drive implements [vnet.Driven].
func (p *plugged) Drive(receive func([]vnet.Frame) time.Duration, ended func()) bool {
	d, ok := p.Port.(vnet.Driven)
	return ok && d.Drive(receive, func() {
		p.Close()
		ended()
	})
}

// Close implements [vnet.Port].
func (p *plugged) Close() error {
	p.once.Do(func() {
		p.Port.Close()
		if p.ctl != nil {
			p.ctl.Close()
		}
		close(p.ended)
	})
	return nil
}
