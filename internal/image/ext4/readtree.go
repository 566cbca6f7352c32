package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"wolffia/internal/tree"
)

// TreeOptions says how a file system is read. The zero value is right for any
// ordinary one.
type TreeOptions struct {
	// Limits bound the entries and their metadata.
	Limits tree.Limits
	// KeepLostFound keeps /lost+found where it is as mke2fs makes it: empty, of
	// mode 0700, owned by 0:0. Else it is left out, since it belongs to the
	// file system and not to what is in it.
	KeepLostFound bool
}

// Tree reads the names and metadata of all files. Their contents, each a
// [tree.Sparse], stay where they are.
//
// Errors name the file, or the inode where it has no name.
func (f *FS) Tree(o TreeOptions) (*tree.Tree, error) {
	w := &walker{f: f, cache: cache{f: f}, u: tree.NewUnpacker(o.Limits), links: map[uint32]*tree.Node{}, dirs: map[uint32]bool{}, left: f.blocks}
	if err := w.root(); err != nil {
		return nil, fmt.Errorf("read ext file system: %w", err)
	}
	t := w.u.Tree()
	if lost := t.Root().Child(lostFound); lost != nil && !o.KeepLostFound && asMade(lost) {
		t.Remove("/" + lostFound)
	}
	return t, nil
}

func asMade(n *tree.Node) bool {
	return n.Mode == tree.TypeDir|0o700 && n.UID == 0 && n.GID == 0 && len(n.Xattrs) == 0 && len(n.Names()) == 0
}

type walker struct {
	f     *FS
	cache cache
	u     *tree.Unpacker
	links map[uint32]*tree.Node // inodes with several names
	dirs  map[uint32]bool       // visited
	left  uint64                // blocks of directories that may still be read
}

func (w *walker) root() error {
	i, err := w.inode(rootInode)
	if err != nil {
		return err
	}
	n, err := w.node(i)
	if err == nil && !n.IsDir() {
		err = errors.New("the root is not a directory")
	}
	if err == nil {
		err = w.u.Put("/", n)
	}
	if err != nil {
		return err
	}
	w.dirs[rootInode] = true
	return w.dir("/", w.u.Tree().Root(), i)
}

// foundInode is an inode as it is read.
type foundInode struct {
	number     uint32
	generation uint32
	raw        rawInode
	room       []byte // what follows the fields
}

// inode reads the inode with a number.
func (w *walker) inode(number uint32) (*foundInode, error) {
	s := &w.f.super
	if number == 0 || number > s.InodesCount || number < s.FirstInode && number != rootInode && number != journalInode {
		return nil, fmt.Errorf("inode %d is out of range", number)
	}
	table, err := w.f.group(&w.cache, uint64((number-1)/s.InodesPerGroup))
	if err != nil {
		return nil, err
	}
	off := uint64((number-1)%s.InodesPerGroup) * uint64(s.InodeSize)
	if table == 0 || table >= w.f.blocks {
		return nil, fmt.Errorf("the inode table of inode %d is at block %d, beyond the last", number, table)
	}
	b, err := w.cache.block(table + off/w.f.bs)
	if err != nil {
		return nil, err
	}
	return w.f.decodeInode(number, b[off%w.f.bs:][:s.InodeSize])
}

func (f *FS) decodeInode(number uint32, b []byte) (*foundInode, error) {
	i := &foundInode{number: number, generation: le.Uint32(b[0x64:])}
	n := &i.raw
	n.mode = le.Uint16(b[0x0:])
	n.uid = uint32(le.Uint16(b[0x2:])) | uint32(le.Uint16(b[0x78:]))<<16
	n.gid = uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7A:]))<<16
	n.size = uint64(le.Uint32(b[0x4:]))
	n.links = le.Uint16(b[0x1A:])
	n.blocks = uint64(le.Uint32(b[0x1C:])) | uint64(le.Uint16(b[0x74:]))<<32
	n.flags = le.Uint32(b[0x20:])
	copy(n.block[:], b[0x28:])
	n.fileACL = uint64(le.Uint32(b[0x68:]))
	if f.desc >= 64 {
		n.fileACL |= uint64(le.Uint16(b[0x76:])) << 32
	}
	if kind := uint32(n.mode) & tree.TypeMask; kind == tree.TypeRegular || kind == tree.TypeDir {
		n.size |= uint64(le.Uint32(b[0x6C:])) << 32 // else it is a version
	}
	extra := uint32(0)
	if len(b) > oldInodeSize {
		used := int(le.Uint16(b[0x80:]))
		if used%4 != 0 || used > len(b)-oldInodeSize {
			return nil, fmt.Errorf("inode %d: %d bytes of further fields do not fit", number, used)
		}
		if used >= 0xC {
			extra = le.Uint32(b[0x88:])
		}
		i.room = b[oldInodeSize+used:]
	}
	n.seconds, n.nanoseconds = decodeTime(le.Uint32(b[0x10:]), extra)
	if f.super.ROCompat&roChecksums != 0 {
		sum := inodeSum(inodeSeed(f.seed, number, i.generation), b)
		bad := uint16(sum) != le.Uint16(b[0x7C:])
		if len(b) > oldInodeSize && le.Uint16(b[0x80:]) >= 4 {
			bad = bad || uint16(sum>>16) != le.Uint16(b[0x82:])
		}
		if bad {
			return nil, fmt.Errorf("inode %d: its checksum is wrong", number)
		}
	}
	return i, nil
}

