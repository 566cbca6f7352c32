package fat

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// image writes tr into a new file.
func image(t testing.TB, tr *tree.Tree, o Options) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fat.img")
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	must(t, Write(f, tr, o))
	st, err := f.Stat()
	must(t, err)
	size, err := Size(tr, o)
	must(t, err)
	if st.Size() != size {
		t.Errorf("the image has %d bytes, not %d", st.Size(), size)
	}
	return name
}

// load reads an image's tree.
func load(t testing.TB, name string) (*tree.Tree, Info) {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	must(t, err)
	fs, err := Open(f, st.Size())
	must(t, err)
	tr, err := fs.Tree(TreeOptions{})
	must(t, err)
	return tr, fs.Info()
}

// put places a file, with its parents.
func put(t testing.TB, tr *tree.Tree, name, content string) *tree.Node {
	t.Helper()
	must(t, tr.MkdirAll(path.Dir(name), 0o755))
	n := tree.File(0o644, tree.Bytes(content))
	n.ModTime = time.Date(2024, 2, 29, 23, 59, 58, 0, time.UTC)
	must(t, tr.Put(name, n))
	return n
}

// awkward are names of every kind that FAT holds in its own way.
var awkward = []string{
	"README", "README.TXT", "readme.md", "Readme.rst", "lower", "lower.TXT", "UPPER.txt", "x.longext", ".hidden", "..two",
	"a b", " leading", "many.dots.in.it", "longfilename.txt", "longfilename2.txt", "LONGFI~3.TXT", "longfi~4.txt", "longfilename5.txt",
	"ünïcödé", "日本語のファイル名.txt", "🌱🌱🌱", "+,;=[]", "plus+plus", "TILDE~1", "tilde~name.x", "~", "$%'-_@", "a.b", "A.b1", "12345678.123", "123456789.123", "12345678.1234",
	"thirteen.char", "exactly-thirt", "twentysix-characters-long!!", strings.Repeat("n", 255), strings.Repeat("ñ", 255-128),
	"vmlinuz-6.1.0-18-amd64", "BOOTX64.EFI", "trailing.tilde~", "NUL", "con.txt", "lost.dir/inner/File",
}

// specimen is the same each time.
func specimen(t testing.TB) *tree.Tree {
	tr := tree.New()
	for i, name := range awkward {
		put(t, tr, "/names/"+name, strings.Repeat(name, i*7))
		if i < 30 {
			put(t, tr, "/"+strings.ToLower(name)+"x", name)
		}
	}
	for i := range 300 {
		put(t, tr, fmt.Sprintf("/many/a long name, number %d", i), "")
	}
	must(t, tr.MkdirAll("/empty/below", 0o755))
	put(t, tr, "/sizes/0", "")
	for _, n := range []int{1, 511, 512, 513, 4095, 4096, 4097, 40000} {
		b := make([]byte, n)
		r := rand.New(rand.NewPCG(uint64(n), 0))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		put(t, tr, fmt.Sprintf("/sizes/%d", n), string(b))
	}
	put(t, tr, "/sizes/zeros", strings.Repeat("\x00", 100000))
	put(t, tr, "/read-only", "x").Mode = tree.TypeRegular | 0o444
	must(t, tr.Walk(func(name string, n *tree.Node) error {
		n.ModTime = time.Date(2024, 2, 29, 23, 59, 58, 0, time.UTC)
		return nil
	}))
	tr.Root().ModTime = time.Time{}
	return tr
}

// kindsOf runs fn for each kind, automatic sizes and given ones.
func kindsOf(t *testing.T, fn func(t *testing.T, o Options)) {
	for _, o := range []Options{
		{}, {Type: FAT12}, {Type: FAT16}, {Type: FAT32},
		{Size: 1440 << 10, Label: "floppy"}, {Size: 10<<20 + 1000, Free: 0}, {Size: 40 << 20, Label: "ESP"}, {Size: 600 << 20, Label: "BIG DISK"},
		{Type: FAT32, Size: 34 << 20, Label: "EFI"}, {Type: FAT32, ClusterSize: 4096}, {Type: FAT16, ClusterSize: 32768}, {Free: 20 << 20, Offset: 1 << 20},
	} {
		t.Run(fmt.Sprintf("%s %d %d %d", o.Type, o.Size, o.ClusterSize, o.Free), func(t *testing.T) { fn(t, o) })
	}
}

func TestRoundTrip(t *testing.T) {
	want := specimen(t)
	kindsOf(t, func(t *testing.T, o Options) {
		name := image(t, want, o)
		fsck(t, name)
		got, info := load(t, name)
		got.Root().ModTime = time.Time{}
		treetest.Equal(t, got, want)
		if o.Type != "" && info.Type != o.Type || info.Label != strings.ToUpper(o.Label) || !info.Clean || info.Serial == 0 {
			t.Errorf("info is %+v", info)
		}
		if info.Free < o.Free || info.Free > info.Size {
			t.Errorf("%d bytes of %d are free", info.Free, info.Size)
		}
	})
}

