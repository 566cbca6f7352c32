package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"wolffia/internal/image/finding"
)

// Bits of table entries that have to be 0.
const (
	reservedL1    = 0x7f000000000001ff
	reservedL2    = 0x3f000000000001fe
	reservedTable = 0x1ff
)

// Further parts of the format ("Snapshots", "Bitmaps extension").
const (
	snapshotHead    = 40
	maxSnapshots    = 65536
	extBitmaps      = 0x23852875
	bitmapHead      = 24
	maxBitmaps      = 65535
	autoclearBitmap = 1
)

// Check looks for damage in the one file r of size bytes, as qemu-img check does,
// and repairs nothing; what it lies upon is not looked at. Verified are the
// entries of all tables, those of snapshots and of bitmaps included: that they
// lead to clusters of the file; and the reference counts: clusters that are used
// more often than they count (which will be overwritten one day) or less (which
// are lost), and the flags that say so in the tables.
//
// Findings are about damage; an error, that it can't be read, or uses what this
// package does not know.
func Check(ctx context.Context, r io.ReaderAt, size int64) (*finding.List, error) {
	c := &checker{ctx: ctx, r: r, size: size, counts: map[int64]*page{}}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("check qcow2: %w", err)
	}
	return &c.list, nil
}

// page is the use of some clusters in a row.
type page [4096]uint32

type checker struct {
	ctx     context.Context
	r       io.ReaderAt
	size    int64
	h       *header
	cluster int64
	list    finding.List
	counts  map[int64]*page // by cluster / len(page)
	blocks  []uint64        // the table of reference counts: places of their blocks
	block   []byte          // the one that was read last, and its number
	blockNo int64
	left    int64 // L2 tables that may still be read
}

func (c *checker) check() error {
	var info Info
	var err error
	if c.h, info, err = stat(c.r, c.size); err != nil {
		return err
	}
	c.cluster = 1 << c.h.ClusterBits
	c.left = 4*(c.size/c.cluster) + 1024
	if info.Corrupt {
		c.list.Problem("header", "QEMU has marked the image as corrupt")
	}
	if info.Dirty {
		c.list.Note("header", "it was not closed: reference counts may be wrong")
	}
	c.use("header", 0, c.cluster)
	if err := c.table(); err != nil {
		return err
	}
	if err := c.l1("L1 table", int64(c.h.L1Offset), int64(c.h.L1Size), true); err != nil {
		return err
	}
	if err := c.snapshots(); err != nil {
		return err
	}
	if err := c.bitmaps(); err != nil {
		return err
	}
	return c.compare()
}

// use counts the clusters that n bytes from off on lie in. It reports false where
// they are not in the file, which is a problem.
func (c *checker) use(where string, off, n int64) bool {
	if off < 0 || n < 0 || off >= c.size && n > 0 || n > c.size-off+c.cluster {
		c.list.Problem(where, "%d bytes at byte %d lie past the file's end at byte %d", n, off, c.size)
		return false
	}
	for k := off / c.cluster; k*c.cluster < off+n && k*c.cluster < c.size; k++ {
		p := c.counts[k/int64(len(page{}))]
		if p == nil {
			p = &page{}
			c.counts[k/int64(len(page{}))] = p
		}
		p[k%int64(len(page{}))]++
	}
	return true
}

// entries reads a table of n entries of 8 bytes, which is inside of the file.
func (c *checker) entries(off, n int64) ([]uint64, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	b := make([]byte, n*8)
	if err := c.readPadded(b, off); err != nil {
		return nil, err
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = be.Uint64(b[i*8:])
	}
	return out, nil
}

// readPadded reads a table, whose end the file need not have.
func (c *checker) readPadded(b []byte, off int64) error {
	if err := readPadded(c.r, b, off); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
	}
	return nil
}

// aligned tells where an entry leads to, if that is a cluster's start.
func (c *checker) aligned(where string, entry, reserved uint64) (int64, bool) {
	off := int64(entry & entryOffset)
	if entry&reserved != 0 {
		c.list.Problem(where, "the entry %#x has bits that have to be 0", entry)
	}
	if off%c.cluster != 0 {
		c.list.Problem(where, "the entry %#x leads to no cluster's start", entry)
		return 0, false
	}
	return off, off != 0
}

// table reads the table of blocks of reference counts.
func (c *checker) table() error {
	where, off := "table of reference counts", int64(c.h.RefTableOffset)
	n := int64(c.h.RefTableClusters) << c.h.ClusterBits
	switch {
	case c.h.RefcountOrder > 6:
		return fmt.Errorf("reference counts of 2^%d bits are not possible", c.h.RefcountOrder)
	case n > maxRefTable:
		return fmt.Errorf("a table of reference counts of %d bytes is out of range", n)
	case off%c.cluster != 0 || off == 0 || n == 0:
		c.list.Problem(where, "%d bytes at byte %d are no place for it", n, off)
		return nil
	}
	if !c.use(where, off, n) {
		return nil
	}
	blocks, err := c.entries(off, n/8)
	if err != nil {
		return err
	}
	c.blocks = make([]uint64, len(blocks))
	seen := map[int64]bool{}
	for i, e := range blocks {
		at := fmt.Sprintf("block %d of reference counts", i)
		off, ok := c.aligned(at, e, reservedTable)
		if !ok || !c.use(at, off, c.cluster) {
			continue
		}
		if seen[off] {
			c.list.Problem(at, "it lies where another one does, at byte %d", off)
			continue
		}
		seen[off] = true
		c.blocks[i] = uint64(off)
	}
	return nil
}

