package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"wolffia/internal/tree"
)

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

// build writes a tree into memory.
func build(t testing.TB, tr *tree.Tree, o Options) []byte {
	t.Helper()
	var m memory
	must(t, Write(&m, tr, o))
	return m.b
}

// specimen is small and has one of everything, at known inodes: the files in
// the order of their names, from 12 on.
func specimen(t testing.TB, o Options) []byte {
	tr := tree.New()
	put := func(name string, n *tree.Node) { must(t, tr.Put(name, n)) }
	put("/a-dir", tree.Dir(0o755))                                  // 12
	put("/a-dir/below", tree.Dir(0o755))                            // 13
	put("/b-file", tree.File(0o644, tree.Bytes("hello\n")))         // 14
	put("/c-comb", tree.File(0o644, comb(int64(o.BlockSize), 300))) // 15
	put("/d-link", tree.Symlink("short"))                           // 16
	put("/e-link", tree.Symlink(strings.Repeat("long", 20)))        // 17
	put("/f-null", tree.Device(tree.TypeChar, 0o666, 1, 3))         // 18
	put("/g-crowd", tree.Dir(0o755))                                // 19
	for i := range 100 {
		put(fmt.Sprintf("/g-crowd/%s%d", strings.Repeat("x", i), i), tree.File(0o644, nil))
	}
	x := tree.File(0o644, nil)
	x.Xattrs = map[string][]byte{"user.small": []byte("v"), "user.large": bytes.Repeat([]byte("v"), 300)}
	put("/h-xattr", x) // 120
	must(t, tr.Link("/b-file", "/i-hard"))
	return build(t, tr, o)
}

// load reads everything in b, a file's first megabyte.
func load(b []byte, l tree.Limits) (*tree.Tree, error) {
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	tr, err := fs.Tree(TreeOptions{Limits: l})
	if err != nil {
		return nil, err
	}
	seen := map[*tree.Node]bool{}
	return tr, tr.Walk(func(name string, n *tree.Node) error {
		if n.Content == nil || seen[n] {
			return nil
		}
		seen[n] = true
		r, err := n.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		if _, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)); err != nil {
			return err
		}
		data, err := n.Content.(tree.Sparse).Data()
		at := int64(0)
		for _, e := range data {
			if e.Off < at || e.Len <= 0 || e.Off+e.Len > n.Size() {
				return fmt.Errorf("%q: the map of its holes is wrong: %v", name, data)
			}
			at = e.Off + e.Len
		}
		return err
	})
}

// damage is where to break an image.
type damage struct {
	b  []byte
	fs *FS
}

// inode gives the bytes of an inode.
func (d *damage) inode(n uint32) []byte {
	c := cache{f: d.fs}
	g := (n - 1) / d.fs.super.InodesPerGroup
	table, err := d.fs.group(&c, uint64(g))
	if err != nil {
		panic(err)
	}
	return d.b[table*d.fs.bs+uint64((n-1)%d.fs.super.InodesPerGroup)*inodeSize:][:inodeSize]
}

// block gives block k of a file.
func (d *damage) block(n uint32, k uint64) []byte {
	i, err := d.fs.decodeInode(n, d.inode(n))
	if err != nil {
		panic(err)
	}
	m := d.fs.mapOf(i)
	s, err := m.find(&cache{f: d.fs}, k)
	if err != nil {
		panic(err)
	}
	return d.b[s.disk*d.fs.bs:][:d.fs.bs]
}

// dirent finds an entry of a directory by its name.
func (d *damage) dirent(n uint32, name string) []byte {
	b := d.block(n, 0)
	return b[bytes.Index(b, []byte(name))-direntHead:]
}

func (d *damage) super() []byte { return d.b[superOffset:][:superSize] }

