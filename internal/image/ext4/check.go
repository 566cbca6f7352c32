package ext4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"wolffia/internal/image/finding"
)

// The bounds of a check.
const (
	maxCheckBlocks = 1 << 31 // whose bitmap takes 256 MiB
	maxCheckGroups = 1 << 18
	maxCheckInodes = 1 << 21 // in use
)

// Check looks for damage in all structures of the file system, as e2fsck does,
// its journal played back. It repairs nothing. Verified are:
//
//   - the superblock's state, counts and copies, and the group descriptors;
//   - each inode in use: checksum, type, size, its extents or block map, that its
//     blocks are there and belong to nothing else, its count of blocks, and its
//     attributes;
//   - directories: their entries, "." and "..", that each leads to an inode in
//     use of the type that it says, that each file is reached from the root and
//     by as many names as it says;
//   - the bitmaps and counts of free blocks and inodes, which must agree with what
//     was found; and the checksums of all of this.
//
// Not verified are the order within indexes of directories (that a name can be
// found by its hash), the values of quotas, and the log of a journal that was
// played back.
//
// Findings are about damage; an error, that it can't be checked at all: it can't
// be read, or is beyond what fits into memory (2^31 blocks, 2^21 files).
func (f *FS) Check(ctx context.Context) (*finding.List, error) {
	c := &checker{
		f: f, lax: *f, ctx: ctx, cache: cache{f: f}, inodes: map[uint32]*checkedInode{}, orphans: map[uint32]bool{},
		attributes: map[uint64]*sharedBlock{}, left: 4*f.blocks + 1<<20,
	}
	c.lax.super.ROCompat &^= roChecksums
	err := c.check()
	if errors.Is(err, errTooMuch) {
		c.list.Problem("the file system", "%v", err)
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("check ext file system: %w", err)
	}
	return &c.list, nil
}

// errTooMuch ends a check that damage would make endless.
var errTooMuch = errors.New("blocks are claimed so many times that the check was given up")

// checker is one check on its way.
type checker struct {
	f     *FS
	lax   FS // f without checksums, which are verified once
	ctx   context.Context
	cache cache
	list  finding.List

	groups     []checkedGroup
	used       [][]byte // a bitmap of all blocks in use, by pages of pageBlocks
	inodes     map[uint32]*checkedInode
	orphans    map[uint32]bool // deleted while they were open
	attributes map[uint64]*sharedBlock
	left       uint64 // blocks that may still be claimed
	about      []inodeFinding
}

// checkedGroup is a group as its descriptor has it, and as it was found.
type checkedGroup struct {
	groupDesc
	filed bool // it has blocks of files
	inUse uint32
	found uint32 // directories
}

// sharedBlock is a block of attributes.
type sharedBlock struct{ want, refs uint32 }

// inodeFinding waits for the inode's name.
type inodeFinding struct {
	number uint32
	what   string
}

// about notes a problem with an inode.
func (c *checker) problem(number uint32, format string, args ...any) {
	if len(c.about) >= finding.Max {
		c.list.Problems++
		c.list.Dropped++
		return
	}
	c.about = append(c.about, inodeFinding{number, fmt.Sprintf(format, args...)})
}

