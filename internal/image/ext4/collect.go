package ext4

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// inode is a planned inode.
type inode struct {
	node   *tree.Node
	parent *inode // of its first name
	name   string
	number uint32
	links  uint32

	entries []dirent // of a directory, sorted by name
	subdirs uint32
	index   *dirIndex // of a directory of several blocks
	spare   uint64    // empty blocks at the end of a directory

	runs []run // of a file that may have data: ascending, in blocks

	xattrs     []byte // what follows the inode's fields
	xattrBlock *xattrBlock

	mapped mapped
}

// mapped is how a file's blocks are found.
type mapped struct {
	block  [60]byte
	blocks uint64 // with those of the map itself
	flags  uint32
}

type dirent struct {
	name  string
	inode *inode
}

// run is a run of blocks of a file.
type run struct{ first, count uint64 }

// path is for errors.
func (n *inode) path() string {
	if n.parent == nil {
		return "/"
	}
	var parts []string
	for ; n.parent != nil; n = n.parent {
		parts = append(parts, n.name)
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

const lostFound = "lost+found"

// collector numbers a tree's inodes and plans each.
type collector struct {
	o      *Options
	seen   map[*tree.Node]*inode
	inodes []*inode // by number, from [firstInode]; the root is apart
	root   *inode
	digest hash.Hash
	xattrs map[string]*xattrBlock
	blocks []*xattrBlock
	wide   bool // dir_nlink is needed
}

// collect makes the inodes of all of the tree's names.
func collect(t *tree.Tree, o *Options) (*collector, error) {
	c := &collector{o: o, seen: map[*tree.Node]*inode{}, digest: sha256.New(), xattrs: map[string]*xattrBlock{}}
	c.root = &inode{node: t.Root(), number: rootInode, links: 2}
	c.seen[t.Root()] = c.root
	lost := t.Root().Child(lostFound)
	if lost == nil {
		lost = tree.Dir(0o700)
		lost.ModTime = o.Time
	}
	if !lost.IsDir() {
		return nil, fmt.Errorf("/%s is not a directory, which checking the file system needs: remove it", lostFound)
	}
	// It comes before all others: checkers look for it there.
	l := c.add(lost, c.root, lostFound)
	l.spare = (16<<10-1)/uint64(o.BlockSize) + 1 // with room for what a checker finds
	if err := c.dir(c.root); err != nil {
		return nil, err
	}
	return c, c.finish()
}

func (c *collector) add(n *tree.Node, parent *inode, name string) *inode {
	i := &inode{node: n, parent: parent, name: name, number: uint32(firstInode + len(c.inodes))}
	c.inodes = append(c.inodes, i)
	c.seen[n] = i
	return i
}

// dir visits a directory's entries. The first to be found gets the first
// number.
func (c *collector) dir(d *inode) error {
	names := d.node.Names()
	if d == c.root && d.node.Child(lostFound) == nil {
		i, _ := slices.BinarySearch(names, lostFound)
		names = slices.Insert(names, i, lostFound)
	}
	c.note(d)
	d.entries = make([]dirent, len(names))
	for i, name := range names {
		n := d.node.Child(name)
		if d == c.root && name == lostFound {
			n = c.inodes[0].node
		}
		e := c.seen[n]
		if e == nil {
			e = c.add(n, d, name)
		}
		d.entries[i] = dirent{name, e}
		c.noteName(name, e.number)
		e.links++
		if !n.IsDir() {
			if e.links == 1 {
				c.note(e)
			}
			continue
		}
		if e.parent != d || e.name != name {
			return fmt.Errorf("directory %q has a second name, %q", e.path(), (&inode{parent: d, name: name}).path())
		}
		e.links++ // its own "."
		d.subdirs++
		if err := c.dir(e); err != nil {
			return err
		}
	}
	d.links += d.subdirs
	return nil
}

// note feeds an inode's metadata to the digest.
func (c *collector) note(i *inode) {
	n := i.node
	var b [64]byte
	for j, v := range []uint64{uint64(i.number), uint64(n.Mode), uint64(n.UID)<<32 | uint64(n.GID),
		uint64(n.ModTime.Unix()), uint64(n.ModTime.Nanosecond()), uint64(n.Major)<<32 | uint64(n.Minor), uint64(n.Size()), uint64(len(n.Xattrs))} {
		binary.LittleEndian.PutUint64(b[8*j:], v)
	}
	c.digest.Write(b[:])
	c.noteString(n.Target)
	if len(n.Xattrs) == 0 {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(n.Xattrs)) {
		c.noteString(k)
		c.noteString(string(n.Xattrs[k]))
	}
}

func (c *collector) noteName(s string, number uint32) {
	c.noteString(s)
	var b [4]byte
	le.PutUint32(b[:], number)
	c.digest.Write(b[:])
}

func (c *collector) noteString(s string) {
	var b [4]byte
	le.PutUint32(b[:], uint32(len(s)))
	c.digest.Write(append(b[:], s...))
}

// finish gives the identities and plans the inodes one by one, which needs all
// numbers.
func (c *collector) finish() error {
	if len(c.inodes) > 1<<32-1-firstInode {
		return errors.New("the tree has more files than can be numbered")
	}
	fmt.Fprintf(c.digest, "%+v", *c.o)
	sum := c.digest.Sum(nil)
	if c.o.UUID == [16]byte{} {
		copy(c.o.UUID[:], sum)
		c.o.UUID[6] = c.o.UUID[6]&0x0F | 0x80 // RFC 9562, version 8
		c.o.UUID[8] = c.o.UUID[8]&0x3F | 0x80
	}
	if c.o.HashSeed == [16]byte{} {
		copy(c.o.HashSeed[:], sum[16:])
	}
	for i := range c.all() {
		if err := c.plan(i); err != nil {
			return fmt.Errorf("%q: %w", i.path(), err)
		}
	}
	return nil
}

// all yields the root and then the others by number.
func (c *collector) all() func(yield func(*inode) bool) {
	return func(yield func(*inode) bool) {
		if !yield(c.root) {
			return
		}
		for _, i := range c.inodes {
			if !yield(i) {
				return
			}
		}
	}
}

func (c *collector) plan(i *inode) error {
	n, bs := i.node, uint64(c.o.BlockSize)
	if i.links > maxLinks {
		if !n.IsDir() {
			return fmt.Errorf("%d names of one file are more than %d", i.links, maxLinks)
		}
		i.links = 1 // "unknown": dir_nlink
		c.wide = true
	}
	switch n.Type() {
	case tree.TypeDir:
		c.planDir(i)
	case tree.TypeSymlink:
		if uint64(len(n.Target)) >= bs {
			return fmt.Errorf("the link's target of %d bytes does not fit into a block of %d", len(n.Target), bs)
		}
		if len(n.Target) >= len(i.mapped.block) {
			i.runs = []run{{0, 1}}
		}
	case tree.TypeBlock, tree.TypeChar:
		if n.Major > 1<<12-1 || n.Minor > 1<<20-1 {
			return fmt.Errorf("device %d:%d is beyond the kernel's last, %d:%d", n.Major, n.Minor, 1<<12-1, 1<<20-1)
		}
	case tree.TypeRegular:
		if err := c.planFile(i); err != nil {
			return err
		}
	}
	return c.planXattrs(i)
}

// planFile finds what of a regular file may have data.
func (c *collector) planFile(i *inode) error {
	size, bs := i.node.Size(), uint64(c.o.BlockSize)
	if size < 0 || uint64(size) > c.maxFile() {
		return fmt.Errorf("%d bytes are more than %s with blocks of %d bytes holds in one file, %d", size, c.o.Type, bs, c.maxFile())
	}
	if size == 0 {
		return nil
	}
	s, ok := i.node.Content.(tree.Sparse)
	if !ok {
		i.runs = []run{{0, ceil(uint64(size), bs)}}
		return nil
	}
	data, err := s.Data()
	if err != nil {
		return fmt.Errorf("find the holes: %w", err)
	}
	at := int64(0)
	for _, e := range data {
		if e.Off < at || e.Len < 0 || e.Len > size-e.Off {
			return fmt.Errorf("the content's map of holes is wrong: %d bytes from %d", e.Len, e.Off)
		}
		at = e.Off + e.Len
		if e.Len > 0 {
			i.addRun(uint64(e.Off)/bs, ceil(uint64(at), bs))
		}
	}
	return nil
}

// addRun adds the blocks from first to end, joining what touches.
func (i *inode) addRun(first, end uint64) {
	if k := len(i.runs) - 1; k >= 0 && i.runs[k].first+i.runs[k].count >= first {
		i.runs[k].count = end - i.runs[k].first
		return
	}
	i.runs = append(i.runs, run{first, end - first})
}

// maxFile is the largest size of a file: what the map can reach, and for block
// maps what i_blocks, which counts sectors in 32 bits, can.
func (c *collector) maxFile() uint64 {
	bs := uint64(c.o.BlockSize)
	if c.o.Type == Ext4 {
		return (1<<32 - 1) * bs
	}
	p := bs / 4
	return min((12+p+p*p+p*p*p)*bs, 2<<40-4<<30)
}

func ceil(a, b uint64) uint64 { return (a + b - 1) / b }

// zero reports whether b is all zeros.
func zero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:])
}
