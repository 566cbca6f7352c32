package vnet

import (
	"encoding/binary"
	"net"
	"sync"
)

// ring is a bounded queue of frames in one block of memory, for many writers
// and one reader. A frame that finds no room is dropped (the newest is lost,
// as on a wire whose card is full). Frames are copied in; the reader sees them
// in place.
//
// Frames that a switch sends, which have a Source, share the room fairly: each
// source's may take up to ringShare times what is left free. So one sender
// alone has nearly all of it, and one that never stops leaves room for the
// frames of those that send little.
//
// Every record starts at a multiple of recordAlign: a header of recordHeader
// bytes, then the frame. A record never wraps around the end of the block: a
// header with the length wrapMark says that the rest of the block is unused.
type ring struct {
	wake chan struct{} // holds one token while the reader should look again

	mu     sync.Mutex
	buf    []byte
	head   uint64   // bytes ever released
	seen   uint64   // bytes ever peeked at
	tail   uint64   // bytes ever written
	queued []uint64 // bytes between head and tail, by source
	closed bool
}

const (
	recordHeader = 16
	recordAlign  = 16
	wrapMark     = 1<<32 - 1
	ringShare    = 8
)

// newRing makes a ring of at least size bytes, rounded up to a power of two
// that holds a few frames of any length.
func newRing(size int) *ring {
	n := 4 << 16
	for n < size {
		n *= 2
	}
	return &ring{wake: make(chan struct{}, 1), buf: make([]byte, n)}
}

// push copies frames in until one finds no room, and says how many fitted.
func (r *ring) push(frames []Frame) (int, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return 0, net.ErrClosed
	}
	n := 0
	for n < len(frames) && r.put(&frames[n]) {
		n++
	}
	r.mu.Unlock()
	r.signal()
	return n, nil
}

// recordSize is what a frame of so many bytes takes.
func recordSize(length int) uint64 {
	return (recordHeader + uint64(length) + recordAlign - 1) &^ (recordAlign - 1)
}

func (r *ring) put(f *Frame) bool {
	size := uint64(len(r.buf))
	need := recordSize(len(f.Data))
	at := r.tail & (size - 1)
	skip := uint64(0)
	if at+need > size {
		skip = size - at
	}
	used := r.tail + skip + need - r.head
	if used > size || f.Source != 0 && !r.share(int(f.Source), need, size-used) {
		return false
	}
	if skip > 0 {
		binary.NativeEndian.PutUint32(r.buf[at:], wrapMark)
		at = 0
	}
	rec := r.buf[at : at+need]
	binary.NativeEndian.PutUint32(rec, uint32(len(f.Data)))
	putOffload(rec[4:], f.Offload)
	binary.NativeEndian.PutUint16(rec[14:], f.Source)
	copy(rec[recordHeader:], f.Data)
	r.tail += skip + need
	return true
}

// share counts a record as its source's, if that may have so much.
func (r *ring) share(source int, need, free uint64) bool {
	if source >= len(r.queued) {
		r.queued = append(r.queued, make([]uint64, source+1-len(r.queued))...)
	}
	if r.queued[source]+need > ringShare*free {
		return false
	}
	r.queued[source] += need
	return true
}

func putOffload(b []byte, o Offload) {
	b[0] = 0
	if o.NeedsChecksum {
		b[0] = 1
	}
	b[1] = o.SegmentType
	binary.NativeEndian.PutUint16(b[2:], o.HeaderLen)
	binary.NativeEndian.PutUint16(b[4:], o.SegmentSize)
	binary.NativeEndian.PutUint16(b[6:], o.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], o.ChecksumOff)
}

func getOffload(b []byte) Offload {
	return Offload{
		NeedsChecksum: b[0] != 0,
		SegmentType:   b[1],
		HeaderLen:     binary.NativeEndian.Uint16(b[2:]),
		SegmentSize:   binary.NativeEndian.Uint16(b[4:]),
		ChecksumStart: binary.NativeEndian.Uint16(b[6:]),
		ChecksumOff:   binary.NativeEndian.Uint16(b[8:]),
	}
}

func (r *ring) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// peek waits for frames and points up to len(dst) of dst at them. They stay
// valid until release. When the ring is closed and empty it returns
// net.ErrClosed.
func (r *ring) peek(dst []Frame) (int, error) {
	for {
		n, closed := r.tryPeek(dst)
		if n > 0 {
			return n, nil
		}
		if closed {
			r.signal() // for whoever looks next
			return 0, net.ErrClosed
		}
		<-r.wake
	}
}

func (r *ring) tryPeek(dst []Frame) (n int, closed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	mask := uint64(len(r.buf)) - 1
	at := r.head
	for n < len(dst) && at < r.tail {
		rec := r.buf[at&mask:]
		length := binary.NativeEndian.Uint32(rec)
		if length == wrapMark {
			at += uint64(len(rec))
			continue
		}
		end := recordHeader + uint64(length)
		dst[n] = Frame{Data: rec[recordHeader:end:end], Offload: getOffload(rec[4:]), Source: binary.NativeEndian.Uint16(rec[14:])}
		n++
		at += recordSize(int(length))
	}
	r.seen = at
	return n, r.closed
}

// release gives the room of the frames last peeked at back to the writers.
func (r *ring) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	mask := uint64(len(r.buf)) - 1
	for at := r.head; at < r.seen; {
		rec := r.buf[at&mask:]
		length := binary.NativeEndian.Uint32(rec)
		if length == wrapMark {
			at += uint64(len(rec))
			continue
		}
		need := recordSize(int(length))
		if source := binary.NativeEndian.Uint16(rec[14:]); source != 0 {
			r.queued[source] -= need
		}
		at += need
	}
	r.head = r.seen
}

// close ends peek once the ring is empty, and push at once.
func (r *ring) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.signal()
}

// discard drops what is queued.
func (r *ring) discard() {
	r.mu.Lock()
	r.tail, r.seen = r.head, r.head
	clear(r.queued)
	r.mu.Unlock()
}
