package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"wolffia/internal/vnet"
)

// Interface is where frames are seen: a machine's network card.
type Interface struct {
	Name        string           // "alice/eth0"
	Description string           // such as the network's name
	MAC         net.HardwareAddr // six bytes, or nil
}

func (i Interface) equal(other Interface) bool {
	return i.Name == other.Name && i.Description == other.Description && slices.Equal(i.MAC, other.MAC)
}

// Host is a machine's name and addresses, which a file may carry so that its
// readers show names.
type Host struct {
	Name  string
	Addrs []netip.Addr
}

// Packet is one frame of a file.
type Packet struct {
	Interface int       // as AddInterface said
	Time      time.Time // to the nanosecond
	In        bool      // to the machine whose interface it is, else from it
	Data      []byte    // what was kept of the frame
	Length    int       // bytes of the whole frame
	Offload   vnet.Offload
	Dropped   string // why the frame went no further, or empty: "loss"
	Lost      uint64 // frames that the capture missed since the one before, on this interface
}

// Statistics say what became of an interface's frames in a capture.
type Statistics struct {
	Interface  int       // as AddInterface said
	Start, End time.Time // of the capture; either may be zero
	Received   uint64    // frames that passed, of the directions asked for
	Accepted   uint64    // of those, frames that the filter selected
	Lost       uint64    // of those, frames that the capture missed
	Comment    string
}

// Header is what stands at the beginning of a file.
type Header struct {
	Hardware string // the kind of machine that the capture was made on; may be empty
	OS       string // its operating system; may be empty
	Comment  string // may be empty
	Snaplen  int    // the most bytes that are kept of a frame; 0 means all
}

// Writer writes a pcapng file, which it collects in memory until Flush or
// until there is some to write. An error of the writer below stays: all later
// calls return it.
type Writer struct {
	w          io.Writer
	buf        []byte
	start      int // of the block under way, in buf
	snaplen    uint32
	interfaces int
	err        error
}

// The blocks and options of draft-ietf-opsawg-pcapng that are written:
// sections 4.1 to 4.6, and 3.5 for options.
const (
	sectionHeader        = 0x0a0d0d0a
	interfaceDescription = 1
	nameResolution       = 4
	interfaceStatistics  = 5
	enhancedPacket       = 6

	byteOrderMagic = 0x1a2b3c4d
	linkEthernet   = 1

	optEnd         = 0
	optComment     = 1
	shbHardware    = 2
	shbOS          = 3
	shbApplication = 4
	ifName         = 2
	ifDescription  = 3
	ifMAC          = 6
	ifResolution   = 9
	epbFlags       = 2
	epbDropCount   = 4
	isbStart       = 2
	isbEnd         = 3
	isbReceived    = 4
	isbDropped     = 5 // by the interface; where Wireshark looks for what a capture missed
	isbAccepted    = 6
	isbDelivered   = 8

	nameEnd  = 0
	nameIPv4 = 1
	nameIPv6 = 2

	nanoseconds = 9 // negative powers of ten

	flagInbound          = 1
	flagOutbound         = 2
	flagChecksumNotReady = 1 << 9
	flagSegmentation     = 1 << 11
)

const (
	application = "wolffia"
	// noSnaplen is written for "all": what libpcap reads at most.
	noSnaplen = 262144
	// flushSize is how much is collected before it is written.
	flushSize = 64 << 10
	// maxText bounds a text in bytes; what is longer is cut.
	maxText = 1024
)

var le = binary.LittleEndian

// NewWriter begins a file. Nothing is written to w before the first Flush.
func NewWriter(w io.Writer, h Header) *Writer {
	out := &Writer{w: w, snaplen: uint32(h.Snaplen)}
	if h.Snaplen <= 0 {
		out.snaplen = noSnaplen
	}
	out.begin(sectionHeader)
	out.u32(byteOrderMagic)
	out.u16(1)
	out.u16(0)
	out.u64(1<<64 - 1) // the section's length is not known yet
	out.text(shbHardware, h.Hardware)
	out.text(shbOS, h.OS)
	out.text(shbApplication, application)
	out.text(optComment, h.Comment)
	out.end()
	return out
}

// AddInterface describes an interface, at any time, and gives the number that
// its packets carry.
func (w *Writer) AddInterface(i Interface) (int, error) {
	w.begin(interfaceDescription)
	w.u16(linkEthernet)
	w.u16(0)
	// libpcap refuses a section whose interfaces differ in this.
	w.u32(w.snaplen)
	w.text(ifName, i.Name)
	w.text(ifDescription, i.Description)
	if len(i.MAC) == 6 {
		w.option(ifMAC, i.MAC)
	}
	w.option(ifResolution, []byte{nanoseconds})
	w.end()
	w.interfaces++
	return w.interfaces - 1, w.flushIfFull()
}

