package vnet

import "time"

// MaxFrame is the longest frame any port carries, in bytes: an Ethernet header
// with one 802.1Q tag and the longest IP packet, which a port with
// segmentation offload may carry whole.
const MaxFrame = 14 + 4 + 65535

// MinFrame is the shortest frame: an Ethernet header. Padding to the 60 bytes
// of a real wire is not asked for.
const MinFrame = 14

// Port is anything that frames can be read from and written to: a machine's
// network card, the gateway, a tap, a test.
//
// Frames are whole Ethernet frames without preamble and checksum. One
// goroutine may read while another writes; neither method is called twice at
// the same time. Both return an error that wraps net.ErrClosed once the port
// is closed, from whichever side the port can tell.
type Port interface {
	// ReadFrames fills up to len(bufs) of the caller's frames and says how
	// many; it blocks until there is at least one. Each buffer's Data is
	// filled from its start up to its capacity, and resliced to the frame
	// read, so the same batch can be passed again and again; Offload is set,
	// too. A frame longer than its buffer is dropped.
	ReadFrames(bufs []Frame) (int, error)
	// WriteFrames sends the frames in order and says how many the peer took;
	// the others are lost. It may wait while the peer has no room, and Close
	// ends the wait: whoever must not be stalled by a slow peer keeps a
	// bounded queue before the port, as [Switch] does. The buffers may be
	// reused when it returns.
	WriteFrames(frames []Frame) (int, error)
	// Close frees the port and ends calls that are under way. Closing twice
	// is harmless.
	Close() error
}

// Frame is one Ethernet frame in a caller-owned buffer.
type Frame struct {
	// Data is the frame's bytes, from the destination address on. Its capacity
	// is what a reader may fill.
	Data []byte
	// Offload describes segmentation and checksum work left to the receiver.
	// The zero value means none: every port accepts such frames. A port that
	// does not implement [Offloader] is only given frames without.
	Offload Offload
	// Source tells, of frames that a switch sends, those of its ports apart that
	// they came in by: what no sender can choose. It is a number that a port
	// keeps while it is attached, and 0 where no switch has said anything.
	// Writers of frames leave it alone.
	Source uint16
	// Flooded tells, of frames for one station that a switch sends, that it does
	// not know which, so it went to all ports. Writers of frames leave it alone.
	Flooded bool
}

// Offload is what a virtio-net header says about a frame (virtio 1.2, 5.1.6).
type Offload struct {
	NeedsChecksum bool   // the checksum at ChecksumStart+ChecksumOff is to be filled in
	SegmentType   uint8  // [SegmentNone], [SegmentTCPv4] or [SegmentTCPv6]
	HeaderLen     uint16 // bytes up to the end of the TCP header
	SegmentSize   uint16 // payload bytes of each segment
	ChecksumStart uint16 // bytes from the start of the frame to where summing begins
	ChecksumOff   uint16 // bytes from there to the checksum's field
}

// The segment types, as virtio's gso_type has them.
const (
	SegmentNone  = 0
	SegmentTCPv4 = 1
	SegmentTCPv6 = 4
)

// Offloader is a Port that can take frames whose Offload is not zero, if
// Offloads says so; the answer does not change.
type Offloader interface{ Offloads() bool }

// Direct is a Port whose WriteFrames never waits and may be called from
// several goroutines at once, if Direct says so; the answer does not change.
// Nobody needs a queue before it.
type Direct interface{ Direct() bool }

// Prompt is a Port that can be asked to send what can be sent without waiting.
type Prompt interface {
	// TryWriteFrames sends the first frames, as many as the peer has room for
	// now, and says how many; the others are the caller's still. It gives 0 as
	// well where it can't tell, or where the port is closed. It is a call of
	// WriteFrames otherwise: nobody makes both at the same time.
	TryWriteFrames(frames []Frame) int
}

// Driven is a Port that can call whoever has its frames, from a goroutine that serves
// many ports, instead of being read.
type Driven interface {
	// Drive has receive called with every batch of frames that comes, from now on,
	// one call at a time. When the port is closed, by whichever side, ended is called,
	// once, in a goroutine of its own, and receive no more. It says false, and does nothing, if the
	// port can't. ReadFrames is not called before, nor after it has said true.
	//
	// The frames are the callee's during the call, as those of ReadFrames are. It does
	// not wait, since other ports do; it gives how long the port shall not be read.
	Drive(receive func(frames []Frame) (pause time.Duration), ended func()) bool
}

func offloads(p Port) bool {
	o, ok := p.(Offloader)
	return ok && o.Offloads()
}

func direct(p Port) bool {
	d, ok := p.(Direct)
	return ok && d.Direct()
}

// NewBatch makes n frames with room for size bytes each, from one allocation.
func NewBatch(n, size int) []Frame {
	slab := make([]byte, n*size)
	frames := make([]Frame, n)
	for i := range frames {
		frames[i].Data = slab[i*size : i*size : (i+1)*size]
	}
	return frames
}