func (c *checker) check() error {
	switch {
	case c.f.blocks > maxCheckBlocks:
		return fmt.Errorf("%d blocks are more than a check takes, %d", c.f.blocks, maxCheckBlocks)
	case c.f.groups > maxCheckGroups:
		return fmt.Errorf("%d groups are more than a check takes, %d", c.f.groups, maxCheckGroups)
	}
	c.used = make([][]byte, c.f.blocks/pageBlocks+1)
	c.groups = make([]checkedGroup, c.f.groups)
	c.super()
	for _, step := range []func() error{c.descriptors, c.orphanList, c.allInodes, c.directories, c.tell, c.bitmaps} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// super looks at what the superblock says of itself.
func (c *checker) super() {
	s, where := &c.f.super, "superblock"
	if s.State&stateErrors != 0 {
		c.list.Problem(where, "the kernel has noted errors in the file system")
	}
	switch i := c.f.Info(); {
	case i.Replayed > 0:
		c.list.Note(where, "it was not unmounted; %d transactions of its journal were played back for this check", i.Replayed)
	case !i.Clean && s.State&stateErrors == 0:
		c.list.Note(where, "it was not unmounted")
	}
	if s.RevLevel > 0 && (s.FirstInode < firstInode || s.FirstInode > s.InodesCount) {
		c.list.Problem(where, "the first inode that is not reserved is %d", s.FirstInode)
	}
	if reserved := uint64(s.ReservedLo) | uint64(s.ReservedHi)<<32; reserved > c.f.blocks {
		c.list.Problem(where, "%d blocks are kept for root, of %d", reserved, c.f.blocks)
	}
	if s.Compat&compatJournal == 0 {
		return
	}
	if s.JournalInode != journalInode {
		c.list.Note(where, "the journal is in inode %d or on another device; it was not looked at", s.JournalInode)
		return
	}
	j := journal{f: c.f, cache: cache{f: c.f}}
	if err := j.open(); err != nil {
		c.list.Problem("journal", "%v", err)
	}
}

// descriptors looks at the descriptors of all groups, and at where the metadata
// lies.
func (c *checker) descriptors() error {
	for g := range c.f.groups {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		d, err := c.f.descriptor(&c.cache, g)
		if err != nil {
			return err
		}
		where := fmt.Sprintf("group %d", g)
		if want, ok := c.f.descriptorSum(uint32(g), d); ok && want != le.Uint16(d[0x1E:]) {
			c.list.Problem(where, "the checksum of its descriptor is wrong")
		}
		c.groups[g].groupDesc = decodeGroup(d)
		if err := c.ownMetadata(g, where); err != nil {
			return err
		}
		if c.f.hasSuper(g) && g > 0 {
			c.backup(g, where)
		}
	}
	if c.f.super.Incompat&incompatMMP != 0 {
		return c.metadata("superblock", "the block against double mounts", c.f.super.MMPBlock, 1)
	}
	return nil
}

// ownMetadata claims what belongs to a group.
func (c *checker) ownMetadata(g uint64, where string) error {
	s, d := &c.f.super, &c.groups[g]
	start := c.f.groupStart(g)
	table := ceil(uint64(s.InodesPerGroup)*uint64(s.InodeSize), c.f.bs)
	parts := []struct {
		what         string
		first, count uint64
	}{
		{"its block bitmap", d.blockBitmap, 1}, {"its inode bitmap", d.inodeBitmap, 1}, {"its inode table", d.inodeTable, table},
	}
	for _, p := range parts {
		if err := c.metadata(where, p.what, p.first, p.count); err != nil {
			return err
		}
	}
	super := uint64(0)
	if c.f.hasSuper(g) {
		super = 1
		if err := c.metadata(where, "its copy of the superblock", start, 1); err != nil {
			return err
		}
	}
	return c.metadata(where, "its copy of the descriptors", start+super, c.f.descriptorBlocks(g))
}

// groupStart is the first block of a group.
func (f *FS) groupStart(g uint64) uint64 {
	return uint64(f.super.FirstDataBlock) + g*uint64(f.super.BlocksPerGroup)
}

// groupBlocks is how many blocks a group has: the last may have fewer.
func (f *FS) groupBlocks(g uint64) uint64 {
	return min(uint64(f.super.BlocksPerGroup), f.blocks-f.groupStart(g))
}

// descriptorBlocks is how many blocks of descriptors lie in group g.
func (f *FS) descriptorBlocks(g uint64) uint64 {
	perBlock := f.bs / f.desc
	all := ceil(f.groups, perBlock)
	if f.super.Incompat&incompatMetaBG != 0 {
		first := uint64(f.super.FirstMetaBG)
		if n := g / perBlock; n >= first {
			if k := g % perBlock; k <= 1 || k == perBlock-1 {
				return 1
			}
			return 0
		}
		all = min(all, first)
	}
	if f.hasSuper(g) {
		return all
	}
	return 0
}

// descriptorSum is what a descriptor's checksum has to be, where there are any.
func (f *FS) descriptorSum(g uint32, d []byte) (sum uint16, ok bool) {
	switch {
	case f.super.ROCompat&roChecksums != 0:
		return groupSum(f.seed, g, d), true
	case f.super.ROCompat&roGDTCsum != 0:
		sum = crc16(0xFFFF, f.super.UUID[:])
		sum = crc16(sum, binary.LittleEndian.AppendUint32(nil, g))
		sum = crc16(sum, d[:0x1E])
		return crc16(sum, d[0x20:]), true
	}
	return 0, false
}

// crc16 is CRC-16/ARC without its start value.
func crc16(sum uint16, b []byte) uint16 {
	for _, x := range b {
		sum ^= uint16(x)
		for range 8 {
			if sum&1 != 0 {
				sum = sum>>1 ^ 0xA001
			} else {
				sum >>= 1
			}
		}
	}
	return sum
}

// uninit reports whether a group's descriptor has a flag that says what is not
// initialized.
func (c *checker) uninit(g uint64, flag uint16) bool {
	return c.f.super.ROCompat&(roChecksums|roGDTCsum) != 0 && c.groups[g].flags&flag != 0
}

// backup compares a copy of the superblock with the first, as far as no kernel
// changes only that.
func (c *checker) backup(g uint64, where string) {
	b, err := c.cache.block(c.f.groupStart(g))
	var s superblock
	if err == nil {
		_, err = binary.Decode(b[:superSize], le, &s)
	}
	f := &c.f.super
	switch {
	case err != nil:
		c.list.Problem(where, "its copy of the superblock: %v", err)
	case s.Magic != superMagic:
		c.list.Problem(where, "its copy of the superblock is none")
	case s.BlocksCountLo != f.BlocksCountLo || s.InodesCount != f.InodesCount || s.LogBlockSize != f.LogBlockSize ||
		s.BlocksPerGroup != f.BlocksPerGroup || s.InodesPerGroup != f.InodesPerGroup || f.RevLevel > 0 && s.InodeSize != f.InodeSize:
		c.list.Problem(where, "its copy of the superblock is of another file system")
	case f.ROCompat&roChecksums != 0 && s.ROCompat&roChecksums != 0 && crc(^uint32(0), b[:superSize-4]) != s.Checksum:
		c.list.Problem(where, "the checksum of its copy of the superblock is wrong")
	}
}

// tell adds what was found about inodes, now that they have names.
func (c *checker) tell() error {
	wanted := map[uint32]string{rootInode: "/"}
	for _, a := range c.about {
		if _, ok := wanted[a.number]; !ok {
			wanted[a.number] = ""
		}
	}
	if len(c.about) > 0 {
		if err := c.findNames(wanted); err != nil {
			return err
		}
	}
	for _, a := range c.about {
		where := fmt.Sprintf("inode %d", a.number)
		if name := wanted[a.number]; name != "" {
			where += fmt.Sprintf(" (%.300q)", name)
		} else if name, ok := reservedNames[a.number]; ok {
			where += " (" + name + ")"
		}
		c.list.Problem(where, "%s", a.what)
	}
	return nil
}

var reservedNames = map[uint32]string{
	1: "bad blocks", 3: "quota", 4: "quota", 5: "boot loader", 6: "undelete", 7: "resize", 8: "journal", 9: "exclude", 10: "replica",
}

// findNames finds a name for each of the wanted inodes.
func (c *checker) findNames(wanted map[uint32]string) error {
	for _, number := range slices.Sorted(maps.Keys(c.inodes)) {
		dir := c.inodes[number]
		if !dir.isDir() || dir.damaged {
			continue
		}
		err := c.eachEntry(number, func(_ uint64, name string, child uint32, _ byte) {
			if have, ok := wanted[child]; ok && have == "" && name != "." && name != ".." {
				wanted[child] = path.Join(c.pathOf(number), name)
			}
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// pathOf is the path of a directory, as far as it is known.
func (c *checker) pathOf(number uint32) string {
	var names string
	for range 4096 {
		i := c.inodes[number]
		if number == rootInode || i == nil || i.name == "" {
			break
		}
		names = path.Join(i.name, names)
		number = i.parent
	}
	if number != rootInode {
		return fmt.Sprintf("<%d>/%s", number, names)
	}
	return "/" + names
}
