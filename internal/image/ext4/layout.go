package ext4

import (
	"errors"
	"fmt"
	"slices"
)

// layout is where everything lies that is not a file's.
type layout struct {
	bs        uint64
	first     uint64 // the block with the superblock's group: 1 where blocks are of 1 KiB
	blocks    uint64 // all, that before first included
	perGroup  uint64 // blocks
	inodes    uint32 // per group
	groups    uint64
	descSize  uint64
	gdt       uint64 // blocks of group descriptors
	table     uint64 // blocks of a group's inode table
	flex      uint64 // groups whose bitmaps and tables lie together
	journal   uint64 // blocks
	image     uint64 // bytes
	placed    []groupDesc
	metadata  []span // all of it, ascending, without the journal
	dataBound uint64 // what the files take at most
}

// span is a run of blocks of the file system.
type span struct{ first, count uint64 }

func (s span) end() uint64 { return s.first + s.count }

const groupsPerFlex = 16 // as mke2fs has it

// shape sets what follows from a number of blocks and inodes.
func (l *layout) shape(o *Options, blocks, inodes uint64) {
	l.bs = uint64(o.BlockSize)
	if l.bs == 1024 {
		l.first = 1
	}
	l.blocks, l.perGroup = blocks, 8*l.bs
	l.groups = ceil(blocks-l.first, l.perGroup)
	l.descSize, l.flex = 32, 1
	if o.Type == Ext4 {
		l.flex = groupsPerFlex
	}
	if o.wide || blocks >= 1<<32 {
		l.descSize = 64
	}
	l.gdt = ceil(l.groups*l.descSize, l.bs)
	unit := max(8, l.bs/inodeSize) // whole blocks, and whole bytes of the bitmap
	l.inodes = uint32(ceil(ceil(inodes, l.groups), unit) * unit)
	l.table = uint64(l.inodes) * inodeSize / l.bs
	l.journal = o.journalBlocks(blocks)
}

// backup reports whether group g has a copy of the superblock (sparse_super).
func backup(g uint64) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < g {
			n *= base
		}
		if n == g {
			return true
		}
	}
	return false
}

// own is how many blocks group g's metadata takes, wherever they lie.
func (l *layout) own(g uint64) uint64 {
	n := 2 + l.table
	if backup(g) {
		n += 1 + l.gdt
	}
	return n
}

func (l *layout) backups() (n uint64) {
	n = min(l.groups, 2)
	for _, base := range []uint64{3, 5, 7} {
		for g := base; g < l.groups; g *= base {
			n++
		}
	}
	return n
}

// overhead is how many blocks all metadata takes, the journal included.
func (l *layout) overhead() uint64 {
	return l.groups*(2+l.table) + l.backups()*(1+l.gdt) + l.journal + l.mapOf(l.journal)
}

// mapOf bounds what the map of so many contiguous blocks takes.
func (l *layout) mapOf(n uint64) uint64 { return n/(l.bs/4) + 5 }

func (l *layout) groupStart(g uint64) uint64 { return l.first + g*l.perGroup }
func (l *layout) groupEnd(g uint64) uint64   { return min(l.groupStart(g+1), l.blocks) }

// lastFits reports whether the last group can hold its own metadata, with a
// little more, so that it is of use.
func (l *layout) lastFits() bool {
	g := l.groups - 1
	return l.groupEnd(g)-l.groupStart(g) >= l.own(g)+lastGroupUse
}

const lastGroupUse = 16

// check refuses what no layout can be made for.
func (l *layout) check(o *Options) error {
	switch {
	case uint64(l.inodes) > l.perGroup:
		return fmt.Errorf("%d inodes per group are more than a bitmap holds: the file system is too small for so many files", l.inodes)
	case l.gdt+2+l.table+lastGroupUse > l.perGroup:
		return errors.New("the file system is too large for its blocks: use larger blocks")
	case o.Type != Ext4 && l.blocks >= 1<<32:
		return fmt.Errorf("%s can't have 2^32 blocks or more: use ext4 or larger blocks", o.Type)
	case l.groups > 1<<32/max(1, uint64(l.inodes)):
		return errors.New("there are more inodes than can be numbered: ask for fewer")
	}
	return nil
}

// planLayout finds the size of all. Need is what the files take at most, used
// how many inodes there are.
func planLayout(o *Options, need, used uint64) (*layout, error) {
	l := &layout{dataBound: need}
	var err error
	if o.Size > 0 {
		err = l.fixed(o, need, used)
	} else {
		err = l.fitted(o, need, used)
	}
	if err != nil {
		return nil, err
	}
	if err := l.check(o); err != nil {
		return nil, err
	}
	return l, l.place()
}

// spareInodes is how many inodes to have for so many bytes of free space.
func spareInodes(free uint64) uint64 { return free / (16 << 10) }

