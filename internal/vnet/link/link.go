package link

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"wolffia/internal/vnet"
)

// Options describe a link.
type Options struct {
	// Reversed says that the port given to [New] is the network's end of the
	// cable, such as one from [vnet.Switch.Plug], and that the link is used in its
	// place by whatever plays the machine, such as a gateway. Otherwise the port
	// is the machine's card, and the link is attached to the switch.
	Reversed bool
}

// Link is the cable between a machine and a switch. It is a [vnet.Port] itself,
// and takes frames with an Offload, and writes without waiting, if the port
// that it wraps does.
//
// While a direction is impaired, the frames written to the link are copied and
// WriteFrames does not wait whatever the port is; nor does the rate of a
// machine's own card slow it down: what its queue can't hold is dropped, as by a
// switch.
type Link struct {
	port     vnet.Port
	offloads bool
	direct   bool
	newAlarm func() alarm

	reads  half // what comes from the port
	writes half // what goes to the port

	wg        sync.WaitGroup // the goroutines of shapers
	mu        sync.Mutex
	up        bool
	closed    bool
	observers []*watcher // replaced, never changed

	receive func([]vnet.Frame) time.Duration // of a link that is driven, or nil
	passing sync.WaitGroup                   // the goroutines of pass
}

// New makes a link around a port, with its carrier up. It owns the port.
func New(port vnet.Port, o Options) *Link { return newLink(port, o, newAlarm) }

func newLink(port vnet.Port, o Options, newAlarm func() alarm) *Link {
	l := &Link{port: port, newAlarm: newAlarm, up: true}
	if p, ok := port.(vnet.Offloader); ok {
		l.offloads = p.Offloads()
	}
	if p, ok := port.(vnet.Direct); ok {
		l.direct = p.Direct()
	}
	l.reads.dir, l.writes.dir = Out, In
	if o.Reversed {
		l.reads.dir, l.writes.dir = In, Out
	}
	return l
}

// Offloads implements [vnet.Offloader].
func (l *Link) Offloads() bool { return l.offloads }

// Direct implements [vnet.Direct].
func (l *Link) Direct() bool { return l.direct }

func (l *Link) half(d Direction) *half {
	if l.reads.dir == d {
		return &l.reads
	}
	return &l.writes
}

// SetUp connects the cable, or pulls it out: then every frame in either
// direction is dropped, including those under way. The machine is not told;
// that is its backend's part.
func (l *Link) SetUp(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = up
	for _, h := range []*half{&l.reads, &l.writes} {
		l.publish(h)
		if h.shaper != nil {
			h.shaper.setDown(h.mode.Load(), !up)
		}
	}
}

// Up says whether the cable is connected.
func (l *Link) Up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up
}

// SetImpairment replaces what a direction does to its frames; the zero value
// ends it. The frames of the direction are counted from 0 again. Those that are
// under way keep their fate, and arrive no later than if they were sent now.
func (l *Link) SetImpairment(d Direction, i Impairment) error {
	if err := i.Check(); err != nil {
		return fmt.Errorf("impair link: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("impair link: %w", net.ErrClosed)
	}
	h := l.half(d)
	h.imp = i
	if h.shaper != nil {
		h.shaper.change(i, d)
		return nil
	}
	if i.none() {
		return nil
	}
	s := newShaper(h, l.newAlarm())
	s.down = !l.up
	s.change(i, d)
	switch {
	case h == &l.writes:
		l.wg.Go(func() { l.deliver(s) })
	case l.receive != nil:
		l.hand(s)
	default:
		s.pump = func() { l.wg.Go(func() { l.pump(s) }) }
	}
	h.shaper = s
	l.publish(h)
	return nil
}

// Impairment is what was set last for a direction.
func (l *Link) Impairment(d Direction) Impairment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.half(d).imp
}

