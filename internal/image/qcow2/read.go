package qcow2

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// Source is a file to read a disk from, and what its backing file may be.
type Source struct {
	// R reads the file, Size is its length in bytes.
	R    io.ReaderAt
	Size int64
	// Close, where set, ends the reading.
	Close func() error
	// Open opens the image that this one names as the one below it. It decides
	// what may be opened at all, since the name comes from the file. Nil refuses
	// every name.
	Open func(name string) (Source, error)
}

// maxChain is how many images may lie upon each other; more are a loop.
const maxChain = 32

// Info is what an image's header says.
type Info struct {
	Version     int
	Size        int64 // of the disk, in bytes
	ClusterSize int   // in bytes
	Compression Compression
	// Backing is the name of the image below, as the file has it, and
	// BackingFormat its format; both are empty where there is none.
	Backing, BackingFormat string
	Snapshots              int  // internal ones, which are not read
	Dirty                  bool // not closed: reference counts may be wrong
	Corrupt                bool // marked so by QEMU: the disk may be damaged
}

// Stat reads the header of the image of size bytes, but nothing else: neither
// its tables nor its backing file need to be there.
func Stat(r io.ReaderAt, size int64) (Info, error) {
	_, i, err := stat(r, size)
	if err != nil {
		return Info{}, fmt.Errorf("read qcow2: %w", err)
	}
	return i, nil
}

func stat(r io.ReaderAt, size int64) (*header, Info, error) {
	h, err := readHeader(r, size)
	if err != nil {
		return nil, Info{}, err
	}
	x, err := h.readExtensions(r, size)
	if err != nil {
		return nil, Info{}, err
	}
	return h, Info{
		Version: int(h.Version), Size: int64(h.Size), ClusterSize: 1 << h.ClusterBits,
		Compression: compressionTypes[h.CompressionType],
		Backing:     x.backing, BackingFormat: x.format,
		Snapshots: int(h.Snapshots),
		Dirty:     h.Incompatible&incompatDirty != 0,
		Corrupt:   h.Incompatible&incompatCorrupt != 0,
	}, nil
}

// Image is a disk as its guest sees it. It can be read in several goroutines.
type Image struct {
	src     Source
	info    Info
	h       *header
	l1      []uint64
	tables  []atomic.Pointer[table] // some L2 tables, by their index modulo the length
	packed  atomic.Pointer[cluster] // the last compressed cluster that was read
	decoder *decoder
	below   layer // nil for zeros
}

// layer is what an image lies upon.
type layer interface {
	io.ReaderAt
	extents() ([]extent, error)
	Close() error
}

// Open opens the image s, and those below it, for reading. With an error, and
// by [Image.Close], all of them are closed, s included.
func Open(s Source) (*Image, error) {
	m, err := open(s, 0)
	if err != nil {
		return nil, fmt.Errorf("open qcow2: %w", err)
	}
	return m, nil
}

func open(s Source, depth int) (_ *Image, err error) {
	m := &Image{src: s}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.h, m.info, err = stat(s.R, s.Size); err != nil {
		return nil, err
	}
	if m.decoder, err = newDecoder(m.info.Compression); err != nil {
		return nil, err
	}
	if err := m.readL1(); err != nil {
		return nil, err
	}
	m.tables = make([]atomic.Pointer[table], max(2, min(64, tableCache>>m.h.ClusterBits)))
	if m.info.Backing != "" {
		below, err := m.openBelow(depth + 1)
		if err != nil {
			return nil, fmt.Errorf("backing file %.200q: %w", m.info.Backing, err)
		}
		m.below = below
	}
	return m, nil
}

// tableCache bounds the bytes of L2 tables that are kept, but for the least.
const tableCache = 4 << 20

// readL1 reads the L1 table, and makes sure that its tables can all be in the
// file, so that a small file can't make us go through the same one for ever.
func (m *Image) readL1() error {
	b := make([]byte, m.h.l1Entries()*8)
	if err := readFull(m.src.R, b, int64(m.h.L1Offset)); err != nil {
		return fmt.Errorf("L1 table: %w", err)
	}
	m.l1 = make([]uint64, len(b)/8)
	tables := int64(0)
	for i := range m.l1 {
		m.l1[i] = be.Uint64(b[i*8:]) & entryOffset
		if m.l1[i] != 0 {
			tables++
		}
	}
	if tables > m.src.Size>>m.h.ClusterBits {
		return fmt.Errorf("the file's %d bytes can't hold the L1 table's %d tables", m.src.Size, tables)
	}
	return nil
}

func (m *Image) openBelow(depth int) (layer, error) {
	switch {
	case depth >= maxChain:
		return nil, fmt.Errorf("more than %d images lie upon each other: they may go in a circle", maxChain)
	case m.src.Open == nil:
		return nil, errors.New("images over a backing file are not wanted here")
	}
	s, err := m.src.Open(m.info.Backing)
	if err != nil {
		return nil, err
	}
	switch m.info.BackingFormat {
	case "raw":
		return rawLayer{s}, nil
	case "qcow2":
		return open(s, depth)
	case "": // as old images have it; QEMU looks at the file, too
		if _, err := readHeader(s.R, s.Size); err == errNoQcow2 || s.Size < headerV2 {
			return rawLayer{s}, nil
		}
		return open(s, depth)
	}
	s.close()
	return nil, &UnsupportedError{Feature: fmt.Sprintf("a backing file of the format %.40q", m.info.BackingFormat)}
}

func (s *Source) close() error {
	if s.Close == nil {
		return nil
	}
	return s.Close()
}

// Info is what the header says.
func (m *Image) Info() Info { return m.info }

// Size is the disk's size in bytes.
func (m *Image) Size() int64 { return m.info.Size }

// Close ends the reading of the image and of those below it.
func (m *Image) Close() error {
	if m.decoder != nil {
		m.decoder.close()
	}
	err := m.src.close()
	if m.below != nil {
		err = errors.Join(err, m.below.Close())
	}
	return err
}

// ReadAt reads what the guest would at byte off of its disk.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read qcow2: negative offset")
	}
	total := len(p)
	if left := max(0, m.info.Size-off); int64(len(p)) > left {
		p = p[:left]
	}
	for n := 0; n < len(p); {
		s, err := m.span(off+int64(n), int64(len(p)-n))
		if err == nil {
			err = m.readSpan(p[n:][:s.n], off+int64(n), s)
		}
		if err != nil {
			return n, fmt.Errorf("read qcow2: byte %d of the disk: %w", off+int64(n), err)
		}
		n += int(s.n)
	}
	if len(p) < total {
		return len(p), io.EOF
	}
	return total, nil
}

func (m *Image) readSpan(p []byte, off int64, s span) error {
	switch s.kind {
	case absent:
		if m.below != nil {
			return readPadded(m.below, p, off)
		}
		clear(p)
	case zero:
		clear(p)
	case data:
		if s.host >= m.src.Size {
			return fmt.Errorf("its cluster at byte %d lies past the file's end at byte %d: %w", s.host, m.src.Size, io.ErrUnexpectedEOF)
		}
		return readPadded(m.src.R, p, s.host) // QEMU need not fill the last cluster
	case packed:
		c, err := m.unpack(s.entry)
		if err != nil {
			return fmt.Errorf("its compressed cluster: %w", err)
		}
		copy(p, c.data[off&(1<<m.h.ClusterBits-1):])
	}
	return nil
}

// readPadded reads what is there, and zeros beyond its end.
func readPadded(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	clear(p[n:])
	if err == io.EOF {
		return nil
	}
	return err
}
