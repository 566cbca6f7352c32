package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/image/finding"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// check gives what Check says of an image.
func check(t testing.TB, b []byte) (*finding.List, error) {
	t.Helper()
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return f.Check(t.Context())
}

func checkClean(t testing.TB, b []byte) {
	t.Helper()
	l, err := check(t, b)
	must(t, err)
	for _, f := range l.All {
		t.Errorf("%v", f)
	}
}

// TestCheckOwn finds nothing in what we write.
func TestCheckOwn(t *testing.T) {
	tr := treetest.Random(23, treetest.Options{Entries: 300, LinkedLinks: true, Sockets: true})
	sizes(t, func(t *testing.T, o Options) { checkClean(t, build(t, tr, o)) })
}

// made are file systems of mke2fs with files in them, by its arguments.
var made = map[string]string{
	"ext2":         "-t ext2",
	"ext3":         "-t ext3 -b 1024",
	"ext4":         "-t ext4",
	"ext4 1k":      "-t ext4 -b 1024 -g 1024",
	"uninit":       "-t ext4 -O ^metadata_csum,uninit_bg -b 1024 -g 1024",
	"32 bits":      "-t ext4 -O ^64bit",
	"meta_bg":      "-t ext4 -b 1024 -g 256 -O meta_bg,^resize_inode",
	"meta_bg 32":   "-t ext4 -b 1024 -g 256 -O meta_bg,^resize_inode,^64bit,^metadata_csum",
	"no flex_bg":   "-t ext4 -b 1024 -g 2048 -O ^flex_bg",
	"sparse2":      "-t ext4 -b 1024 -g 2048 -O sparse_super2",
	"no journal":   "-t ext4 -O ^has_journal",
	"orphan file":  "-t ext4 -O orphan_file",
	"seed":         "-t ext4 -O metadata_csum_seed",
	"mmp":          "-t ext4 -O mmp",
	"quota":        "-t ext4 -O quota,project",
	"old inodes":   "-t ext3 -I 128",
	"lazy":         "-t ext4 -b 1024 -E lazy_itable_init=1,lazy_journal_init=1",
	"no dir_nlink": "-t ext4 -O ^dir_nlink,^huge_file",
}

// madeImage is one of them.
func madeImage(t testing.TB, args string) []byte {
	t.Helper()
	dir := t.TempDir()
	src, name := filepath.Join(dir, "src"), filepath.Join(dir, "img")
	must(t, os.MkdirAll(filepath.Join(src, "deep/deeper"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "data"), bytes.Repeat([]byte("data "), 100_000), 0o644))
	must(t, os.Link(filepath.Join(src, "data"), filepath.Join(src, "deep/linked")))
	must(t, os.Symlink("data", filepath.Join(src, "short")))
	must(t, os.Symlink(strings.Repeat("long/", 30), filepath.Join(src, "long")))
	must(t, os.Mkdir(filepath.Join(src, "crowd"), 0o755))
	for i := range 300 {
		must(t, os.WriteFile(filepath.Join(src, "crowd", fmt.Sprintf("%s%d", strings.Repeat("n", 40), i)), nil, 0o600))
	}
	f, err := os.Create(filepath.Join(src, "holes"))
	must(t, err)
	for i := range 40 {
		_, err := f.WriteAt([]byte("piece"), int64(i)*9000)
		must(t, err)
	}
	must(t, f.Close())
	argv := append(strings.Fields(args), "-q", "-d", src, name, "24M")
	if out, err := exec.Command(tooltest.Require(t, "mke2fs", "e2fsprogs"), argv...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %s: %v\n%s", args, err, out)
	}
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// TestCheckMade finds nothing in what mke2fs writes.
func TestCheckMade(t *testing.T) {
	for name, args := range made {
		t.Run(name, func(t *testing.T) { checkClean(t, madeImage(t, args)) })
	}
}

// e2fsck tells whether e2fsck finds anything, and what it says.
func e2fsck(t testing.TB, b []byte) (bad bool, said string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "img")
	must(t, os.WriteFile(name, b, 0o600))
	cmd := exec.Command(tooltest.Require(t, "e2fsck", "e2fsprogs"), "-fn", name)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	said = string(out)
	for _, s := range []string{"? no", "IGNORED", "backup"} {
		bad = bad || strings.Contains(said, s)
	}
	return bad || err != nil, said
}