// l1 goes through an L1 table of n entries. Active is that of the disk as it is
// now, whose flags are kept.
func (c *checker) l1(where string, off, n int64, active bool) error {
	if n > maxL1/8 {
		return fmt.Errorf("%s: %d entries are out of range", where, n)
	}
	if n == 0 {
		return nil
	}
	if off%c.cluster != 0 {
		c.list.Problem(where, "byte %d is no cluster's start", off)
		return nil
	}
	if !c.use(where, off, n*8) {
		return nil
	}
	all, err := c.entries(off, n)
	if err != nil {
		return err
	}
	for i, e := range all {
		at := fmt.Sprintf("%s, entry %d", where, i)
		off, ok := c.aligned(at, e, reservedL1)
		if !ok {
			continue
		}
		if active {
			if err := c.flag(at, e, off); err != nil {
				return err
			}
		}
		if !c.use(at, off, c.cluster) {
			continue
		}
		if c.left--; c.left < 0 {
			return errors.New("its tables lead to more tables than the file has room for")
		}
		if err := c.l2(at, off, active); err != nil {
			return err
		}
	}
	return nil
}

// l2 goes through an L2 table.
func (c *checker) l2(where string, off int64, active bool) error {
	all, err := c.entries(off, c.cluster/8)
	if err != nil {
		return err
	}
	step := 1
	if c.h.extended() {
		step = 2
	}
	for i := 0; i < len(all); i += step {
		e := all[i]
		at := fmt.Sprintf("%s, cluster %d", where, i/step)
		if step == 2 {
			c.subclusters(at, e, all[i+1])
		}
		if e == 0 {
			continue
		}
		if e&entryCompressed != 0 {
			if e&entryCopied != 0 {
				c.list.Problem(at, "it is compressed, and says that it may be written in place")
			}
			off, n := packingOf(c.h.ClusterBits).place(e)
			c.use(at, off, min(int64(n), max(1, c.size-off))) // the end is not exact
			continue
		}
		off, ok := c.aligned(at, e, reservedL2)
		if !ok {
			continue
		}
		if active {
			if err := c.flag(at, e, off); err != nil {
				return err
			}
		}
		c.use(at, off, c.cluster)
	}
	return nil
}

// subclusters compares an entry with the bitmap of its cluster's parts.
func (c *checker) subclusters(where string, e, bitmap uint64) {
	allocated, zeros := uint32(bitmap), uint32(bitmap>>32)
	switch {
	case e&entryCompressed != 0:
		if bitmap != 0 {
			c.list.Problem(where, "it is compressed, and has a bitmap of its parts, %#x", bitmap)
		}
	case allocated&zeros != 0, allocated != 0 && e&entryOffset == 0:
		c.list.Problem(where, "the entry %#x and its bitmap %#x contradict each other", e, bitmap)
	}
}

// flag compares the flag that a cluster is used once with its reference count.
func (c *checker) flag(where string, e uint64, off int64) error {
	if off >= c.size {
		return nil // which is told
	}
	n, err := c.stored(off / c.cluster)
	if err == nil && (e&entryCopied != 0) != (n == 1) {
		c.list.Problem(where, "its flag of being used once is %t, and its reference count is %d", e&entryCopied != 0, n)
	}
	return err
}

// stored gives a cluster's reference count as the file has it.
func (c *checker) stored(k int64) (uint64, error) {
	per := c.cluster * 8 >> c.h.RefcountOrder
	if k/per >= int64(len(c.blocks)) || c.blocks[k/per] == 0 {
		return 0, nil
	}
	if c.block == nil || c.blockNo != k/per {
		b := make([]byte, c.cluster)
		if err := c.readPadded(b, int64(c.blocks[k/per])); err != nil {
			return 0, err
		}
		c.block, c.blockNo = b, k/per
	}
	return refcount(c.block, k%per, 1<<c.h.RefcountOrder), nil
}

// refcount gives the k-th count of so many bits: those of less than a byte begin
// at the lowest bit.
func refcount(b []byte, k, bits int64) uint64 {
	switch bits {
	case 64:
		return be.Uint64(b[k*8:])
	case 32:
		return uint64(be.Uint32(b[k*4:]))
	case 16:
		return uint64(be.Uint16(b[k*2:]))
	case 8:
		return uint64(b[k])
	}
	return uint64(b[k*bits/8]) >> (k * bits % 8) & (1<<bits - 1)
}

