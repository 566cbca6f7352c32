package fat

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"wolffia/internal/tree"
)

// small has one file or directory of each sort, and a file of several clusters.
func small(t testing.TB) *tree.Tree {
	tr := tree.New()
	put(t, tr, "/dir/below/file.txt", "hello\n")
	put(t, tr, "/dir/A long name", strings.Repeat("long", 1000))
	put(t, tr, "/EFI/BOOT/BOOTX64.EFI", strings.Repeat("MZ", 3000))
	put(t, tr, "/empty", "")
	return tr
}

// memory is a file that grows.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func bytesOf(t testing.TB, tr *tree.Tree, o Options) []byte {
	t.Helper()
	m := &memory{}
	must(t, Write(m, tr, o))
	return m.b
}

// readAll reads an image with all its contents.
func readAll(b []byte, l tree.Limits) error {
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	tr, err := fs.Tree(TreeOptions{Limits: l})
	if err != nil {
		return err
	}
	return tr.Walk(func(name string, n *tree.Node) error {
		if n.IsDir() {
			return nil
		}
		r, err := n.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		if got, err := io.Copy(io.Discard, r); err != nil || got != n.Size() {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		return nil
	})
}

// damage finds places in a FAT16 with clusters of 512 bytes.
type damage struct{ b []byte }

// entry is the place of a cluster's entry in the first FAT.
func (d damage) entry(n int) []byte { return d.b[512+n*2:] }

// dirent finds the entry of a short name.
func (d damage) dirent(name string) []byte { return d.b[bytes.Index(d.b, []byte(name)):] }

func (d damage) first(name string) int { return int(le.Uint16(d.dirent(name)[26:])) }

func TestHostile(t *testing.T) {
	good := bytesOf(t, small(t), Options{Type: FAT16, ClusterSize: 512})
	must(t, readAll(good, tree.Limits{}))
	for _, c := range []struct {
		name   string
		damage func(d damage) []byte
		say    string
	}{
		{"no jump", func(d damage) []byte { d.b[0] = 0; return d.b }, ErrNone.Error()},
		{"sector size", func(d damage) []byte { d.b[12] = 3; return d.b }, "sectors of 768 bytes"},
		{"no clusters", func(d damage) []byte { d.b[13] = 0; return d.b }, "clusters of 0 sectors"},
		{"no FATs", func(d damage) []byte { d.b[16] = 0; return d.b }, "0 FATs"},
		{"medium", func(d damage) []byte { d.b[21] = 7; return d.b }, "medium"},
		{"no sectors", func(d damage) []byte { clear(d.b[19:21]); clear(d.b[32:36]); return d.b }, "no sectors"},
		{"huge FAT", func(d damage) []byte { copy(d.b[22:], "\xFF\xFF"); return d.b }, "hold no FAT"},
		{"cut off", func(d damage) []byte { return d.b[:len(d.b)/2] }, "the image is cut off"},
		{"tiny", func(d damage) []byte { return d.b[:100] }, ErrNone.Error()},
		{"loop", func(d damage) []byte { n := d.first("ALONGN~1"); le.PutUint16(d.entry(n+1), uint16(n)); return d.b }, `"/dir/A long name": its chain meets itself`},
		{"shared", func(d damage) []byte {
			le.PutUint16(d.dirent("ALONGN~1")[26:], uint16(d.first("BOOTX64 EFI")))
			return d.b
		}, "meets itself or another"},
		{"short chain", func(d damage) []byte { le.PutUint16(d.entry(d.first("ALONGN~1")+1), 0xFFFF); return d.b }, "its chain has 2 clusters where its size needs 8"},
		{"free cluster", func(d damage) []byte { le.PutUint16(d.entry(d.first("ALONGN~1")+1), 0); return d.b }, "leads to cluster 0"},
		{"bad cluster", func(d damage) []byte { le.PutUint16(d.entry(d.first("ALONGN~1")+1), 0xFFF7); return d.b }, "leads to cluster 65527"},
		{"beyond", func(d damage) []byte { le.PutUint16(d.dirent("ALONGN~1")[26:], 60000); return d.b }, "leads to cluster 60000"},
		{"no cluster", func(d damage) []byte { le.PutUint16(d.dirent("ALONGN~1")[26:], 0); return d.b }, "leads to cluster 0"},
		{"huge file", func(d damage) []byte { le.PutUint32(d.dirent("ALONGN~1")[28:], 1<<31); return d.b }, "where its size needs"},
		{"loop of directories", func(d damage) []byte {
			le.PutUint16(d.dirent("BELOW   ")[26:], uint16(d.first("DIR     ")))
			return d.b
		}, `"/dir/below": its chain meets itself or another`},
		{"directory in the root's place", func(d damage) []byte { le.PutUint16(d.dirent("BELOW   ")[26:], 0); return d.b }, "leads to cluster 0"},
		{"slash", func(d damage) []byte { d.dirent("EMPTY   ")[1] = '/'; return d.b }, "is impossible"},
		{"no name", func(d damage) []byte { copy(d.dirent("EMPTY   "), "           "); return d.b }, "is impossible"},
		{"a name twice", func(d damage) []byte { copy(d.dirent("EMPTY      "), "DIR        "); return d.b }, "there twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := readAll(c.damage(damage{bytes.Clone(good)}), tree.Limits{}); err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, want %q", err, c.say)
			}
		})
	}
	for _, l := range []tree.Limits{{Entries: 3}, {Metadata: 20}} {
		if err := readAll(good, l); err == nil || !strings.Contains(err.Error(), "more than the limit") {
			t.Errorf("%+v: got %v", l, err)
		}
	}
}

