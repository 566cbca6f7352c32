package ext4

import (
	"errors"
	"fmt"
	"strings"

	"wolffia/internal/tree"
)

// checkedInode is an inode in use.
type checkedInode struct {
	mode    uint16
	links   uint16 // as it says
	refs    uint32 // as was found
	own     bool   // the file system's: it has no name
	damaged bool   // its blocks can't be followed
	named   bool
	parent  uint32 // of a directory
	dotdot  uint32 // what its ".." leads to
	name    string // of a directory
}

func (i *checkedInode) isDir() bool { return uint32(i.mode)&tree.TypeMask == tree.TypeDir }

// orphanList finds the inodes that were deleted, or made shorter, while the
// system that had them open crashed.
func (c *checker) orphanList() error {
	s := &c.f.super
	for n := s.LastOrphan; n != 0; {
		b, err := c.rawInode(n)
		if err != nil || c.orphans[n] || len(c.orphans) >= maxCheckInodes {
			c.list.Problem("superblock", "the list of orphans is broken at inode %d", n)
			break
		}
		c.orphans[n] = true
		n = le.Uint32(b[0x14:]) // in place of the time of deletion
	}
	if s.Compat&compatOrphans != 0 && s.ROCompat&roOrphans != 0 {
		if err := c.orphanFile(); err != nil {
			c.list.Problem(fmt.Sprintf("inode %d", s.OrphanFile), "the file of orphans: %v", err)
		}
	}
	if len(c.orphans) > 0 {
		c.list.Note("superblock", "%d files that were open when they were deleted or cut still take room, until it is mounted", len(c.orphans))
	}
	return c.ctx.Err()
}

// orphanFile reads the numbers in the file of orphans, whose blocks end in a
// magic number and a checksum.
func (c *checker) orphanFile() error {
	b, err := c.rawInode(c.f.super.OrphanFile)
	if err != nil {
		return err
	}
	i, err := c.lax.decodeInode(c.f.super.OrphanFile, b)
	if err != nil {
		return err
	}
	m := c.f.mapOf(i)
	for k := range min(i.raw.size/c.f.bs, 1024) {
		s, err := m.find(&c.cache, k)
		if err != nil || s.disk == 0 {
			return errors.Join(err, errors.New("a block is missing"))
		}
		b, err := c.cache.block(s.disk)
		if err != nil {
			return err
		}
		for at := 0; at+8 < len(b); at += 4 {
			if n := le.Uint32(b[at:]); n != 0 && n <= c.f.super.InodesCount {
				c.orphans[n] = true
			}
		}
	}
	return nil
}

// rawInode gives the bytes of an inode.
func (c *checker) rawInode(number uint32) ([]byte, error) {
	s := &c.f.super
	if number == 0 || number > s.InodesCount {
		return nil, fmt.Errorf("inode %d is out of range", number)
	}
	table := c.groups[(number-1)/s.InodesPerGroup].inodeTable
	off := uint64((number-1)%s.InodesPerGroup) * uint64(s.InodeSize)
	b, err := c.cache.block(table + off/c.f.bs)
	if err != nil {
		return nil, err
	}
	return b[off%c.f.bs:][:s.InodeSize], nil
}

// allInodes looks at each inode in use.
func (c *checker) allInodes() error {
	s := &c.f.super
	for g := range c.f.groups {
		d := &c.groups[g]
		count := s.InodesPerGroup
		if s.ROCompat&(roChecksums|roGDTCsum) != 0 {
			if d.unusedInodes > count {
				c.list.Problem(fmt.Sprintf("group %d", g), "%d of its %d inodes were never used", d.unusedInodes, count)
			} else {
				count -= d.unusedInodes
			}
			if d.flags&groupInodesUninit != 0 {
				count = 0
			}
		}
		if !c.inside(d.inodeTable, 1) || d.inodeTable == 0 {
			continue // which was told
		}
		for k := range count {
			if k%1024 == 0 && c.ctx.Err() != nil {
				return c.ctx.Err()
			}
			if err := c.inode(g, uint32(g)*s.InodesPerGroup+k+1); err != nil {
				return err
			}
		}
	}
	for n, x := range c.attributes {
		if x.want != x.refs {
			c.list.Problem(fmt.Sprintf("block %d", n), "its attributes are of %d inodes, and it says %d", x.refs, x.want)
		}
	}
	if c.inodes[rootInode] == nil || !c.inodes[rootInode].isDir() {
		c.list.Problem("inode 2", "there is no root directory")
	}
	return nil
}