// broken are damages by what Check says of them. Inodes are those of specimen.
var broken = []struct {
	name   string
	damage func(d *damage)
	say    string
}{
	{"errors", func(d *damage) { le.PutUint16(d.super()[0x3A:], stateClean|stateErrors) }, "has noted errors"},
	{"free blocks", func(d *damage) { le.PutUint32(d.super()[0xC:], 7) }, "superblock: it counts 7 free blocks"},
	{"free inodes", func(d *damage) { le.PutUint32(d.super()[0x10:], 7) }, "superblock: it counts 7 free inodes"},
	{"free blocks of a group", func(d *damage) { le.PutUint16(d.group(0)[0xC:], 9) }, "group 0: it counts 9 free blocks"},
	{"free inodes of a group", func(d *damage) { le.PutUint16(d.group(0)[0xE:], 9) }, "group 0: it counts 9 free inodes"},
	{"directories of a group", func(d *damage) { le.PutUint16(d.group(0)[0x10:], 99) }, "group 0: it counts 99 directories"},
	{"block bitmap elsewhere", func(d *damage) { le.PutUint32(d.group(0)[0:], 1<<30) }, "group 0: its block bitmap, of 1 blocks at 1073741824, lies outside"},
	{"bitmaps are one", func(d *damage) { copy(d.group(0)[4:8], d.group(0)[0:4]) }, "group 0: its inode bitmap lies over other metadata"},
	{"block free", func(d *damage) { clearFirst(d.bitmap(0)) }, "1 blocks that are in use are marked as free"},
	{"block lost", func(d *damage) { setLast(d.bitmap(0), int(d.fs.groupBlocks(0))) }, "1 blocks that nothing uses are marked as in use"},
	{"inode free", func(d *damage) { clearFirst(d.bitmap(4)) }, "1 inodes that are in use are marked as free"},
	{"inode lost", func(d *damage) { setLast(d.bitmap(4), int(d.fs.super.InodesPerGroup)) }, "1 inodes that nothing uses are marked as in use"},
	{"padding of inodes", func(d *damage) { b := d.bitmap(4); b[len(b)-1] = 0 }, "bits at the end of its inode bitmap"},
	{"links", func(d *damage) { le.PutUint16(d.inode(14)[0x1A:], 5) }, `inode 14 ("/b-file"): it says that it has 5 links, and has 2`},
	{"links of a directory", func(d *damage) { le.PutUint16(d.inode(12)[0x1A:], 9) }, `inode 12 ("/a-dir"): it says that it has 9 links, and has 3`},
	{"deleted", func(d *damage) { le.PutUint16(d.inode(14)[0x1A:], 0) }, `leads to inode 14, which is not in use`},
	{"no type", func(d *damage) { le.PutUint16(d.inode(18), 0o644) }, "of no known file type"},
	{"time of deletion", func(d *damage) { le.PutUint32(d.inode(14)[0x14:], 1<<30) }, "has a time of deletion"},
	{"count of blocks", func(d *damage) { le.PutUint32(d.inode(14)[0x1C:], 800) }, "it counts 800 blocks of 512 bytes"},
	{"size of a directory", func(d *damage) { le.PutUint32(d.inode(12)[4:], 1<<20) }, "its size is 1048576 bytes"},
	{"size of a file", func(d *damage) { le.PutUint32(d.inode(15)[4:], 10) }, "its size is 10 bytes, and it has data"},
	{"cross link", func(d *damage) { copy(d.inode(14)[0x28:0x64], d.inode(12)[0x28:0x64]) }, "belong to something else"},
	{"entry of the wrong type", func(d *damage) { d.dirent(2, "b-file")[7] = 2 }, "says that it is of type 2, and inode 14 is of type 1"},
	{"entry beyond", func(d *damage) { le.PutUint32(d.dirent(2, "b-file"), 1<<30) }, "which is out of range"},
	{"entry gone", func(d *damage) { le.PutUint32(d.dirent(2, "f-null"), 0) }, "it is in use, and no directory has it"},
	{"entry cut", func(d *damage) { le.PutUint16(d.dirent(2, "f-null")[4:], 3) }, "does not fit"},
	{"directory twice", func(d *damage) { e := d.dirent(2, "b-file"); le.PutUint32(e, 13); e[7] = 2 }, "it is a directory, and has more than one name"},
	{"name twice", func(d *damage) { copy(d.dirent(2, "d-link")[direntHead:], "e") }, "there twice"},
	{"name with a slash", func(d *damage) { d.dirent(2, "d-link")[direntHead+1] = '/' }, "is impossible"},
	{"dot", func(d *damage) { le.PutUint32(d.block(12, 0), 13) }, `inode 12 ("/a-dir"): its first entry is no "."`},
	{"dot dot", func(d *damage) { le.PutUint32(d.block(13, 0)[12:], 2) }, `inode 13 ("/a-dir/below"): its ".." leads to inode 2, and its parent is 12`},
	{"no root", func(d *damage) { le.PutUint16(d.inode(2), tree.TypeRegular|0o644) }, "there is no root directory"},
}

