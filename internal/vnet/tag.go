package vnet

import "encoding/binary"

// The tag of IEEE 802.1Q-2018, 9.3 to 9.6, stands between the source address
// and the EtherType: 0x8100, then 3 bits of priority, one of drop eligibility
// and 12 of VLAN identifier.
const (
	tagAt   = 12
	tagLen  = 4
	tpid    = 0x8100
	vidBits = 0x0fff

	serviceTPID = 0x88a8 // of a provider's tag, which the switch takes for payload
)

// tagKind is what a frame has where a tag may be.
type tagKind uint8

const (
	noTag       tagKind = 0
	vlanTag     tagKind = 1 << iota // with an identifier
	priorityTag                     // with the identifier 0
	nestedTag                       // and another below
	brokenTag                       // the frame ends in it
)

// tagOf gives the identifier in a frame's tag, 0 if there is none.
func tagOf(d []byte) (vlan int, kind tagKind) {
	if binary.BigEndian.Uint16(d[tagAt:]) != tpid {
		return 0, noTag
	}
	if len(d) < MinFrame+tagLen {
		return 0, brokenTag
	}
	vlan, kind = int(binary.BigEndian.Uint16(d[tagAt+2:])&vidBits), vlanTag
	if vlan == 0 {
		kind = priorityTag
	}
	if binary.BigEndian.Uint16(d[tagAt+tagLen:]) == tpid {
		kind |= nestedTag
	}
	return vlan, kind
}

// retaggable says whether a frame can leave with a tag more or less. One that
// asks for a checksum inside its Ethernet header can't: the one who fills it in
// would write into the tag, and so choose the frame's VLAN.
func retaggable(f *Frame, kind tagKind) bool {
	header := MinFrame
	room := MaxFrame - tagLen
	if kind != noTag {
		header, room = header+tagLen, MaxFrame
	}
	if kind == brokenTag || len(f.Data) > room {
		return false
	}
	return !f.Offload.NeedsChecksum || int(f.Offload.ChecksumStart) >= header && f.Offload.ChecksumStart <= 1<<16-1-tagLen
}

// tagEdit is what happens to a tag on the way out.
type tagEdit uint8

const (
	keepTag  tagEdit = iota
	pushTag          // a tag is put in, with priority 0
	fillTag          // a priority tag gets an identifier
	popTag           // the tag is taken out
	refuse           // the frame is not sent
	tagEdits         // how many there are
)

// retagger copies frames and changes their tags, into memory of its own.
type retagger struct {
	slab   []byte
	frames [batchLen]Frame
}

// retaggerRoom holds a batch of ordinary frames, or a few of the longest.
const retaggerRoom = 4 * (MaxFrame + tagLen)

func newRetagger() *retagger { return &retagger{slab: make([]byte, retaggerRoom)} }

// apply changes as many frames as it has room for, one at least, and gives back
// the others. What it made lasts until the next call.
func (r *retagger) apply(edit tagEdit, vlan int, frames []Frame) (made, rest []Frame) {
	slab, n := r.slab, 0
	for n < len(r.frames) && n < len(frames) && len(frames[n].Data)+tagLen <= len(slab) {
		f := &r.frames[n]
		f.Offload, f.Source, f.Flooded = frames[n].Offload, frames[n].Source, frames[n].Flooded
		f.Data = retag(slab[:0], frames[n].Data, edit, vlan)
		switch edit {
		case pushTag:
			f.Offload.shift(tagLen)
		case popTag:
			f.Offload.shift(-tagLen)
		}
		slab = slab[len(f.Data):]
		n++
	}
	return r.frames[:n], frames[n:]
}

// retag appends a frame with another tag to buf.
func retag(buf, d []byte, edit tagEdit, vlan int) []byte {
	buf = append(buf, d[:tagAt]...)
	tci, rest := uint16(vlan), d[tagAt:]
	switch edit {
	case popTag:
		return append(buf, d[tagAt+tagLen:]...)
	case fillTag:
		tci |= binary.BigEndian.Uint16(d[tagAt+2:])
		rest = d[tagAt+tagLen:]
	}
	buf = binary.BigEndian.AppendUint16(buf, tpid)
	buf = binary.BigEndian.AppendUint16(buf, tci)
	return append(buf, rest...)
}

// shift moves what is counted from the start of the frame.
func (o *Offload) shift(by int) {
	if o.NeedsChecksum {
		o.ChecksumStart = uint16(int(o.ChecksumStart) + by)
	}
	if o.SegmentType != SegmentNone {
		o.HeaderLen = uint16(min(max(int(o.HeaderLen)+by, 0), 1<<16-1)) // nobody has checked it yet
	}
}
