package qcow2

import (
	"fmt"
	"io"

	"wolffia/internal/tree"
)

type extent = tree.Extent

// kind is where a part of the disk is.
type kind uint8

const (
	absent kind = iota // in the image below
	zero
	data
	packed
)

// span is a part of the disk that is all of one kind and lies in one piece.
type span struct {
	kind  kind
	n     int64  // bytes
	host  int64  // of data: the byte offset in the file
	entry uint64 // of packed: the L2 entry
}

// table is an L2 table.
type table struct {
	no int64
	b  []byte
}

// cluster is a compressed cluster, decompressed.
type cluster struct {
	entry uint64
	data  []byte
}

// unitBits is the size of what is mapped by itself: a cluster or one of the 32
// parts of one.
func (h *header) unitBits() uint32 {
	if h.extended() {
		return h.ClusterBits - 5
	}
	return h.ClusterBits
}

// span maps byte off of the disk and as much after it, at most limit bytes, as
// goes on in the same way.
func (m *Image) span(off, limit int64) (span, error) {
	perTable := int64(1) << (m.h.ClusterBits + m.h.l2Bits())
	no, within := off/perTable, off%perTable
	limit = min(limit, perTable-within)
	if m.l1[no] == 0 {
		return span{kind: absent, n: limit}, nil
	}
	t, err := m.table(no)
	if err != nil {
		return span{}, err
	}
	s, err := m.unit(t, within)
	for err == nil && s.n < limit && s.kind != packed {
		next, e := m.unit(t, within+s.n)
		if e != nil || next.kind != s.kind || s.kind == data && next.host != s.host+s.n {
			break // an error is about what comes next
		}
		s.n += next.n
	}
	s.n = min(s.n, limit)
	return s, err
}

// unit maps byte off of what the table t covers, up to the end of its unit, or
// of its cluster for one that is compressed.
func (m *Image) unit(t *table, off int64) (span, error) {
	clusterSize, unitSize := int64(1)<<m.h.ClusterBits, int64(1)<<m.h.unitBits()
	s := span{n: unitSize - off&(unitSize-1)}
	if !m.h.extended() {
		e := be.Uint64(t.b[off>>m.h.ClusterBits*8:])
		switch {
		case e&entryCompressed != 0:
			s.kind, s.entry = packed, e
		case e&entryZero != 0 && m.h.Version < 3:
			return s, fmt.Errorf("L2 entry %#x is of a later version of the format", e)
		case e&entryZero != 0:
			s.kind = zero
		case e&entryOffset != 0:
			s.kind = data
		}
		return m.host(s, e, off&(clusterSize-1))
	}
	e, bitmap := be.Uint64(t.b[off>>m.h.ClusterBits*16:]), be.Uint64(t.b[off>>m.h.ClusterBits*16+8:])
	sub := off & (clusterSize - 1) >> m.h.unitBits()
	allocated, zeros := bitmap>>sub&1 != 0, bitmap>>(32+sub)&1 != 0
	switch {
	case e&entryCompressed != 0:
		s.kind, s.entry, s.n = packed, e, clusterSize-off&(clusterSize-1)
	case allocated && zeros, allocated && e&entryOffset == 0:
		return s, fmt.Errorf("L2 entry %#x and its bitmap %#x contradict each other", e, bitmap)
	case zeros:
		s.kind = zero
	case allocated:
		s.kind = data
	}
	return m.host(s, e, off&(clusterSize-1))
}

// host fills in where s, which begins off bytes into the cluster of the entry e,
// lies in the file.
func (m *Image) host(s span, e uint64, off int64) (span, error) {
	if s.kind != data {
		return s, nil
	}
	start := int64(e & entryOffset)
	if start&(1<<m.h.ClusterBits-1) != 0 {
		return s, fmt.Errorf("L2 entry %#x leads to no cluster's start", e)
	}
	s.host = start + off
	return s, nil
}

// table gives the L2 table of the L1 table's entry no.
func (m *Image) table(no int64) (*table, error) {
	slot := &m.tables[no%int64(len(m.tables))]
	if t := slot.Load(); t != nil && t.no == no {
		return t, nil
	}
	off := int64(m.l1[no])
	if off&(1<<m.h.ClusterBits-1) != 0 || off > m.src.Size-1<<m.h.ClusterBits {
		return nil, fmt.Errorf("L2 table %d at byte %d is no cluster of the file's %d bytes", no, off, m.src.Size)
	}
	t := &table{no, make([]byte, 1<<m.h.ClusterBits)}
	if err := readFull(m.src.R, t.b, off); err != nil {
		return nil, fmt.Errorf("L2 table: %w", err)
	}
	slot.Store(t)
	return t, nil
}

// unpack decompresses the cluster of an L2 entry.
func (m *Image) unpack(entry uint64) (*cluster, error) {
	if c := m.packed.Load(); c != nil && c.entry == entry {
		return c, nil
	}
	off, n := packingOf(m.h.ClusterBits).place(entry)
	if off >= m.src.Size {
		return nil, fmt.Errorf("byte %d is past the file's end at byte %d: %w", off, m.src.Size, io.ErrUnexpectedEOF)
	}
	b := make([]byte, min(int64(n), m.src.Size-off))
	if err := readFull(m.src.R, b, off); err != nil {
		return nil, err
	}
	c := &cluster{entry, make([]byte, 1<<m.h.ClusterBits)}
	if err := m.decoder.decode(c.data, b); err != nil {
		return nil, fmt.Errorf("at byte %d: %w", off, err)
	}
	m.packed.Store(c)
	return c, nil
}

// Data lists what may be other than zeros, ascending; so an image can be what
// [Write] writes, and its holes are not read.
func (m *Image) Data() ([]tree.Extent, error) {
	out, err := m.extents()
	if err != nil {
		return nil, fmt.Errorf("map qcow2: %w", err)
	}
	return out, nil
}

func (m *Image) extents() ([]extent, error) {
	var below []extent
	if m.below != nil {
		var err error
		if below, err = m.below.extents(); err != nil {
			return nil, err
		}
	}
	var out []extent
	for off := int64(0); off < m.info.Size; {
		s, err := m.span(off, m.info.Size-off)
		if err != nil {
			return nil, fmt.Errorf("byte %d of the disk: %w", off, err)
		}
		switch s.kind {
		case data, packed:
			out = join(out, extent{Off: off, Len: s.n})
		case absent:
			for len(below) > 0 && below[0].Off+below[0].Len <= off {
				below = below[1:]
			}
			for i := 0; i < len(below) && below[i].Off < off+s.n; i++ {
				start, end := max(off, below[i].Off), min(off+s.n, below[i].Off+below[i].Len)
				out = join(out, extent{Off: start, Len: end - start})
			}
		}
		off += s.n
	}
	return out, nil
}

// join appends e, or makes the last one longer.
func join(all []extent, e extent) []extent {
	if n := len(all); n > 0 && all[n-1].Off+all[n-1].Len == e.Off {
		all[n-1].Len += e.Len
		return all
	}
	return append(all, e)
}

// rawLayer is a raw disk below an image.
type rawLayer struct{ s Source }

func (r rawLayer) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.s.Size {
		return 0, io.EOF
	}
	return r.s.R.ReadAt(p, off)
}

func (r rawLayer) Close() error { return r.s.close() }

func (r rawLayer) extents() (out []extent, err error) {
	for e, err := range extents(r.s.R, r.s.Size) {
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