func (f *FS) mapOf(i *foundInode) fileMap {
	return fileMap{root: i.raw.block, extents: i.raw.flags&flagExtents != 0, seed: inodeSeed(f.seed, i.number, i.generation)}
}

// node makes the tree's node of an inode.
func (w *walker) node(i *foundInode) (*tree.Node, error) {
	raw := &i.raw
	n := &tree.Node{Mode: uint32(raw.mode), UID: raw.uid, GID: raw.gid, ModTime: time.Unix(raw.seconds, int64(raw.nanoseconds)).UTC()}
	if raw.links == 0 {
		return nil, fmt.Errorf("inode %d was deleted", i.number)
	}
	if raw.flags&(flagEncrypt|flagInlineData|flagEAInode) != 0 {
		return nil, fmt.Errorf("inode %d has flags %#x, which are not supported", i.number, raw.flags)
	}
	if raw.size > w.f.maxSize(n) {
		return nil, fmt.Errorf("inode %d: a size of %d bytes is out of range", i.number, raw.size)
	}
	var err error
	switch n.Type() {
	case tree.TypeRegular:
		if raw.size > 0 {
			n.Content = &content{f: w.f, number: i.number, size: int64(raw.size), blocks: w.f.mapOf(i)}
		}
	case tree.TypeSymlink:
		n.Target, err = w.target(i)
	case tree.TypeBlock, tree.TypeChar:
		n.Major, n.Minor = decodeDevice(raw.block[:])
	}
	if err == nil {
		n.Xattrs, err = w.xattrs(i)
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", i.number, err)
	}
	return n, nil
}

// maxSize is how large n may be.
func (f *FS) maxSize(n *tree.Node) uint64 {
	switch n.Type() {
	case tree.TypeRegular:
		return min((maxFileBlocks-1)*f.bs, 1<<63-1)
	case tree.TypeDir:
		return min(f.blocks, maxFileBlocks-1) * f.bs
	case tree.TypeSymlink:
		return tree.MaxPath - 1
	}
	return 1<<64 - 1 // it means nothing
}

func (w *walker) target(i *foundInode) (string, error) {
	raw := &i.raw
	inBlock := raw.blocks
	if raw.fileACL != 0 {
		inBlock -= min(inBlock, w.f.bs/512)
	}
	var b []byte
	switch {
	case inBlock == 0 && raw.size < uint64(len(raw.block)):
		b = raw.block[:raw.size]
	case raw.size >= w.f.bs:
		return "", errors.New("the link's target is longer than a block")
	default:
		m := w.f.mapOf(i)
		s, err := m.find(&w.cache, 0)
		if err != nil {
			return "", err
		}
		if s.disk == 0 {
			return "", errors.New("the link's target is missing")
		}
		if b, err = w.cache.block(s.disk); err != nil {
			return "", err
		}
		b = b[:raw.size]
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return "", errors.New("the link's target holds a NUL")
	}
	return string(b), nil
}

func (w *walker) xattrs(i *foundInode) (map[string][]byte, error) {
	var all map[string][]byte
	put := func(name string, value []byte) error {
		if err := w.u.Charge(int64(len(name) + len(value))); err != nil {
			return err
		}
		if all == nil {
			all = map[string][]byte{}
		}
		if _, ok := all[name]; ok {
			return fmt.Errorf("the attribute %q is there twice", name)
		}
		all[name] = value
		return nil
	}
	if len(i.room) >= 4 && le.Uint32(i.room) == xattrMagic {
		if err := decodeXattrs(i.room[4:], 0, put); err != nil {
			return nil, err
		}
	}
	if i.raw.fileACL == 0 {
		return all, nil
	}
	b, err := w.cache.block(i.raw.fileACL)
	if err != nil {
		return nil, err
	}
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return nil, fmt.Errorf("block %d has no attributes", i.raw.fileACL)
	}
	if w.f.super.ROCompat&roChecksums != 0 && !w.f.xattrSum(i.raw.fileACL, b) {
		return nil, fmt.Errorf("the checksum of attributes in block %d is wrong", i.raw.fileACL)
	}
	return all, decodeXattrs(b[xattrHead:], xattrHead, put)
}

// xattrSum reports whether the checksum of the attributes b in block n is right.
func (f *FS) xattrSum(n uint64, b []byte) bool {
	x := xattrBlock{data: bytes.Clone(b), number: n, refs: le.Uint32(b[4:])}
	clear(x.data[16:20])
	x.finish(f.seed, true)
	return bytes.Equal(x.data, b)
}

// dir reads the directory i, whose node is already in its place.
func (w *walker) dir(name string, n *tree.Node, i *foundInode) error {
	if err := w.entries(name, n, i); err != nil {
		var e *dirError
		if errors.As(err, &e) {
			return err
		}
		return &dirError{name, err}
	}
	return nil
}