// TestLongNames has long names that are not whole: the short one counts.
func TestLongNames(t *testing.T) {
	good := bytesOf(t, small(t), Options{Type: FAT16, ClusterSize: 512})
	for name, change := range map[string]func(long []byte){
		"deleted":  func(long []byte) { long[0] = 0xE5 },
		"order":    func(long []byte) { long[0] = 0x42 },
		"orphan":   func(long []byte) { long[0] = 0x01 },
		"checksum": func(long []byte) { long[13]++ },
	} {
		d := damage{bytes.Clone(good)}
		at := bytes.Index(d.b, []byte("ALONGN~1"))
		change(d.b[at-direntSize:])
		fs, err := Open(bytes.NewReader(d.b), int64(len(d.b)))
		must(t, err)
		tr, err := fs.Tree(TreeOptions{})
		must(t, err)
		if tr.Get("/dir/ALONGN~1") == nil {
			t.Errorf("%s: names are %q", name, tr.Get("/dir").Names())
		}
	}
}

// TestOldNames has short names that are not ASCII.
func TestOldNames(t *testing.T) {
	b := bytesOf(t, small(t), Options{Type: FAT12})
	copy(damage{b}.dirent("EMPTY   "), "\x05\x81RGER  \xE1\x90 ")
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	tr, err := fs.Tree(TreeOptions{})
	must(t, err)
	if tr.Get("/σürger.ßÉ") == nil {
		t.Errorf("names are %q", tr.Root().Names())
	}
}

// TestDirty has the marks of one that was not unmounted.
func TestDirty(t *testing.T) {
	for _, c := range []struct {
		kind Type
		off  int
	}{{FAT12, 37}, {FAT16, 37}, {FAT32, 65}, {FAT16, 512 + 3}, {FAT32, 32*512 + 7}} {
		b := bytesOf(t, small(t), Options{Type: c.kind})
		b[c.off] ^= 0x01
		if c.off > 100 {
			b[c.off] = 0x03
		}
		fs, err := Open(bytes.NewReader(b), int64(len(b)))
		must(t, err)
		if fs.Info().Clean {
			t.Errorf("%s %d: it passes for clean", c.kind, c.off)
		}
	}
}

// FuzzRead damages a good file system: edits are rows of an offset of three
// bytes, a length of one, and as many bytes.
func FuzzRead(f *testing.F) {
	images := [][]byte{
		bytesOf(f, small(f), Options{Size: 64 << 10}),
		bytesOf(f, small(f), Options{Type: FAT16, ClusterSize: 512}),
		bytesOf(f, small(f), Options{Type: FAT32, ClusterSize: 512}),
	}
	f.Fuzz(func(t *testing.T, which uint8, edits []byte) {
		b := &edited{bytes.NewReader(images[int(which)%len(images)]), nil}
		for len(edits) > 4 {
			off := int64(edits[0]) | int64(edits[1])<<8 | int64(edits[2])<<16
			n := min(int(edits[3]), len(edits)-4)
			b.edits = append(b.edits, edit{off, edits[4 : 4+n]})
			edits = edits[4+n:]
		}
		fs, err := Open(b, b.Size())
		if err != nil {
			return
		}
		tr, err := fs.Tree(TreeOptions{Limits: tree.Limits{Entries: 5000, Metadata: 1 << 20}})
		if err != nil {
			return
		}
		_ = tr.Walk(func(name string, n *tree.Node) error {
			r, err := n.Open()
			if err != nil {
				return nil
			}
			if got, err := io.CopyN(io.Discard, r, 1<<16); err == nil && got > n.Size() {
				t.Errorf("%q has more than its size of %d", name, n.Size())
			}
			return r.Close()
		})
	})
}

// edited is an image of which some bytes are others, so that no copy is needed
// for each run.
type edited struct {
	*bytes.Reader
	edits []edit
}

type edit struct {
	off int64
	b   []byte
}

func (e *edited) ReadAt(p []byte, off int64) (int, error) {
	n, err := e.Reader.ReadAt(p, off)
	for _, x := range e.edits {
		for i, c := range x.b {
			if at := x.off + int64(i) - off; at >= 0 && at < int64(n) {
				p[at] = c
			}
		}
	}
	return n, err
}
