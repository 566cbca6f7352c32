// Package vnet is layer 2 in user space: ports that carry Ethernet frames, and
// the switch that joins them.
package vnet

// Port is anything that frames can be read from and written to: a machine's
// network card, the gateway, a tap, a test.
//
// Frames are whole Ethernet frames without preamble and checksum. One
// goroutine may read while another writes; neither method is called twice at
// the same time. Both return an error that wraps net.ErrClosed once the port
// is closed, from whichever side.
type Port interface {
	// ReadFrames fills up to len(bufs) of the caller's frames and says how
	// many; it blocks until there is at least one. Each buffer's Data is
	// resliced to the frame read; a frame longer than its buffer is dropped
	// and counted by the port.
	ReadFrames(bufs []Frame) (int, error)
	// WriteFrames sends the frames in order and says how many were taken.
	// Frames that the peer has no room for are dropped, not waited for: a
	// slow machine must not stall its network. The buffers may be reused when
	// it returns.
	WriteFrames(frames []Frame) (int, error)
	// Close frees the port and ends calls that are under way.
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
}

// Offload is what a virtio-net header says about a frame (virtio 1.2, 5.1.6).
type Offload struct {
	NeedsChecksum bool   // the checksum at ChecksumStart+ChecksumOffset is to be filled in
	SegmentType   uint8  // 0 none, 1 TCPv4, 4 TCPv6, as virtio's gso_type
	HeaderLen     uint16 // bytes up to the end of the TCP header
	SegmentSize   uint16 // payload bytes of each segment
	ChecksumStart uint16
	ChecksumOff   uint16
}

// Offloader is a Port that can take frames whose Offload is not zero.
type Offloader interface{ Offloads() bool }
