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
// Each source has a lane of its own, in which its frames stay in order, and a
// second one for those that are flooded: a sender that answers a hostile one does
// not drown in those answers, to stations that nobody knows, what else it says.
// They share the ring fairly. In room: each source's frames may take up to ringShare
// times what is left free, so one sender alone has nearly all of it, and one that
// never stops leaves some for the others; frames that no switch has marked may
// take all. And in time: the sources take turns, by deficit round robin
// (Shreedhar and Varghese, 1995), so however much one has queued, the others do
// not wait for it.
type ring struct {
	wake chan struct{} // holds one token while the reader should look again

	mu     sync.Mutex
	size   uint64 // bytes, a power of two
	used   uint64 // bytes of all records
	memory uint64 // bytes of all lanes' memory
	lanes  []lane // by laneOf
	turns  []int  // the lanes with frames that have not been peeked at, the next one first
	peeked []int  // the lanes whose frames the reader has
	passed bool   // a writer goes past the queue, which is empty, or was when it began
	closed bool
}

const (
	ringShare = 8
	// ringTurn is what a source may send in its turn, in bytes, where a short
	// frame counts as much as one of ringLeast: it is as much work.
	ringTurn  = 8 << 10
	ringLeast = 512
)

// newRing makes a ring of at least size bytes, rounded up to a power of two
// that holds a few frames of any length.
func newRing(size int) *ring {
	n := uint64(4 << 16)
	for n < uint64(size) {
		n *= 2
	}
	return &ring{wake: make(chan struct{}, 1), size: n}
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

// pass says whether a writer may do itself what the reader would, since nothing
// is queued and the reader waits. It has to call rejoin then.
func (r *ring) pass() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.passed || r.closed || r.used > 0 {
		return false
	}
	r.passed = true
	return true
}

// rejoin lets the reader work again, and queues what the writer has left over.
func (r *ring) rejoin(frames []Frame) (n int) {
	r.mu.Lock()
	r.passed = false
	for !r.closed && n < len(frames) && r.put(&frames[n]) {
		n++
	}
	look := r.used > 0 || r.closed
	r.mu.Unlock()
	if look {
		r.signal()
	}
	return n
}

func (r *ring) put(f *Frame) bool {
	at := laneOf(f)
	if at >= len(r.lanes) {
		r.lanes = append(r.lanes, make([]lane, at+1-len(r.lanes))...)
	}
	l, need := &r.lanes[at], recordSize(len(f.Data))
	if r.used+need > r.size || f.Source != 0 && l.queued+need > ringShare*(r.size-r.used-need) {
		return false
	}
	if !l.fits(need) && !r.grow(l, need) {
		return false
	}
	if l.seen == l.tail {
		r.turns = append(r.turns, at)
	}
	l.put(f, need)
	r.used += need
	return true
}

// laneOf tells a frame's lane.
func laneOf(f *Frame) int {
	if f.Flooded {
		return int(f.Source)*2 + 1
	}
	return int(f.Source) * 2
}

// grow gives a lane memory for one more record, if it may have that.
func (r *ring) grow(l *lane, need uint64) bool {
	n := max(uint64(len(l.buf))*2, laneLeast)
	for n < l.queued+need {
		n *= 2
	}
	if n > r.size {
		return false
	}
	if r.memory+n > 4*r.size {
		r.trim()
	}
	r.resize(l, n)
	return true
}

// trim takes back what lanes have that once held much more than they do now.
// None is left without room to grow, so this is done once in a while only.
func (r *ring) trim() {
	for i := range r.lanes {
		l, n := &r.lanes[i], uint64(0)
		if l.queued > 0 {
			for n = laneLeast; n < 2*l.queued; n *= 2 {
			}
		}
		if 2*n <= uint64(len(l.buf)) {
			r.resize(l, n)
		}
	}
}

func (r *ring) resize(l *lane, n uint64) {
	r.memory += n - uint64(len(l.buf))
	l.resize(n)
}

