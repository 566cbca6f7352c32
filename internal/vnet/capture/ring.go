package capture

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/capture/filter"
)

// Defaults of a ring: how many bytes of memory it takes, and how many of each
// frame it keeps: all of a normal one, the beginning of one that is left to be
// segmented, so that a bulk transfer does not push out everything else.
const (
	DefaultRing        = 8 << 20
	DefaultRingSnaplen = 2048
)

// RingOptions are the choices of a ring.
type RingOptions struct {
	Size      int       // bytes, without the names of interfaces; 0 means DefaultRing
	Snaplen   int       // bytes kept of each frame; 0 means DefaultRingSnaplen
	Direction Direction // which frames of each link
}

// Ring always holds the newest frames of its interfaces. Memory that was never
// used is not touched, so a quiet network's ring costs little.
type Ring struct {
	snaplen   int
	direction Direction

	mu      sync.Mutex
	frames  buffer
	names   names
	records int
}

// NewRing makes an empty ring.
func NewRing(o RingOptions) *Ring {
	if o.Size <= 0 {
		o.Size = DefaultRing
	}
	if o.Snaplen <= 0 {
		o.Snaplen = DefaultRingSnaplen
	}
	o.Snaplen = min(o.Snaplen, vnet.MaxFrame)
	return &Ring{snaplen: o.Snaplen, direction: o.Direction, frames: newBuffer(o.Size, o.Snaplen)}
}

// Interface adds an interface to the ring, and gives what observes its link.
// One that is equal to an earlier one is the same to the ring.
func (r *Ring) Interface(i Interface) vnet.Observer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ringTap{r, r.names.add(i)}
}

type ringTap struct {
	ring *Ring
	at   uint16
}

// Observe puts a frame in, in place of the oldest ones if need be. It does not
// allocate.
func (t ringTap) Observe(o vnet.Observation) {
	r := t.ring
	if !r.direction.wants(o.In, o.Dropped != "") {
		return
	}
	f := recordOf(o, r.snaplen)
	f.at = t.at
	r.mu.Lock()
	f.reason = r.names.number(o.Dropped)
	for !r.frames.put(&f) {
		r.frames.release()
		r.records--
	}
	r.records++
	r.mu.Unlock()
}

// RingStats say what a ring holds.
type RingStats struct {
	Frames int       // that it holds
	Bytes  int       // of memory that they take
	Oldest time.Time // when the oldest passed; zero if there is none
	Gone   uint64    // frames that it held and holds no more
}

// Stats says what the ring holds now.
func (r *Ring) Stats() RingStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RingStats{Frames: r.records, Bytes: int(r.frames.tail - r.frames.head), Gone: r.frames.first}
	if r.records > 0 {
		oldest, _ := r.frames.get(r.frames.head)
		s.Oldest = time.Unix(0, oldest.time)
	}
	return s
}

// Selection says which frames of a ring to write, and how.
type Selection struct {
	Since     time.Time            // only frames from then on; zero means all
	Direction Direction            // which frames of each link
	Interface func(Interface) bool // whether one's frames are wanted; nil means all
	Filter    *filter.Filter       // nil selects all; it sees what the ring kept of a frame
	Header    Header               // of the file
	Hosts     []Host               // names for the file
}

// Dump writes the frames that rings hold when it is called, in the order of
// their times, and says how many. The networks do not wait for it: the frames
// are copied first, in steps, which takes as much memory again until Dump
// returns.
func Dump(w io.Writer, s Selection, rings ...*Ring) (frames int, err error) {
	var all []*contents
	snaplen := 0
	for _, r := range rings {
		all = append(all, r.copy(s))
		snaplen = max(snaplen, r.snaplen)
	}
	if s.Header.Snaplen <= 0 {
		s.Header.Snaplen = snaplen
	}
	out := NewWriter(w, s.Header)
	// What Flush would return comes with the last call.
	_ = out.AddHosts(s.Hosts)
	for _, c := range all {
		if err := c.describe(out, s.Since); err != nil {
			return 0, err
		}
	}
	for c := oldest(all); c != nil; c = oldest(all) {
		f := &c.records[0]
		c.records = c.records[1:]
		count := &c.statistics[f.at]
		count.Received++
		if !s.Filter.Match(filter.Packet{Data: f.data, Length: f.length, In: f.in}) {
			continue
		}
		count.Accepted++
		p := f.packet(&c.names)
		p.Interface = count.Interface
		if err := out.WritePacket(p); err != nil {
			return frames, err
		}
		frames++
	}
	for _, c := range all {
		if err := c.close(out); err != nil {
			return frames, err
		}
	}
	return frames, out.Flush()
}

// oldest is which of them has the frame that comes next; nil when none has any.
func oldest(all []*contents) (first *contents) {
	for _, c := range all {
		if len(c.records) > 0 && (first == nil || c.records[0].time < first.records[0].time) {
			first = c
		}
	}
	return first
}

// contents are a copy of what a ring held, as far as it was wanted.
type contents struct {
	names      names
	wanted     []bool // by interface
	records    []record
	missed     uint64       // records that went before they were copied
	end        time.Time    // of the newest
	statistics []Statistics // by interface
}

// describe writes the interfaces that are wanted.
func (c *contents) describe(out *Writer, since time.Time) error {
	c.statistics = make([]Statistics, len(c.names.interfaces))
	for at, i := range c.names.interfaces {
		if !c.wanted[at] {
			continue
		}
		number, err := out.AddInterface(i)
		if err != nil {
			return err
		}
		c.statistics[at] = Statistics{Interface: number, Start: since, End: c.end}
	}
	return nil
}

// close writes what was counted of those interfaces.
func (c *contents) close(out *Writer) error {
	for at := range c.statistics {
		if !c.wanted[at] {
			continue
		}
		if c.missed > 0 {
			c.statistics[at].Comment = fmt.Sprintf("%d frames went while the ring was copied", c.missed)
		}
		if err := out.WriteStatistics(c.statistics[at]); err != nil {
			return err
		}
	}
	return nil
}

// copyStep is how many bytes of frames are copied with the ring's lock held.
const copyStep = 64 << 10

func (r *Ring) copy(s Selection) *contents {
	r.mu.Lock()
	c := &contents{names: r.names}
	pos, end := r.frames.head, r.frames.tail
	number, last := r.frames.first, r.frames.first+uint64(r.records)
	r.mu.Unlock()
	for _, i := range c.names.interfaces {
		c.wanted = append(c.wanted, s.Interface == nil || s.Interface(i))
	}
	since := int64(0)
	if !s.Since.IsZero() {
		since = s.Since.UnixNano()
	}
	c.records = make([]record, 0, last-number)
	for pos < end {
		step := make([]byte, 0, copyStep+r.snaplen)
		r.mu.Lock()
		if gone := r.frames.first; gone > number {
			c.missed += min(gone, last) - number
			pos, number = r.frames.head, gone
		}
		for pos < end && len(step) < copyStep {
			f, next := r.frames.get(pos)
			pos, number = next, number+1
			if f.time < since || !c.wanted[f.at] || !s.Direction.wants(f.in, f.reason != 0) {
				continue
			}
			from := len(step)
			step = append(step, f.data...)
			f.data = step[from:len(step):len(step)]
			c.records = append(c.records, f)
		}
		r.mu.Unlock()
	}
	// Links do not wait for each other between taking the time and the lock.
	slices.SortStableFunc(c.records, func(a, b record) int { return cmp.Compare(a.time, b.time) })
	if n := len(c.records); n > 0 {
		c.end = time.Unix(0, c.records[n-1].time)
	}
	return c
}
