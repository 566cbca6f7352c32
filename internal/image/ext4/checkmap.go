package ext4

import "errors"

// usage is what an inode's map of blocks comes to.
type usage struct {
	c       *checker
	number  uint32
	seed    uint32
	own     uint64 // blocks besides the map: of attributes
	blocks  uint64 // of data and of the map
	end     uint64 // behind the last block of the file that there is
	written uint64 // the same of those that hold data
	damaged bool
}

func (u *usage) bad(format string, args ...any) {
	u.damaged = true
	u.c.problem(u.number, format, args...)
}

// walk follows the whole map, and claims all that it leads to.
func (u *usage) walk(i *foundInode) error {
	if i.raw.flags&flagExtents != 0 {
		entries, depth, err := extentNode(i.raw.block[:], -1)
		if err != nil {
			u.bad("%v", err)
			return nil
		}
		return u.extents(entries, depth, 0, maxFileBlocks)
	}
	block := i.raw.block[:]
	at := uint64(0)
	for k := range direct {
		if err := u.pointer(uint64(le.Uint32(block[4*k:])), 0, &at); err != nil {
			return err
		}
	}
	for depth := 1; depth <= 3; depth++ {
		if err := u.pointer(uint64(le.Uint32(block[4*(direct+depth-1):])), depth, &at); err != nil {
			return err
		}
	}
	return nil
}

// claim takes blocks; false means that they are not to be followed.
func (u *usage) claim(first, count uint64) (bool, error) {
	ok, err := u.c.claim(u.number, first, count)
	u.blocks += count
	u.damaged = u.damaged || !ok
	return ok, err
}

// extents follows the entries of a node of the extent tree, which may be about
// the file's blocks from low to before high.
func (u *usage) extents(entries []byte, depth int, low, high uint64) error {
	count := len(entries) / extentSize
	for k := range count {
		e := entries[extentSize*k:]
		first, next := uint64(le.Uint32(e)), high
		if k+1 < count {
			next = uint64(le.Uint32(e[extentSize:]))
		}
		if first < low || next <= first || next > high {
			u.bad("the extent tree's entries are out of order")
			return nil
		}
		low = next
		var err error
		if depth > 0 {
			err = u.branch(e, depth, first, next)
		} else {
			err = u.leaf(e, first, next)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *usage) leaf(e []byte, first, next uint64) error {
	count, written := uint64(le.Uint16(e[4:])), true
	if count > maxExtent {
		count, written = count-maxExtent, false
	}
	switch {
	case count == 0:
		u.bad("an extent has no blocks")
		return nil
	case count > next-first:
		u.bad("two extents overlap at block %d of the file", next)
		return nil
	}
	u.end = first + count
	if written {
		u.written = u.end
	}
	_, err := u.claim(uint64(le.Uint32(e[8:]))|uint64(le.Uint16(e[6:]))<<32, count)
	return err
}

func (u *usage) branch(e []byte, depth int, first, next uint64) error {
	n := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
	ok, err := u.claim(n, 1)
	if !ok || err != nil {
		return err
	}
	m := fileMap{extents: true, seed: u.seed}
	b, err := m.child(&u.c.cache, n)
	if err != nil {
		u.bad("%v", err)
		return nil
	}
	entries, d, err := extentNode(b, depth-1)
	if err != nil {
		u.bad("block %d: %v", n, err)
		return nil
	}
	if uint64(le.Uint32(entries)) != first {
		u.bad("a node of the extent tree, in block %d, does not begin where its parent says", n)
		return nil
	}
	return u.extents(entries, d, first, next)
}

// pointer follows one pointer of a block map, of the given depth. At is the next
// block of the file.
func (u *usage) pointer(n uint64, depth int, at *uint64) error {
	reach := uint64(1)
	for range depth {
		reach *= u.c.f.bs / 4
	}
	if n == 0 {
		*at += reach
		return nil
	}
	if depth == 0 {
		_, err := u.claim(n, 1)
		*at++
		u.end, u.written = *at, *at
		return err
	}
	ok, err := u.claim(n, 1)
	if !ok || err != nil {
		*at += reach
		return err
	}
	b := make([]byte, u.c.f.bs)
	if err := u.c.f.read(n, 0, b); err != nil {
		return errors.Join(err, u.c.ctx.Err())
	}
	for k := 0; k < len(b); k += 4 {
		if err := u.pointer(uint64(le.Uint32(b[k:])), depth-1, at); err != nil {
			return err
		}
	}
	return nil
}
