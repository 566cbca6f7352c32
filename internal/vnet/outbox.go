package vnet

import (
	"sync"
	"sync/atomic"
)

// Outbox is the bounded queue before a port that must not stall its writers.
// Its Write never waits and may be called from several goroutines; one
// goroutine moves the frames on to the port. When the queue is full the newest
// frames are dropped and counted. Frames with an [Offload] that the port can't
// take are segmented on the way.
//
// Frames that find the queue empty go to a port that is [Prompt] at once, in the
// writer's goroutine, as many as the port has room for: waking another one, and
// copying them, is more work than sending them.
type Outbox struct {
	port    Port
	prompt  Prompt // nil if the port is not
	ring    *ring  // nil: the port needs no queue
	split   bool
	wg      sync.WaitGroup
	sent    atomic.Uint64
	bytes   atomic.Uint64
	dropped atomic.Uint64
	refused atomic.Uint64
}

// NewOutbox puts a queue of size bytes (0 means [DefaultQueue]) before port,
// unless the port is [Direct] and takes all frames as they are. It does not
// own the port: close the port first, then the outbox.
func NewOutbox(port Port, size int) *Outbox {
	o := &Outbox{port: port, split: !offloads(port)}
	if direct(port) && !o.split {
		return o
	}
	if size == 0 {
		size = DefaultQueue
	}
	o.ring = newRing(size)
	o.prompt, _ = port.(Prompt)
	o.wg.Add(1)
	go func() {
		defer o.wg.Done()
		o.run()
	}()
	return o
}

// Write queues the frames, and drops those that find no room, of which it gives
// the number.
func (o *Outbox) Write(frames []Frame) (dropped int) {
	var n int
	switch {
	case o.ring == nil:
		n, _ = o.port.WriteFrames(frames)
		o.count(frames[:n])
	case o.prompt != nil && !(o.split && anyOffload(frames)) && o.ring.pass():
		n = o.prompt.TryWriteFrames(frames)
		o.count(frames[:n])
		n += o.ring.rejoin(frames[n:])
	default:
		n, _ = o.ring.push(frames)
	}
	if dropped = len(frames) - n; dropped > 0 {
		o.dropped.Add(uint64(dropped))
	}
	return dropped
}

// Sent says how many frames and bytes went on to the port, how many frames were
// dropped before it, and how many it did not take when their turn came.
func (o *Outbox) Sent() (frames, bytes, dropped, refused uint64) {
	return o.sent.Load(), o.bytes.Load(), o.dropped.Load(), o.refused.Load()
}

// Close drops what is queued and waits for the goroutine. The port must be
// closed before, or a write under way could last for ever.
func (o *Outbox) Close() {
	if o.ring == nil {
		return
	}
	o.ring.close()
	o.wg.Wait()
}

const batchLen = 64

func (o *Outbox) run() {
	var views [batchLen]Frame
	var cut *cutter
	for {
		n, err := o.ring.peek(views[:])
		if err != nil {
			return
		}
		if o.split && anyOffload(views[:n]) {
			if cut == nil {
				cut = newCutter(o)
			}
			err = cut.write(views[:n])
		} else {
			err = o.write(views[:n])
		}
		o.ring.release()
		if err != nil {
			o.ring.close()
			o.ring.discard()
			return
		}
	}
}

func (o *Outbox) write(frames []Frame) error {
	n, err := o.port.WriteFrames(frames)
	o.count(frames[:n])
	o.refused.Add(uint64(len(frames) - n))
	return err
}

func (o *Outbox) count(frames []Frame) {
	sum := 0
	for i := range frames {
		sum += len(frames[i].Data)
	}
	o.sent.Add(uint64(len(frames)))
	o.bytes.Add(uint64(sum))
}

func anyOffload(frames []Frame) bool {
	for i := range frames {
		if frames[i].Offload != (Offload{}) {
			return true
		}
	}
	return false
}

// cutter segments on behalf of an outbox, into a batch of its own.
type cutter struct {
	o     *Outbox
	seg   Segmenter
	batch []Frame
	n     int
}

func newCutter(o *Outbox) *cutter {
	return &cutter{o: o, batch: NewBatch(batchLen, MaxFrame)}
}

func (c *cutter) write(frames []Frame) error {
	for i := range frames {
		if err := c.seg.Reset(frames[i]); err != nil {
			c.o.dropped.Add(1)
			continue
		}
		for c.seg.More() {
			b := &c.batch[c.n]
			b.Data = c.seg.Next(b.Data[:0])
			if c.n++; c.n == len(c.batch) {
				if err := c.flush(); err != nil {
					return err
				}
			}
		}
	}
	return c.flush()
}

func (c *cutter) flush() error {
	if c.n == 0 {
		return nil
	}
	err := c.o.write(c.batch[:c.n])
	c.n = 0
	return err
}
