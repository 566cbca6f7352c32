package ext4

import (
	"math"
	"math/bits"
)

// writeGroups writes the bitmaps, the group descriptors and the superblocks.
func (w *writer) writeGroups() error {
	freeBlocks := uint64(0)
	for g := range w.l.placed {
		if err := w.writeBitmaps(uint64(g)); err != nil {
			return err
		}
		freeBlocks += uint64(w.l.placed[g].freeBlocks)
	}
	descs := w.descriptors()
	super := w.super(freeBlocks)
	for g := range w.l.groups {
		if !backup(g) {
			continue
		}
		super.BlockGroupNr = uint16(g)
		start := w.l.groupStart(g)
		b, err := w.out.block(start)
		if err != nil {
			return err
		}
		if g == 0 && w.l.first == 0 {
			b = b[superOffset:]
		}
		copy(b, super.encode())
		for k := range w.l.gdt {
			b, err := w.out.block(start + 1 + k)
			if err != nil {
				return err
			}
			copy(b, descs[k*w.l.bs:])
		}
	}
	return nil
}

// writeBitmaps fills a group's bitmaps and counts in its descriptor.
func (w *writer) writeBitmaps(g uint64) error {
	p := &w.l.placed[g]
	start, end := w.l.groupStart(g), w.l.groupEnd(g)
	b, err := w.out.block(p.blockBitmap)
	if err != nil {
		return err
	}
	if w.free.next > start {
		setBits(b, 0, min(w.free.next, end)-start)
	}
	for len(w.l.metadata) > 0 { // ascending, as the groups are
		s := &w.l.metadata[0]
		if s.first < end {
			setBits(b, s.first-start, min(s.end(), end)-start)
		}
		if s.end() > end {
			if s.first < end {
				*s = span{end, s.end() - end}
			}
			break
		}
		w.l.metadata = w.l.metadata[1:]
	}
	setBits(b, end-start, w.l.perGroup)
	for i := 0; i < len(b); i += 8 {
		p.freeBlocks += uint32(64 - bits.OnesCount64(le.Uint64(b[i:])))
	}
	p.blockBitmapSum = crc(w.seed, b)

	b, err = w.out.block(p.inodeBitmap)
	if err != nil {
		return err
	}
	used := w.inodesIn(g)
	setBits(b, 0, uint64(used))
	setBits(b, uint64(w.l.inodes), w.l.perGroup)
	p.freeInodes = w.l.inodes - used
	p.inodeBitmapSum = crc(w.seed, b[:w.l.inodes/8])
	if w.o.Checksums {
		p.flags = groupInodesZeroed
		p.unusedInodes = p.freeInodes
	}
	p.dirs = w.dirsIn(uint32(g)*w.l.inodes, used)
	return nil
}

// inodesIn is how many inodes of a group are in use: the first ones.
func (w *writer) inodesIn(g uint64) uint32 {
	all, before := uint64(firstInode-1+len(w.c.inodes)), g*uint64(w.l.inodes)
	if all <= before {
		return 0
	}
	return uint32(min(all-before, uint64(w.l.inodes)))
}

// dirsIn counts the directories among n inodes after the number before.
func (w *writer) dirsIn(before, n uint32) (dirs uint32) {
	if before < rootInode && before+n >= rootInode {
		dirs++
	}
	from := max(before+1, firstInode)
	for number := from; number < before+1+n; number++ {
		if w.c.inodes[number-firstInode].node.IsDir() {
			dirs++
		}
	}
	return dirs
}

// setBits sets the bits from from to before end.
func setBits(b []byte, from, end uint64) {
	for ; from < end && from%8 != 0; from++ {
		b[from/8] |= 1 << (from % 8)
	}
	for ; from+8 <= end; from += 8 {
		b[from/8] = 0xFF
	}
	for ; from < end; from++ {
		b[from/8] |= 1 << (from % 8)
	}
}

func (w *writer) descriptors() []byte {
	b := make([]byte, w.l.gdt*w.l.bs)
	for g := range w.l.placed {
		d := b[uint64(g)*w.l.descSize:][:w.l.descSize]
		p := &w.l.placed[g]
		if !w.o.Checksums {
			p.blockBitmapSum, p.inodeBitmapSum = 0, 0
		}
		p.encode(d)
		if w.o.Checksums {
			le.PutUint16(d[0x1E:], groupSum(w.seed, uint32(g), d))
		}
	}
	return b
}

func (w *writer) super(freeBlocks uint64) *superblock {
	o, l := w.o, w.l
	reserved := min(ceil(uint64(o.Reserved), l.bs), freeBlocks)
	s := &superblock{
		InodesCount:   uint32(l.groups) * l.inodes,
		BlocksCountLo: uint32(l.blocks), BlocksCountHi: uint32(l.blocks >> 32),
		ReservedLo: uint32(reserved), ReservedHi: uint32(reserved >> 32),
		FreeBlocksLo: uint32(freeBlocks), FreeBlocksHi: uint32(freeBlocks >> 32),
		FreeInodes:     uint32(l.groups)*l.inodes - uint32(firstInode-1+len(w.c.inodes)),
		FirstDataBlock: uint32(l.first),
		LogBlockSize:   uint32(bits.TrailingZeros64(l.bs) - 10), LogClusterSize: uint32(bits.TrailingZeros64(l.bs) - 10),
		BlocksPerGroup: uint32(l.perGroup), ClustersPerGroup: uint32(l.perGroup), InodesPerGroup: l.inodes,
		MaxMountCount: math.MaxUint16, // never checked for having been mounted often
		Magic:         superMagic, State: stateClean, Errors: errorsContinue, RevLevel: revDynamic,
		FirstInode: firstInode, InodeSize: inodeSize,
		Compat: compatXattr | compatDirIndex, Incompat: incompatFiletype, ROCompat: roSparse | roLargeFile,
		UUID: o.UUID, HashSeed: hashSeed(o.HashSeed), HashVersion: hashHalfMD4, Flags: flagUnsignedHash,
		DefaultMountOpts: defaultMountOpts,
		MinExtraSize:     extraSize, WantExtraSize: extraSize,
	}
	copy(s.Label[:], o.Label)
	if sec, _ := w.time(o.Time); sec > 0 {
		s.MakeTime, s.WriteTime = uint32(sec), uint32(sec)
	}
	if w.c.wide {
		s.ROCompat |= roDirNlink
	}
	if o.Type == Ext4 {
		s.Incompat |= incompatExtents | incompatFlexBG
		s.ROCompat |= roDirNlink | roExtraSize
		s.LogGroupsPerFlex = uint8(bits.TrailingZeros64(l.flex))
	}
	if w.huge {
		s.ROCompat |= roHugeFile
	}
	if l.descSize == 64 {
		s.Incompat |= incompat64bit
		s.DescSize = 64
	}
	if o.Checksums {
		s.ROCompat |= roChecksums
		s.ChecksumType = checksumCRC32C
	}
	w.superJournal(s)
	return s
}

// superJournal says where the journal is, with a copy of its map.
func (w *writer) superJournal(s *superblock) {
	if w.l.journal == 0 {
		return
	}
	s.Compat |= compatJournal
	s.JournalInode, s.JournalBackup = journalInode, 1
	for i := range 15 {
		s.JournalBlocks[i] = le.Uint32(w.journal.block[4*i:])
	}
	size := w.l.journal * w.l.bs
	s.JournalBlocks[15], s.JournalBlocks[16] = uint32(size>>32), uint32(size)
}
