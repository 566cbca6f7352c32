package ext4

import (
	"fmt"
	"math/bits"
)

// pageBlocks is how many blocks a page of the bitmap of used blocks is about.
const pageBlocks = 1 << 15

// take marks blocks as used, which must be within the file system. It reports
// the first that was used already, or 0, and how many there were.
func (c *checker) take(first, count uint64) (twice, times uint64, err error) {
	if c.left < count {
		return 0, 0, errTooMuch
	}
	c.left -= count
	for n := first; n < first+count; n++ {
		page := &c.used[n/pageBlocks]
		if *page == nil {
			*page = make([]byte, pageBlocks/8)
		}
		b, bit := &(*page)[n%pageBlocks/8], byte(1)<<(n%8)
		if *b&bit != 0 {
			if times++; twice == 0 {
				twice = n
			}
		}
		*b |= bit
	}
	return twice, times, nil
}

func (c *checker) isUsed(n uint64) bool {
	page := c.used[n/pageBlocks]
	return page != nil && page[n%pageBlocks/8]&(1<<(n%8)) != 0
}

// inside reports whether blocks lie where something can be.
func (c *checker) inside(first, count uint64) bool {
	return first >= uint64(c.f.super.FirstDataBlock) && first < c.f.blocks && count <= c.f.blocks-first
}

// metadata claims blocks of the file system's own.
func (c *checker) metadata(where, what string, first, count uint64) error {
	if count == 0 {
		return nil
	}
	if !c.inside(first, count) {
		c.list.Problem(where, "%s, of %d blocks at %d, lies outside of the file system", what, count, first)
		return nil
	}
	twice, _, err := c.take(first, count)
	if twice != 0 {
		c.list.Problem(where, "%s lies over other metadata, at block %d", what, twice)
	}
	return err
}

// claim takes blocks for an inode. It reports false where they are not its own
// alone.
func (c *checker) claim(number uint32, first, count uint64) (bool, error) {
	if first == 0 || !c.inside(first, count) {
		c.problem(number, "it has %d blocks from %d on, which are outside of the file system", count, first)
		return false, nil
	}
	twice, times, err := c.take(first, count)
	if err != nil {
		return false, err
	}
	per, start := uint64(c.f.super.BlocksPerGroup), uint64(c.f.super.FirstDataBlock)
	for g := (first - start) / per; g <= (first+count-1-start)/per && number != resizeInode; g++ {
		c.groups[g].filed = true
	}
	if twice != 0 {
		c.problem(number, "of its blocks, %d from %d on belong to something else, too, or twice to it", times, twice)
	}
	return twice == 0, nil
}

// bitmaps compares the bitmaps and the counts with what was found.
func (c *checker) bitmaps() error {
	var freeBlocks, freeInodes uint64
	c.reserved()
	for g := range c.f.groups {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		blocks, err := c.blockBitmap(g)
		if err != nil {
			return err
		}
		inodes, err := c.inodeBitmap(g)
		if err != nil {
			return err
		}
		freeBlocks += blocks
		freeInodes += inodes
		c.counts(g, blocks, inodes)
	}
	s := &c.f.super
	said := uint64(s.FreeBlocksLo)
	if s.Incompat&incompat64bit != 0 {
		said |= uint64(s.FreeBlocksHi) << 32
	}
	// The kernel brings these two up to date when it unmounts.
	if c.f.Info().Clean && c.f.replays == 0 {
		if said != freeBlocks {
			c.list.Problem("superblock", "it counts %d free blocks, and there are %d", said, freeBlocks)
		}
		if uint64(s.FreeInodes) != freeInodes {
			c.list.Problem("superblock", "it counts %d free inodes, and there are %d", s.FreeInodes, freeInodes)
		}
	}
	return nil
}

// reserved counts the reserved inodes, which always are in use.
func (c *checker) reserved() {
	for number := uint32(1); number < c.f.super.FirstInode && number <= c.f.super.InodesCount; number++ {
		if c.inodes[number] == nil {
			c.groups[(number-1)/c.f.super.InodesPerGroup].inUse++
		}
	}
}

// counts compares a descriptor's counts.
func (c *checker) counts(g, freeBlocks, freeInodes uint64) {
	d, where := &c.groups[g], fmt.Sprintf("group %d", g)
	if uint64(d.freeBlocks) != freeBlocks {
		c.list.Problem(where, "it counts %d free blocks, and there are %d", d.freeBlocks, freeBlocks)
	}
	if uint64(d.freeInodes) != freeInodes {
		c.list.Problem(where, "it counts %d free inodes, and there are %d", d.freeInodes, freeInodes)
	}
	if d.dirs != d.found {
		c.list.Problem(where, "it counts %d directories, and there are %d", d.dirs, d.found)
	}
}

