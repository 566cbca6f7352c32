package ext4

import (
	"fmt"
	"math"
)

// mapper records where the blocks of one file go, in ascending order of the
// file's blocks, and builds the map of them.
type mapper interface {
	// add gives n blocks of the file from first on blocks of the file system,
	// and calls each for every run of them.
	add(first, n uint64, each func(span) error) error
	// finish writes what of the map lies outside the inode.
	finish() (mapped, error)
}

// mapFile begins the map of the file with the inode number number.
func (w *writer) mapFile(number uint32) mapper {
	if w.o.Type == Ext4 {
		return &extentMap{w: w, seed: inodeSeed(w.seed, number, 0)}
	}
	return &blockMap{w: w}
}

// Extents ("4.3.4.2 Extent Tree").
const (
	extentMagic    = 0xF30A
	extentSize     = 12 // bytes of the header and of each entry
	inodeExtents   = 4
	maxExtent      = 1 << 15 // blocks
	maxExtentDepth = 5
)

type extent struct {
	file, disk uint64 // first blocks
	count      uint64
}

type extentMap struct {
	w       *writer
	seed    uint32
	extents []extent
	blocks  uint64
}

func (m *extentMap) add(first, n uint64, each func(span) error) error {
	for n > 0 {
		s, err := m.w.alloc(n)
		if err != nil {
			return err
		}
		m.append(first, s)
		first, n = first+s.count, n-s.count
		m.blocks += s.count
		if err := each(s); err != nil {
			return err
		}
	}
	return nil
}

func (m *extentMap) append(first uint64, s span) {
	if k := len(m.extents) - 1; k >= 0 {
		e := &m.extents[k]
		if e.file+e.count == first && e.disk+e.count == s.first {
			n := min(s.count, maxExtent-e.count)
			e.count += n
			first, s = first+n, span{s.first + n, s.count - n}
		}
	}
	for s.count > 0 {
		n := min(s.count, maxExtent)
		m.extents = append(m.extents, extent{first, s.first, n})
		first, s = first+n, span{s.first + n, s.count - n}
	}
}

// finish builds the tree from its leaves up, each block full.
func (m *extentMap) finish() (mapped, error) {
	level, depth := m.extents, 0
	per := (m.w.o.BlockSize - extentSize) / extentSize
	for len(level) > inodeExtents {
		var above []extent
		for len(level) > 0 {
			n := min(per, len(level))
			s, err := m.w.alloc(1)
			if err != nil {
				return mapped{}, err
			}
			m.blocks++
			b, err := m.w.out.block(s.first)
			if err != nil {
				return mapped{}, err
			}
			putExtents(b, per, depth, level[:n])
			if m.w.o.Checksums {
				end := extentSize * (1 + per)
				le.PutUint32(b[end:], crc(m.seed, b[:end]))
			}
			above = append(above, extent{file: level[0].file, disk: s.first})
			level = level[n:]
		}
		level = above
		depth++
	}
	out := mapped{blocks: m.blocks, flags: flagExtents}
	putExtents(out.block[:], inodeExtents, depth, level)
	return out, nil
}

// putExtents fills b with one node of the tree, which has room for limit
// entries.
func putExtents(b []byte, limit, depth int, entries []extent) {
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[2:], uint16(len(entries)))
	le.PutUint16(b[4:], uint16(limit))
	le.PutUint16(b[6:], uint16(depth))
	for i, e := range entries {
		p := b[extentSize*(1+i):]
		le.PutUint32(p, uint32(e.file))
		if depth > 0 {
			le.PutUint32(p[4:], uint32(e.disk))
			le.PutUint16(p[8:], uint16(e.disk>>32))
			continue
		}
		le.PutUint16(p[4:], uint16(e.count))
		le.PutUint16(p[6:], uint16(e.disk>>32))
		le.PutUint32(p[8:], uint32(e.disk))
	}
}

// direct is how many blocks an inode leads to itself, without indirect blocks
// ("4.3.4.1 Direct/Indirect Block Addressing").
const direct = 12

// blockMap keeps the indirect blocks on the path to the current block and
// writes each when it is left. They lie before the first block that they lead
// to, so that a file is read in one sweep.
type blockMap struct {
	w      *writer
	root   [60]byte
	path   [3]indirect // from the root's down; those beyond the depth are unused
	depth  int
	blocks uint64
}

