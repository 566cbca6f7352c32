package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
)

// FS is a file system that is open for reading. It is safe for use by several
// goroutines.
type FS struct {
	r       io.ReaderAt
	super   superblock
	bs      uint64
	blocks  uint64
	groups  uint64
	desc    uint64 // bytes of a group descriptor
	seed    uint32
	moved   map[uint64]moved // blocks whose latest state is in the journal
	replays int              // transactions of the journal that were played back
}

// Info is what a file system says about itself.
type Info struct {
	Type       Type
	BlockSize  int
	Size       int64 // bytes
	Free       int64 // bytes, those kept for root included
	Inodes     int64
	FreeInodes int64
	Label      string
	UUID       [16]byte
	Checksums  bool // metadata_csum
	Journal    bool
	Clean      bool     // it was unmounted, or never mounted, and no errors were seen
	Replayed   int      // transactions of its journal that were played back in memory
	Features   []string // by their names in mke2fs, or their bits where they have none
}

// readable are the features that a reader has to know.
const readable = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64bit |
	incompatMMP | incompatFlexBG | incompatSeed | incompatLargeDir

// Open reads the superblock of the file system that begins at byte 0 of r, which
// has size bytes and must stay readable for as long as the file system and the
// contents of its trees are used. Nothing is written.
//
// A journal that was not played back is, in memory.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r}
	err := f.open(size)
	if err == nil && f.super.Incompat&incompatRecover != 0 {
		if err = f.replay(); err != nil {
			err = fmt.Errorf("play back its journal: %w", err)
		} else {
			err = f.open(size) // the superblock itself may have been in the journal
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open ext file system: %w", err)
	}
	return f, nil
}

// NeedsRecovery says whether the journal of the file system that begins at byte 0 of
// r has to be played back before it can be used, so that Linux mounts it only where
// it can write. It looks at nothing but the superblock, which r must have.
func NeedsRecovery(r io.ReaderAt) (bool, error) {
	b := make([]byte, superSize)
	if err := readFull(r, b, superOffset); err != nil {
		return false, fmt.Errorf("read superblock: %w", err)
	}
	var s superblock
	if _, err := binary.Decode(b, le, &s); err != nil {
		return false, err
	}
	return s.Magic == superMagic && s.RevLevel > 0 && s.Incompat&incompatRecover != 0, nil
}

func (f *FS) open(size int64) error {
	b := make([]byte, superSize)
	if size < superOffset+superSize {
		return fmt.Errorf("%d bytes are too few for any file system", size)
	}
	if err := f.readSuper(b); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	s := &f.super
	if _, err := binary.Decode(b, le, s); err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	f.bs = 1024 << s.LogBlockSize
	f.blocks, f.desc = uint64(s.BlocksCountLo), 32
	if s.Incompat&incompat64bit != 0 {
		f.blocks |= uint64(s.BlocksCountHi) << 32
		f.desc = uint64(s.DescSize)
	}
	f.seed = crc(^uint32(0), s.UUID[:])
	if s.Incompat&incompatSeed != 0 {
		f.seed = s.ChecksumSeed
	}
	if s.ROCompat&roChecksums != 0 && crc(^uint32(0), b[:superSize-4]) != s.Checksum {
		return errors.New("the superblock's checksum is wrong")
	}
	if f.blocks > uint64(size)/f.bs {
		return fmt.Errorf("it has %d blocks of %d bytes, of which only %d are there: the image is cut off", f.blocks, f.bs, uint64(size)/f.bs)
	}
	return f.checkGeometry()
}

func (f *FS) readSuper(b []byte) error {
	if f.moved == nil {
		return readFull(f.r, b, superOffset)
	}
	block := make([]byte, f.bs)
	if err := f.read(superOffset/f.bs, 0, block); err != nil {
		return err
	}
	copy(b, block[superOffset%f.bs:])
	return nil
}

// check refuses what this reader does not know.
func (s *superblock) check() error {
	if s.Magic != superMagic {
		return errors.New("there is no superblock: this is no ext2, ext3 or ext4")
	}
	if s.RevLevel == 0 {
		s.InodeSize, s.FirstInode = oldInodeSize, firstInode
		s.Compat, s.Incompat, s.ROCompat = 0, 0, 0
	}
	var unknown []string
	for rest := s.Incompat &^ readable; rest != 0; rest &= rest - 1 {
		bit := rest & -rest
		name := featureNames[1][bit]
		if name == "" {
			name = fmt.Sprintf("%#x", bit)
		}
		unknown = append(unknown, name)
	}
	switch {
	case len(unknown) > 0:
		return fmt.Errorf("it uses features that are not supported: %s", strings.Join(unknown, ", "))
	case s.ROCompat&roBigalloc != 0:
		return errors.New("it uses a feature that is not supported: bigalloc")
	case s.LogBlockSize > 6:
		return fmt.Errorf("block size 2^%d KiB is out of range", s.LogBlockSize)
	}
	return nil
}

