package capture

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/capture/filter"
)

// DefaultQueue is the room for frames that wait for a live capture's reader,
// in bytes.
const DefaultQueue = 4 << 20

// LiveOptions are the choices of a live capture.
type LiveOptions struct {
	Direction Direction      // which frames of each link
	Filter    *filter.Filter // nil selects all
	Count     uint64         // the capture ends after so many frames; 0 means never
	Header    Header         // of the file; its Snaplen bounds what is kept of each frame
	Hosts     []Host         // names for the file
	Queue     int            // bytes; 0 means DefaultQueue
}

// Live streams frames as pcapng to one writer, each within moments of its
// passing. When the writer is slow and the queue before it is full, the newest
// frames are not captured, and counted: the network never waits for it.
type Live struct {
	w       io.Writer
	options LiveOptions
	snaplen int
	begun   time.Time
	over    atomic.Bool   // observers need not look any more
	done    chan struct{} // closed when the last has been written
	wake    chan struct{} // holds one token while the goroutine should look again

	mu       sync.Mutex
	queue    buffer
	names    names
	taps     []*tap // by interface
	accepted uint64
	idle     bool // the goroutine waits for wake
	closing  bool
	err      error
}

// tap listens at one interface.
type tap struct {
	live     *Live
	at       uint16
	received atomic.Uint64
	accepted atomic.Uint64
	lost     atomic.Uint64
	dropped  atomic.Uint64
	missed   uint32 // lost since the last one that was not; with the live's lock
}

// NewLive begins a capture to w, which it does not own. The file's header is
// written at once.
func NewLive(w io.Writer, o LiveOptions) *Live {
	l := &Live{
		w: w, options: o, begun: time.Now(), snaplen: o.Header.Snaplen,
		done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	if l.snaplen <= 0 || l.snaplen > vnet.MaxFrame {
		l.snaplen = vnet.MaxFrame
	}
	if o.Queue == 0 {
		o.Queue = DefaultQueue
	}
	l.queue = newBuffer(o.Queue, l.snaplen)
	go func() {
		defer close(l.done)
		defer l.over.Store(true)
		err := l.run()
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
	}()
	return l
}

// Interface adds an interface to the capture, and gives what observes its
// link. One that is equal to an earlier one is the same to the file.
func (l *Live) Interface(i Interface) vnet.Observer {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.names.add(i)
	if int(at) == len(l.taps) {
		l.taps = append(l.taps, &tap{live: l, at: at})
		l.signal()
	}
	return l.taps[at]
}

// Observe queues a frame.
func (t *tap) Observe(o vnet.Observation) {
	l := t.live
	if l.over.Load() || !l.options.Direction.wants(o.In, o.Dropped != "") {
		return
	}
	t.received.Add(1)
	if o.Dropped != "" {
		t.dropped.Add(1)
	}
	whole := filter.Packet{Data: o.Frame.Data, Length: len(o.Frame.Data), In: o.In}
	if !l.options.Filter.Match(whole) {
		return
	}
	r := recordOf(o, l.snaplen)
	r.at = t.at
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return
	}
	t.accepted.Add(1)
	r.lost, r.reason = t.missed, l.names.number(o.Dropped)
	if !l.queue.put(&r) {
		t.lost.Add(1)
		if t.missed+1 > t.missed {
			t.missed++
		}
		return
	}
	t.missed = 0
	if l.accepted++; l.accepted == l.options.Count {
		l.closing = true
		l.over.Store(true)
	}
	l.signal()
}

// signal wakes the goroutine, if it sleeps. The lock is held.
func (l *Live) signal() {
	if l.idle {
		l.idle = false
		l.wake <- struct{}{} // has room: nobody else sends before the goroutine is idle again
	}
}

// Done is closed when the capture is over: after Count frames, when the writer
// failed, or after Close.
func (l *Live) Done() <-chan struct{} { return l.done }

// Counts says how many frames were taken for the file so far, and how many
// were missed because its writer was too slow.
func (l *Live) Counts() (taken, missed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.taps {
		missed += t.lost.Load()
	}
	return l.accepted, missed
}

// Close ends the capture: it writes what is queued, and the statistics, and
// waits until that is done. When ctx ends sooner, a writer with a
// SetWriteDeadline method, such as a connection or a pipe, is interrupted, and
// the file ends where it is; Close waits for any other. It returns the first
// error of the writer. Closing twice is harmless.
func (l *Live) Close(ctx context.Context) error {
	l.over.Store(true)
	l.mu.Lock()
	l.closing = true
	l.signal()
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		if w, ok := l.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
			// If it can't, the writer is one that is waited for.
			_ = w.SetWriteDeadline(time.Unix(1, 0))
		}
		<-l.done
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// run writes the file.
func (l *Live) run() error {
	out := NewWriter(l.w, l.options.Header)
	err := out.AddHosts(l.options.Hosts)
	for described := 0; err == nil; {
		work := l.next()
		for ; described < len(work.names.interfaces) && err == nil; described++ {
			_, err = out.AddInterface(work.names.interfaces[described])
		}
		switch {
		case err != nil:
		case work.from != work.to:
			err = l.write(out, work)
		case work.closing:
			return l.finish(out, described)
		default:
			if err = out.Flush(); err == nil {
				l.sleep(described)
			}
		}
	}
	return err
}

// work is what there is to write: the records between two positions, which
// stay where they are until they are released.
type work struct {
	from, to uint64
	names    names
	closing  bool
}

func (l *Live) next() work {
	l.mu.Lock()
	defer l.mu.Unlock()
	return work{from: l.queue.head, to: l.queue.tail, names: l.names, closing: l.closing}
}

// sleep waits until there is more to do than describing so many interfaces.
func (l *Live) sleep(described int) {
	l.mu.Lock()
	if l.queue.head != l.queue.tail || l.closing || len(l.names.interfaces) > described {
		l.mu.Unlock()
		return
	}
	l.idle = true
	l.mu.Unlock()
	<-l.wake
}

// batch is how many records are written before their room is given back.
const batch = 64

func (l *Live) write(out *Writer, w work) error {
	for n := 0; w.from < w.to && n < batch; n++ {
		// The goroutine alone moves the head, and the records behind it are at
		// rest, so no lock is needed to read them.
		r, next := l.queue.get(w.from)
		p := r.packet(&w.names)
		p.Interface = int(r.at)
		if err := out.WritePacket(p); err != nil {
			return err
		}
		w.from = next
	}
	l.mu.Lock()
	l.queue.head = w.from
	l.mu.Unlock()
	return nil
}

// finish writes the statistics.
func (l *Live) finish(out *Writer, interfaces int) error {
	end := time.Now()
	for at := range interfaces {
		l.mu.Lock()
		t := l.taps[at]
		l.mu.Unlock()
		s := Statistics{
			Interface: at, Start: l.begun, End: end,
			Received: t.received.Load(), Accepted: t.accepted.Load(), Lost: t.lost.Load(),
		}
		if s.Lost > 0 {
			s.Comment = fmt.Sprintf("the capture missed %d frames, because its reader was too slow", s.Lost)
		}
		if n := t.dropped.Load(); n > 0 {
			if s.Comment != "" {
				s.Comment += "; "
			}
			s.Comment += fmt.Sprintf("the link dropped %d frames", n)
		}
		if err := out.WriteStatistics(s); err != nil {
			return err
		}
	}
	return out.Flush()
}