// inode looks at one inode, if it is in use.
func (c *checker) inode(g uint64, number uint32) error {
	b, err := c.rawInode(number)
	if err != nil {
		c.list.Problem(fmt.Sprintf("inode %d", number), "%v", err)
		return nil
	}
	s := &c.f.super
	mode, links := le.Uint16(b), le.Uint16(b[0x1A:])
	special := number < s.FirstInode && number != rootInode
	if links == 0 && !c.orphans[number] && !(special && (mode != 0 || le.Uint32(b[0x1C:]) != 0)) {
		return nil
	}
	if len(c.inodes) >= maxCheckInodes {
		return fmt.Errorf("it has more files than a check takes, %d", maxCheckInodes)
	}
	i := &checkedInode{mode: mode, links: links}
	i.own = special || number == s.UserQuotaInode || number == s.GroupQuotaInode || number == s.ProjectQuotaInode ||
		s.Compat&compatOrphans != 0 && number == s.OrphanFile || links == 0
	c.inodes[number] = i
	c.groups[g].inUse++
	if i.isDir() {
		c.groups[g].found++
	}
	if le.Uint32(b[0x14:]) != 0 && !c.orphans[number] && !special {
		c.problem(number, "it is in use, and has a time of deletion")
	}
	if _, err := c.f.decodeInode(number, b); err != nil {
		c.problem(number, "%s", strings.TrimPrefix(err.Error(), fmt.Sprintf("inode %d: ", number)))
	}
	found, err := c.lax.decodeInode(number, b)
	if err != nil {
		i.damaged = true
		return nil
	}
	return c.content(i, found, special)
}

// content looks at an inode's type, attributes and blocks.
func (c *checker) content(i *checkedInode, found *foundInode, special bool) error {
	n, raw := found.number, &found.raw
	u := &usage{c: c, number: n, seed: inodeSeed(c.f.seed, n, found.generation)}
	if raw.fileACL != 0 {
		if err := c.attributeBlock(n, raw.fileACL); err != nil {
			return err
		}
		u.own++
	}
	c.innerAttributes(found)
	if !special {
		c.flags(found)
	}
	var err error
	switch kind := uint32(raw.mode) & tree.TypeMask; {
	case special && n != journalInode && kind == 0, kind == tree.TypeRegular, kind == tree.TypeDir:
		err = u.walk(found)
	case kind == tree.TypeSymlink && !fastLink(raw, c.f.bs):
		err = u.walk(found)
	case kind == tree.TypeSymlink, kind == tree.TypeBlock, kind == tree.TypeChar, kind == tree.TypeFIFO, kind == tree.TypeSocket:
	default:
		c.problem(n, "its mode %#o is of no known file type", raw.mode)
		i.damaged = true
		return nil
	}
	if err != nil {
		return err
	}
	if i.damaged = u.damaged; i.damaged || c.orphans[n] {
		return nil
	}
	u.sizes(found, special)
	return nil
}

// flags looks for flags that the file system has not the features for.
func (c *checker) flags(i *foundInode) {
	s, kind := &c.f.super, uint32(i.raw.mode)&tree.TypeMask
	bad := i.raw.flags & (flagEncrypt | flagInlineData | flagEAInode | flagMagic | flagCasefold) // none of them can be read
	if s.Incompat&incompatExtents == 0 {
		bad |= i.raw.flags & flagExtents
	}
	if s.Compat&compatDirIndex == 0 || kind != tree.TypeDir {
		bad |= i.raw.flags & flagIndex
	}
	if s.ROCompat&roVerity == 0 {
		bad |= i.raw.flags & flagVerity
	}
	if bad != 0 {
		c.problem(i.number, "it has the flags %#x, which the file system has not the features for", bad)
	}
}

