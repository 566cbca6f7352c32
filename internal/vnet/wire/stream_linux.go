package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
)

// Stream is a port on one end of a unix stream socket that carries each frame
// behind its length, four bytes in network order: what QEMU calls -netdev
// stream (and once called socket). One read of QEMU's takes dozens of frames
// from it, but a single one from a datagram socket.
//
// While the peer has no room, WriteFrames waits.
type Stream struct {
	sock     *sock
	wr       gather
	rd       scatter
	oversize atomic.Uint64
}

// lengthLen is the size of a frame's length, in bytes.
const lengthLen = 4

// errFraming is a peer that does not speak the protocol: nothing after it can
// be understood.
var errFraming = errors.New("the length of a frame is impossible")

// StreamPair makes a port and the other end of its cable, for a child process
// to inherit. The caller closes guest once the child has it; the port ends when
// every copy of it is closed.
func StreamPair() (port *Stream, guest *os.File, err error) {
	near, guest, err := cable(unix.SOCK_STREAM)
	if err != nil {
		return nil, nil, err
	}
	port, err = NewStream(near)
	if err != nil {
		guest.Close()
		return nil, nil, err
	}
	return port, guest, nil
}

// NewStream makes a port of a SOCK_STREAM socket, and owns the file from then
// on, also when it returns an error.
func NewStream(file *os.File) (*Stream, error) {
	fd, kind, err := takeFD(file)
	if err == nil && kind != unix.SOCK_STREAM {
		unix.Close(fd)
		err = fmt.Errorf("its socket type is %d; SOCK_STREAM is needed", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("make a port of %s: %w", file.Name(), err)
	}
	growBuffers(fd)
	s := &Stream{}
	if s.sock, err = newSock(fd); err != nil {
		return nil, fmt.Errorf("make a port of %s: %w", file.Name(), err)
	}
	s.rd.buf = make([]byte, 2*(lengthLen+vnet.MaxFrame))
	return s, nil
}

// Oversize counts frames that were dropped because they did not fit the
// reader's buffer.
func (s *Stream) Oversize() uint64 { return s.oversize.Load() }

// ReadFrames implements [vnet.Port].
func (s *Stream) ReadFrames(bufs []vnet.Frame) (int, error) {
	return s.sock.readBy(s.readNow, bufs)
}

// Drive implements [vnet.Driven].
func (s *Stream) Drive(receive func([]vnet.Frame) time.Duration, ended func()) bool {
	s.sock.driveBy(s.readNow, receive, ended)
	return true
}

// readNow gives whole frames that were read before, or reads once: errAgain if
// nothing is there. It says whether more was read than it gave.
func (s *Stream) readNow(bufs []vnet.Frame) (n int, more bool, err error) {
	if n, err = s.take(bufs); n > 0 || err != nil {
		return n, s.rd.whole(), err
	}
	s.rd.compact()
	got, err := s.rd.fill(s.sock)
	if err != nil {
		return 0, false, portError("read frames", err)
	}
	if got == 0 {
		return 0, false, fmt.Errorf("read frames: peer has gone: %w", net.ErrClosed)
	}
	n, err = s.take(bufs)
	return n, s.rd.whole(), err
}

// take hands out the whole frames that have been read.
func (s *Stream) take(bufs []vnet.Frame) (n int, err error) {
	for n < len(bufs) {
		rest := s.rd.buf[s.rd.from:s.rd.to]
		if len(rest) < lengthLen {
			break
		}
		size := int(binary.BigEndian.Uint32(rest))
		if size > vnet.MaxFrame || size == 0 {
			if n > 0 {
				break // those first
			}
			s.Close()
			return 0, fmt.Errorf("read frames: %w (%d bytes): %w", errFraming, size, net.ErrClosed)
		}
		if len(rest) < lengthLen+size {
			break
		}
		s.rd.from += lengthLen + size
		if size > cap(bufs[n].Data) {
			s.oversize.Add(1)
			continue
		}
		bufs[n].Data = bufs[n].Data[:size]
		copy(bufs[n].Data, rest[lengthLen:])
		bufs[n].Offload = vnet.Offload{}
		n++
	}
	return n, nil
}

// WriteFrames implements [vnet.Port].
func (s *Stream) WriteFrames(frames []vnet.Frame) (int, error) {
	sent := 0
	for len(frames) > 0 {
		batch := frames[:min(len(frames), maxBatch)]
		s.wr.prepare(batch)
		// A frame begun has to be ended, or the peer loses the thread.
		for s.wr.from < s.wr.count {
			switch err := s.wr.send(s.sock); err {
			case nil:
			case errAgain:
				s.sock.await(unix.EPOLLOUT)
			case unix.ENOBUFS:
				waitMemory()
			default:
				return sent + s.wr.from/2, portError("write frames", err)
			}
		}
		sent += len(batch)
		frames = frames[len(batch):]
	}
	return sent, nil
}

// Close implements [vnet.Port].
func (s *Stream) Close() error {
	s.sock.close()
	return nil
}

// gather is a write of several frames, each two pieces: its length, its bytes.
type gather struct {
	lengths     [maxBatch][lengthLen]byte
	iovs        [2 * maxBatch]unix.Iovec
	from, count int // pieces: the first not yet written whole, and their number
}

func (g *gather) prepare(frames []vnet.Frame) {
	for i := range frames {
		binary.BigEndian.PutUint32(g.lengths[i][:], uint32(len(frames[i].Data)))
		g.iovs[2*i].Base = &g.lengths[i][0]
		g.iovs[2*i].SetLen(lengthLen)
		g.iovs[2*i+1].Base = unsafe.SliceData(frames[i].Data)
		g.iovs[2*i+1].SetLen(len(frames[i].Data))
	}
	g.from, g.count = 0, 2*len(frames)
}

// send writes once, errAgain if there is no room.
func (g *gather) send(s *sock) error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.leave()
	for {
		h := unix.Msghdr{Iov: &g.iovs[g.from]}
		h.SetIovlen(g.count - g.from)
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch errno {
		case 0:
			g.advance(int(n))
			return nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return errAgain
		}
		return errno
	}
}

// advance takes n written bytes off the pieces.
func (g *gather) advance(n int) {
	for g.from < g.count {
		v := &g.iovs[g.from]
		if uint64(n) < uint64(v.Len) {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.SetLen(int(v.Len) - n)
			return
		}
		n -= int(v.Len)
		g.from++
	}
}

// scatter is what was read and not yet handed out.
type scatter struct {
	buf      []byte
	from, to int
}

// whole says whether a whole frame was read that is not handed out, or a length that
// no frame has.
func (r *scatter) whole() bool {
	rest := r.buf[r.from:r.to]
	if len(rest) < lengthLen {
		return false
	}
	size := int(binary.BigEndian.Uint32(rest))
	return size == 0 || size > vnet.MaxFrame || len(rest) >= lengthLen+size
}

// compact makes room for at least one whole frame behind what is left.
func (r *scatter) compact() {
	if r.from > 0 {
		r.to = copy(r.buf, r.buf[r.from:r.to])
		r.from = 0
	}
}

// fill reads once, and says how much: nothing at the end, errAgain if nothing is
// there.
func (r *scatter) fill(s *sock) (int, error) {
	if !s.enter() {
		return 0, net.ErrClosed
	}
	defer s.leave()
	for {
		room := r.buf[r.to:]
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(room))), uintptr(len(room)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			r.to += int(n)
			return int(n), nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0, errAgain
		}
		return 0, errno
	}
}