// blockBitmap compares a group's block bitmap, and gives how many are free.
func (c *checker) blockBitmap(g uint64) (free uint64, err error) {
	d, where := &c.groups[g], fmt.Sprintf("group %d", g)
	start, count := c.f.groupStart(g), c.f.groupBlocks(g)
	for n := start; n < start+count; n++ {
		if !c.isUsed(n) {
			free++
		}
	}
	if c.uninit(g, groupBlocksUninit) {
		if d.filed {
			c.list.Problem(where, "it says that its blocks are not used, and files have some")
		}
		return free, nil
	}
	b, err := c.bitmap(d.blockBitmap)
	if b == nil {
		return free, err
	}
	c.bitmapSum(where, "block", b[:c.f.super.BlocksPerGroup/8], d.blockBitmapSum)
	diff := difference{}
	for k := range count {
		diff.add(start+k, hasBit(b, k), c.isUsed(start+k))
	}
	diff.tell(c, where, "blocks")
	if !padded(b, count, uint64(len(b))*8) {
		c.list.Problem(where, "the bits at the end of its block bitmap, which are of no block, are not set")
	}
	return free, nil
}

// inodeBitmap compares a group's inode bitmap, and gives how many are free.
func (c *checker) inodeBitmap(g uint64) (free uint64, err error) {
	d, where := &c.groups[g], fmt.Sprintf("group %d", g)
	count := uint64(c.f.super.InodesPerGroup)
	free = count - min(count, uint64(d.inUse))
	if c.uninit(g, groupInodesUninit) {
		return free, nil
	}
	b, err := c.bitmap(d.inodeBitmap)
	if b == nil {
		return free, err
	}
	c.bitmapSum(where, "inode", b[:count/8], d.inodeBitmapSum)
	diff := difference{}
	for k := range count {
		number := uint32(g*count + k + 1)
		diff.add(uint64(number), hasBit(b, k), c.inodes[number] != nil || number < c.f.super.FirstInode)
	}
	diff.tell(c, where, "inodes")
	if !padded(b, count, uint64(len(b))*8) {
		c.list.Problem(where, "the bits at the end of its inode bitmap, which are of no inode, are not set")
	}
	return free, nil
}

// bitmap reads a bitmap; nil where it lies outside, which was told already.
func (c *checker) bitmap(n uint64) ([]byte, error) {
	if n == 0 || !c.inside(n, 1) {
		return nil, nil
	}
	return c.cache.block(n)
}

// bitmapSum verifies a bitmap's checksum, of which small descriptors have half.
func (c *checker) bitmapSum(where, what string, b []byte, said uint32) {
	if c.f.super.ROCompat&roChecksums == 0 {
		return
	}
	sum := crc(c.f.seed, b)
	if c.f.desc < 64 {
		sum &= 0xFFFF
	}
	if sum != said {
		c.list.Problem(where, "the checksum of its %s bitmap is wrong", what)
	}
}

func hasBit(b []byte, k uint64) bool { return b[k/8]&(1<<(k%8)) != 0 }

// padded reports whether the bits from from to before end are set.
func padded(b []byte, from, end uint64) bool {
	for ; from < end && from%8 != 0; from++ {
		if !hasBit(b, from) {
			return false
		}
	}
	for ; from < end; from += 8 {
		if bits.OnesCount8(b[from/8]) != 8 {
			return false
		}
	}
	return true
}

// difference is where a bitmap and what was found disagree.
type difference struct {
	lost, missing           uint64
	firstLost, firstMissing uint64
}

func (d *difference) add(n uint64, marked, used bool) {
	switch {
	case marked && !used:
		if d.lost++; d.lost == 1 {
			d.firstLost = n
		}
	case used && !marked:
		if d.missing++; d.missing == 1 {
			d.firstMissing = n
		}
	}
}

func (d *difference) tell(c *checker, where, what string) {
	if d.missing > 0 {
		c.list.Problem(where, "%d %s that are in use are marked as free, the first is %d", d.missing, what, d.firstMissing)
	}
	if d.lost > 0 {
		c.list.Problem(where, "%d %s that nothing uses are marked as in use, the first is %d", d.lost, what, d.firstLost)
	}
}
