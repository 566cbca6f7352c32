package ext4

import (
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// directories looks at all directories, and then at what they say about inodes.
func (c *checker) directories() error {
	all := slices.Sorted(maps.Keys(c.inodes))
	for _, number := range all {
		if i := c.inodes[number]; i.isDir() && !i.damaged {
			if err := c.directory(number, i); err != nil {
				return err
			}
		}
	}
	for _, number := range all {
		c.references(number, c.inodes[number])
	}
	c.reached(all)
	return c.ctx.Err()
}

// maxNames bounds the names of one directory that are compared with each other.
const maxNames = 1 << 22

// directory looks at the entries of one directory.
func (c *checker) directory(number uint32, dir *checkedInode) error {
	seen, seed := map[uint64]bool{}, maphash.MakeSeed()
	entry := 0
	return c.eachEntry(number, func(k uint64, name string, child uint32, kind byte) {
		entry++
		if k == 0 && entry <= 2 {
			c.dots(number, dir, entry, name, child)
			return
		}
		switch h := maphash.String(seed, name); {
		case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
			c.problem(number, "the name %.300q in it is impossible", name)
		case seen[h]:
			c.problem(number, "the name %.300q in it is there twice", name)
		case len(seen) < maxNames:
			seen[h] = true
		}
		c.entry(number, name, child, kind)
	}, func(k uint64, err error) { c.problem(number, "block %d of it: %v", k, err) })
}

// dots looks at the first two entries, which lead to the directory and to its
// parent.
func (c *checker) dots(number uint32, dir *checkedInode, entry int, name string, child uint32) {
	switch {
	case entry == 1 && (name != "." || child != number):
		c.problem(number, `its first entry is no "." that leads to itself`)
	case entry == 2 && name != "..":
		c.problem(number, `its second entry is no ".."`)
	case entry == 2:
		dir.dotdot = child
	}
	if i := c.inodes[child]; i != nil {
		i.refs++
	}
}

// entry looks at where an entry leads.
func (c *checker) entry(dir uint32, name string, number uint32, kind byte) {
	s := &c.f.super
	i := c.inodes[number]
	switch {
	case number > s.InodesCount || number < s.FirstInode && number != rootInode:
		c.problem(dir, "%.300q in it leads to inode %d, which is out of range", name, number)
		return
	case i == nil || i.own:
		c.problem(dir, "%.300q in it leads to inode %d, which is not in use", name, number)
		return
	}
	if want := direntTypes[uint32(i.mode)&tree.TypeMask]; s.Incompat&incompatFiletype != 0 && kind != want {
		c.problem(dir, "%.300q in it says that it is of type %d, and inode %d is of type %d", name, kind, number, want)
	}
	i.refs++
	if i.isDir() {
		if i.named || number == rootInode {
			c.problem(number, "it is a directory, and has more than one name")
			return
		}
		i.parent, i.name = dir, name
	}
	i.named = true
}

// references compares an inode with the names that it has.
func (c *checker) references(number uint32, i *checkedInode) {
	if i.own {
		return
	}
	if i.isDir() && !i.damaged {
		want := i.parent
		if number == rootInode {
			want = rootInode
		}
		if i.dotdot != want && (i.named || number == rootInode) {
			c.problem(number, `its ".." leads to inode %d, and its parent is %d`, i.dotdot, want)
		}
	}
	if !i.named && number != rootInode {
		c.problem(number, "it is in use, and no directory has it")
		return
	}
	if many := i.isDir() && i.links == 1 && c.f.super.ROCompat&roDirNlink != 0; uint32(i.links) != i.refs && !many && !i.damaged {
		c.problem(number, "it says that it has %d links, and has %d", i.links, i.refs)
	}
}

// reached looks for directories that are in each other, and not below the root.
func (c *checker) reached(all []uint32) {
	const onTheWay, fine = 1, 2
	state := map[uint32]byte{rootInode: fine}
	for _, number := range all {
		var way []uint32
		n := number
		for i := c.inodes[n]; i != nil && i.isDir() && i.named && state[n] == 0; i = c.inodes[n] {
			state[n] = onTheWay
			way = append(way, n)
			n = i.parent
		}
		if state[n] == onTheWay && slices.Contains(way, n) {
			c.problem(n, "it is a directory that lies in itself")
		}
		for _, n := range way {
			state[n] = fine // or told
		}
	}
}

// eachEntry calls fn for the entries in use of a directory whose map is sound,
// with the number of their block, and damaged, where it is set, for a block that
// is not.
func (c *checker) eachEntry(number uint32, fn func(k uint64, name string, child uint32, kind byte), damaged func(k uint64, err error)) error {
	raw, err := c.rawInode(number)
	if err != nil {
		return err
	}
	i, err := c.lax.decodeInode(number, raw)
	if err != nil {
		return err
	}
	tell := func(k uint64, err error) {
		if damaged != nil && err != nil {
			damaged(k, err)
		}
	}
	// Its seed is that of the checksums, which were verified with the map.
	m := c.lax.mapOf(i)
	lax := cache{f: &c.lax}
	for k := uint64(0); k < i.raw.size/c.f.bs; k++ {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		s, err := m.find(&lax, k)
		if err != nil {
			tell(k, err)
			break
		}
		if s.disk == 0 {
			tell(k, errors.New("it is a hole"))
			k += s.count - 1
			continue
		}
		b, err := c.cache.block(s.disk)
		if err != nil {
			return err
		}
		tell(k, c.f.checkDirBlock(i, k, b))
		damage, err := c.f.dirents(b, func(name string, child uint32, kind byte) error {
			fn(k, name, child, kind)
			return nil
		})
		tell(k, damage)
		if err != nil {
			return err
		}
	}
	return nil
}
