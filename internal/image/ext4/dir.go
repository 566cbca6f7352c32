package ext4

import (
	"cmp"
	"errors"
	"slices"

	"wolffia/internal/tree"
)

// Parts of a directory ("4.4 Directory Entries").
const (
	direntHead = 8  // inode, length, length of the name, type
	direntTail = 12 // an entry of no name that holds a block's checksum
	indexRoot  = 32 // bytes before the first entry of an index's root: ".", "..", dx_root_info
	indexNode  = 8  // the same of an index's other blocks: an entry over all the block
	indexEntry = 8
)

func direntSize(name string) int { return (direntHead + len(name) + 3) &^ 3 }

var direntTypes = map[uint32]byte{
	tree.TypeRegular: 1, tree.TypeDir: 2, tree.TypeChar: 3, tree.TypeBlock: 4,
	tree.TypeFIFO: 5, tree.TypeSocket: 6, tree.TypeSymlink: 7,
}

// dirIndex is a directory of several blocks: leaves of entries in the order of
// their hashes, below one or two levels of index ("4.4.2 Hash Tree
// Directories").
type dirIndex struct {
	order  []int32  // entries by hash
	starts []int    // of the leaves, in order
	hashes []uint32 // the lowest of each leaf, its lowest bit set where the leaf before has it too
	nodes  int      // blocks of the second level; 0 without one
}

// leafRoom is what entries may take of a block of a directory.
func (o *Options) leafRoom() int {
	if o.Checksums {
		return o.BlockSize - direntTail
	}
	return o.BlockSize
}

// indexLimit is how many entries fit into a block of an index with a head of so
// many bytes.
func (o *Options) indexLimit(head int) int {
	n := (o.BlockSize - head) / indexEntry
	if o.Checksums {
		n--
	}
	return n
}

// planDir decides how many blocks a directory has, and whether it has an index.
func (c *collector) planDir(i *inode) {
	blocks, used := 1, 2*direntSize("..")
	for _, e := range i.entries {
		size := direntSize(e.name)
		if used+size > c.o.leafRoom() {
			blocks, used = blocks+1, 0
		}
		used += size
	}
	if blocks > 1 {
		i.index = c.planIndex(i.entries)
	}
	if x := i.index; x != nil {
		blocks = 1 + x.nodes + len(x.starts)
		i.spare = 0
	}
	i.spare = max(i.spare, uint64(blocks)) - uint64(blocks)
	i.runs = []run{{0, uint64(blocks) + i.spare}}
}

// planIndex gives nil where two levels are not enough: such a directory has no
// index.
func (c *collector) planIndex(entries []dirent) *dirIndex {
	seed := hashSeed(c.o.HashSeed)
	hashes := make([]uint32, len(entries))
	x := &dirIndex{order: make([]int32, len(entries))}
	for i, e := range entries {
		hashes[i] = halfMD4(e.name, &seed)
		x.order[i] = int32(i)
	}
	slices.SortFunc(x.order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(hashes[a], hashes[b]), cmp.Compare(a, b))
	})
	used := c.o.BlockSize
	for k, i := range x.order {
		size := direntSize(entries[i].name)
		if used+size > c.o.leafRoom() {
			h := hashes[i]
			if k > 0 && hashes[x.order[k-1]] == h {
				h |= 1
			}
			x.starts, x.hashes, used = append(x.starts, k), append(x.hashes, h), 0
		}
		used += size
	}
	if root := c.o.indexLimit(indexRoot); len(x.starts) > root {
		x.nodes = int(ceil(uint64(len(x.starts)), uint64(c.o.indexLimit(indexNode))))
		if x.nodes > root {
			return nil
		}
	}
	return x
}

func hashSeed(b [16]byte) (s [4]uint32) {
	for i := range s {
		s[i] = le.Uint32(b[4*i:])
	}
	return s
}

// dirWriter renders one directory, block by block.
type dirWriter struct {
	o    *Options
	seed uint32 // of checksums
	next func() ([]byte, error)

	b    []byte // the current block, or nil
	at   int    // where the next entry goes
	last int    // where the last entry is
}

