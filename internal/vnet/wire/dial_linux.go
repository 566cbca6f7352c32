package wire

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
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
)

// DialStream plugs into a QEMU that listens at a path:
//
//	-netdev stream,id=n0,server=on,addr.type=unix,addr.path=PATH
func DialStream(ctx context.Context, path string) (*Stream, error) {
	conn, err := dialUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("plug into QEMU: %w", err)
	}
	defer conn.Close()
	file, err := conn.File()
	if err != nil {
		return nil, fmt.Errorf("plug into QEMU at %s: %w", path, err)
	}
	return NewStream(file)
}

// dialUnix connects to a stream socket, by way of its folder's descriptor if
// the path is too long.
func dialUnix(ctx context.Context, path string) (*net.UnixConn, error) {
	at := path
	if len(path) > maxSunPath {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		at = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", at)
	if err != nil {
		var sys *os.SyscallError
		if errors.As(err, &sys) {
			err = sys.Err // the rest is said here, with the path that was asked for
		}
		err = &os.PathError{Op: "connect", Path: path, Err: err}
		if errors.Is(err, unix.ECONNREFUSED) {
			err = fmt.Errorf("%w: nobody listens there any more", err)
		}
		return nil, err
	}
	return conn.(*net.UnixConn), nil // the network "unix" has no other
}

// VDEOptions configure a [VDE] port.
type VDEOptions struct {
	// Description is what the switch shows of us, at most 128 bytes; the rest is
	// cut off. Empty means "wolffia".
	Description string
	// Port is the number of the switch's port; 0 means any that is free.
	Port int
	// MaxFrame is the longest frame that the switch passes on whole, in bytes; 0
	// means 1518, which is vde_switch's. Longer ones are dropped and counted: a
	// vde_switch would cut them.
	MaxFrame int
}

const defaultVDEFrame = 1518

// VDE is a port that is plugged into somebody else's VDE switch. It ends with
// the switch.
type VDE struct {
	*FD
	ctl     *net.UnixConn
	max     int
	tooLong atomic.Uint64
	wg      sync.WaitGroup
}

// defaultSwitches are the folders of a switch that is not named, as libvdeplug
// has them.
var defaultSwitches = [...]string{"/var/run/vde.ctl", "/tmp/vde.ctl"}

// dataFolders are where the data socket goes when there is no room in the
// switch's folder, or no right to it.
var dataFolders = [...]string{"/var/run", "/var/tmp", "/tmp"}

// dialPatience bounds the exchange with a switch.
const dialPatience = 5 * time.Second

// DialVDE plugs into the VDE switch in a folder, such as that of
//
//	vde_switch -sock PATH
//
// An empty path means the first that answers of /var/run/vde.ctl and
// /tmp/vde.ctl, if it is the own user's or root's. The port notices when the
// switch goes; to plug in again is the caller's.
func DialVDE(ctx context.Context, path string, o VDEOptions) (*VDE, error) {
	if o.Port < 0 || o.Port > maxVDEPort {
		return nil, fmt.Errorf("plug into VDE switch: port %d is not from 0 to %d", o.Port, maxVDEPort)
	}
	if o.Description == "" {
		o.Description = "wolffia"
	}
	o.Description = o.Description[:min(len(o.Description), vdeDescription)]
	if o.MaxFrame == 0 {
		o.MaxFrame = defaultVDEFrame
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	v, err := dialVDE(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("plug into VDE switch: %w", err)
	}
	v.wg.Go(func() {
		watch(v.ctl)
		v.hangUp()
	})
	return v, nil
}

func dialVDE(ctx context.Context, path string, o VDEOptions) (*VDE, error) {
	ctl, path, cred, err := findSwitch(ctx, path)
	if err != nil {
		return nil, err
	}
	// Whatever waits for the switch ends with ctx.
	stop := context.AfterFunc(ctx, func() { _ = ctl.SetDeadline(time.Unix(1, 0)) })
	fd, err := negotiate(ctl, path, cred, o)
	if !stop() {
		if err == nil {
			unix.Close(fd)
		}
		err = fmt.Errorf("the switch does not answer: %w", ctx.Err())
	}
	if err != nil {
		ctl.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	port, err := NewFD(os.NewFile(uintptr(fd), "port of "+path))
	if err != nil {
		ctl.Close()
		return nil, err
	}
	return &VDE{FD: port, ctl: ctl, max: o.MaxFrame}, nil
}

// findSwitch connects to the control socket of a switch, and says which folder
// it is in, without links, and whose it is.
func findSwitch(ctx context.Context, path string) (*net.UnixConn, string, *unix.Ucred, error) {
	paths := []string{path}
	if path == "" {
		paths = defaultSwitches[:]
	}
	var all error
	for _, p := range paths {
		ctl, real, cred, err := openSwitch(ctx, p)
		if err == nil && path == "" && cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
			ctl.Close()
			err = fmt.Errorf("%s: the switch is another user's (%s): give its path to use it all the same", p, userName(cred.Uid))
		}
		if err == nil {
			return ctl, real, cred, nil
		}
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return nil, "", nil, all
}

func openSwitch(ctx context.Context, path string) (*net.UnixConn, string, *unix.Ucred, error) {
	// The switch looks the data socket up from where it happens to be.
	real, err := filepath.Abs(path)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return nil, "", nil, err
	}
	ctl, err := dialUnix(ctx, filepath.Join(real, ctlName))
	if err != nil {
		return nil, "", nil, err
	}
	cred, err := credentials(ctl)
	if err != nil {
		ctl.Close()
		return nil, "", nil, fmt.Errorf("%s: ask whose switch it is: %w", path, err)
	}
	return ctl, real, cred, nil
}

// negotiate asks for a port, and gives a socket that is connected to it.
func negotiate(ctl *net.UnixConn, path string, cred *unix.Ucred, o VDEOptions) (fd int, err error) {
	fd, addr, err := dataSocket(path)
	if err != nil {
		return -1, err
	}
	data := addr.path()
	// Nothing is left behind, whatever happens: once both ends are connected
	// nobody needs the path any more.
	defer os.Remove(data)
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	open, err := letSwitchIn(data, filepath.Join(path, ctlName), cred)
	if err != nil {
		return -1, err
	}
	req := vdeRequest{port: o.Port, addr: addr, description: o.Description}
	if _, err := ctl.Write(req.marshal()); err != nil {
		return -1, fmt.Errorf("ask for a port: %w", err)
	}
	var answer sockaddr
	if _, err := io.ReadFull(ctl, answer[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			err = errors.New("the switch gives no port: all may be taken, or the one asked for is another user's")
		}
		return -1, fmt.Errorf("ask for a port: %w", err)
	}
	if err := answer.check(); err != nil {
		return -1, fmt.Errorf("ask for a port: %w", err)
	}
	if err := connectTo(fd, &answer, cred.Uid, uint32(os.Geteuid())); err != nil {
		return -1, fmt.Errorf("the port's socket: %w", err)
	}
	if open {
		drain(fd)
	}
	return fd, nil
}

// dataSocket makes our data socket, in the switch's folder or where it can be.
func dataSocket(path string) (fd int, addr sockaddr, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, addr, fmt.Errorf("make data socket: %w", err)
	}
	if err = unix.Fchmod(fd, 0o600); err == nil { // see folder.bind
		addr, err = bindSomewhere(fd, path)
	}
	if err != nil {
		unix.Close(fd)
		return -1, addr, fmt.Errorf("make data socket: %w", err)
	}
	return fd, addr, nil
}

func bindSomewhere(fd int, path string) (addr sockaddr, err error) {
	var first error // what is wrong with the switch's own folder says most
	for i, dir := range append([]string{path}, dataFolders[:]...) {
		prefix := "."
		if i > 0 {
			prefix = "vde."
		}
		for n := range 1000 {
			name := filepath.Join(dir, fmt.Sprintf("%s%05d-%05d", prefix, os.Getpid(), n))
			if len(name) > maxSunPath {
				err = &PathTooLongError{Path: name, Max: maxSunPath}
				break
			}
			if err = unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err == nil {
				return pathAddr(name), nil
			}
			if err != unix.EADDRINUSE {
				err = &os.PathError{Op: "bind", Path: name, Err: err}
				break
			}
		}
		if first == nil {
			first = err
		}
	}
	return addr, fmt.Errorf("%w, nor is there room in %s", first, strings.Join(dataFolders[:], ", "))
}

// letSwitchIn gives a switch of another user the right to write to our data
// socket: by the group of its control socket, or, where we are not in it, by
// letting everybody in, which open says.
func letSwitchIn(data, ctl string, cred *unix.Ucred) (open bool, err error) {
	if cred.Uid == 0 || cred.Uid == uint32(os.Geteuid()) {
		return false, nil
	}
	var st unix.Stat_t
	if unix.Stat(ctl, &st) == nil && os.Lchown(data, -1, int(st.Gid)) == nil {
		return false, os.Chmod(data, 0o660)
	}
	return true, os.Chmod(data, 0o666)
}

// drain throws away what others sent before the socket was connected; from then
// on the kernel takes datagrams from the switch alone.
func drain(fd int) {
	var b [1]byte
	for range 10000 {
		if _, _, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}

// TooLong counts frames that were longer than the switch takes.
func (v *VDE) TooLong() uint64 { return v.tooLong.Load() }

// WriteFrames implements [vnet.Port].
func (v *VDE) WriteFrames(frames []vnet.Frame) (int, error) {
	sent := 0
	for len(frames) > 0 {
		fit := 0
		for fit < len(frames) && len(frames[fit].Data) <= v.max {
			fit++
		}
		if fit > 0 {
			n, err := v.FD.WriteFrames(frames[:fit])
			sent += n
			if err != nil {
				return sent, err
			}
		}
		frames = frames[fit:]
		for len(frames) > 0 && len(frames[0].Data) > v.max {
			v.tooLong.Add(1)
			frames = frames[1:]
		}
	}
	return sent, nil
}

// TryWriteFrames implements [vnet.Prompt].
func (v *VDE) TryWriteFrames(frames []vnet.Frame) int {
	for i := range frames {
		if len(frames[i].Data) > v.max {
			frames = frames[:i] // WriteFrames counts it
			break
		}
	}
	return v.FD.TryWriteFrames(frames)
}

func (v *VDE) hangUp() {
	v.FD.Close()
	v.ctl.Close()
}

// Close implements [vnet.Port].
func (v *VDE) Close() error {
	v.hangUp()
	v.wg.Wait()
	return nil
}
