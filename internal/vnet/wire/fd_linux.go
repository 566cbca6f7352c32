package wire

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
)

// maxBatch is how many frames one system call moves at most.
const maxBatch = 64

// socketBuffer is what is asked of the kernel for each direction of a socket;
// what it grants is bounded by net.core.wmem_max.
const socketBuffer = 4 << 20

// FD is a port on one end of a unix socket pair whose datagrams are raw
// frames. While the peer has no room, WriteFrames waits.
type FD struct {
	sock     *sock
	seq      bool // SOCK_SEQPACKET: an empty datagram is the end of the stream
	rd, wr   mmsg
	oversize atomic.Uint64
}

// Kind is a kind of socket that keeps frame boundaries.
type Kind int

// The kinds. With Seqpacket the port ends when every copy of the other end is
// closed; with Datagram it does not notice, and its owner closes it.
const (
	Seqpacket Kind = unix.SOCK_SEQPACKET // for User-Mode Linux: vecN:transport=fd
	Datagram  Kind = unix.SOCK_DGRAM     // for QEMU: -netdev dgram,local.type=fd
)

// Socketpair makes a port and the other end of its cable, for a child process
// to inherit. The caller closes guest once the child has it.
func Socketpair(kind Kind) (port *FD, guest *os.File, err error) {
	near, guest, err := cable(int(kind))
	if err != nil {
		return nil, nil, err
	}
	port, err = NewFD(near)
	if err != nil {
		guest.Close()
		return nil, nil, err
	}
	return port, guest, nil
}

// cable makes a pair of unix sockets.
func cable(kind int) (near, guest *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	growBuffers(fds[1])
	return os.NewFile(uintptr(fds[0]), "network port"), os.NewFile(uintptr(fds[1]), "guest's network card"), nil
}

// NewFD makes a port of a SOCK_DGRAM or SOCK_SEQPACKET unix socket, and owns
// the file from then on, also when it returns an error.
func NewFD(file *os.File) (*FD, error) {
	fd, kind, err := takeFD(file)
	if err == nil && kind != unix.SOCK_DGRAM && kind != unix.SOCK_SEQPACKET {
		unix.Close(fd)
		err = fmt.Errorf("its socket type %d keeps no frame boundaries; SOCK_DGRAM or SOCK_SEQPACKET is needed", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("make a port of %s: %w", file.Name(), err)
	}
	growBuffers(fd)
	f := &FD{seq: kind == unix.SOCK_SEQPACKET}
	if f.sock, err = newSock(fd); err != nil {
		return nil, fmt.Errorf("make a port of %s: %w", file.Name(), err)
	}
	return f, nil
}

// takeFD gives a non-blocking duplicate of the file's descriptor and the type
// of its socket, and closes the file.
func takeFD(file *os.File) (fd, kind int, err error) {
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	cerr := raw.Control(func(old uintptr) {
		if kind, err = unix.GetsockoptInt(int(old), unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			return
		}
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return
		}
		err = unix.SetNonblock(fd, true)
	})
	if err == nil {
		err = cerr
	}
	return fd, kind, err
}

// growBuffers makes room for a window of frames. The forced form needs
// CAP_NET_ADMIN, the other one is capped, and both may fail without harm.
func growBuffers(fd int) {
	for _, o := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
}

// Oversize counts frames that were dropped because they did not fit the
// reader's buffer.
func (f *FD) Oversize() uint64 { return f.oversize.Load() }

// ReadFrames implements [vnet.Port].
func (f *FD) ReadFrames(bufs []vnet.Frame) (int, error) {
	return f.sock.readBy(f.readNow, bufs)
}

// Drive implements [vnet.Driven].
func (f *FD) Drive(receive func([]vnet.Frame) time.Duration, ended func()) bool {
	f.sock.driveBy(f.readNow, receive, ended)
	return true
}

