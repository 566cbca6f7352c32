package ext4

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// TestSizes tries sizes of all kinds, most of all those near the borders of
// groups, where the last one is too small for its own metadata.
func TestSizes(t *testing.T) {
	tr := treetest.Random(5, treetest.Options{Entries: 60})
	kinds(t, func(t *testing.T, o Options) {
		r := rand.New(rand.NewPCG(uint64(o.BlockSize), uint64(len(o.Type))))
		group := 8 * int64(o.BlockSize) * int64(o.BlockSize)
		for i := range 12 {
			o.Free, o.Size, o.Inodes, o.Journal = 0, 0, 0, 0
			switch i % 4 {
			case 0:
				o.Free = r.Int64N(1 + group*r.Int64N(20))
			case 1: // around a border
				o.Size = group*(1+r.Int64N(20)) + r.Int64N(group/8)
			case 2:
				o.Size = group*(1+r.Int64N(40)) + r.Int64N(64)*int64(o.BlockSize)
				o.Inodes = 1 + r.Int64N(o.Size/8192)
			case 3:
				o.Size = group*(17+r.Int64N(3)) + r.Int64N(4*int64(o.BlockSize))
				if o.journaled() {
					o.Journal = int64(o.BlockSize) * (minJournal + r.Int64N(9000))
				}
			}
			if o.Size > 0 {
				o.Size = max(o.Size, 3*minJournal*int64(o.BlockSize))
			}
			t.Run(fmt.Sprintf("size=%d free=%d inodes=%d journal=%d", o.Size, o.Free, o.Inodes, o.Journal), func(t *testing.T) {
				checkSize(t, tr, o)
			})
		}
	})
}

// checkSize writes tr and checks what was asked for.
func checkSize(t *testing.T, tr *tree.Tree, o Options) {
	name := image(t, tr, o)
	fsck(t, name)
	fi, err := os.Stat(name)
	must(t, err)
	planned, err := Size(tr, o)
	must(t, err)
	if fi.Size() != planned || o.Size > 0 && planned != o.Size {
		t.Errorf("the image has %d bytes, planned were %d, asked for %d", fi.Size(), planned, o.Size)
	}
	info := open(t, name).Info()
	if info.Free < o.Free || info.Inodes < o.Inodes || !info.Clean || info.Checksums != o.Checksums || info.Journal != o.journaled() || info.BlockSize != o.BlockSize {
		t.Errorf("asked for %+v, got %+v", o, info)
	}
	if o.Type != info.Type {
		t.Errorf("an %s is taken for %s", o.Type, info.Type)
	}
	must(t, os.Remove(name))
}

// TestTight makes the smallest file systems there can be.
func TestTight(t *testing.T) {
	kinds(t, func(t *testing.T, o Options) {
		checkSize(t, tree.New(), o)
		one := tree.New()
		must(t, one.Put("/file", tree.File(0o644, tree.Bytes(strings.Repeat("x", 20<<20)))))
		checkSize(t, one, o)
		size, err := Size(one, o)
		must(t, err)
		o.Size = size
		checkSize(t, one, o)
		o.Size /= 2
		if err := Write(&memory{}, one, o); err == nil || !strings.Contains(err.Error(), "too small: the files need at most") {
			t.Errorf("half the size: %v", err)
		}
	})
}

func TestInfo(t *testing.T) {
	o := Options{Label: "root of it", UUID: [16]byte{1, 2, 3}, Reserved: 1 << 20, Free: 8 << 20, Time: time.Unix(1_700_000_000, 0)}
	i := open(t, image(t, tree.New(), o)).Info()
	if i.Label != o.Label || i.UUID != o.UUID || i.Type != Ext4 || !i.Clean {
		t.Errorf("got %+v", i)
	}
}

// TestRefused has what no file system can hold, or makes no sense.
func TestRefused(t *testing.T) {
	attribute := func(k string, v int) *tree.Node {
		n := tree.File(0o644, nil)
		n.Xattrs = map[string][]byte{k: make([]byte, v)}
		return n
	}
	many := tree.New()
	must(t, many.Put("/0", tree.File(0o644, nil)))
	for i := range maxLinks {
		must(t, many.Link("/0", fmt.Sprint("/", i+1)))
	}
	with := func(n *tree.Node) *tree.Tree {
		tr := tree.New()
		must(t, tr.Put("/lost+found", tree.Dir(0o700)))
		must(t, tr.Put("/x", n))
		return tr
	}
	lost := tree.New()
	must(t, lost.Put("/lost+found", tree.File(0o644, nil)))
	twice := with(tree.Dir(0o755))
	must(t, twice.Put("/y", twice.Get("/x")))
	short := &holey{size: 1 << 20}
	for _, c := range []struct {
		name string
		tree *tree.Tree
		o    Options
		say  string
	}{
		{"names", many, Options{}, `"/0": 65001 names of one file are more than 65000`},
		{"long link", with(tree.Symlink(strings.Repeat("l", 1024))), Options{BlockSize: 1024}, "does not fit into a block"},
		{"device", with(tree.Device(tree.TypeChar, 0o600, 4096, 0)), Options{}, "beyond the kernel's last"},
		{"namespace", with(attribute("other.x", 1)), Options{}, "none of the namespaces"},
		{"attribute", with(attribute("user.x", 4096)), Options{}, "its attributes take"},
		{"attribute's name", with(attribute("user.", 1)), Options{}, "can't be stored"},
		{"ACL", with(attribute("system.posix_acl_access", 7)), Options{}, "malformed"},
		{"size", with(tree.File(0o644, &holey{size: 17 << 30})), Options{Type: Ext3, BlockSize: 1024}, "holds in one file"},
		{"lost+found", lost, Options{}, "not a directory"},
		{"directory twice", twice, Options{}, "has a second name"},
		{"map", with(tree.File(0o644, wrongMap{short})), Options{}, "map of holes is wrong"},
		{"type", tree.New(), Options{Type: "ext5"}, "none of ext2, ext3, ext4"},
		{"block size", tree.New(), Options{BlockSize: 512}, "none of 1024, 2048, 4096"},
		{"checksums", tree.New(), Options{Type: Ext3, Checksums: true}, "no metadata checksums"},
		{"journal", tree.New(), Options{Type: Ext2, Journal: 8 << 20}, "no journal wanted"},
		{"small journal", tree.New(), Options{Journal: 1 << 20}, "is not within"},
		{"ext3 without", tree.New(), Options{Type: Ext3, NoJournal: true}, "ask for that"},
		{"label", tree.New(), Options{Label: "seventeen letters"}, "longer than 16"},
		{"tiny", tree.New(), Options{Size: 100_000}, "too few"},
		{"no room for a journal", tree.New(), Options{Size: 2 << 20}, "too few for a journal"},
		{"too many inodes", tree.New(), Options{Size: 16 << 20, Inodes: 1 << 20}, "too small"},
		{"negative", tree.New(), Options{Size: -1}, "negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := Write(&memory{}, c.tree, c.o); err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, want %q", err, c.say)
			}
		})
	}
}

type wrongMap struct{ *holey }

func (wrongMap) Data() ([]tree.Extent, error) { return []tree.Extent{{Off: 5, Len: 1 << 30}}, nil }
