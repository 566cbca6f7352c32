package wire

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"wolffia/internal/host"
	"wolffia/internal/vnet"
)

// TapOptions describe a tap device.
type TapOptions struct {
	Name string // of the interface; empty lets the kernel choose one
	// VNetHdr asks for virtio-net headers and segmentation offload: large TCP
	// segments then cross the tap whole.
	VNetHdr bool
}

// Tap is a port on a Linux tap device: what the kernel sends out of the
// interface is read, what is written the kernel receives.
type Tap struct {
	sock     *sock
	name     string
	vnet     bool
	rd, wr   tapIO
	oversize atomic.Uint64
}

// OpenTap makes a tap in the network namespace of the calling thread. The
// device lasts as long as the port. Where /dev/net/tun can't be used it
// returns a *host.UnsupportedError.
func OpenTap(o TapOptions) (*Tap, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &host.UnsupportedError{
			Feature: "tap", Why: fmt.Sprintf("opening /dev/net/tun: %v", err),
			Fix: "let your user open it, for instance with: sudo chmod 0666 /dev/net/tun",
		}
	}
	ifr, err := unix.NewIfreq(o.Name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make tap %q: %w", o.Name, err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if o.VNetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		if err == unix.EPERM {
			return nil, &host.UnsupportedError{
				Feature: "tap", Why: fmt.Sprintf("making interface %q: %v", o.Name, err),
				Fix: "it needs CAP_NET_ADMIN in the network namespace: run as root or in a user namespace of your own",
			}
		}
		return nil, fmt.Errorf("make tap %q: %w", o.Name, err)
	}
	t, err := NewTap(os.NewFile(uintptr(fd), "/dev/net/tun"), o.VNetHdr)
	if err != nil {
		return nil, err
	}
	t.name = ifr.Name()
	return t, nil
}

// NewTap makes a port of a tap's descriptor that is set up already, such as one
// made in another namespace; vnetHdr says that it was made with IFF_VNET_HDR.
// It owns the file from then on, also when it returns an error.
func NewTap(file *os.File, vnetHdr bool) (*Tap, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("make a port of %s: %w", file.Name(), err)
	}
	var fd int
	cerr := raw.Control(func(old uintptr) {
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return
		}
		if err = unix.SetNonblock(fd, true); err != nil || !vnetHdr {
			return
		}
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen)
		if err == nil {
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
		}
	})
	file.Close()
	if err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("make a port of %s: %w", file.Name(), err)
	}
	t := &Tap{vnet: vnetHdr}
	if t.sock, err = newSock(fd); err != nil {
		return nil, fmt.Errorf("make a port of %s: %w", file.Name(), err)
	}
	t.rd.init(t)
	t.wr.init(t)
	return t, nil
}

// Name is the interface's name, if OpenTap made it.
func (t *Tap) Name() string { return t.name }

// Offloads implements [vnet.Offloader].
func (t *Tap) Offloads() bool { return t.vnet }

// Oversize counts frames that were dropped because they did not fit the
// reader's buffer.
func (t *Tap) Oversize() uint64 { return t.oversize.Load() }

// ReadFrames implements [vnet.Port].
func (t *Tap) ReadFrames(bufs []vnet.Frame) (int, error) {
	return t.sock.readBy(t.readNow, bufs)
}

// Drive implements [vnet.Driven].
func (t *Tap) Drive(receive func([]vnet.Frame) time.Duration, ended func()) bool {
	t.sock.driveBy(t.readNow, receive, ended)
	return true
}

// readNow reads what is there: errAgain if nothing is. The kernel knows of what is
// left.
func (t *Tap) readNow(bufs []vnet.Frame) (n int, more bool, err error) {
	n, err = t.rd.read(bufs)
	if n > 0 {
		return n, false, nil // an error comes again
	}
	return 0, false, portError("read frames", err)
}

// WriteFrames implements [vnet.Port]. Frames are lost while the interface is
// down.
func (t *Tap) WriteFrames(frames []vnet.Frame) (int, error) {
	sent := 0
	for {
		n, took, err := t.wr.write(frames)
		sent += n
		frames = frames[took:]
		switch err {
		case nil:
			return sent, nil
		case errAgain:
			t.sock.await(unix.EPOLLOUT)
		case unix.ENOBUFS:
			waitMemory()
		default:
			return sent, portError("write frames", err)
		}
	}
}

