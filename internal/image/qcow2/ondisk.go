package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

var be = binary.BigEndian

// The limits of QEMU's own, so that what it reads is what we read.
const (
	magic = 0x514649fb // "QFI\xfb"

	minClusterBits = 9
	maxClusterBits = 21
	sector         = 512
	maxL1          = 32 << 20 // bytes (QCOW_MAX_L1_SIZE)
	maxRefTable    = 8 << 20  // bytes (QCOW_MAX_REFTABLE_SIZE)
	maxBackingName = 1023
)

// header is the image's header ("Header" in the specification). What follows
// version2 is not there in version 2.
type header struct {
	version2
	Incompatible    uint64
	Compatible      uint64
	Autoclear       uint64
	RefcountOrder   uint32 // a reference count has 1<<RefcountOrder bits
	HeaderLength    uint32
	CompressionType uint8
	_               [7]uint8
}

// version2 is the part that all versions have.
type version2 struct {
	Magic            uint32
	Version          uint32
	BackingOffset    uint64
	BackingSize      uint32
	ClusterBits      uint32
	Size             uint64
	CryptMethod      uint32
	L1Size           uint32 // entries
	L1Offset         uint64
	RefTableOffset   uint64
	RefTableClusters uint32
	Snapshots        uint32
	SnapshotsOffset  uint64
}

const (
	headerV2 = 72
	headerV3 = 104 // the least
	headerZ  = 112 // with the compression type, which is what we write
)

// Incompatible features: a reader that doesn't know one can't read the image.
const (
	incompatDirty       = 1 << 0 // reference counts may be wrong; reading needs none
	incompatCorrupt     = 1 << 1 // must not be written
	incompatExternal    = 1 << 2
	incompatCompression = 1 << 3 // CompressionType says something
	incompatExtendedL2  = 1 << 4

	incompatRead = incompatDirty | incompatCorrupt | incompatCompression | incompatExtendedL2
)

// Header extensions.
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca
	extFeatureNames  = 0x6803f857
)

// Entries of the L1 and L2 tables.
const (
	entryCopied     = 1 << 63 // the reference count is exactly one
	entryCompressed = 1 << 62 // L2 only
	entryZero       = 1 << 0  // L2 only, version 3
	entryOffset     = 0x00fffffffffffe00
)

// packing says how a compressed cluster's L2 entry is made up: the low bits are
// its byte offset, those above the number of further sectors that it touches.
type packing struct{ offsetBits int }

func packingOf(clusterBits uint32) packing { return packing{62 - (int(clusterBits) - 8)} }

func (p packing) entry(off int64, n int) uint64 {
	more := uint64((off%sector + int64(n) - 1) / sector)
	return entryCompressed | more<<p.offsetBits | uint64(off)
}

// place gives where a compressed cluster may lie: its end is not exact.
func (p packing) place(entry uint64) (off int64, n int) {
	off = int64(entry & (1<<p.offsetBits - 1))
	more := entry &^ (3 << 62) >> p.offsetBits
	return off, int(more+1)*sector - int(off%sector)
}

// readHeader reads the header's fields and refuses what can't be read.
func readHeader(r io.ReaderAt, size int64) (*header, error) {
	var b [headerZ]byte
	if size < headerV2 {
		return nil, fmt.Errorf("%d bytes are too few for a header: %w", size, io.ErrUnexpectedEOF)
	}
	if err := readFull(r, b[:min(size, headerZ)], 0); err != nil {
		return nil, err
	}
	h := &header{}
	if _, err := binary.Decode(b[:], be, h); err != nil {
		return nil, err
	}
	if h.Magic != magic {
		return nil, errNoQcow2
	}
	switch h.Version {
	case 2:
		*h = header{version2: h.version2, RefcountOrder: 4, HeaderLength: headerV2}
	case 3:
		if h.HeaderLength < headerV3 || h.HeaderLength%8 != 0 {
			return nil, fmt.Errorf("a header of %d bytes is not possible", h.HeaderLength)
		}
		if h.HeaderLength == headerV3 {
			h.CompressionType = 0
		}
	default:
		return nil, &UnsupportedError{Feature: fmt.Sprintf("version %d of the format", h.Version)}
	}
	return h, h.check(size)
}

var errNoQcow2 = errors.New("no qcow2 image: it doesn't begin with its magic number")