// Observe shows an observer every frame in both directions from now on, until
// remove is called; one more call may be under way then. The time is that at
// the machine's end: a frame that the machine sends is seen when it comes to
// the link, one that it gets when it leaves the link, each before it goes on, so
// an answer is never seen before what it answers. A dropped frame is seen
// once, when it is dropped; but one that the machine sent, and that has
// been seen, is not seen again when the carrier is lost while it is under way. A
// corrupted frame is shown as it goes on, a duplicated one twice; a frame with
// an Offload whole, or, in an impaired direction, as the packets made of it.
//
// The observer must not call the link: it may hold its locks.
func (l *Link) Observe(o vnet.Observer) (remove func()) {
	w := &watcher{o}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch(append(slices.Clone(l.observers), w))
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.watch(slices.DeleteFunc(slices.Clone(l.observers), func(x *watcher) bool { return x == w }))
	}
}

func (l *Link) watch(all []*watcher) {
	l.observers = all
	l.publish(&l.reads)
	l.publish(&l.writes)
}

// Stats counts what happened to the frames of a direction.
func (l *Link) Stats(d Direction) Stats { return l.half(d).stats() }

// publish makes what is set take effect for the next frames.
func (l *Link) publish(h *half) {
	if l.up && !l.closed && h.shaper == nil && len(l.observers) == 0 {
		h.mode.Store(nil)
		return
	}
	h.mode.Store(&mode{down: !l.up, closed: l.closed, observers: l.observers, shaper: h.shaper})
}

// Close ends both directions and closes the port. Frames under way are dropped.
func (l *Link) Close() error {
	l.mu.Lock()
	l.closed = true
	for _, h := range []*half{&l.reads, &l.writes} {
		l.publish(h)
		if h.shaper != nil {
			h.shaper.fail(h.mode.Load(), net.ErrClosed)
		}
	}
	l.mu.Unlock()
	err := l.port.Close()
	l.wg.Wait()
	l.passing.Wait()
	return err
}

// WriteFrames implements [vnet.Port]. Frames that the link drops count as taken.
func (l *Link) WriteFrames(frames []vnet.Frame) (int, error) {
	h := &l.writes
	for m := h.mode.Load(); m != nil; m = h.mode.Load() {
		if m.closed {
			return 0, net.ErrClosed
		}
		if m.shaper != nil {
			ok, err := m.shaper.push(m, frames)
			if err != nil {
				return 0, err
			}
			if ok {
				return len(frames), nil
			}
			continue // the impairment was lifted just now
		}
		if m.down {
			h.drop(m, reasonDown, frames)
			return len(frames), nil
		}
		h.observe(m, "", frames)
		break
	}
	n, err := l.port.WriteFrames(frames)
	h.count(frames[:n])
	h.refused(len(frames) - n)
	return n, err
}

// TryWriteFrames implements [vnet.Prompt], for a plain wire.
func (l *Link) TryWriteFrames(frames []vnet.Frame) int {
	prompt, ok := l.port.(vnet.Prompt)
	if !ok || l.writes.mode.Load() != nil {
		return 0
	}
	n := prompt.TryWriteFrames(frames)
	l.writes.count(frames[:n])
	return n
}

// ReadFrames implements [vnet.Port].
func (l *Link) ReadFrames(bufs []vnet.Frame) (int, error) {
	h := &l.reads
	for {
		if m := h.mode.Load(); m != nil && m.shaper != nil {
			n, err := l.readShaped(m.shaper, bufs)
			if n > 0 || err != nil {
				return n, err
			}
			continue
		}
		n, err := l.port.ReadFrames(bufs)
		if err != nil {
			return 0, err
		}
		if l.arrived(bufs[:n]) {
			return n, nil
		}
	}
}

// Drive implements [vnet.Driven], if the port does.
func (l *Link) Drive(receive func([]vnet.Frame) time.Duration, ended func()) bool {
	d, ok := l.port.(vnet.Driven)
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receive = receive
	ok = d.Drive(func(frames []vnet.Frame) (pause time.Duration) {
		if l.arrived(frames) {
			pause = receive(frames)
		}
		return pause
	}, func() {
		l.undrive()
		ended()
	})
	if !ok {
		l.receive = nil
		return false
	}
	if s := l.reads.shaper; s != nil && !l.closed {
		s.unpump()
		l.hand(s)
	}
	return true
}