// AddHosts writes the names of addresses.
func (w *Writer) AddHosts(hosts []Host) error {
	if len(hosts) == 0 {
		return w.err
	}
	w.begin(nameResolution)
	for _, h := range hosts {
		name := strings.ReplaceAll(clean(h.Name), "\x00", "")
		if name == "" {
			continue
		}
		for _, a := range h.Addrs {
			kind := uint16(nameIPv4)
			if a = a.Unmap(); !a.IsValid() {
				continue
			} else if a.Is6() {
				kind = nameIPv6
			}
			w.option(kind, append(append(a.AsSlice(), name...), 0)) // records have the form of options
		}
	}
	w.u16(nameEnd)
	w.u16(0)
	w.end()
	return w.flushIfFull()
}

// WritePacket writes a frame, cut to the snaplen.
func (w *Writer) WritePacket(p Packet) error {
	if p.Interface < 0 || p.Interface >= w.interfaces {
		return fmt.Errorf("write packet: there is no interface %d", p.Interface)
	}
	data := p.Data[:min(len(p.Data), int(w.snaplen))]
	w.begin(enhancedPacket)
	w.u32(uint32(p.Interface))
	w.time(p.Time)
	w.u32(uint32(len(data)))
	w.u32(uint32(max(p.Length, len(p.Data))))
	w.buf = append(w.buf, data...)
	w.pad()
	flags := uint32(flagOutbound)
	if p.In {
		flags = flagInbound
	}
	if p.Offload.NeedsChecksum {
		flags |= flagChecksumNotReady
	}
	if p.Offload.SegmentType != vnet.SegmentNone {
		flags |= flagSegmentation
	}
	w.u16(epbFlags)
	w.u16(4)
	w.u32(flags)
	if p.Lost > 0 {
		w.u64Option(epbDropCount, p.Lost)
	}
	if p.Dropped != "" {
		w.text(optComment, "dropped: "+p.Dropped)
	}
	w.end()
	return w.flushIfFull()
}

// WriteStatistics writes what became of an interface's frames; usually last.
func (w *Writer) WriteStatistics(s Statistics) error {
	if s.Interface < 0 || s.Interface >= w.interfaces {
		return fmt.Errorf("write statistics: there is no interface %d", s.Interface)
	}
	w.begin(interfaceStatistics)
	w.u32(uint32(s.Interface))
	w.time(s.End)
	if !s.Start.IsZero() {
		w.timeOption(isbStart, s.Start)
	}
	if !s.End.IsZero() {
		w.timeOption(isbEnd, s.End)
	}
	w.u64Option(isbReceived, s.Received)
	w.u64Option(isbDropped, s.Lost)
	w.u64Option(isbAccepted, s.Accepted)
	w.u64Option(isbDelivered, s.Accepted-min(s.Lost, s.Accepted))
	w.text(optComment, s.Comment)
	w.end()
	return w.flushIfFull()
}

// Flush writes what was collected.
func (w *Writer) Flush() error {
	if w.err == nil && len(w.buf) > 0 {
		if _, err := w.w.Write(w.buf); err != nil {
			w.err = fmt.Errorf("write capture: %w", err)
		}
	}
	w.buf = w.buf[:0]
	return w.err
}

func (w *Writer) flushIfFull() error {
	if len(w.buf) < flushSize {
		return w.err
	}
	return w.Flush()
}

// begin starts a block; end closes it, with its options and both lengths.
func (w *Writer) begin(kind uint32) {
	w.start = len(w.buf)
	w.u32(kind)
	w.u32(0)
}

func (w *Writer) end() {
	w.u16(optEnd)
	w.u16(0)
	length := uint32(len(w.buf) - w.start + 4)
	w.u32(length)
	le.PutUint32(w.buf[w.start+4:], length)
}

func (w *Writer) u16(v uint16) { w.buf = le.AppendUint16(w.buf, v) }
func (w *Writer) u32(v uint32) { w.buf = le.AppendUint32(w.buf, v) }
func (w *Writer) u64(v uint64) { w.buf = le.AppendUint64(w.buf, v) }

func (w *Writer) pad() {
	for (len(w.buf)-w.start)%4 != 0 {
		w.buf = append(w.buf, 0)
	}
}

// time writes a time in its two halves, the high one first.
func (w *Writer) time(t time.Time) {
	n := uint64(max(0, t.UnixNano()))
	w.u32(uint32(n >> 32))
	w.u32(uint32(n))
}

func (w *Writer) timeOption(code uint16, t time.Time) {
	w.u16(code)
	w.u16(8)
	w.time(t)
}

func (w *Writer) u64Option(code uint16, v uint64) {
	w.u16(code)
	w.u16(8)
	w.u64(v)
}

func (w *Writer) option(code uint16, value []byte) {
	w.u16(code)
	w.u16(uint16(len(value)))
	w.buf = append(w.buf, value...)
	w.pad()
}

// text writes a text, if there is one.
func (w *Writer) text(code uint16, s string) {
	if s != "" {
		w.option(code, []byte(clean(s)))
	}
}

// clean cuts a text to its bound, and makes it the UTF-8 that the format asks
// for.
func clean(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "")
}