var hostile = []struct {
	name   string
	damage func(d *damage)
	say    string
}{
	{"no magic", func(d *damage) { d.super()[0x38] = 0 }, "this is no ext2, ext3 or ext4"},
	{"cut off", func(d *damage) { d.b = d.b[:len(d.b)/2] }, "the image is cut off"},
	{"tiny", func(d *damage) { d.b = d.b[:1500] }, "too few"},
	{"encrypted", func(d *damage) { le.PutUint32(d.super()[0x60:], 0x10042) }, "not supported: encrypt"},
	{"inline data", func(d *damage) { le.PutUint32(d.super()[0x60:], 0x8002) }, "not supported: inline_data"},
	{"future", func(d *damage) { le.PutUint32(d.super()[0x60:], 1<<31) }, "not supported: 0x80000000"},
	{"bigalloc", func(d *damage) { le.PutUint32(d.super()[0x64:], 0x200) }, "bigalloc"},
	{"huge blocks", func(d *damage) { d.super()[0x18] = 40 }, "block size"},
	{"no blocks per group", func(d *damage) { le.PutUint32(d.super()[0x20:], 0) }, "blocks per group"},
	{"no inodes per group", func(d *damage) { le.PutUint32(d.super()[0x28:], 0) }, "inodes per group"},
	{"many inodes", func(d *damage) { le.PutUint32(d.super()[0x0:], 1<<31) }, "inodes are not"},
	{"odd inodes", func(d *damage) { le.PutUint16(d.super()[0x58:], 200) }, "inode size 200"},
	{"inode table beyond", func(d *damage) { le.PutUint32(d.b[2*d.fs.bs+8:], 1<<30) }, "beyond the last"},
	{"root is a file", func(d *damage) { le.PutUint16(d.inode(2), tree.TypeRegular|0o644) }, "not a directory"},
	{"no type", func(d *damage) { le.PutUint16(d.inode(14), 0o644) }, "no known file type"},
	{"deleted", func(d *damage) { le.PutUint16(d.inode(14)[0x1A:], 0) }, "was deleted"},
	{"entry of inode beyond", func(d *damage) { le.PutUint32(d.dirent(2, "b-file"), 1<<31) }, "out of range"},
	{"entry of a reserved inode", func(d *damage) { le.PutUint32(d.dirent(2, "b-file"), 5) }, "out of range"},
	{"loop of directories", func(d *damage) { le.PutUint32(d.dirent(12, "below"), 12) }, "another name"},
	{"loop to the root", func(d *damage) { le.PutUint32(d.dirent(12, "below"), 2) }, "another name"},
	{"slash in a name", func(d *damage) { d.dirent(2, "b-file")[direntHead+1] = '/' }, "is impossible"},
	{"NUL in a name", func(d *damage) { d.dirent(2, "b-file")[direntHead+1] = 0 }, "is impossible"},
	{"no name", func(d *damage) { d.dirent(2, "b-file")[6] = 0 }, "is impossible"},
	{"a name twice", func(d *damage) { copy(d.dirent(2, "d-link")[direntHead:], "e") }, "there twice"},
	{"entry too short", func(d *damage) { le.PutUint16(d.dirent(2, "b-file")[4:], 8) }, "does not fit"},
	{"entry too long", func(d *damage) { le.PutUint16(d.dirent(2, "b-file")[4:], 4096) }, "does not fit"},
	{"directory with a hole", func(d *damage) { le.PutUint32(d.inode(12)[4:], 2048) }, "hole"},
	{"huge directory", func(d *damage) { le.PutUint32(d.inode(12)[4:], 1<<31) }, "out of range"},
	{"huge file", func(d *damage) { le.PutUint32(d.inode(14)[0x6C:], 1<<31) }, "out of range"},
	{"huge link", func(d *damage) { le.PutUint32(d.inode(17)[4:], 5000) }, "out of range"},
	{"long link without a block", func(d *damage) { le.PutUint32(d.inode(16)[4:], 100) }, "beyond the last"},
	{"link to NUL", func(d *damage) { d.inode(16)[0x28] = 0 }, "NUL"},
	{"attributes beyond", func(d *damage) { le.PutUint32(d.inode(120)[0x68:], 1<<30) }, "beyond the last"},
	{"attributes elsewhere", func(d *damage) { le.PutUint32(d.inode(120)[0x68:], 4) }, "no attributes"},
	{"many extra fields", func(d *damage) { le.PutUint16(d.inode(14)[0x80:], 1000) }, "do not fit"},
	{"inline file", func(d *damage) { le.PutUint32(d.inode(14)[0x20:], flagInlineData) }, "not supported"},
}