// TestGolden notices when the bytes change.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Label: "GOLDEN", Time: time.Unix(1_700_000_000, 0)}, "d9d31e4b99eb974d"},
		{Options{Type: FAT16}, "2da18290213efc91"},
		{Options{Type: FAT32}, "46b78fea5f53c6e6"},
	} {
		b, err := os.ReadFile(image(t, specimen(t), c.o))
		must(t, err)
		if got := fmt.Sprintf("%x", sha256.Sum256(b))[:16]; got != c.want {
			t.Errorf("%+v: the image's digest is %s", c.o, got)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct{ in, limit, want string }{
		{"2024-05-06T07:08:09Z", "", "2024-05-06T07:08:08Z"},
		{"2024-05-06T07:08:09.99+02:00", "", "2024-05-06T05:08:08Z"},
		{"1970-01-01T00:00:00Z", "", "1980-01-01T00:00:00Z"},
		{"2200-01-01T00:00:00Z", "", "2107-12-31T23:59:58Z"},
		{"2200-01-01T00:00:00Z", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z"},
	} {
		tr := tree.New()
		n := put(t, tr, "/f", "x")
		var o Options
		n.ModTime, _ = time.Parse(time.RFC3339, c.in)
		if c.limit != "" {
			o.Time, _ = time.Parse(time.RFC3339, c.limit)
		}
		got, _ := load(t, image(t, tr, o))
		if s := got.Get("/f").ModTime.Format(time.RFC3339); s != c.want {
			t.Errorf("%s becomes %s, not %s", c.in, s, c.want)
		}
	}
}

func TestShortNames(t *testing.T) {
	names := []string{
		"README.TXT", "readme.md", "Readme.rst", "longfilename.txt", "longfilename2.txt", "LONGFI~3.TXT", "longfilename5.txt",
		".hidden", "a b.c d", "ünïcödé.x", "many.dots.in.it", "+,;=", "x.longext", "🌱",
	}
	want := map[string]string{
		"README.TXT": "README.TXT", "readme.md": "README.MD", "Readme.rst": "README.RST", "longfilename.txt": "LONGFI~1.TXT",
		"longfilename2.txt": "LONGFI~2.TXT", "LONGFI~3.TXT": "LONGFI~3.TXT", "longfilename5.txt": "LONGFI~4.TXT", ".hidden": "HIDDEN~1",
		"a b.c d": "AB~1.CD", "ünïcödé.x": "_N_C_D~1.X", "many.dots.in.it": "MANYDO~1.IT", "+,;=": "____~1", "x.longext": "X~1.LON", "🌱": "_~1",
	}
	d, err := newDirectory(names)
	must(t, err)
	for _, name := range names {
		s, bits, whole, err := d.short(name)
		must(t, err)
		if s.text() != want[name] || whole != (name == "README.TXT" || name == "readme.md" || name == "LONGFI~3.TXT") || (bits != 0) != (name == "readme.md") {
			t.Errorf("%s is %s, bits %#x, whole %v", name, s.text(), bits, whole)
		}
	}
	// Many of one basis.
	many := make([]string, 20000)
	for i := range many {
		many[i] = fmt.Sprintf("longfilename%d.text", i)
	}
	d, err = newDirectory(many)
	must(t, err)
	seen := map[shortName]bool{}
	for _, name := range many {
		s, _, _, err := d.short(name)
		must(t, err)
		if seen[s] {
			t.Fatalf("%s is there twice", s.text())
		}
		seen[s] = true
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(tr *tree.Tree)
		o    Options
		say  string
	}{
		{"symlink", func(tr *tree.Tree) { must(t, tr.Put("/l", tree.Symlink("x"))) }, Options{}, `"/l": FAT can't hold a symbolic link`},
		{"device", func(tr *tree.Tree) { must(t, tr.Put("/d", tree.Device(tree.TypeChar, 0o600, 1, 3))) }, Options{}, `"/d": FAT can't hold a device`},
		{"hard link", func(tr *tree.Tree) { put(t, tr, "/a", "x"); must(t, tr.Link("/a", "/b")) }, Options{}, `"/b": FAT can't hold a hard link, here of "/a"`},
		{"xattr", func(tr *tree.Tree) { put(t, tr, "/a", "x").Xattrs = map[string][]byte{"user.x": nil} }, Options{}, "extended attributes"},
		{"4 GiB", func(tr *tree.Tree) { put(t, tr, "/a", "").Content = tree.Section(nil, 0, 1<<32) }, Options{}, "less than 4 GiB"},
		{"colon", func(tr *tree.Tree) { put(t, tr, "/dir/a:b", "") }, Options{}, `"/dir/a:b": FAT can't hold a name with the character ':'`},
		{"control", func(tr *tree.Tree) { put(t, tr, "/a\nb", "") }, Options{}, `the character '\n'`},
		{"not UTF-8", func(tr *tree.Tree) { put(t, tr, "/a\xFF", "") }, Options{}, "not UTF-8"},
		{"dot", func(tr *tree.Tree) { put(t, tr, "/a.", "") }, Options{}, "ends in a dot"},
		{"space", func(tr *tree.Tree) { put(t, tr, "/a ", "") }, Options{}, "ends in a dot or a space"},
		{"case", func(tr *tree.Tree) { put(t, tr, "/x/Ärger", ""); put(t, tr, "/x/ärger", "") }, Options{}, `"/x": FAT can't hold both "Ärger" and "ärger"`},
		{"too small", func(tr *tree.Tree) { put(t, tr, "/a", strings.Repeat("x", 2<<20)) }, Options{Size: 1 << 20}, "bytes too small"},
		{"FAT32 too small", func(tr *tree.Tree) {}, Options{Size: 1 << 20, Type: FAT32}, "no fat32 can have 1048576 bytes"},
		{"FAT12 too large", func(tr *tree.Tree) {}, Options{Size: 1 << 30, Type: FAT12}, "no fat12 can have"},
		{"3 TiB", func(tr *tree.Tree) {}, Options{Size: 3 << 40}, "2 TiB"},
		{"type", func(tr *tree.Tree) {}, Options{Type: "exfat"}, "none of fat12"},
		{"label", func(tr *tree.Tree) {}, Options{Label: "much too long"}, "longer than 11"},
		{"label's characters", func(tr *tree.Tree) {}, Options{Label: "ä"}, "forbids"},
		{"cluster", func(tr *tree.Tree) {}, Options{ClusterSize: 3000}, "no power of two"},
		{"size and free", func(tr *tree.Tree) {}, Options{Size: 1, Free: 1}, "one of them"},
		{"offset", func(tr *tree.Tree) {}, Options{Offset: 3}, "whole sectors"},
	} {
		tr := tree.New()
		c.make(tr)
		if _, err := Size(tr, c.o); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.say)
		}
	}
	tr := tree.New()
	for i := range 4000 {
		put(t, tr, fmt.Sprintf("/dir/%0200d", i), "")
	}
	if _, err := Size(tr, Options{}); err == nil || !strings.Contains(err.Error(), "a directory of 68002 entries") {
		t.Errorf("got %v", err)
	}
}