// write renders all blocks of i. Next gives each, empty.
func (d *dirWriter) write(i *inode) error {
	parent := i.parent
	if parent == nil {
		parent = i
	}
	var err error
	if i.index != nil {
		err = d.indexed(i, parent)
	} else {
		err = d.linear(i, parent)
	}
	for range i.spare {
		if err == nil {
			err = d.block()
		}
	}
	if err == nil {
		d.finish()
	}
	return err
}

func (d *dirWriter) linear(i, parent *inode) error {
	if err := d.block(); err != nil {
		return err
	}
	d.entry(".", i)
	d.entry("..", parent)
	for _, e := range i.entries {
		if err := d.add(e); err != nil {
			return err
		}
	}
	return nil
}

// add adds an entry, in a new block if need be.
func (d *dirWriter) add(e dirent) error {
	if d.at+direntSize(e.name) > d.o.leafRoom() {
		if err := d.block(); err != nil {
			return err
		}
	}
	d.entry(e.name, e.inode)
	return nil
}

// block ends the current block and begins another.
func (d *dirWriter) block() (err error) {
	d.finish()
	d.b, err = d.next()
	d.at, d.last = 0, 0
	return err
}

func (d *dirWriter) entry(name string, i *inode) {
	b, size := d.b[d.at:], direntSize(name)
	le.PutUint32(b, i.number)
	le.PutUint16(b[4:], uint16(size))
	b[6], b[7] = byte(len(name)), direntTypes[i.node.Type()]
	copy(b[direntHead:], name)
	d.last = d.at
	d.at += size
}

// finish lets the last entry reach to the end of the block.
func (d *dirWriter) finish() {
	if d.b == nil {
		return
	}
	room := d.o.leafRoom()
	le.PutUint16(d.b[d.last+4:], uint16(room-d.last))
	if d.o.Checksums {
		tail := d.b[room:]
		le.PutUint16(tail[4:], direntTail)
		tail[7] = 0xDE
		le.PutUint32(tail[8:], crc(d.seed, d.b[:room]))
	}
	d.b = nil
}

func (d *dirWriter) indexed(i, parent *inode) error {
	x := i.index
	below, levels := len(x.starts), byte(0)
	if x.nodes > 0 {
		below, levels = x.nodes, 1
	}
	if err := d.block(); err != nil {
		return err
	}
	d.entry(".", i)
	d.entry("..", parent)
	le.PutUint16(d.b[d.last+4:], uint16(d.o.BlockSize-d.last))
	info := d.b[24:] // struct dx_root_info
	info[4], info[5], info[6] = hashHalfMD4, 8, levels
	per := d.o.indexLimit(indexNode)
	d.indexEntries(indexRoot, below, 1, func(k int) uint32 {
		if levels > 0 {
			k *= per
		}
		return x.hashes[k]
	})
	for n := range x.nodes {
		if err := d.block(); err != nil {
			return err
		}
		le.PutUint16(d.b[4:], uint16(d.o.BlockSize))
		from := n * per
		d.indexEntries(indexNode, min(per, len(x.starts)-from), 1+x.nodes+from, func(k int) uint32 { return x.hashes[from+k] })
	}
	d.at = d.o.BlockSize // no room: the first leaf begins
	for _, k := range x.order {
		if err := d.add(i.entries[k]); err != nil {
			return err
		}
	}
	return nil
}

// indexEntries fills the current block with count entries, which lead to the
// blocks from first on, and ends it.
func (d *dirWriter) indexEntries(head, count, first int, hash func(int) uint32) {
	b, limit := d.b, d.o.indexLimit(head)
	for k := range count {
		e := b[head+k*indexEntry:]
		if k > 0 { // the first has count and limit instead
			le.PutUint32(e, hash(k))
		}
		le.PutUint32(e[4:], uint32(first+k))
	}
	le.PutUint16(b[head:], uint16(limit))
	le.PutUint16(b[head+2:], uint16(count))
	if d.o.Checksums {
		sum := crc(d.seed, b[:head+count*indexEntry])
		sum = crc(sum, make([]byte, 8)) // the tail with a checksum of zero
		le.PutUint32(b[head+limit*indexEntry+4:], sum)
	}
	d.b = nil
}

var errDirTooLarge = errors.New("the directory takes more than 2 GiB: use larger blocks or several directories")