// fitted makes the file system as small as can be.
func (l *layout) fitted(o *Options, need, used uint64) error {
	bs := uint64(o.BlockSize)
	inodes := max(used+spareInodes(uint64(o.Free)), uint64(o.Inodes))
	need += ceil(uint64(o.Free), bs)
	for blocks := need + 64; ; {
		l.shape(o, blocks, inodes)
		want := l.first + l.overhead() + need
		want += 5 * (l.groups/l.flex + l.backups() + 1) // files that metadata cuts in two need more of a map
		if uint64(l.inodes) > l.perGroup {
			want = max(want, blocks+l.perGroup)
		}
		if want <= blocks && !l.lastFits() {
			want = blocks + lastGroupUse
		}
		if want <= blocks {
			l.image = blocks * bs
			return nil
		}
		blocks = want
		if blocks > 1<<48 {
			return errors.New("the file system is too large for any device")
		}
	}
}

// fixed fills the given size.
func (l *layout) fixed(o *Options, need, used uint64) error {
	bs := uint64(o.BlockSize)
	blocks := uint64(o.Size) / bs
	l.image = uint64(o.Size)
	if blocks < 64 {
		return fmt.Errorf("%d bytes are too few for any file system", o.Size)
	}
	if o.Journal == 0 && o.journaled() && o.journalBlocks(blocks)+64 > blocks {
		return fmt.Errorf("%d bytes are too few for a journal: use at least %d, or none", o.Size, 2*minJournal*bs)
	}
	free := uint64(0)
	if blocks > need {
		free = (blocks - need) * bs
	}
	inodes := max(used+spareInodes(free), uint64(o.Inodes))
	l.shape(o, blocks, inodes)
	if l.first+l.overhead()+need > blocks { // fewer spare inodes may make it fit
		inodes = max(used, uint64(o.Inodes))
		l.shape(o, blocks, inodes)
	}
	if l.groups > 1 && !l.lastFits() { // the rest stays unused
		l.shape(o, l.groupStart(l.groups-1), inodes)
	}
	if l.first+l.overhead() > l.blocks || !l.lastFits() {
		return l.tooSmall()
	}
	return nil
}

// tooSmall says that the files don't fit.
func (l *layout) tooSmall() error {
	return fmt.Errorf("the file system of %d bytes is too small: the files need at most %d, the metadata %d",
		l.image, l.dataBound*l.bs, l.overhead()*l.bs)
}

// place gives each group's metadata its blocks.
func (l *layout) place() error {
	l.placed = make([]groupDesc, l.groups)
	for g := range l.groups {
		if backup(g) {
			l.metadata = append(l.metadata, span{l.groupStart(g), 1 + l.gdt})
		}
	}
	supers := l.metadata
	l.metadata = slices.Clone(supers)
	for g := uint64(0); g < l.groups; g += l.flex {
		a := allocator{next: l.groupStart(g), end: l.blocks, avoid: supers}
		a.skip()
		end := min(g+l.flex, l.groups)
		for k := g; k < end; k++ {
			l.placed[k].blockBitmap = a.whole(1)
		}
		for k := g; k < end; k++ {
			l.placed[k].inodeBitmap = a.whole(1)
		}
		for k := g; k < end; k++ {
			l.placed[k].inodeTable = a.whole(l.table)
		}
		if a.failed || a.next > l.groupEnd(end-1) {
			return l.tooSmall()
		}
	}
	for i := range l.placed {
		p := &l.placed[i]
		l.metadata = append(l.metadata, span{p.blockBitmap, 1}, span{p.inodeBitmap, 1}, span{p.inodeTable, l.table})
	}
	slices.SortFunc(l.metadata, func(a, b span) int { return int(int64(a.first) - int64(b.first)) })
	joined := l.metadata[:0]
	for _, s := range l.metadata {
		if k := len(joined) - 1; k >= 0 && joined[k].end() == s.first {
			joined[k].count += s.count
		} else {
			joined = append(joined, s)
		}
	}
	l.metadata = joined
	return nil
}

// allocator hands out blocks in ascending order, but for those to avoid.
type allocator struct {
	next, end uint64
	avoid     []span // ascending; those behind next are dropped
	failed    bool
}

// skip brings next to a block that can be had.
func (a *allocator) skip() {
	for len(a.avoid) > 0 && a.avoid[0].first <= a.next {
		a.next = max(a.next, a.avoid[0].end())
		a.avoid = a.avoid[1:]
	}
}

// run gives the next run of at most n blocks; none where all are used.
func (a *allocator) run(n uint64) span {
	a.skip()
	limit := a.end
	if len(a.avoid) > 0 {
		limit = min(limit, a.avoid[0].first)
	}
	if a.next >= limit {
		a.failed = true
		return span{}
	}
	s := span{a.next, min(n, limit-a.next)}
	a.next += s.count
	return s
}

// whole gives n blocks in one run, leaving out what is too short.
func (a *allocator) whole(n uint64) uint64 {
	for {
		a.skip()
		if len(a.avoid) == 0 || a.avoid[0].first >= a.next+n {
			break
		}
		a.next = a.avoid[0].end()
	}
	if a.next+n > a.end {
		a.failed = true
		return 0
	}
	s := a.next
	a.next += n
	return s
}
