package link

import (
	"errors"
	"math"
	"net"
	"sync"
	"time"

	"wolffia/internal/vnet"
)

// shaper holds the frames of one direction while it is impaired: what is pushed
// in is taken out when it is due. Any number of goroutines push; one takes.
//
// Frames wait in two queues, of which each is in order by itself: those that
// take the way through the delay, and those that skip it.
type shaper struct {
	half  *half
	epoch time.Time
	// pump, for the half that reads the port, starts what reads the port and
	// pushes; it ends with fed.
	pump func()

	mu      sync.Mutex
	imp     Impairment
	dice    *dice
	room    int    // bytes that may wait for the rate
	index   uint64 // of the next frame
	wire    wire
	regular fifo
	early   fifo
	lastDue int64 // of the newest in regular
	pool    pool
	bytes   int // of the buffers in both queues and in taken
	length  int // of the frames in both queues
	seg     vnet.Segmenter
	scratch []byte // for seg
	taken   []held // what the taker has; its buffers come back with the next take

	alarm    alarm
	armed    int64 // when the taker wakes: awake, or never, or a time
	released int64 // when the taker last got frames

	feeding bool  // the pump runs
	cleared bool  // no impairment any more: it retires when it is empty
	retired bool  // nobody uses it any more
	down    bool  // carrier
	closed  bool  // taking ends at once
	err     error // pushing ends, and taking once it is empty
}

const (
	batchLen = 64
	// maxHeld bounds the buffers of a direction, in bytes.
	maxHeld = 64 << 20
	// quantum is how often frames are released while there are always some that
	// are not due yet, in nanoseconds: at a high rate they come in small groups.
	quantum = 100_000

	awake = -1
	never = math.MaxInt64
)

// errRetired says that the shaper is empty and its impairment is gone.
var errRetired = errors.New("link is not impaired any more")

func newShaper(h *half, a alarm) *shaper {
	return &shaper{half: h, epoch: time.Now(), alarm: a, armed: awake, taken: make([]held, 0, batchLen)}
}

func (s *shaper) now() int64 { return int64(time.Since(s.epoch)) }

// push takes frames in. It says false, and has done nothing, if the shaper is
// retired.
func (s *shaper) push(m *mode, frames []vnet.Frame) (ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return false, nil
	}
	if s.err != nil {
		return true, s.err
	}
	if s.down {
		s.half.drop(m, reasonDown, frames)
		return true, nil
	}
	now := s.now()
	for i := range frames {
		if frames[i].Offload == (vnet.Offload{}) {
			s.admit(m, now, frames[i].Data)
		} else {
			s.cut(m, now, frames[i:i+1])
		}
	}
	s.gauge()
	s.nudge(now)
	return true, nil
}

// cut makes packets of a frame with an offload.
func (s *shaper) cut(m *mode, now int64, frame []vnet.Frame) {
	if s.seg.Reset(frame[0]) != nil {
		s.half.drop(m, reasonOffload, frame)
		return
	}
	if s.scratch == nil {
		s.scratch = make([]byte, 0, vnet.MaxFrame)
	}
	for s.seg.More() {
		s.scratch = s.seg.Next(s.scratch[:0])
		s.admit(m, now, s.scratch)
	}
	s.seg = vnet.Segmenter{} // it refers to the caller's buffer
}

// admit gives a frame its fate.
func (s *shaper) admit(m *mode, now int64, data []byte) {
	f := s.imp.fate(s.dice, s.index)
	s.index++
	if f.lost {
		s.half.dropOne(m, reasonLoss, data)
		return
	}
	if f.corrupted && len(data) > 0 {
		// The caller's bytes stay as they are.
		b := append(s.pool.get(len(data))[:0], data...)
		defer s.pool.put(b)
		bit := f.bit % uint64(len(b)*8)
		b[bit/8] ^= 1 << (bit % 8)
		data = b
		s.half.corrupted.Add(1)
	}
	if f.reordered {
		s.half.reordered.Add(1)
	}
	s.enqueue(m, now, data, f.jitter, f.reordered)
	if f.duplicated {
		s.half.duplicated.Add(1)
		s.enqueue(m, now, data, f.copyJitter, false)
	}
}

// enqueue has a frame wait for the wire and then for its delay.
func (s *shaper) enqueue(m *mode, now int64, data []byte, jitter time.Duration, skip bool) {
	backlog := s.wire.backlog(now, s.imp.Rate)
	if backlog > 0 && backlog+len(data) > s.room || s.bytes+bufferSize(len(data)) > maxHeld {
		s.half.dropOne(m, reasonQueue, data)
		return
	}
	h := held{data: s.pool.get(len(data)), departs: s.wire.send(now, len(data), s.imp.Rate)}
	copy(h.data, data)
	s.bytes += cap(h.data)
	s.length += len(h.data)
	if skip {
		h.due = h.departs
		s.early.push(h)
	} else {
		s.lastDue = max(s.lastDue, h.departs+int64(s.imp.Delay+jitter))
		h.due = s.lastDue
		s.regular.push(h)
	}
	s.half.entered(m, h.data)
}

func (s *shaper) gauge() {
	s.half.queuedFrames.Store(int64(s.regular.n + s.early.n))
	s.half.queuedBytes.Store(int64(s.length))
}