// fastLink reports whether a link's target is in the inode itself.
func fastLink(raw *rawInode, bs uint64) bool {
	blocks := raw.blocks
	if raw.fileACL != 0 {
		blocks -= min(blocks, bs/512)
	}
	return blocks == 0
}

// sizes compares an inode's size and count of blocks with what was found.
func (u *usage) sizes(found *foundInode, special bool) {
	raw, bs := &found.raw, u.c.f.bs
	blocks := raw.blocks
	if u.c.f.super.ROCompat&roHugeFile == 0 {
		blocks &= 1<<32 - 1
	}
	unit := bs / 512
	if raw.flags&flagHugeFile != 0 && u.c.f.super.ROCompat&roHugeFile != 0 {
		unit = 1
	}
	if want := (u.blocks + u.own) * unit; blocks != want {
		u.c.problem(found.number, "it counts %d blocks of 512 bytes, and has %d", blocks, want)
	}
	if special && found.number != journalInode {
		return
	}
	if found.number == journalInode && raw.size > u.end*bs {
		u.c.problem(found.number, "its size is %d bytes, and its blocks are %d of %d", raw.size, u.end, bs)
	}
	switch uint32(raw.mode) & tree.TypeMask {
	case tree.TypeBlock, tree.TypeChar, tree.TypeFIFO, tree.TypeSocket:
		if raw.size != 0 {
			u.c.problem(found.number, "it is a device, a pipe or a socket, and has a size of %d bytes", raw.size)
		}
	case tree.TypeDir:
		if raw.size != u.end*bs {
			u.c.problem(found.number, "its size is %d bytes, and its blocks are %d of %d", raw.size, u.end, bs)
		}
	case tree.TypeSymlink:
		if raw.size == 0 || raw.size >= bs || fastLink(raw, bs) && raw.size >= uint64(len(raw.block)) {
			u.c.problem(found.number, "a link's target of %d bytes is out of range", raw.size)
		}
	case tree.TypeRegular:
		if u.written > 0 && raw.size < (u.written-1)*bs {
			u.c.problem(found.number, "its size is %d bytes, and it has data up to block %d", raw.size, u.written-1)
		}
		if raw.size > (maxFileBlocks-1)*bs {
			u.c.problem(found.number, "a size of %d bytes is out of range", raw.size)
		}
	}
}

// attributeBlock claims a block of attributes, which several inodes can share.
func (c *checker) attributeBlock(number uint32, n uint64) error {
	if x := c.attributes[n]; x != nil {
		x.refs++
		return nil
	}
	if ok, err := c.claim(number, n, 1); !ok || err != nil {
		return err
	}
	b, err := c.cache.block(n)
	if err != nil {
		return err
	}
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		c.problem(number, "block %d has no attributes", n)
		return nil
	}
	c.attributes[n] = &sharedBlock{want: le.Uint32(b[4:]), refs: 1}
	if c.f.super.ROCompat&roChecksums != 0 && !c.f.xattrSum(n, b) {
		c.problem(number, "the checksum of attributes in block %d is wrong", n)
	}
	if err := decodeXattrs(b[xattrHead:], xattrHead, func(string, []byte) error { return nil }); err != nil {
		c.problem(number, "its attributes in block %d: %v", n, err)
	}
	return nil
}

func (c *checker) innerAttributes(i *foundInode) {
	if len(i.room) < 4 || le.Uint32(i.room) != xattrMagic {
		return
	}
	if err := decodeXattrs(i.room[4:], 0, func(string, []byte) error { return nil }); err != nil {
		c.problem(i.number, "its attributes: %v", err)
	}
}