// ofMaps are about how an ext2 and an ext4 find a file's blocks.
var ofMaps = map[Type][]struct {
	name   string
	damage func(d *damage)
	say    string
}{
	Ext2: {
		{"block beyond", func(d *damage) { le.PutUint32(d.inode(14)[0x28:], 1<<30) }, "beyond the last"},
		{"indirect beyond", func(d *damage) { le.PutUint32(d.inode(15)[0x28+48:], 1<<30) }, "beyond the last"},
		{"indirect is itself", func(d *damage) { loop(d, d.inode(15)[0x28+52:]) }, "inode 15"},
	},
	Ext4: {
		{"value outside", func(d *damage) { le.PutUint16(d.inode(120)[164+2:], 200) }, "lies outside"},
		{"value far outside", func(d *damage) { le.PutUint32(d.inode(120)[164+8:], ^uint32(0)) }, "lies outside"},
		{"attribute of no namespace", func(d *damage) { d.inode(120)[164+1] = 99 }, "unknown namespace"},
		{"no header", func(d *damage) { d.inode(15)[0x28] = 0 }, "header"},
		{"too deep", func(d *damage) { d.inode(15)[0x28+6] = 9 }, "depth of 9"},
		{"wrong depth", func(d *damage) { d.inode(15)[0x28+6] = 2 }, "depth of 0 is wrong"},
		{"too many entries", func(d *damage) { d.inode(15)[0x28+2] = 5 }, "do not fit"},
		{"node beyond", func(d *damage) { le.PutUint32(d.inode(15)[0x28+16:], 1<<30) }, "beyond the last"},
		{"two parents of one node", func(d *damage) { copy(d.inode(15)[0x28+28:0x28+32], d.inode(15)[0x28+16:]) }, "out of order"},
		{"out of order", func(d *damage) { le.PutUint32(d.inode(15)[0x28+24:], 0) }, "out of order"},
		{"extent beyond", func(d *damage) { le.PutUint32(d.inode(14)[0x28+20:], 1<<30) }, "beyond the last"},
		{"extent at 0", func(d *damage) { le.PutUint32(d.inode(14)[0x28+20:], 0) }, "block 0"},
		{"empty extent", func(d *damage) { le.PutUint16(d.inode(14)[0x28+16:], 0) }, "no blocks"},
		{"checksum of a journal", func(d *damage) { le.PutUint32(d.super()[0x60:], 0x246); le.PutUint32(d.super()[0xE0:], 12) }, "journal is in inode 12"},
		{"no journal", func(d *damage) { le.PutUint32(d.super()[0x60:], 0x246); le.PutUint32(d.super()[0xE0:], 8) }, "play back its journal"},
	},
}

// loop makes the block that a pointer leads to lead to itself.
func loop(d *damage, pointer []byte) {
	n := uint64(le.Uint32(pointer))
	b := d.b[n*d.fs.bs:][:d.fs.bs]
	for i := 0; i < len(b); i += 4 {
		le.PutUint32(b[i:], 1<<29|uint32(n))
	}
}