// indirect is a block of pointers that is being filled.
type indirect struct {
	number uint64 // 0: none
	data   []byte
}

func (m *blockMap) add(first, n uint64, each func(span) error) error {
	for n > 0 {
		slots, err := m.slots(first, n)
		if err != nil {
			return err
		}
		s, err := m.w.alloc(uint64(len(slots) / 4))
		if err != nil {
			return err
		}
		for i := range s.count {
			le.PutUint32(slots[4*i:], uint32(s.first+i))
		}
		m.blocks += s.count
		first, n = first+s.count, n-s.count
		if err := each(s); err != nil {
			return err
		}
	}
	return nil
}

// slots gives the pointers of at most n blocks from first on that lie together.
func (m *blockMap) slots(first, n uint64) ([]byte, error) {
	if first < direct {
		n = min(n, direct-first)
		return m.root[4*first:][:4*n], nil
	}
	per := uint64(m.w.o.BlockSize / 4)
	at, depth, reach := first-direct, 1, per
	for at >= reach {
		at -= reach
		reach *= per
		if depth++; depth > len(m.path) {
			return nil, fmt.Errorf("block %d is beyond what a block map can reach", first)
		}
	}
	if depth != m.depth {
		if err := m.leave(0); err != nil {
			return nil, err
		}
		m.depth = depth
	}
	slot := m.root[4*(direct+depth-1):]
	for level := range depth {
		reach /= per
		if err := m.enter(level, slot); err != nil {
			return nil, err
		}
		slot = m.path[level].data[4*(at/reach):]
		at %= reach
	}
	return slot[:4*min(n, uint64(len(slot))/4)], nil
}

// enter makes the block that slot leads to the current one of its level.
func (m *blockMap) enter(level int, slot []byte) error {
	p := &m.path[level]
	if have := uint64(le.Uint32(slot)); have != 0 { // blocks come in order, so it is the current one
		return nil
	}
	if err := m.leave(level); err != nil {
		return err
	}
	s, err := m.w.alloc(1)
	if err != nil {
		return err
	}
	m.blocks++
	le.PutUint32(slot, uint32(s.first))
	p.number = s.first
	if p.data == nil {
		p.data = make([]byte, m.w.o.BlockSize)
	}
	clear(p.data)
	return nil
}

// leave writes the current blocks from level down.
func (m *blockMap) leave(level int) error {
	for i := level; i < len(m.path); i++ {
		p := &m.path[i]
		if p.number == 0 {
			continue
		}
		b, err := m.w.out.block(p.number)
		if err != nil {
			return err
		}
		copy(b, p.data)
		p.number = 0
	}
	return nil
}

func (m *blockMap) finish() (mapped, error) {
	if err := m.leave(0); err != nil {
		return mapped{}, err
	}
	return mapped{block: m.root, blocks: m.blocks}, nil
}

// mapBound is how many blocks the map of runs takes at most, where no metadata
// cuts them in two.
func mapBound(o *Options, runs []run) uint64 {
	if o.Type == Ext4 {
		return extentBound(o, runs)
	}
	return blockBound(o, runs)
}

func extentBound(o *Options, runs []run) (blocks uint64) {
	n := uint64(0)
	for _, r := range runs {
		n += ceil(r.count, maxExtent)
	}
	per := uint64(o.BlockSize-extentSize) / extentSize
	for n > inodeExtents {
		n = ceil(n, per)
		blocks += n
	}
	return blocks
}

// blockBound counts the distinct indirect blocks of each level.
func blockBound(o *Options, runs []run) (blocks uint64) {
	per := uint64(o.BlockSize / 4)
	lastLeaf, lastMid := uint64(math.MaxUint64), uint64(math.MaxUint64)
	var double, triple bool
	for _, r := range runs {
		end := r.first + r.count
		if end <= direct {
			continue
		}
		from, to := (max(r.first, direct)-direct)/per, (end-1-direct)/per // leaves
		blocks += to - from + 1
		if from == lastLeaf {
			blocks--
		}
		lastLeaf = to
		double = double || to >= 1 && from <= per
		if to <= per {
			continue
		}
		triple = true
		from, to = (max(from, per+1)-per-1)/per, (to-per-1)/per
		blocks += to - from + 1
		if from == lastMid {
			blocks--
		}
		lastMid = to
	}
	if double {
		blocks++
	}
	if triple {
		blocks++
	}
	return blocks
}