// group gives the bytes of a group's descriptor.
func (d *damage) group(g uint64) []byte {
	return d.b[(uint64(d.fs.super.FirstDataBlock)+1)*d.fs.bs+g*d.fs.desc:][:d.fs.desc]
}

// bitmap gives group 0's bitmap of blocks (0) or inodes (4).
func (d *damage) bitmap(field int) []byte {
	return d.b[uint64(le.Uint32(d.group(0)[field:]))*d.fs.bs:][:d.fs.bs]
}

func clearFirst(b []byte) { b[0] &^= 0x20 }
func setLast(b []byte, n int) {
	b[(n-1)/8] |= 1 << ((n - 1) % 8)
}

// TestCheckBroken damages file systems in each way that Check claims to find.
// e2fsck must find each, too: else it is no damage.
func TestCheckBroken(t *testing.T) {
	for _, o := range []Options{{Type: Ext2, BlockSize: 1024, Free: 1 << 20}, {Type: Ext4, BlockSize: 4096, Free: 1 << 20}} {
		whole := specimen(t, o)
		checkClean(t, whole)
		for _, c := range broken {
			t.Run(fmt.Sprintf("%s %s", o.Type, c.name), func(t *testing.T) {
				d := &damage{b: bytes.Clone(whole)}
				var err error
				d.fs, err = Open(bytes.NewReader(whole), int64(len(whole)))
				must(t, err)
				c.damage(d)
				l, err := check(t, d.b)
				must(t, err)
				if !strings.Contains(fmt.Sprint(l.All), c.say) || l.Problems == 0 {
					t.Errorf("Check says %v, not %q", l.All, c.say)
				}
				// It takes a note of the kernel's for a reason to look, and no more.
				if bad, said := e2fsck(t, d.b); !bad && c.name != "errors" {
					t.Errorf("e2fsck finds nothing:\n%s", said)
				}
			})
		}
	}
}