func TestHostile(t *testing.T) {
	for _, o := range []Options{{Type: Ext2, BlockSize: 1024}, {Type: Ext4, BlockSize: 1024, NoJournal: true}} {
		good := specimen(t, o)
		if _, err := load(good, tree.Limits{}); err != nil {
			t.Fatal(err)
		}
		for _, h := range append(hostile, ofMaps[o.Type]...) {
			t.Run(string(o.Type)+" "+h.name, func(t *testing.T) {
				b := bytes.Clone(good)
				fs, err := Open(bytes.NewReader(b), int64(len(b)))
				must(t, err)
				d := &damage{b, fs}
				h.damage(d)
				if _, err := load(d.b, tree.Limits{}); err == nil || !strings.Contains(err.Error(), h.say) {
					t.Errorf("got %v, want %q", err, h.say)
				}
			})
		}
	}
}

// TestChecksums breaks one byte of each kind of metadata.
func TestChecksums(t *testing.T) {
	good := specimen(t, Options{BlockSize: 1024, NoJournal: true, Checksums: true})
	for name, at := range map[string]func(d *damage) []byte{
		"superblock":        func(d *damage) []byte { return d.super()[0x78:] },
		"group descriptor":  func(d *damage) []byte { return d.b[2*d.fs.bs+0x10:] },
		"inode":             func(d *damage) []byte { return d.inode(14)[8:] },
		"upper half inode":  func(d *damage) []byte { return d.inode(14)[0x90:] },
		"directory":         func(d *damage) []byte { return d.block(2, 0)[len("....")+direntHead+20:] },
		"index":             func(d *damage) []byte { return d.block(19, 0)[40:] },
		"leaf of an index":  func(d *damage) []byte { return d.block(19, 1)[10:] },
		"extents":           func(d *damage) []byte { return d.b[uint64(le.Uint32(d.inode(15)[0x28+16:]))*d.fs.bs+30:] },
		"attributes' block": func(d *damage) []byte { return d.b[uint64(le.Uint32(d.inode(120)[0x68:]))*d.fs.bs+1000:] },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(good)
			fs, err := Open(bytes.NewReader(b), int64(len(b)))
			must(t, err)
			at(&damage{b, fs})[0] ^= 0x40
			if _, err := load(b, tree.Limits{}); err == nil || !strings.Contains(err.Error(), "checksum") {
				t.Errorf("got %v, want one about a checksum", err)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	b := specimen(t, Options{Type: Ext2, BlockSize: 1024})
	for _, l := range []tree.Limits{{Entries: 100}, {Metadata: 1000}} {
		if _, err := load(b, l); err == nil || !strings.Contains(err.Error(), "more than the limit") {
			t.Errorf("%+v: got %v", l, err)
		}
	}
}

// dirty gives a specimen whose journal has two transactions: the first changes
// a file's block and the root's inode table, the second makes the first of
// these void. A third is not whole.
func dirty(t testing.TB, features uint32) []byte {
	b := specimen(t, Options{BlockSize: 1024})
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	d := &damage{b, fs}
	le.PutUint32(d.super()[0x60:], le.Uint32(d.super()[0x60:])|incompatRecover)
	file := uint32(uint64(cap(d.b)-cap(d.block(14, 0))) / fs.bs)
	link := uint32(uint64(cap(d.b)-cap(d.block(17, 0))) / fs.bs)

	head := func(n uint64, kind, transaction uint32) []byte {
		p := d.block(journalInode, n)
		be.PutUint32(p, journalMagic)
		be.PutUint32(p[4:], kind)
		be.PutUint32(p[8:], transaction)
		return p
	}
	tag := func(p []byte, block, flags uint32) []byte {
		be.PutUint32(p, block)
		be.PutUint16(p[6:], uint16(flags))
		if features&journal64bit != 0 {
			p = p[4:]
		}
		return p[8:]
	}
	super := d.block(journalInode, 0)
	be.PutUint32(super[0x1C:], 1022) // two blocks before the end: the log goes round
	be.PutUint32(super[0x28:], features)
	p := head(1022, journalDescriptor, 1)
	p = tag(p[journalHead:], file, 0)
	p = p[16:] // UUID
	tag(p, link, tagSameUUID|tagEscaped|tagLast)
	copy(d.block(journalInode, 1023), "voided")
	copy(d.block(journalInode, 1), "\x00\x00\x00\x00 was escaped"+strings.Repeat(".", 80))
	head(2, journalCommit, 1)
	p = head(3, journalRevoke, 2)
	if features&journal64bit != 0 {
		be.PutUint32(p[journalHead:], journalHead+12)
		be.PutUint64(p[journalHead+4:], uint64(file))
	} else {
		be.PutUint32(p[journalHead:], journalHead+8)
		be.PutUint32(p[journalHead+4:], file)
	}
	head(4, journalCommit, 2)
	p = head(5, journalDescriptor, 3)
	tag(p[journalHead:], link, tagSameUUID|tagLast)
	copy(d.block(journalInode, 6), "never committed")
	return b
}

func TestJournal(t *testing.T) {
	b := dirty(t, journalHasRevoke)
	tr, err := load(b, tree.Limits{})
	must(t, err)
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	for want, image := range map[bool][]byte{true: b, false: specimen(t, Options{BlockSize: 1024})} {
		if got, err := NeedsRecovery(bytes.NewReader(image)); got != want || err != nil {
			t.Errorf("needs recovery: %t, %v, want %t", got, err, want)
		}
	}
	if n := fs.Info().Replayed; n != 2 || len(fs.moved) != 1 {
		t.Errorf("%d transactions with %d blocks were played back, not 2 with 1", n, len(fs.moved))
	}
	if got := tr.Get("/e-link").Target; !strings.HasPrefix(got, "\xC0\x3B\x39\x98 was escaped") {
		t.Errorf("the link leads to %q", got)
	}
	if got, _ := tr.ReadFile("/b-file", 100); string(got) != "hello\n" {
		t.Errorf("the file has %q", got)
	}
	if _, err := load(dirty(t, 1<<30), tree.Limits{}); err == nil || !strings.Contains(err.Error(), "not supported") {
		t.Errorf("unknown features of the journal: %v", err)
	}
}

// FuzzRead damages a good file system: edits are rows of an offset of three
// bytes, a length of one, and as many bytes.
func FuzzRead(f *testing.F) {
	images := [][]byte{
		specimen(f, Options{Type: Ext2, BlockSize: 1024}),
		specimen(f, Options{BlockSize: 1024, NoJournal: true}),
		specimen(f, Options{BlockSize: 2048, NoJournal: true, wide: true}),
		specimen(f, Options{BlockSize: 1024, NoJournal: true, Checksums: true}),
		dirty(f, journalHasRevoke),
		dirty(f, journalHasRevoke|journal64bit),
	}
	for i, b := range images {
		fs, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			f.Fatal(err)
		}
		d := &damage{b, fs}
		for _, at := range [][]byte{d.super()[0x60:], d.inode(2)[0x28:], d.inode(15)[0x28:], d.block(2, 0), d.block(19, 0), d.inode(120)[160:]} {
			f.Add(uint8(i), edit(len(b)-cap(at)+cap(b)-len(b), at[:16]))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, edits []byte) {
		b := bytes.Clone(images[int(which)%len(images)])
		for len(edits) > 4 {
			off := int(binary.LittleEndian.Uint32(edits)&0xFFFFFF) % len(b)
			n := min(int(edits[3]), len(edits)-4)
			copy(b[off:], edits[4:4+n])
			edits = edits[4+n:]
		}
		_, _ = load(b, tree.Limits{Entries: 5000, Metadata: 1 << 20})
	})
}

// edit is one row of [FuzzRead]'s edits.
func edit(off int, b []byte) []byte {
	row := []byte{byte(off), byte(off >> 8), byte(off >> 16), byte(len(b))}
	return append(row, b...)
}