// lane is a part of the queue, in a block of memory whose size is a power of
// two.
//
// Every record starts at a multiple of recordAlign: a header of recordHeader
// bytes, then the frame. A record never wraps around the end of the block: a
// header with the length wrapMark says that the rest of the block is unused.
type lane struct {
	buf    []byte
	head   uint64 // bytes ever released
	seen   uint64 // bytes ever peeked at
	tail   uint64 // bytes ever written
	queued uint64 // bytes of the records from head on, without what is unused
	lent   uint64 // those of them that have been peeked at
	credit int    // bytes that are left of its turn
}

const (
	laneLeast    = 16 << 10
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

// fits says whether there is memory for a record.
func (l *lane) fits(need uint64) bool {
	return len(l.buf) > 0 && l.tail+l.skip(need)+need-l.head <= uint64(len(l.buf))
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
	copy(rec[recordHeader:], f.Data)
	l.tail += skip + need
	l.queued += need
}

// peek points dst at the next records, as long as the lane has credit, and gives
// how many there were.
func (l *lane) peek(dst []Frame, number int) (n int) {
	mask := uint64(len(l.buf)) - 1
	at := l.seen
	for n < len(dst) && at < l.tail && l.credit > 0 {
		rec := l.buf[at&mask:]
		length := binary.NativeEndian.Uint32(rec)
		if length == wrapMark {
			at += uint64(len(rec))
			continue
		}
		end := recordHeader + uint64(length)
		dst[n] = Frame{Data: rec[recordHeader:end:end], Offload: getOffload(rec[4:]), Source: uint16(number / 2), Flooded: number%2 != 0}
		n++
		need := recordSize(int(length))
		at += need
		l.lent += need
		l.credit -= int(max(need, ringLeast))
	}
	l.seen = at
	return n
}

// release gives the room of what was peeked at back, and tells how much it was.
func (l *lane) release() uint64 {
	n := l.lent
	l.head, l.queued, l.lent = l.seen, l.queued-n, 0
	return n
}

// resize moves the records to a block of another size, in which they fit. The
// reader keeps what it has in the old one.
func (l *lane) resize(n uint64) {
	buf, mask := make([]byte, n), uint64(len(l.buf))-1
	to, seen := uint64(0), uint64(0)
	for at := l.head; at < l.tail; {
		if at == l.seen {
			seen = to
		}
		rec := l.buf[at&mask:]
		length := binary.NativeEndian.Uint32(rec)
		if length == wrapMark {
			at += uint64(len(rec))
			continue
		}
		need := recordSize(int(length))
		copy(buf[to:], rec[:need])
		at += need
		to += need
	}
	if l.seen == l.tail {
		seen = to
	}
	l.buf, l.head, l.seen, l.tail = buf, 0, seen, to
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
	if r.passed { // rejoin will wake the reader
		return 0, false
	}
	for n < len(dst) && len(r.turns) > 0 {
		number := r.turns[0]
		l := &r.lanes[number]
		if l.credit <= 0 {
			l.credit += ringTurn
		}
		if got := l.peek(dst[n:], number); got > 0 {
			n += got
			if len(r.peeked) == 0 || r.peeked[len(r.peeked)-1] != number {
				r.peeked = append(r.peeked, number)
			}
		}
		switch {
		case l.seen == l.tail:
			l.credit = 0
			r.turns = r.turns[:copy(r.turns, r.turns[1:])]
		case l.credit <= 0: // the next one's turn
			copy(r.turns, r.turns[1:])
			r.turns[len(r.turns)-1] = number
		}
	}
	return n, r.closed
}

// release gives the room of the frames last peeked at back to the writers.
func (r *ring) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, number := range r.peeked {
		r.used -= r.lanes[number].release()
	}
	r.peeked = r.peeked[:0]
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
	r.used, r.memory = 0, 0
	r.lanes, r.turns, r.peeked = nil, nil, nil
	r.mu.Unlock()
}