func (h *header) check(size int64) error {
	switch {
	case h.ClusterBits < minClusterBits || h.ClusterBits > maxClusterBits:
		return fmt.Errorf("clusters of 2^%d bytes are not possible", h.ClusterBits)
	case h.HeaderLength > 1<<h.ClusterBits:
		return fmt.Errorf("a header of %d bytes doesn't fit a cluster", h.HeaderLength)
	case h.Size > 1<<62:
		return fmt.Errorf("a disk of %d bytes is not possible", h.Size)
	case h.CryptMethod != 0:
		return &UnsupportedError{Feature: "encryption" + cryptNames[h.CryptMethod]}
	case h.Incompatible&incompatExternal != 0:
		return &UnsupportedError{Feature: "an external data file"}
	case h.extended() && h.ClusterBits < 14:
		return fmt.Errorf("clusters of 2^%d bytes can't have subclusters", h.ClusterBits)
	case h.Incompatible&incompatCompression != 0 && h.CompressionType == 0,
		h.Incompatible&incompatCompression == 0 && h.CompressionType != 0:
		return fmt.Errorf("compression type %d and feature bits contradict each other", h.CompressionType)
	case h.CompressionType > 1:
		return &UnsupportedError{Feature: fmt.Sprintf("compression type %d", h.CompressionType)}
	}
	need := h.l1Entries()
	switch {
	case need > maxL1/8:
		return fmt.Errorf("a disk of %d bytes needs an L1 table of more than %d bytes", h.Size, maxL1)
	case uint64(h.L1Size) < need:
		return fmt.Errorf("the L1 table's %d entries are too few for a disk of %d bytes", h.L1Size, h.Size)
	case h.L1Offset%(1<<h.ClusterBits) != 0:
		return fmt.Errorf("the L1 table at byte %d is not at a cluster's start", h.L1Offset)
	case h.L1Offset > uint64(size) || need*8 > uint64(size)-h.L1Offset:
		return fmt.Errorf("the L1 table at byte %d reaches past the file's end at byte %d: %w", h.L1Offset, size, io.ErrUnexpectedEOF)
	}
	return nil
}

var cryptNames = map[uint32]string{1: " (AES)", 2: " (LUKS)"}

// extended reports whether L2 entries are of 128 bits and have subclusters.
func (h *header) extended() bool { return h.Incompatible&incompatExtendedL2 != 0 }

// l2Bits gives the L2 table's number of entries, as a power of two.
func (h *header) l2Bits() uint32 {
	if h.extended() {
		return h.ClusterBits - 4
	}
	return h.ClusterBits - 3
}

// l1Entries is how many entries of the L1 table the disk's size needs.
func (h *header) l1Entries() uint64 {
	shift := h.ClusterBits + h.l2Bits()
	return (h.Size + 1<<shift - 1) >> shift
}

// extensions are what follows the header.
type extensions struct {
	backing, format string
	features        map[int]string // incompatible ones, by bit
	bitmaps         []byte         // the extension about bitmaps
}

// readExtensions reads the rest of the first cluster.
func (h *header) readExtensions(r io.ReaderAt, size int64) (*extensions, error) {
	b := make([]byte, min(size, 1<<h.ClusterBits))
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	x := &extensions{features: map[int]string{}}
	end := uint64(len(b))
	if h.BackingOffset != 0 {
		if h.BackingSize > maxBackingName || h.BackingOffset > end || uint64(h.BackingSize) > end-h.BackingOffset {
			return nil, fmt.Errorf("the backing file's name (%d bytes at %d) lies outside of the first cluster", h.BackingSize, h.BackingOffset)
		}
		x.backing = string(b[h.BackingOffset:][:h.BackingSize])
		end = h.BackingOffset
	}
	for off := uint64(h.HeaderLength); off+8 <= end; {
		kind, n := be.Uint32(b[off:]), uint64(be.Uint32(b[off+4:]))
		off += 8
		if kind == extEnd {
			break
		}
		if n > end-off {
			return nil, fmt.Errorf("header extension %#x of %d bytes reaches past the first cluster", kind, n)
		}
		x.add(kind, b[off:off+n])
		off += (n + 7) &^ 7
	}
	return x, x.refuse(h.Incompatible)
}

func (x *extensions) add(kind uint32, data []byte) {
	switch kind {
	case extBackingFormat:
		x.format = string(data)
	case extBitmaps:
		if len(data) >= bitmapHead {
			x.bitmaps = data
		}
	case extFeatureNames:
		for ; len(data) >= 48; data = data[48:] {
			if data[0] == 0 && data[1] < 64 { // incompatible
				x.features[int(data[1])] = cstring(data[2:48])
			}
		}
	}
}

// refuse names the first feature that we don't know.
func (x *extensions) refuse(incompatible uint64) error {
	unknown := incompatible &^ incompatRead
	if unknown == 0 {
		return nil
	}
	bit := bits.TrailingZeros64(unknown)
	name := fmt.Sprintf("incompatible feature %d", bit)
	if n := x.features[bit]; n != "" {
		name += fmt.Sprintf(" (%q)", n)
	}
	return &UnsupportedError{Feature: name}
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// UnsupportedError says which feature of the format an image uses that this
// package doesn't read.
type UnsupportedError struct{ Feature string }

func (e *UnsupportedError) Error() string {
	return "the image uses " + e.Feature + ", which is not supported; " + e.Fix()
}

// Fix is what a person can do.
func (e *UnsupportedError) Fix() string {
	return "convert it first: qemu-img convert -O qcow2 OLD NEW"
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == io.EOF || err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}
