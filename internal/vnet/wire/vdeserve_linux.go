package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unsafe"

	"wolffia/internal/lazy"

	"golang.org/x/sys/unix"
)

// ctlName is the control socket of a switch in its folder.
const ctlName = "ctl"

// maxVDEFolder is the longest path of a switch's folder, in bytes: clients make
// a socket called .PID-NNNNN in it.
const maxVDEFolder = maxSunPath - len("/.1234567-12345")

// ServeVDE answers at a path as a vde_switch does, for QEMU's -netdev vde,
// User-Mode Linux's eth0=daemon and eth0=vde, vde_plug and whatever else is made
// with libvdeplug:
//
//	qemu-system-x86_64 -netdev vde,id=n0,sock=PATH
//	linux eth0=daemon,52:54:00:00:00:01,unix,PATH/ctl
//	linux eth0=vde,PATH,52:54:00:00:00:01
//	vde_plug PATH
//
// The path is a folder, which is made, or taken over from a server that is dead.
// Only its owner and root get in (mode 0700), and with a group its members; then
// it has the sticky bit, so that they can't remove each other's sockets.
//
// A client's data socket has to belong to the client's user, and an abstract
// one, which belongs to nobody, is taken only from the own user and root.
func ServeVDE(path string, o ListenOptions, accept Accept) (*Listener, error) {
	l := &Listener{o: o, accept: accept, kind: "vde", greet: greetVDE}
	if path == "" {
		return nil, errors.New("serve VDE: no path is given")
	}
	err := l.open(path, ctlName, unix.SOCK_STREAM, l.prepareVDE)
	if err != nil {
		return nil, fmt.Errorf("serve VDE: %w", err)
	}
	l.path = l.folder.path
	l.start()
	return l, nil
}

// leftovers are the names of sockets in the folder of a switch: data sockets of
// its own and of clients.
var leftovers = lazy.Regexp(`^(ctl|[0-9]{3,}(\.[0-9]+)?|\.[0-9]+-[0-9]+)$`)

// maxLeftovers bounds how many names of a folder are looked at.
const maxLeftovers = 10000

// prepareVDE makes a folder fit for a switch.
func (l *Listener) prepareVDE(f *folder) error {
	if len(f.path) > maxVDEFolder {
		return &PathTooLongError{Path: f.path, Max: maxVDEFolder}
	}
	if !f.made {
		if err := takeOverVDE(f); err != nil {
			return err
		}
	}
	mode := uint32(0o700)
	if l.gid != 0 {
		mode = 0o3770 // sockets belong to the group, and only their owners remove them
		if err := unix.Fchown(f.fd(), -1, l.gid); err != nil {
			return &os.PathError{Op: "give to group " + l.o.Group, Path: f.path, Err: err}
		}
	}
	if err := unix.Fchmod(f.fd(), mode); err != nil {
		return &os.PathError{Op: "chmod", Path: f.path, Err: err}
	}
	return nil
}

// takeOverVDE checks that a folder is empty or was a switch's that is dead, and
// removes what that has left.
func takeOverVDE(f *folder) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd(), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.path, Err: err}
	}
	if st.Uid != uint32(os.Geteuid()) {
		return &FolderError{
			Path: f.path, Why: fmt.Sprintf("the folder belongs to another user (%s)", userName(st.Uid)),
			Remedy: "choose a path of your own",
		}
	}
	dead, err := f.clear(ctlName, unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	names, err := f.file.Readdirnames(maxLeftovers)
	if err != nil && err != io.EOF {
		return err
	}
	if _, err := f.file.Seek(0, io.SeekStart); err != nil { // for another try
		return err
	}
	if !dead {
		for _, name := range names {
			if !f.leftover(name) {
				return &FolderError{
					Path: f.path, Why: fmt.Sprintf("the folder is no VDE switch's: %s lies in it", name),
					Remedy: "choose a path where there is nothing",
				}
			}
		}
	}
	for _, name := range names {
		if f.leftover(name) {
			f.remove(name)
			dead = true
		}
	}
	f.made = dead
	return nil
}