// undrive is called when nothing comes from the port any more: what is under way
// still arrives.
func (l *Link) undrive() {
	l.mu.Lock()
	l.receive = nil
	if s := l.reads.shaper; s != nil {
		s.end(net.ErrClosed)
	}
	l.mu.Unlock()
	l.passing.Wait()
}

// hand has a goroutine hand on what comes out of the shaper of a link that is driven.
// The caller holds mu.
func (l *Link) hand(s *shaper) {
	receive := l.receive
	l.passing.Go(func() { l.pass(s, receive) })
}

// pass hands on what comes out of a shaper, until it is of no use any more.
func (l *Link) pass(s *shaper, receive func([]vnet.Frame) time.Duration) {
	frames := vnet.NewBatch(batchLen/4, vnet.MaxFrame)
	for {
		n, err := l.readShaped(s, frames)
		if err != nil || n == 0 && s.isRetired() {
			return
		}
		if n > 0 {
			time.Sleep(receive(frames[:n]))
		}
	}
}

// arrived says whether frames just read go straight on. Otherwise they were
// dropped, or are in a shaper that was set up during the read.
func (l *Link) arrived(frames []vnet.Frame) bool {
	h := &l.reads
	for m := h.mode.Load(); m != nil; m = h.mode.Load() {
		if m.shaper != nil {
			if ok, _ := m.shaper.push(m, frames); ok {
				return false
			}
			continue
		}
		if m.down {
			h.drop(m, reasonDown, frames)
			return false
		}
		h.observe(m, "", frames)
		break
	}
	h.count(frames)
	return true
}

// readShaped gives what comes out of a shaper: no frames if there may be other
// ways to get some now.
func (l *Link) readShaped(s *shaper, bufs []vnet.Frame) (int, error) {
	h := &l.reads
	batch, err := s.take(len(bufs))
	if errors.Is(err, errRetired) {
		l.retire(h, s)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range batch {
		b := &bufs[n]
		if len(batch[i].data) > cap(b.Data) {
			continue
		}
		b.Data = append(b.Data[:0], batch[i].data...)
		b.Offload = vnet.Offload{}
		n++
	}
	h.refused(len(batch) - n)
	h.left(h.mode.Load(), bufs[:n])
	h.count(bufs[:n])
	return n, nil
}

// retire gives a shaper up that says it is of no use any more.
func (l *Link) retire(h *half, s *shaper) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.retire() {
		return false
	}
	h.shaper = nil
	l.publish(h)
	return true
}

// pump reads the port into a shaper while the link's reader waits for what
// comes out. A read can't be called off, so the pump ends with the first frames
// after the impairment is gone.
func (l *Link) pump(s *shaper) {
	frames := vnet.NewBatch(batchLen/4, vnet.MaxFrame)
	for {
		n, err := l.port.ReadFrames(frames)
		if err == nil {
			_, err = s.push(l.reads.mode.Load(), frames[:n])
		}
		if err != nil {
			s.end(err)
			return
		}
		if s.unfeed() {
			return
		}
	}
}

// deliver writes to the port what comes out of a shaper. Nobody else writes to
// it meanwhile, if it is not Direct: the one who writes to the link pushes.
func (l *Link) deliver(s *shaper) {
	h := &l.writes
	frames := make([]vnet.Frame, batchLen)
	for {
		batch, err := s.take(batchLen)
		if errors.Is(err, errRetired) {
			if l.retire(h, s) {
				return
			}
			continue
		}
		if err != nil {
			return
		}
		for i := range batch {
			frames[i] = vnet.Frame{Data: batch[i].data}
		}
		m := h.mode.Load()
		h.left(m, frames[:len(batch)])
		n, err := l.port.WriteFrames(frames[:len(batch)])
		h.count(frames[:n])
		h.refused(len(batch) - n)
		if err != nil {
			s.fail(m, err)
			return
		}
	}
}
