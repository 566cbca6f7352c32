package vnet

import (
	"encoding/binary"
	"net"
	"sync"
)

// ring is a bounded queue of frames in memory, for many writers and one reader.
// A frame that finds no room is dropped (the newest is lost, as on a wire whose
// card is full). Frames are copied in; the reader sees them in place.
//
// Frames that a switch sends, which have a Source, share the ring fairly. In
// room: each source's may take up to ringShare times what is left free, so one
// sender alone has nearly all of it, and one that never stops leaves some for
// those that send little. And in time: those that send little go ahead, by a
// lane of their own, so they don't wait for all that the others have queued. The
// frames of one source stay in order: while it has any in the bulk lane, that is
// where its next ones go.
type ring struct {
	wake chan struct{} // holds one token while the reader should look again

	mu      sync.Mutex
	bulk    lane
	express lane // its memory is made for the first frame with a source
	queued  []queuedOf
	closed  bool
}

// queuedOf is the bytes of one source's in each lane.
type queuedOf struct{ bulk, express uint64 }

const (
	ringShare    = 8
	expressSize  = 64 << 10 // bytes
	expressShare = 4 << 10  // bytes that a source may have in it: some packets
)

// newRing makes a ring of at least size bytes, rounded up to a power of two
// that holds a few frames of any length.
func newRing(size int) *ring {
	n := 4 << 16
	for n < size {
		n *= 2
	}
	return &ring{wake: make(chan struct{}, 1), bulk: lane{buf: make([]byte, n)}}
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

func (r *ring) put(f *Frame) bool {
	need := recordSize(len(f.Data))
	if f.Source == 0 {
		_, ok := r.bulk.free(need)
		if ok {
			r.bulk.put(f, need)
		}
		return ok
	}
	if n := int(f.Source) + 1; n > len(r.queued) {
		r.queued = append(r.queued, make([]queuedOf, n-len(r.queued))...)
	}
	q := &r.queued[f.Source]
	if q.bulk == 0 && q.express+need <= expressShare {
		if r.express.buf == nil {
			r.express.buf = make([]byte, expressSize)
		}
		if _, ok := r.express.free(need); ok {
			r.express.put(f, need)
			q.express += need
			return true
		}
	}
	left, ok := r.bulk.free(need)
	if !ok || q.bulk+need > ringShare*left {
		return false
	}
	r.bulk.put(f, need)
	q.bulk += need
	return true
}

// lane is a queue in one block of memory, whose size is a power of two.
//
// Every record starts at a multiple of recordAlign: a header of recordHeader
// bytes, then the frame. A record never wraps around the end of the block: a
// header with the length wrapMark says that the rest of the block is unused.
type lane struct {
	buf  []byte
	head uint64 // bytes ever released
	seen uint64 // bytes ever peeked at
	tail uint64 // bytes ever written
}

const (
	recordHeader = 16
	recordAlign  = 16
	wrapMark     = 1<<32 - 1
)

// recordSize is what a frame of so many bytes takes.
func recordSize(length int) uint64 {
	return (recordHeader + uint64(length) + recordAlign - 1) &^ (recordAlign - 1)
}

// skip is how much of the block's end a record leaves unused.
func (l *lane) skip(need uint64) uint64 {
	size := uint64(len(l.buf))
	if at := l.tail & (size - 1); at+need > size {
		return size - at
	}
	return 0
}

// free says whether a record fits, and how many bytes would be left then.
func (l *lane) free(need uint64) (left uint64, ok bool) {
	size, used := uint64(len(l.buf)), l.tail+l.skip(need)+need-l.head
	return size - used, used <= size
}

// put copies a frame in, for which there is room.
func (l *lane) put(f *Frame, need uint64) {
	at, skip := l.tail&(uint64(len(l.buf))-1), l.skip(need)
	if skip > 0 {
		binary.NativeEndian.PutUint32(l.buf[at:], wrapMark)
		at = 0
	}
	rec := l.buf[at : at+need]
	binary.NativeEndian.PutUint32(rec, uint32(len(f.Data)))
	putOffload(rec[4:], f.Offload)
	binary.NativeEndian.PutUint16(rec[14:], f.Source)
	copy(rec[recordHeader:], f.Data)
	l.tail += skip + need
}

// peek points dst at the next records, and gives how many there were.
func (l *lane) peek(dst []Frame) (n int) {
	mask := uint64(len(l.buf)) - 1
	at := l.head
	for n < len(dst) && at < l.tail {
		rec := l.buf[at&mask:]
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
	l.seen = at
	return n
}

// release gives the room of what was peeked at back, and tells whose it was.
func (l *lane) release(give func(source uint16, bytes uint64)) {
	mask := uint64(len(l.buf)) - 1
	for at := l.head; at < l.seen; {
		rec := l.buf[at&mask:]
		length := binary.NativeEndian.Uint32(rec)
		if length == wrapMark {
			at += uint64(len(rec))
			continue
		}
		need := recordSize(int(length))
		give(binary.NativeEndian.Uint16(rec[14:]), need)
		at += need
	}
	l.head = l.seen
}

// discard drops what is queued.
func (l *lane) discard() { l.tail, l.seen = l.head, l.head }

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
	n = r.express.peek(dst)
	n += r.bulk.peek(dst[n:])
	return n, r.closed
}

// release gives the room of the frames last peeked at back to the writers.
func (r *ring) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.express.release(func(source uint16, n uint64) { r.queued[source].express -= n })
	r.bulk.release(func(source uint16, n uint64) {
		if source != 0 {
			r.queued[source].bulk -= n
		}
	})
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
	r.bulk.discard()
	r.express.discard()
	clear(r.queued)
	r.mu.Unlock()
}
