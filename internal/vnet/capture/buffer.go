package capture

import (
	"encoding/binary"
	"slices"
	"time"

	"wolffia/internal/vnet"
)

// record is a frame as a buffer holds it.
type record struct {
	time    int64 // nanoseconds since 1970
	data    []byte
	length  int    // of the whole frame
	lost    uint32 // frames of this interface that the capture missed before this one
	at      uint16 // which interface
	reason  uint8  // why it was dropped: an index of names; 0 if it was not
	in      bool
	offload vnet.Offload // NeedsChecksum and SegmentType only
}

// recordOf is what a capture keeps of an observation.
func recordOf(o vnet.Observation, snaplen int) record {
	data := o.Frame.Data
	return record{
		time:    o.Time.UnixNano(),
		length:  len(data),
		data:    data[:min(len(data), snaplen)],
		in:      o.In,
		offload: vnet.Offload{NeedsChecksum: o.Frame.Offload.NeedsChecksum, SegmentType: o.Frame.Offload.SegmentType},
	}
}

// packet is the record as a file has it, except for the interface, whose
// number in the file may be another.
func (r *record) packet(names *names) Packet {
	return Packet{
		Time:    time.Unix(0, r.time),
		In:      r.in,
		Data:    r.data,
		Length:  r.length,
		Offload: r.offload,
		Dropped: names.reason(r.reason),
		Lost:    uint64(r.lost),
	}
}

// buffer is a queue of records in one block of memory. A record never wraps
// around the end of the block: a header with the length wrapMark says that the
// rest is unused. Its owner locks it.
type buffer struct {
	block []byte
	head  uint64 // bytes ever released
	tail  uint64 // bytes ever written
	first uint64 // records ever released: the number of the one at head
}

const (
	recordHeader = 32
	recordAlign  = 16
	wrapMark     = 1<<32 - 1
)

// newBuffer makes a buffer of size bytes, or of as many as it needs to hold
// records with frames of snaplen bytes wherever they come to lie.
func newBuffer(size, snaplen int) buffer {
	least := 2 * (recordHeader + snaplen + recordAlign)
	return buffer{block: make([]byte, max(size, least)&^(recordAlign-1))}
}

// put appends a record; it says no when there is no room.
func (b *buffer) put(r *record) bool {
	size := uint64(len(b.block))
	need := (recordHeader + uint64(len(r.data)) + recordAlign - 1) &^ (recordAlign - 1)
	at, skip := b.tail%size, uint64(0)
	if at+need > size {
		skip = size - at
	}
	if b.tail+skip+need-b.head > size {
		return false
	}
	if skip > 0 {
		binary.NativeEndian.PutUint32(b.block[at:], wrapMark)
		at = 0
	}
	r.encode(b.block[at : at+need])
	b.tail += skip + need
	return true
}

// get reads the record at a position from head on, and gives the position of
// the next. Its data stays valid until the record is released.
func (b *buffer) get(pos uint64) (r record, next uint64) {
	size := uint64(len(b.block))
	at := pos % size
	if binary.NativeEndian.Uint32(b.block[at:]) == wrapMark {
		pos, at = pos+size-at, 0
	}
	r.decode(b.block[at:])
	return r, pos + (recordHeader+uint64(len(r.data))+recordAlign-1)&^(recordAlign-1)
}

// release gives up the oldest record.
func (b *buffer) release() {
	_, b.head = b.get(b.head)
	b.first++
}

func (r *record) encode(b []byte) {
	ne := binary.NativeEndian
	ne.PutUint32(b, uint32(len(r.data)))
	ne.PutUint32(b[4:], uint32(r.length))
	ne.PutUint64(b[8:], uint64(r.time))
	ne.PutUint32(b[16:], r.lost)
	ne.PutUint16(b[20:], r.at)
	b[22] = r.reason
	b[23] = 0
	if r.in {
		b[23] |= 1
	}
	if r.offload.NeedsChecksum {
		b[23] |= 2
	}
	b[24] = r.offload.SegmentType
	copy(b[recordHeader:], r.data)
}

func (r *record) decode(b []byte) {
	ne := binary.NativeEndian
	end := recordHeader + uint64(ne.Uint32(b))
	*r = record{
		data:    b[recordHeader:end:end],
		length:  int(ne.Uint32(b[4:])),
		time:    int64(ne.Uint64(b[8:])),
		lost:    ne.Uint32(b[16:]),
		at:      ne.Uint16(b[20:]),
		reason:  b[22],
		in:      b[23]&1 != 0,
		offload: vnet.Offload{NeedsChecksum: b[23]&2 != 0, SegmentType: b[24]},
	}
}

// names are the interfaces and the reasons for drops that records refer to by
// number. They only grow, so a copy of the struct stays good for the records
// that there were when it was made. Their owner locks them.
type names struct {
	interfaces []Interface
	reasons    []string // of the numbers from 1 on
}

const (
	// maxInterfaces bounds the interfaces of a capture; those of machines that
	// come after share the last, named others.
	maxInterfaces = 4096
	others        = "others"
	// maxReasons bounds the reasons; a later one is called others, too.
	maxReasons = 255
)

// add gives an interface its number: the same to one that was added before, as
// that of a machine that was restarted.
func (n *names) add(i Interface) uint16 {
	at := slices.IndexFunc(n.interfaces, i.equal)
	switch {
	case at >= 0:
	case len(n.interfaces) == maxInterfaces:
		at = maxInterfaces - 1
	default:
		at = len(n.interfaces)
		if at == maxInterfaces-1 {
			i = Interface{Name: others}
		}
		i.MAC = slices.Clone(i.MAC)
		n.interfaces = append(n.interfaces, i)
	}
	return uint16(at)
}

// number gives a reason its number.
func (n *names) number(reason string) uint8 {
	if reason == "" {
		return 0
	}
	at := slices.Index(n.reasons, reason)
	switch {
	case at >= 0:
	case len(n.reasons) == maxReasons:
		at = maxReasons - 1
	default:
		at = len(n.reasons)
		if at == maxReasons-1 {
			reason = others
		}
		n.reasons = append(n.reasons, reason)
	}
	return uint8(at + 1)
}

func (n *names) reason(number uint8) string {
	if number == 0 {
		return ""
	}
	return n.reasons[number-1]
}