// TestCheckSums damages one byte of each kind of structure with a checksum.
func TestCheckSums(t *testing.T) {
	whole := specimen(t, Options{Type: Ext4, BlockSize: 1024, Checksums: true})
	checkClean(t, whole)
	fs, err := Open(bytes.NewReader(whole), int64(len(whole)))
	must(t, err)
	for name, c := range map[string]struct {
		at  func(d *damage) []byte
		say string
	}{
		"descriptor":   {func(d *damage) []byte { return d.group(0)[0x14:] }, "group 0: the checksum of its descriptor"},
		"block bitmap": {func(d *damage) []byte { b := d.bitmap(0); return b[len(b)-1:] }, "group 0: the checksum of its block bitmap"},
		"inode bitmap": {func(d *damage) []byte { return d.bitmap(4)[1:] }, "group 0: the checksum of its inode bitmap"},
		"inode":        {func(d *damage) []byte { return d.inode(14)[0x90:] }, `inode 14 ("/b-file"): its checksum is wrong`},
		"directory":    {func(d *damage) []byte { b := d.block(12, 0); return b[len(b)-20:] }, `inode 12 ("/a-dir"): block 0 of it: the checksum is wrong`},
		"attributes": {func(d *damage) []byte {
			i, err := d.fs.decodeInode(120, d.inode(120))
			must(t, err)
			return d.b[(i.raw.fileACL+1)*d.fs.bs-1:]
		}, "the checksum of attributes"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &damage{b: bytes.Clone(whole), fs: fs}
			c.at(d)[0] ^= 0x40
			l, err := check(t, d.b)
			must(t, err)
			if !strings.Contains(fmt.Sprint(l.All), c.say) {
				t.Errorf("Check says %v, not %q", l.All, c.say)
			}
			if bad, said := e2fsck(t, d.b); !bad {
				t.Errorf("e2fsck finds nothing:\n%s", said)
			}
		})
	}
}

// TestCheckRandom flips bits of metadata at random. Where e2fsck finds anything,
// Check must, too, but for what it says that it does not look at.
func TestCheckRandom(t *testing.T) {
	rounds := 60
	for _, o := range []Options{{Type: Ext4, BlockSize: 1024, Checksums: true}, {Type: Ext2, BlockSize: 1024}, {Type: Ext4, BlockSize: 4096}} {
		o.Free = 1 << 20
		whole := specimen(t, o) // always the same, as mke2fs's would not be
		fs, err := Open(bytes.NewReader(whole), int64(len(whole)))
		must(t, err)
		d := &damage{b: whole, fs: fs}
		var spots []int // of bytes that mean something
		add := func(at uint64, n int, step int) {
			for k := 0; k < n; k += step {
				spots = append(spots, int(at)+k)
			}
		}
		for number := uint32(2); number < 40; number++ {
			i, err := fs.decodeInode(number, d.inode(number))
			if err == nil && i.raw.links > 0 {
				at := uint64(bytes.Index(whole, d.inode(number)))
				add(at, 0x64, 3)
			}
		}
		for g := range min(fs.groups, 2) {
			add((uint64(fs.super.FirstDataBlock)+1)*fs.bs+g*fs.desc, int(fs.desc), 3)
		}
		for _, field := range []int{0, 4} {
			add(uint64(le.Uint32(d.group(0)[field:]))*fs.bs, 1024, 97)
		}
		root := d.block(2, 0)
		add(uint64(bytes.Index(whole, root)), 200, 3)
		t.Run(fmt.Sprintf("%s %d", o.Type, o.BlockSize), func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, uint64(o.BlockSize)))
			for range rounds {
				at, bit := spots[r.IntN(len(spots))], byte(1)<<r.IntN(8)
				b := bytes.Clone(whole)
				b[at] ^= bit
				bad, said := e2fsck(t, b)
				l, err := check(t, b)
				found := err != nil || l.Problems > 0
				if bad && !found && !beyond(said) {
					t.Errorf("byte %d, bit %#x: Check finds nothing; e2fsck:\n%s", at, bit, said)
				}
				// A block bitmap whose checksum is wrong it silently makes anew.
				if !bad && found && !strings.Contains(fmt.Sprint(l), "checksum of its block bitmap") {
					t.Errorf("byte %d, bit %#x: e2fsck finds nothing; Check: %v %v", at, bit, err, l)
				}
			}
		})
	}
}

// beyond tells what Check does not claim to find.
func beyond(said string) bool {
	for _, s := range []string{"htree", "HTREE", "INDEX_FL", "NULL terminated"} {
		if strings.Contains(said, s) {
			return true
		}
	}
	return false
}

// FuzzCheck must come to an end, whatever it gets.
func FuzzCheck(f *testing.F) {
	whole := specimen(f, Options{Type: Ext4, BlockSize: 1024, Checksums: true})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		fs, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if l, err := fs.Check(t.Context()); err == nil && len(l.All) > finding.Max {
			t.Errorf("%d findings", len(l.All))
		}
	})
}