// leftover says whether something in the folder is a socket of a switch or of a
// client.
func (f *folder) leftover(name string) bool {
	var st unix.Stat_t
	return leftovers().MatchString(name) &&
		unix.Fstatat(f.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// greetVDE reads a client's request and joins a data socket to the client's.
func greetVDE(l *Listener, conn *net.UnixConn, peer *Peer) (*plugged, func(), error) {
	_ = conn.SetDeadline(time.Now().Add(l.o.Hello))
	req, err := readVDERequest(conn)
	if err != nil {
		return nil, nil, fmt.Errorf("process %d: %w", peer.PID, err)
	}
	if req.addr.abstract() && peer.UID != 0 && peer.UID != uint32(os.Geteuid()) {
		return nil, nil, fmt.Errorf("process %d: its data socket is abstract, so that nobody can tell whose it is", peer.PID)
	}
	peer.Description = req.description
	first := 1
	if req.management {
		first = 0
	}
	l.number(conn, peer, req.port, first)
	fail := func(err error) (*plugged, func(), error) {
		return nil, nil, fmt.Errorf("%s (process %d): %w", peer.Name, peer.PID, err)
	}
	fd, name, err := l.bindData(peer)
	if err != nil {
		return fail(err)
	}
	if err = connectTo(fd, &req.addr, peer.UID); err != nil {
		unix.Close(fd)
		l.folder.remove(name)
		return fail(fmt.Errorf("its data socket: %w", err))
	}
	port, err := NewFD(os.NewFile(uintptr(fd), name))
	if err != nil {
		l.folder.remove(name)
		return fail(err)
	}
	answer := pathAddr(filepath.Join(l.path, name))
	if _, err := conn.Write(answer[:]); err != nil {
		port.Close()
		l.folder.remove(name)
		return fail(fmt.Errorf("answer: %w", err))
	}
	_ = conn.SetDeadline(time.Time{})
	p := newPlugged(port, conn)
	return p, func() {
		watch(conn)
		p.Close()
		l.folder.remove(name)
	}, nil
}

// readVDERequest reads what a client sends first. A description comes with the
// rest, in one piece, as nothing says how long it is.
func readVDERequest(conn *net.UnixConn) (*vdeRequest, error) {
	buf := make([]byte, vdeRequestMax)
	n := 0
	for {
		got, err := conn.Read(buf[n:])
		n += got
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errors.New("it takes too long")
			}
			return nil, fmt.Errorf("read request: %w", err)
		}
		r, err := parseVDERequest(buf[:n])
		if !errors.Is(err, errShort) {
			return r, err
		}
	}
}

// bindData makes the data socket of a port. Members of the group may have taken
// a name before.
func (l *Listener) bindData(peer *Peer) (fd int, name string, err error) {
	gid := l.gid
	if peer.UID == uint32(os.Geteuid()) || peer.UID == 0 {
		gid = 0
	}
	for i := 1; i <= 2*l.o.MaxPeers+1; i++ {
		name = fmt.Sprintf("%03d.%d", peer.Number, i)
		if fd, err = l.folder.bind(name, unix.SOCK_DGRAM, gid); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return fd, name, err
}

// connectTo connects a datagram socket to the address that a peer claims. What
// lies in the file system has to belong to one of owners: else the peer could
// have frames written to a socket that it can't write to itself.
func connectTo(fd int, addr *sockaddr, owners ...uint32) error {
	if addr.abstract() {
		// The name is all of the address, zeros included, which is longer than
		// package unix has it.
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(addr)), sockaddrLen); errno != 0 {
			return errno
		}
		return nil
	}
	path := addr.path() // a stranger's words, which want quotes
	file, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %q: %w", path, err)
	}
	defer unix.Close(file)
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return fmt.Errorf("stat %q: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%q is not a socket", path)
	}
	if !slices.Contains(owners, st.Uid) {
		return fmt.Errorf("%q belongs to another user (%s)", path, userName(st.Uid))
	}
	// Through the descriptor, since the path may lead elsewhere by now.
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", file)}); err != nil {
		return fmt.Errorf("connect to %q: %w", path, err)
	}
	return nil
}

// maxChatter is how much a peer may say on a control connection that only its
// end is waited for, in bytes.
const maxChatter = 4096

// watch returns when the other end of a control connection is gone, or says too
// much.
func watch(conn *net.UnixConn) {
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, maxChatter))
}
