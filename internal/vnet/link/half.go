package link

import (
	"sync/atomic"
	"time"

	"wolffia/internal/vnet"
)

// Stats counts what happened to the frames of one direction. A frame with an
// Offload that passes as it is counts as one.
type Stats struct {
	Frames     uint64 `json:"frames"` // that left the link at its other end
	Bytes      uint64 `json:"bytes"`
	Dropped    Drops  `json:"dropped"`
	Duplicated uint64 `json:"duplicated"`
	Corrupted  uint64 `json:"corrupted"`
	Reordered  uint64 `json:"reordered"`

	// What waits for the rate or is under way now.
	QueuedFrames int `json:"queuedFrames"`
	QueuedBytes  int `json:"queuedBytes"`
}

// Drops counts frames that went no further, by reason.
type Drops struct {
	Down    uint64 `json:"down"`    // "link down", before or during their way
	Loss    uint64 `json:"loss"`    // "loss"
	Queue   uint64 `json:"queue"`   // "queue": it was full
	Offload uint64 `json:"offload"` // "offload": it did not fit the bytes, so no packets could be made of it
	Refused uint64 `json:"refused"` // by the port, or by a reader with too short a buffer; not observed
}

// Total is the number of frames dropped for any reason.
func (d Drops) Total() uint64 { return d.Down + d.Loss + d.Queue + d.Offload + d.Refused }

// reason is why a frame is dropped.
type reason uint8

const (
	reasonDown reason = iota
	reasonLoss
	reasonQueue
	reasonOffload
	reasonRefused
	reasons
)

// reasonNames are what an Observation has.
var reasonNames = [reasons]string{"link down", "loss", "queue", "offload", "refused"}

// mode is all that makes a direction differ from a plain wire. It is replaced,
// never changed.
type mode struct {
	down      bool
	closed    bool
	observers []*watcher
	shaper    *shaper // nil if not impaired
}

// watcher is one registration of an observer.
type watcher struct{ vnet.Observer }

// half is one direction of a link.
type half struct {
	dir  Direction
	mode atomic.Pointer[mode] // nil: a plain wire

	imp    Impairment // under the link's mu, like shaper
	shaper *shaper

	frames, bytes                    atomic.Uint64
	dropped                          [reasons]atomic.Uint64
	duplicated, corrupted, reordered atomic.Uint64
	queuedFrames, queuedBytes        atomic.Int64
}

func (h *half) stats() Stats {
	return Stats{
		Frames: h.frames.Load(), Bytes: h.bytes.Load(),
		Dropped: Drops{
			Down: h.dropped[reasonDown].Load(), Loss: h.dropped[reasonLoss].Load(), Queue: h.dropped[reasonQueue].Load(),
			Offload: h.dropped[reasonOffload].Load(), Refused: h.dropped[reasonRefused].Load(),
		},
		Duplicated: h.duplicated.Load(), Corrupted: h.corrupted.Load(), Reordered: h.reordered.Load(),
		QueuedFrames: int(h.queuedFrames.Load()), QueuedBytes: int(h.queuedBytes.Load()),
	}
}

func (h *half) count(frames []vnet.Frame) {
	sum := 0
	for i := range frames {
		sum += len(frames[i].Data)
	}
	h.frames.Add(uint64(len(frames)))
	h.bytes.Add(uint64(sum))
}

func (h *half) refused(n int) {
	if n > 0 {
		h.dropped[reasonRefused].Add(uint64(n))
	}
}

// observe shows frames to whoever looks.
func (h *half) observe(m *mode, dropped string, frames []vnet.Frame) {
	if m == nil || len(m.observers) == 0 {
		return
	}
	now := time.Now()
	for _, o := range m.observers {
		for i := range frames {
			o.Observe(vnet.Observation{Time: now, In: h.dir == In, Dropped: dropped, Frame: frames[i]})
		}
	}
}

// entered is called for a frame that begins its way through a shaper. That is
// when a machine sees one that it sends.
func (h *half) entered(m *mode, data []byte) {
	if h.dir == Out && len(m.observers) > 0 {
		h.observe(m, "", []vnet.Frame{{Data: data}})
	}
}

// left is called for frames that come out of a shaper. That is when a machine
// sees one that it gets.
func (h *half) left(m *mode, frames []vnet.Frame) {
	if h.dir == In {
		h.observe(m, "", frames)
	}
}

func (h *half) drop(m *mode, why reason, frames []vnet.Frame) {
	h.dropped[why].Add(uint64(len(frames)))
	h.observe(m, reasonNames[why], frames)
}

func (h *half) dropOne(m *mode, why reason, data []byte) {
	h.dropped[why].Add(1)
	if len(m.observers) > 0 {
		h.observe(m, reasonNames[why], []vnet.Frame{{Data: data}})
	}
}

// dropHeld is for a frame on its way, which was observed already if it is one
// that the machine sent.
func (h *half) dropHeld(m *mode, data []byte) {
	if h.dir == Out {
		h.dropped[reasonDown].Add(1)
		return
	}
	h.dropOne(m, reasonDown, data)
}