// next finds the queue whose first frame is due first; nil if there is none.
func (s *shaper) next() *fifo {
	switch {
	case s.regular.n == 0 && s.early.n == 0:
		return nil
	case s.regular.n == 0:
		return &s.early
	case s.early.n == 0:
		return &s.regular
	}
	r, e := s.regular.at(0), s.early.at(0)
	if e.due < r.due || e.due == r.due && e.departs < r.departs {
		return &s.early
	}
	return &s.regular
}

// take waits for frames that are due and gives up to most of them, which are
// valid until the next call. It returns errRetired when there can't be any.
func (s *shaper) take(most int) ([]held, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recycle()
	for {
		if s.closed {
			return nil, net.ErrClosed
		}
		now := s.now()
		for q := s.next(); q != nil && q.at(0).due <= now && len(s.taken) < min(most, batchLen); q = s.next() {
			h := q.pop()
			s.length -= len(h.data)
			s.taken = append(s.taken, h)
		}
		switch empty := s.next() == nil; {
		case len(s.taken) > 0:
			s.released = now
			s.gauge()
			return s.taken, nil
		case empty && s.err != nil:
			return nil, s.err
		case s.done():
			return nil, errRetired
		}
		if s.pump != nil && !s.feeding && !s.cleared && s.err == nil {
			s.feeding = true
			s.pump()
		}
		s.sleep(now)
	}
}

// done says that the shaper is of no use any more.
func (s *shaper) done() bool { return s.cleared && s.next() == nil && !s.feeding }

func (s *shaper) recycle() {
	for i := range s.taken {
		s.bytes -= cap(s.taken[i].data)
		s.pool.put(s.taken[i].data)
		s.taken[i] = held{}
	}
	s.taken = s.taken[:0]
}

// wakeTime is when the taker has something to do.
func (s *shaper) wakeTime(now int64) int64 {
	q := s.next()
	if q == nil {
		return never
	}
	due := q.at(0).due
	if due <= now {
		return now
	}
	return max(due, s.released+quantum)
}

// sleep waits, without the lock, until there is something to do.
func (s *shaper) sleep(now int64) {
	s.armed = s.wakeTime(now)
	if s.armed == never {
		s.alarm.disarm()
	} else {
		s.alarm.arm(time.Duration(s.armed - now))
	}
	s.mu.Unlock()
	s.alarm.wait()
	s.mu.Lock()
	s.armed = awake
}

// nudge wakes the taker earlier if a new frame is due earlier.
func (s *shaper) nudge(now int64) {
	if s.armed == awake {
		return
	}
	if at := s.wakeTime(now); at < s.armed {
		s.armed = at
		s.alarm.arm(time.Duration(at - now))
	}
}

// wake has the taker look at everything anew.
func (s *shaper) wake() {
	if s.armed != awake && !s.closed && !s.retired {
		s.armed = 0
		s.alarm.arm(0)
	}
}

// change replaces the impairment.
func (s *shaper) change(i Impairment, d Direction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.imp, s.dice, s.room = i, newDice(i.Seed, d), i.room()
	s.index = 0
	s.cleared = i.none()
	s.reschedule(s.now())
	s.wake()
}

// reschedule has no frame arrive later than if it were sent now: so a link that
// was very slow is as good as new at once. In each queue the order stays: where
// two rows of times rise, the lesser of each pair rises, too.
func (s *shaper) reschedule(now int64) {
	s.wire = wire{free: now}
	s.lastDue = 0
	for r, e := 0, 0; r < s.regular.n || e < s.early.n; {
		skips := r == s.regular.n || e < s.early.n && s.early.at(e).departs < s.regular.at(r).departs
		var h *held
		if skips {
			h = s.early.at(e)
			e++
		} else {
			h = s.regular.at(r)
			r++
		}
		if h.departs > now { // it still waits for the wire
			h.departs = min(h.departs, s.wire.send(now, len(h.data), s.imp.Rate))
			s.wire = wire{free: h.departs}
		}
		if skips {
			h.due = h.departs
		} else {
			h.due = min(h.due, max(h.departs, now)+int64(s.imp.Delay))
			s.lastDue = h.due
		}
	}
}

// setDown says whether the carrier is lost; with it goes all that is under way.
func (s *shaper) setDown(m *mode, down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down {
		s.flush(m)
	}
}

// flush drops what is under way.
func (s *shaper) flush(m *mode) {
	for q := s.next(); q != nil; q = s.next() {
		h := q.pop()
		s.half.dropHeld(m, h.data)
		s.bytes -= cap(h.data)
		s.length -= len(h.data)
		s.pool.put(h.data)
	}
	s.wire, s.lastDue = wire{}, 0
	s.gauge()
	s.wake()
}

// end says that nothing more can be pushed, for the reason err.
func (s *shaper) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.feeding = false
	s.wake()
}

// fail says that nothing can be taken either: what is under way is dropped.
func (s *shaper) fail(m *mode, err error) {
	s.end(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush(m)
	if !s.closed && !s.retired {
		s.closed = true
		s.alarm.close()
	}
}

// unfeed ends the pump's task once the impairment is gone.
func (s *shaper) unfeed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cleared && s.err == nil {
		s.feeding = false
		s.wake()
	}
	return !s.feeding
}

// retire ends the shaper, unless there is something to do again.
func (s *shaper) retire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done() || s.closed {
		return false
	}
	s.recycle()
	s.retired = true
	s.alarm.close()
	return true
}

// unpump says that somebody else pushes.
func (s *shaper) unpump() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pump = nil
}

func (s *shaper) isRetired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retired
}
