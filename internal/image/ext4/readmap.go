package ext4

import (
	"errors"
	"fmt"
	"sort"
)

// fileMap is where a file's blocks are, as its inode has it.
type fileMap struct {
	root    [60]byte
	extents bool
	seed    uint32 // of the checksums of its extents
}

// stretch is a run of a file's blocks that lie together, or are a hole.
type stretch struct {
	disk  uint64 // 0: a hole
	count uint64
}

// maxFileBlocks is how many blocks a file can have.
const maxFileBlocks = 1 << 32

// find gives the stretch that begins at block n of the file. It is at least one
// block long, and not always as long as it could be.
func (m *fileMap) find(c *cache, n uint64) (stretch, error) {
	if n >= maxFileBlocks {
		return stretch{}, errors.New("a file can't have so many blocks")
	}
	s, err := stretch{}, error(nil)
	if m.extents {
		s, err = m.findExtent(c, n)
	} else {
		s, err = m.findPointer(c, n)
	}
	if err != nil {
		return s, fmt.Errorf("find block %d: %w", n, err)
	}
	if s.disk != 0 && (s.disk >= c.f.blocks || s.count > c.f.blocks-s.disk) {
		return s, fmt.Errorf("block %d of the file is at %d, beyond the last, %d", n, s.disk, c.f.blocks-1)
	}
	return s, nil
}

// findExtent goes down the tree. All of a node's entries lie within what its
// parent says of it, so no cycle can be followed.
func (m *fileMap) findExtent(c *cache, n uint64) (stretch, error) {
	node, low, high := m.root[:], uint64(0), uint64(maxFileBlocks)
	for depth := -1; ; {
		entries, d, err := extentNode(node, depth)
		if err != nil {
			return stretch{}, err
		}
		depth = d
		at := func(i int) uint64 { return uint64(le.Uint32(entries[extentSize*i:])) }
		count := len(entries) / extentSize
		i := sort.Search(count, func(i int) bool { return at(i) > n })
		if i < count {
			high = min(high, at(i))
		}
		if high <= n {
			return stretch{}, errors.New("the extent tree's entries are out of order")
		}
		if i == 0 {
			return stretch{0, high - n}, nil
		}
		e := entries[extentSize*(i-1):]
		if at(i-1) < low || i > 1 && at(i-2) >= at(i-1) {
			return stretch{}, errors.New("the extent tree's entries are out of order")
		}
		low = at(i - 1)
		if depth == 0 {
			return leafStretch(e, n-low, high-n)
		}
		if node, err = m.child(c, uint64(le.Uint32(e[4:]))|uint64(le.Uint16(e[8:]))<<32); err != nil {
			return stretch{}, err
		}
		depth--
	}
}

// leafStretch is what the extent e says of the block skip blocks into it; up to
// room blocks are before the next extent.
func leafStretch(e []byte, skip, room uint64) (stretch, error) {
	count, written := uint64(le.Uint16(e[4:])), true
	if count > maxExtent {
		count, written = count-maxExtent, false // allocated, and reads as zeros
	}
	if count == 0 {
		return stretch{}, errors.New("an extent has no blocks")
	}
	if skip >= count {
		return stretch{0, room}, nil
	}
	if count-skip > room {
		return stretch{}, errors.New("two extents overlap")
	}
	s := stretch{count: count - skip}
	if written {
		disk := uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32
		if disk == 0 {
			return stretch{}, errors.New("an extent is at block 0")
		}
		s.disk = disk + skip
	}
	return s, nil
}

// child reads a node of the tree and verifies its checksum.
func (m *fileMap) child(c *cache, n uint64) ([]byte, error) {
	b, err := c.block(n)
	if err != nil {
		return nil, err
	}
	if c.f.super.ROCompat&roChecksums == 0 {
		return b, nil
	}
	end := extentSize * (1 + int(le.Uint16(b[4:])))
	if end+4 > len(b) || crc(m.seed, b[:end]) != le.Uint32(b[end:]) {
		return nil, fmt.Errorf("the checksum of extents in block %d is wrong", n)
	}
	return b, nil
}

// extentNode checks a node's header and gives its entries. Depth is what the
// parent makes of it; -1 means that it is the root.
func extentNode(b []byte, depth int) (entries []byte, d int, err error) {
	count, limit, d := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	switch {
	case le.Uint16(b) != extentMagic:
		return nil, 0, errors.New("there is no extent tree's header")
	case depth >= 0 && d != depth || d > maxExtentDepth:
		return nil, 0, fmt.Errorf("an extent tree's depth of %d is wrong", d)
	case count > limit || extentSize*(1+limit) > len(b):
		return nil, 0, fmt.Errorf("%d extents of %d do not fit into a node", count, limit)
	case count == 0 && depth >= 0:
		return nil, 0, errors.New("a node of an extent tree is empty")
	}
	return b[extentSize:][:extentSize*count], d, nil
}

// findPointer goes down through the indirect blocks.
func (m *fileMap) findPointer(c *cache, n uint64) (stretch, error) {
	if n < direct {
		return pointers(m.root[4*n:4*direct], c.f.blocks), nil
	}
	per := c.f.bs / 4
	at, depth, reach := n-direct, 1, per
	for at >= reach {
		at -= reach
		reach *= per
		if depth++; depth > 3 {
			return stretch{}, errors.New("it is beyond what a block map can reach")
		}
	}
	next := uint64(le.Uint32(m.root[4*(direct+depth-1):]))
	for {
		if next == 0 {
			return stretch{0, reach - at}, nil
		}
		b, err := c.block(next)
		if err != nil {
			return stretch{}, err
		}
		if reach /= per; reach == 1 {
			return pointers(b[4*at:], c.f.blocks), nil
		}
		next = uint64(le.Uint32(b[4*(at/reach):]))
		at %= reach
	}
}

// pointers gives the stretch at the start of a row of pointers.
func pointers(b []byte, blocks uint64) stretch {
	s := stretch{disk: uint64(le.Uint32(b)), count: 1}
	step := uint64(1)
	if s.disk == 0 {
		step = 0
	}
	for i := 4; i < len(b); i += 4 {
		if uint64(le.Uint32(b[i:])) != s.disk+step*s.count || s.disk+step*s.count >= blocks {
			break
		}
		s.count++
	}
	return s
}