// readNow reads what is there: errAgain if nothing is, and no frames where all were
// dropped. The kernel knows of what is left.
func (f *FD) readNow(bufs []vnet.Frame) (n int, more bool, err error) {
	f.rd.prepare(bufs, true)
	if err := f.rd.call(unix.SYS_RECVMMSG, f.sock); err != nil {
		return 0, false, portError("read frames", err)
	}
	for i := range f.rd.done {
		h := &f.rd.hdrs[i]
		switch {
		case h.Len == 0:
			if f.seq && i == 0 {
				return 0, false, fmt.Errorf("read frames: peer has gone: %w", net.ErrClosed)
			}
			continue
		case h.Hdr.Flags&unix.MSG_TRUNC != 0:
			f.oversize.Add(1)
			continue
		}
		// What was dropped leaves a hole that the next frame fills.
		data := bufs[i].Data[:h.Len]
		bufs[i].Data, bufs[n].Data = bufs[n].Data, data
		bufs[n].Offload = vnet.Offload{}
		n++
	}
	return n, false, nil
}

// WriteFrames implements [vnet.Port].
func (f *FD) WriteFrames(frames []vnet.Frame) (int, error) {
	sent := 0
	for len(frames) > 0 {
		f.wr.prepare(frames, false)
		switch err := f.wr.call(unix.SYS_SENDMMSG, f.sock); err {
		case nil:
			sent += f.wr.done
			frames = frames[f.wr.done:]
		case errAgain:
			f.sock.await(unix.EPOLLOUT)
		case unix.ENOBUFS:
			waitMemory()
		case unix.EMSGSIZE, unix.EINVAL:
			frames = frames[1:] // longer than the socket can ever take
		default:
			return sent, portError("write frames", err)
		}
	}
	return sent, nil
}

// TryWriteFrames implements [vnet.Prompt].
func (f *FD) TryWriteFrames(frames []vnet.Frame) int {
	if f.wr.prepare(frames, false) == 0 || f.wr.call(unix.SYS_SENDMMSG, f.sock) != nil {
		return 0
	}
	return f.wr.done
}

// Close implements [vnet.Port].
func (f *FD) Close() error {
	f.sock.close()
	return nil
}

// portError makes what the kernel says about a lost peer wrap net.ErrClosed.
func portError(doing string, err error) error {
	switch err {
	case errAgain:
		return err
	case unix.EPIPE, unix.ECONNRESET, unix.ECONNREFUSED, unix.ENOTCONN, unix.EBADFD:
		return fmt.Errorf("%s: peer has gone (%v): %w", doing, err, net.ErrClosed)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// mmsgHdr is struct mmsghdr of recvmmsg(2).
type mmsgHdr struct {
	Hdr unix.Msghdr
	Len uint32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
}

// mmsg is one direction's argument block.
type mmsg struct {
	hdrs  [maxBatch]mmsgHdr
	iovs  [maxBatch]unix.Iovec
	count int
	done  int // by the last call
}

// prepare points the block at the frames: at their capacity to read into, at
// their bytes to write.
func (m *mmsg) prepare(frames []vnet.Frame, read bool) int {
	m.count = min(len(frames), maxBatch)
	for i := range m.count {
		d := frames[i].Data
		if read {
			d = d[:cap(d)]
		}
		m.iovs[i].Base = unsafe.SliceData(d)
		m.iovs[i].SetLen(len(d))
		m.hdrs[i] = mmsgHdr{}
		m.hdrs[i].Hdr.Iov = &m.iovs[i]
		m.hdrs[i].Hdr.SetIovlen(1)
	}
	return m.count
}

// call moves what can be moved without waiting, errAgain if that is nothing.
func (m *mmsg) call(nr uintptr, s *sock) error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.leave()
	for {
		n, _, errno := unix.Syscall6(nr, uintptr(s.fd), uintptr(unsafe.Pointer(&m.hdrs[0])), uintptr(m.count), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			m.done = int(n)
			return nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return errAgain
		}
		return errno
	}
}