// Close implements [vnet.Port].
func (t *Tap) Close() error {
	t.sock.close()
	return nil
}

// vnetHdrLen is the length of struct virtio_net_hdr (virtio 1.2, 5.1.6) without
// num_buffers; its fields are little-endian or native for a legacy tap, and
// native it is.
const vnetHdrLen = 10

const vnetNeedsChecksum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

// tapIO is one direction's state: a tap moves one frame with each system call.
type tapIO struct {
	t    *Tap
	hdr  [vnetHdrLen]byte
	over [1]byte // gets a byte when a frame is longer than its buffer
	iov  [3]unix.Iovec
}

func (io *tapIO) init(t *Tap) {
	io.t = t
	io.iov[0].Base = &io.hdr[0]
	io.iov[0].SetLen(vnetHdrLen)
	io.iov[2].Base = &io.over[0]
}

// rw moves one frame, with its virtio-net header if the tap has one.
func (io *tapIO) rw(nr uintptr, d []byte, over int) (int, syscall.Errno) {
	io.iov[2].SetLen(over)
	io.iov[1].Base = unsafe.SliceData(d)
	io.iov[1].SetLen(len(d))
	first, count, extra := &io.iov[1], uintptr(2), 0
	if io.t.vnet {
		first, count, extra = &io.iov[0], 3, vnetHdrLen
	}
	for {
		n, _, errno := unix.Syscall(nr, uintptr(io.t.sock.fd), uintptr(unsafe.Pointer(first)), count)
		if errno == unix.EINTR {
			continue
		}
		return int(n) - extra, errno
	}
}

func (io *tapIO) read(bufs []vnet.Frame) (n int, err error) {
	if !io.t.sock.enter() {
		return 0, net.ErrClosed
	}
	defer io.t.sock.leave()
	for n < len(bufs) {
		f := &bufs[n]
		size, errno := io.rw(unix.SYS_READV, f.Data[:cap(f.Data)], 1)
		if errno == unix.EAGAIN {
			return n, errAgain
		}
		if errno != 0 {
			return n, errno
		}
		if size < 0 || size > cap(f.Data) {
			io.t.oversize.Add(1)
			continue
		}
		f.Data, f.Offload = f.Data[:size], vnet.Offload{}
		if io.t.vnet {
			f.Offload = getVNetHdr(io.hdr[:])
		}
		n++
	}
	return n, nil
}

// write says how many frames the tap has got, and how many were done with.
func (io *tapIO) write(frames []vnet.Frame) (sent, took int, err error) {
	if !io.t.sock.enter() {
		return 0, 0, net.ErrClosed
	}
	defer io.t.sock.leave()
	for ; took < len(frames); took++ {
		if io.t.vnet {
			putVNetHdr(io.hdr[:], frames[took].Offload)
		}
		_, errno := io.rw(unix.SYS_WRITEV, frames[took].Data, 0)
		switch errno {
		case unix.EAGAIN:
			return sent, took, errAgain
		case 0:
			sent++
		case unix.EIO, unix.EINVAL, unix.EMSGSIZE: // down, or a frame it does not like
		default:
			return sent, took, errno
		}
	}
	return sent, took, nil
}

func getVNetHdr(b []byte) vnet.Offload {
	return vnet.Offload{
		NeedsChecksum: b[0]&vnetNeedsChecksum != 0,
		SegmentType:   b[1] &^ 0x80, // without VIRTIO_NET_HDR_GSO_ECN
		HeaderLen:     binary.NativeEndian.Uint16(b[2:]),
		SegmentSize:   binary.NativeEndian.Uint16(b[4:]),
		ChecksumStart: binary.NativeEndian.Uint16(b[6:]),
		ChecksumOff:   binary.NativeEndian.Uint16(b[8:]),
	}
}

func putVNetHdr(b []byte, o vnet.Offload) {
	b[0] = 0
	if o.NeedsChecksum {
		b[0] = vnetNeedsChecksum
	}
	b[1] = o.SegmentType
	binary.NativeEndian.PutUint16(b[2:], o.HeaderLen)
	binary.NativeEndian.PutUint16(b[4:], o.SegmentSize)
	binary.NativeEndian.PutUint16(b[6:], o.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], o.ChecksumOff)
}