func (f *FS) checkGeometry() error {
	s := &f.super
	first := uint64(s.FirstDataBlock)
	switch {
	case s.InodeSize < oldInodeSize || uint64(s.InodeSize) > f.bs || bits.OnesCount16(s.InodeSize) != 1:
		return fmt.Errorf("inode size %d is out of range", s.InodeSize)
	case first > 1 || first >= f.blocks:
		return fmt.Errorf("first data block %d is out of range", first)
	case s.BlocksPerGroup == 0 || uint64(s.BlocksPerGroup) > 8*f.bs:
		return fmt.Errorf("%d blocks per group are out of range", s.BlocksPerGroup)
	case s.InodesPerGroup == 0 || uint64(s.InodesPerGroup) > 8*f.bs:
		return fmt.Errorf("%d inodes per group are out of range", s.InodesPerGroup)
	case f.desc < 32 || f.desc > f.bs || bits.OnesCount64(f.desc) != 1 || s.Incompat&incompat64bit != 0 && f.desc < 64:
		return fmt.Errorf("group descriptors of %d bytes are out of range", f.desc)
	}
	f.groups = ceil(f.blocks-first, uint64(s.BlocksPerGroup))
	if uint64(s.InodesCount) != f.groups*uint64(s.InodesPerGroup) {
		return fmt.Errorf("%d inodes are not %d in each of %d groups", s.InodesCount, s.InodesPerGroup, f.groups)
	}
	return nil
}

// Info tells what the superblock says.
func (f *FS) Info() Info {
	s := &f.super
	free := uint64(s.FreeBlocksLo)
	if f.super.Incompat&incompat64bit != 0 {
		free |= uint64(s.FreeBlocksHi) << 32
	}
	i := Info{
		Type: Ext2, BlockSize: int(f.bs), Size: int64(f.blocks * f.bs), Free: int64(min(free, f.blocks) * f.bs),
		Inodes: int64(s.InodesCount), FreeInodes: int64(s.FreeInodes),
		Label: strings.TrimRight(string(s.Label[:]), "\x00"), UUID: s.UUID,
		Checksums: s.ROCompat&roChecksums != 0, Journal: s.Compat&compatJournal != 0,
		Clean: s.State == stateClean && s.Incompat&incompatRecover == 0, Replayed: f.replays, Features: s.features(),
	}
	const ofExt3 = incompatFiletype | incompatRecover | incompatMetaBG
	switch {
	case s.Incompat&^ofExt3 != 0 || s.ROCompat&^(roSparse|roLargeFile) != 0:
		i.Type = Ext4
	case i.Journal:
		i.Type = Ext3
	}
	return i
}

// group reads the descriptor of group g and tells where its inode table is.
func (f *FS) group(c *cache, g uint64) (table uint64, err error) {
	d, err := f.descriptor(c, g)
	if err != nil {
		return 0, err
	}
	if f.super.ROCompat&roChecksums != 0 && groupSum(f.seed, uint32(g), d) != le.Uint16(d[0x1E:]) {
		return 0, fmt.Errorf("the checksum of the descriptor of group %d is wrong", g)
	}
	return decodeGroup(d).inodeTable, nil
}

// descriptor gives the bytes of the descriptor of group g.
func (f *FS) descriptor(c *cache, g uint64) ([]byte, error) {
	perBlock := f.bs / f.desc
	n := g / perBlock
	block := uint64(f.super.FirstDataBlock) + 1 + n
	if f.super.Incompat&incompatMetaBG != 0 && n >= uint64(f.super.FirstMetaBG) {
		first := n * perBlock // the group that has the descriptors of its row
		block = uint64(f.super.FirstDataBlock) + first*uint64(f.super.BlocksPerGroup)
		if f.hasSuper(first) {
			block++
		}
	}
	b, err := c.block(block)
	if err != nil {
		return nil, err
	}
	return b[g%perBlock*f.desc:][:f.desc], nil
}

// hasSuper reports whether group g has a copy of the superblock.
func (f *FS) hasSuper(g uint64) bool {
	switch {
	case g == 0:
		return true
	case f.super.Compat&compatSparse2 != 0:
		return g == uint64(f.super.BackupGroups[0]) || g == uint64(f.super.BackupGroups[1])
	}
	return f.super.ROCompat&roSparse == 0 || backup(g)
}

// read fills p from byte off of block n on, which must be one of the file
// system's, or several in a row.
func (f *FS) read(n, off uint64, p []byte) error {
	last := n + (off+uint64(len(p))+f.bs-1)/f.bs
	if n >= f.blocks || last > f.blocks {
		return fmt.Errorf("block %d is beyond the last, %d", max(n, last-1), f.blocks-1)
	}
	if len(f.moved) == 0 {
		return readFull(f.r, p, int64(n*f.bs+off))
	}
	for n, off = n+off/f.bs, off%f.bs; len(p) > 0; n, off = n+1, 0 {
		k := min(uint64(len(p)), f.bs-off)
		if err := f.readMoved(n, off, p[:k]); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
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

// cache keeps some blocks of metadata for one goroutine.
type cache struct {
	f     *FS
	slots [64]struct {
		n uint64 // 0: empty; no metadata that is read in blocks lies in block 0
		b []byte
	}
}

// block gives block n, which is not to be changed.
func (c *cache) block(n uint64) ([]byte, error) {
	if n == 0 {
		return nil, errors.New("block 0 is none of metadata")
	}
	s := &c.slots[n%uint64(len(c.slots))]
	if s.n == n {
		return s.b, nil
	}
	b := make([]byte, c.f.bs)
	if err := c.f.read(n, 0, b); err != nil {
		return nil, err
	}
	s.n, s.b = n, b
	return b, nil
}