// snapshots goes through the table of snapshots, and theirs.
func (c *checker) snapshots() error {
	if c.h.Snapshots == 0 {
		return nil
	}
	where, start := "table of snapshots", int64(c.h.SnapshotsOffset)
	if c.h.Snapshots > maxSnapshots {
		return fmt.Errorf("%d snapshots are out of range", c.h.Snapshots)
	}
	if start <= 0 || start >= c.size || start%c.cluster != 0 {
		c.list.Problem(where, "byte %d is no place for it", start)
		return nil
	}
	at := start
	head := make([]byte, snapshotHead)
	for i := range c.h.Snapshots {
		if err := readFull(c.r, head, at); err != nil {
			c.list.Problem(where, "snapshot %d: %v", i+1, err)
			return nil
		}
		id, name, extra := be.Uint16(head[12:]), be.Uint16(head[14:]), be.Uint32(head[36:])
		if err := c.l1(fmt.Sprintf("snapshot %d", i+1), int64(be.Uint64(head)&entryOffset), int64(be.Uint32(head[8:])), false); err != nil {
			return err
		}
		at = (at + snapshotHead + int64(extra) + int64(id) + int64(name) + 7) &^ 7
	}
	c.use(where, start, at-start)
	return nil
}

// bitmaps goes through the bitmaps, if they are valid.
func (c *checker) bitmaps() error {
	if c.h.Version < 3 || c.h.Autoclear&autoclearBitmap == 0 {
		return nil
	}
	x, err := c.h.readExtensions(c.r, c.size)
	if err != nil || x.bitmaps == nil {
		return err
	}
	where := "directory of bitmaps"
	count, size, off := be.Uint32(x.bitmaps), int64(be.Uint64(x.bitmaps[8:])), int64(be.Uint64(x.bitmaps[16:]))
	if count > maxBitmaps || size < 0 || size > maxL1 {
		return fmt.Errorf("%d bitmaps in a directory of %d bytes are out of range", count, size)
	}
	if off%c.cluster != 0 || !c.use(where, off, size) {
		return nil
	}
	dir := make([]byte, size)
	if err := c.readPadded(dir, off); err != nil {
		return err
	}
	for i := range count {
		if len(dir) < bitmapHead {
			c.list.Problem(where, "bitmap %d is cut off", i+1)
			return nil
		}
		if err := c.bitmap(fmt.Sprintf("bitmap %d", i+1), int64(be.Uint64(dir)&entryOffset), int64(be.Uint32(dir[8:]))); err != nil {
			return err
		}
		n := (bitmapHead + uint64(be.Uint16(dir[18:])) + uint64(be.Uint32(dir[20:])) + 7) &^ 7
		dir = dir[min(n, uint64(len(dir))):]
	}
	return nil
}

func (c *checker) bitmap(where string, off, n int64) error {
	if n > maxL1/8 {
		return fmt.Errorf("%s: a table of %d entries is out of range", where, n)
	}
	if off%c.cluster != 0 || !c.use(where, off, n*8) {
		return nil
	}
	all, err := c.entries(off, n)
	if err != nil {
		return err
	}
	for _, e := range all {
		if at, ok := c.aligned(where, e, 0); ok {
			c.use(where, at, c.cluster)
		}
	}
	return nil
}

// compare holds the reference counts against the use that was found.
func (c *checker) compare() error {
	per := c.cluster * 8 >> c.h.RefcountOrder
	bits := int64(1) << c.h.RefcountOrder
	t := tally{c: c}
	for i, off := range c.blocks {
		if off == 0 {
			continue
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		b := make([]byte, c.cluster)
		if err := c.readPadded(b, int64(off)); err != nil {
			return err
		}
		for k := range per {
			n := int64(i)*per + k
			if n*c.cluster >= c.size {
				break
			}
			used := uint32(0)
			if p := c.counts[n/int64(len(page{}))]; p != nil {
				used, p[n%int64(len(page{}))] = p[n%int64(len(page{}))], 0
			}
			t.add(n, refcount(b, k, bits), uint64(used))
		}
	}
	for _, no := range slices.Sorted(maps.Keys(c.counts)) { // what no block is about
		for k, used := range c.counts[no] {
			t.add(no*int64(len(page{}))+int64(k), 0, uint64(used))
		}
	}
	t.flush()
	return nil
}

// tally tells of clusters in a row as one.
type tally struct {
	c            *checker
	first, count int64
	said, used   uint64
}

func (t *tally) add(n int64, said, used uint64) {
	if t.count > 0 && n == t.first+t.count && said == t.said && used == t.used {
		t.count++
		return
	}
	t.flush()
	if said != used {
		t.first, t.count, t.said, t.used = n, 1, said, used
	}
}

func (t *tally) flush() {
	if t.count == 0 {
		return
	}
	what := "they are lost"
	if t.said < t.used {
		what = "they may be overwritten"
	}
	t.c.list.Problem(fmt.Sprintf("byte %d", t.first*t.c.cluster), "%d clusters have a reference count of %d and are used %d times: %s", t.count, t.said, t.used, what)
	t.count = 0
}