// TestBoundaries has as many clusters as a kind can, and one more or less.
func TestBoundaries(t *testing.T) {
	tr := tree.New()
	put(t, tr, "/some/file", strings.Repeat("data", 3000))
	for _, c := range []struct {
		kind     Type
		clusters int64
		fits     bool
	}{
		{FAT12, 1, false}, {FAT12, 4084, true}, {FAT12, 4085, false},
		{FAT16, 4084, false}, {FAT16, 4085, true}, {FAT16, 65524, true}, {FAT16, 65525, false},
		{FAT32, 65524, false}, {FAT32, 65525, true},
	} {
		t.Run(fmt.Sprintf("%s %d", c.kind, c.clusters), func(t *testing.T) {
			col, err := collect(tr, Options{})
			must(t, err)
			o := Options{Type: c.kind, ClusterSize: 512}
			o.Size = col.base(c.kind, 512).ofClusters(c.clusters).sectors * sectorSize
			if !c.fits {
				if _, err := Size(tr, o); err == nil {
					t.Error("it was taken")
				}
				return
			}
			name := image(t, tr, o)
			got, info := load(t, name)
			if info.Clusters != c.clusters || info.Type != c.kind {
				t.Errorf("read %+v", info)
			}
			treetest.Equal(t, got, withTimes(tr))
			fsck(t, name)
		})
	}
}

// withTimes brings the times of a tree's directories to where FAT has them.
func withTimes(tr *tree.Tree) *tree.Tree {
	_ = tr.Walk(func(name string, n *tree.Node) error {
		if name != "/" && n.ModTime.Before(minTime) {
			n.ModTime = minTime
		}
		return nil
	})
	return tr
}

func Example() {
	t := tree.New()
	_ = t.MkdirAll("/EFI/BOOT", 0o755)
	_ = t.Put("/EFI/BOOT/BOOTX64.EFI", tree.File(0o644, tree.Bytes("MZ")))

	f, err := os.CreateTemp("", "esp-*.img")
	if err != nil {
		panic(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := Write(f, t, Options{Type: FAT32, Size: 64 << 20, Label: "ESP"}); err != nil {
		panic(err)
	}

	fs, err := Open(f, 64<<20)
	if err != nil {
		panic(err)
	}
	again, err := fs.Tree(TreeOptions{})
	if err != nil {
		panic(err)
	}
	b, err := again.ReadFile("/EFI/BOOT/BOOTX64.EFI", 1<<10)
	fmt.Printf("%s %s %s %v\n", fs.Info().Type, fs.Info().Label, b, err)
	// Output: fat32 ESP MZ <nil>
}