// dirError gives the name of the innermost directory, once.
type dirError struct {
	name string
	err  error
}

func (e *dirError) Error() string { return fmt.Sprintf("directory %.200q: %v", e.name, e.err) }
func (e *dirError) Unwrap() error { return e.err }

func (w *walker) entries(name string, n *tree.Node, i *foundInode) error {
	m := w.f.mapOf(i)
	if i.raw.size%w.f.bs != 0 {
		return fmt.Errorf("its size of %d bytes is not of whole blocks", i.raw.size)
	}
	for k := uint64(0); k < i.raw.size/w.f.bs; {
		s, err := m.find(&w.cache, k)
		if err != nil {
			return err
		}
		if s.disk == 0 {
			return errors.New("it has a hole")
		}
		s.count = min(s.count, i.raw.size/w.f.bs-k)
		if w.left < s.count {
			return errors.New("the directories take more blocks than there are")
		}
		w.left -= s.count
		for j := range s.count {
			b, err := w.cache.block(s.disk + j)
			if err == nil {
				err = w.dirBlock(name, n, i, k+j, b)
			}
			if err != nil {
				return err
			}
		}
		k += s.count
	}
	return nil
}

// dirBlock reads block k of a directory. A block of its index looks like one
// without entries.
func (w *walker) dirBlock(name string, n *tree.Node, i *foundInode, k uint64, b []byte) error {
	if err := w.f.checkDirBlock(i, k, b); err != nil {
		return fmt.Errorf("block %d: %w", k, err)
	}
	damage, err := w.f.dirents(b, func(child string, number uint32, _ byte) error {
		if child == "." || child == ".." {
			return nil
		}
		return w.entry(name, n, child, number)
	})
	if damage != nil {
		return fmt.Errorf("block %d: %w", k, damage)
	}
	return err
}

// dirents calls fn for each entry in use of a directory's block, with the file's
// type as the entry has it. An error of fn ends it; damage is what is wrong with
// the block itself.
func (f *FS) dirents(b []byte, fn func(name string, number uint32, kind byte) error) (damage, err error) {
	for at := 0; at < len(b); {
		if len(b)-at < direntHead {
			return errors.New("an entry is cut off"), nil
		}
		e := b[at:]
		size, length, kind := int(le.Uint16(e[4:])), int(e[6]), e[7]
		if size == 0xFFFF || size == 0 { // what 64 KiB are where blocks are so large
			size = 1 << 16
		}
		if f.super.Incompat&incompatFiletype == 0 {
			length, kind = length|int(e[7])<<8, 0
		}
		if size%4 != 0 || size > len(e) || size < direntHead+length {
			return fmt.Errorf("an entry of %d bytes with a name of %d does not fit", size, length), nil
		}
		at += size
		if number := le.Uint32(e); number != 0 {
			if err := fn(string(e[direntHead:][:length]), number, kind); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func (w *walker) entry(dir string, parent *tree.Node, child string, number uint32) error {
	if child == "" || strings.ContainsAny(child, "/\x00") {
		return fmt.Errorf("the name %q is impossible", child)
	}
	if parent.Child(child) != nil {
		return fmt.Errorf("the name %q is there twice", child)
	}
	name := path.Join(dir, child)
	if old := w.links[number]; old != nil {
		return w.u.Put(name, old)
	}
	if w.dirs[number] {
		return fmt.Errorf("%q is a directory that has another name: inode %d", child, number)
	}
	i, err := w.inode(number)
	var n *tree.Node
	if err == nil {
		n, err = w.node(i)
	}
	if err == nil {
		err = w.u.Put(name, n)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", child, err)
	}
	if n.IsDir() {
		w.dirs[number] = true
		return w.dir(name, n, i)
	}
	if i.raw.links > 1 {
		w.links[number] = n
	}
	return nil
}

// checkDirBlock verifies the checksum of block k of a directory.
func (f *FS) checkDirBlock(i *foundInode, k uint64, b []byte) error {
	if f.super.ROCompat&roChecksums == 0 {
		return nil
	}
	seed := inodeSeed(f.seed, i.number, i.generation)
	head := 0
	switch {
	case i.raw.flags&flagIndex != 0 && k == 0:
		head = indexRoot
	case i.raw.flags&flagIndex != 0 && le.Uint32(b) == 0 && int(le.Uint16(b[4:])) == len(b):
		head = indexNode
	}
	var sum, want uint32
	if head == 0 {
		end := len(b) - direntTail
		sum, want = crc(seed, b[:end]), le.Uint32(b[end+8:])
	} else {
		limit, count := int(le.Uint16(b[head:])), int(le.Uint16(b[head+2:]))
		end := head + limit*indexEntry
		if count > limit || end+8 > len(b) {
			return errors.New("the index's counts are wrong")
		}
		sum = crc(crc(seed, b[:head+count*indexEntry]), b[end:end+4])
		sum = crc(sum, []byte{0, 0, 0, 0})
		want = le.Uint32(b[end+4:])
	}
	if sum != want {
		return errors.New("the checksum is wrong")
	}
	return nil
}
