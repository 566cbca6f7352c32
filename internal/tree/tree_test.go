package tree

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// build makes a tree of lines: "d /x", "f /x content", "l /x target",
// "h /x /old", "c /x".
func build(t *testing.T, lines ...string) *Tree {
	t.Helper()
	tr := New()
	for _, line := range lines {
		f := append(strings.SplitN(line, " ", 3), "", "")
		var err error
		switch f[0] {
		case "d":
			err = tr.MkdirAll(f[1], 0o755)
		case "f":
			err = tr.Put(f[1], File(0o644, Bytes(f[2])))
		case "l":
			err = tr.Put(f[1], Symlink(f[2]))
		case "h":
			err = tr.Link(f[2], f[1])
		case "c":
			err = tr.Put(f[1], Device(TypeChar, 0o666, 1, 3))
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return tr
}

func names(t *testing.T, tr *Tree) string {
	t.Helper()
	var out []string
	if err := tr.Walk(func(name string, n *Node) error {
		out = append(out, name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestClean(t *testing.T) {
	long := strings.Repeat("n", MaxName)
	deep := strings.Repeat("/"+long, 15) // 3840 bytes
	for in, want := range map[string]string{
		"":          "/",
		"/":         "/",
		".":         "/",
		"./":        "/",
		"a":         "/a",
		"./a//b/.":  "/a/b",
		"///a/./b/": "/a/b",
		"...":       "/...",
		"a b\n\xff": "/a b\n\xff",
		long:        "/" + long,
		deep + "/" + long[:MaxPath-1-len(deep)-1]: deep + "/" + long[:MaxPath-1-len(deep)-1],
	} {
		if got, err := Clean(in); got != want || err != nil {
			t.Errorf("Clean(%.40q) = %.40q, %v; want %.40q", in, got, err, want)
		}
	}
	for _, in := range []string{"..", "a/../b", "/..", "a\x00", long + "n", deep + "/" + long[:MaxPath-len(deep)-1]} {
		if got, err := Clean(in); err == nil {
			t.Errorf("Clean(%.40q) = %.40q, want an error", in, got)
		}
	}
}

func TestPutRules(t *testing.T) {
	tr := build(t, "d /d", "f /d/f one", "l /l d", "f /f x")
	full := Dir(0o700)
	full.setChild("x", File(0o644, nil))
	for _, c := range []struct {
		name string
		n    *Node
		want error // nil: success; errAny: some error
	}{
		{"/d", File(0o644, nil), fs.ErrExist},
		{"/d", Symlink("/"), fs.ErrExist},
		{"/d", full, fs.ErrExist},
		{"/f", Dir(0o755), fs.ErrExist},
		{"/l", Dir(0o755), fs.ErrExist},
		{"/l/x", File(0o644, nil), errNotDir},
		{"/f/x", File(0o644, nil), errNotDir},
		{"/no/x", File(0o644, nil), fs.ErrNotExist},
		{"/", File(0o644, nil), fs.ErrExist},
		{"/x", &Node{}, errAny},
		{"/x", Symlink(""), errAny},
		{"/x", Symlink("a\x00"), errAny},
		{"/x", Symlink(strings.Repeat("x", MaxPath)), errAny},
		{"/../x", File(0o644, nil), errAny},
		{"/f", Symlink("d"), nil},
		{"/d", Dir(0o700), nil},
		{"/", Dir(0o711), nil},
		{"new", &Node{Mode: TypeFIFO | 0o600}, nil},
	} {
		err := tr.Put(c.name, c.n)
		if c.want == nil && err != nil || c.want == errAny && err == nil ||
			c.want != nil && c.want != errAny && !errors.Is(err, c.want) {
			t.Errorf("Put(%q, %#o): %v, want %v", c.name, c.n.Mode, err, c.want)
		}
	}
	if n := tr.Get("/d"); n.Mode != TypeDir|0o700 || n.Child("f") == nil {
		t.Error("a directory over a directory must pass on the mode and keep the entries")
	}
	if tr.Root().Mode != TypeDir|0o711 {
		t.Error("the root's attributes can be replaced")
	}
}

var errAny = errors.New("any")

func TestPutRefusesCycles(t *testing.T) {
	tr := build(t, "d /a/b")
	if err := tr.Put("/a/b/c", tr.Get("/a")); err == nil {
		t.Error("a directory was put within itself")
	}
	if err := tr.Put("/x", tr.Root()); err == nil {
		t.Error("the root was put within itself")
	}
}

// A Node made by hand has no map of children yet.
func TestHandMadeDirectory(t *testing.T) {
	tr := New()
	if err := tr.Put("/d", &Node{Mode: TypeDir | 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := tr.Put("/d/f", File(0o644, nil)); err != nil {
		t.Fatal(err)
	}
	if err := tr.MkdirAll("/d/e/f", 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestWalkOrder(t *testing.T) {
	tr := build(t, "d /b", "d /a", "f /a/z 1", "f /a-b 2", "f /b/x 3", "h /a/h /b/x")
	if got, want := names(t, tr), "/ /a /a/h /a/z /a-b /b /b/x"; got != want {
		t.Errorf("walked %s, want %s", got, want)
	}
	var got []string
	tr.Walk(func(name string, n *Node) error {
		got = append(got, name)
		switch name {
		case "/a":
			return fs.SkipDir
		case "/b":
			return fs.SkipAll
		}
		return nil
	})
	if s := strings.Join(got, " "); s != "/ /a /a-b /b" {
		t.Errorf("with skips: %s", s)
	}
	if err := tr.Walk(func(name string, n *Node) error { tr.Remove("/a/h"); tr.Remove("/b"); return nil }); err != nil {
		t.Error(err)
	}
	if got := names(t, tr); got != "/ /a /a/z /a-b" {
		t.Errorf("after removals in a walk: %s", got)
	}
}

func TestResolve(t *testing.T) {
	tr := build(t, "d /usr/bin", "f /usr/bin/sh x", "l /bin usr/bin", "l /usr/bin/up ../..", "l /abs /bin/sh",
		"l /a b", "l /b a", "l /self self", "l /gone /no/where", "l /usr/deep bin/up/bin/./sh", "f /file x", "l /rootlink /")
	for in, want := range map[string]string{
		"/":                         "/",
		"":                          "/",
		"/bin/sh":                   "/usr/bin/sh",
		"bin":                       "/usr/bin",
		"/bin/up/file":              "/file",
		"/bin/up/../../../file":     "/file",
		"/abs":                      "/usr/bin/sh",
		"/usr/deep":                 "/usr/bin/sh",
		"/usr/../bin/../bin/sh":     "/usr/bin/sh",
		"/rootlink/rootlink/bin/sh": "/usr/bin/sh",
	} {
		p, n, err := tr.Resolve(in)
		if p != want || err != nil || n != tr.Get(want) {
			t.Errorf("Resolve(%q) = %q, %v; want %q", in, p, err, want)
		}
	}
	for _, c := range []struct {
		in, path string
		want     error
	}{
		{"/bin/new", "/usr/bin/new", fs.ErrNotExist},
		{"/new", "/new", fs.ErrNotExist},
		{"/no/new", "", fs.ErrNotExist},
		{"/gone", "", fs.ErrNotExist},
		{"/a", "", errAny},
		{"/self", "", errAny},
		{"/self/x", "", errAny},
		{"/file/x", "", errNotDir},
	} {
		p, n, err := tr.Resolve(c.in)
		if p != c.path || n != nil || err == nil || c.want != errAny && !errors.Is(err, c.want) {
			t.Errorf("Resolve(%q) = %q, %v; want %q, %v", c.in, p, err, c.path, c.want)
		}
	}
}

// Links that name themselves many times must not grow the work without bound.
func TestResolveLoopIsBounded(t *testing.T) {
	tr := New()
	tr.Put("/l", Symlink(strings.Repeat("l/", MaxPath/2-1)))
	if _, _, err := tr.Resolve("/l"); err == nil || !strings.Contains(err.Error(), "too many levels") {
		t.Error(err)
	}
}

func TestMergeMergedUsr(t *testing.T) {
	base := build(t, "d /usr/bin", "d /usr/lib", "l /bin usr/bin", "l /lib usr/lib", "f /usr/bin/sh base")
	base.Get("/usr/bin").Mode = TypeDir | 0o711
	base.Root().Mode = TypeDir | 0o700
	pkg := build(t, "d /bin", "f /bin/foo foo", "f /bin/sh new", "d /lib/x", "l /lib/x/l ../y", "c /lib/x/null", "d /usr/share")
	pkg.Get("/bin").Mode = TypeDir | 0o777
	pkg.Get("/usr/share").UID = 7
	if err := base.Merge(pkg); err != nil {
		t.Fatal(err)
	}
	want := "/ /bin /lib /usr /usr/bin /usr/bin/foo /usr/bin/sh /usr/lib /usr/lib/x /usr/lib/x/l /usr/lib/x/null /usr/share"
	if got := names(t, base); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if n := base.Get("/bin"); n.Type() != TypeSymlink {
		t.Error("a directory entry replaced the link /bin")
	}
	if n := base.Get("/usr/bin"); n.Mode != TypeDir|0o711 {
		t.Errorf("what the link leads to got the mode %#o", n.Mode)
	}
	if b, err := base.ReadFile("/bin/sh", 10); string(b) != "new" || err != nil {
		t.Errorf("/bin/sh is %q, %v", b, err)
	}
	if base.Get("/usr/share").UID != 7 || base.Root().Mode != TypeDir|0o700 {
		t.Error("attributes: new directories take the other's, the root keeps its own")
	}
	if pkg.Get("/lib/x") == base.Get("/usr/lib/x") {
		t.Error("directories must not be shared")
	}
}

func TestMergeClashes(t *testing.T) {
	for _, c := range []struct{ base, over []string }{
		{[]string{"d /x"}, []string{"f /x a"}},
		{[]string{"d /x"}, []string{"l /x y"}},
		{[]string{"f /x a"}, []string{"d /x"}},
		{[]string{"l /x nowhere"}, []string{"d /x"}},
		{[]string{"l /x f", "f /f a"}, []string{"d /x"}},
		{[]string{"l /x y", "l /y x"}, []string{"d /x"}},
	} {
		err := build(t, c.base...).Merge(build(t, c.over...))
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v under %v: %v, want ErrExist", c.base, c.over, err)
		}
	}
	// A file over a link replaces the link, not what it leads to.
	base := build(t, "f /etc-real a", "l /etc etc-real")
	if err := base.Merge(build(t, "f /etc b")); err != nil || base.Get("/etc").Type() != TypeRegular {
		t.Error(err)
	}
}

func TestMergeKeepsHardLinks(t *testing.T) {
	base, over := New(), build(t, "d /d", "f /d/a x", "h /d/b /d/a")
	if err := base.Merge(over); err != nil {
		t.Fatal(err)
	}
	if base.Get("/d/a") != base.Get("/d/b") {
		t.Error("the hard link was lost")
	}
}

func TestFS(t *testing.T) {
	tr := build(t, "d /usr/bin", "f /usr/bin/sh hello", "l /bin usr/bin", "l /usr/abs /usr/bin/sh", "f /empty ", "h /hard /usr/bin/sh")
	tr.Get("/usr/bin/sh").Mode = TypeRegular | 0o4755
	if err := fstest.TestFS(tr.FS(), "usr/bin/sh", "bin", "usr/abs", "empty", "hard"); err != nil {
		t.Error(err)
	}
	fi, err := fs.Stat(tr.FS(), "bin/sh")
	if err != nil || fi.Mode() != fs.ModeSetuid|0o755 || fi.Sys().(*Node) != tr.Get("/usr/bin/sh") {
		t.Error(fi, err)
	}
	fi, err = fs.Lstat(tr.FS(), "bin")
	if err != nil || fi.Mode().Type() != fs.ModeSymlink {
		t.Error(fi, err)
	}
	for _, name := range []string{"nope", "usr/bin/sh/x", "../x", "/usr"} {
		if _, err := tr.FS().Open(name); err == nil {
			t.Errorf("opened %q", name)
		}
	}
	if _, err := fs.ReadFile(tr.FS(), "nope"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestManifestAndDigest(t *testing.T) {
	make := func(change func(*Tree)) [32]byte {
		tr := build(t, "d /d", "f /d/a one", "h /d/b /d/a", "l /l d", "c /null", "f /c two")
		tr.Get("/c").Xattrs = map[string][]byte{"user.x": []byte("1")}
		if change != nil {
			change(tr)
		}
		d, err := Digest(tr)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	same := make(nil)
	if make(nil) != same {
		t.Error("two equal trees differ")
	}
	if make(func(tr *Tree) { tr.Get("/c").ModTime = time.Unix(0, 0) }) != same {
		t.Error("the zero time must be the epoch")
	}
	for what, change := range map[string]func(*Tree){
		"name":     func(tr *Tree) { tr.Link("/c", "/e") },
		"mode":     func(tr *Tree) { tr.Get("/c").Mode ^= 1 },
		"owner":    func(tr *Tree) { tr.Get("/c").UID = 1 },
		"group":    func(tr *Tree) { tr.Get("/d").GID = 1 },
		"time":     func(tr *Tree) { tr.Get("/d").ModTime = time.Unix(1, 0) },
		"nsec":     func(tr *Tree) { tr.Get("/d").ModTime = time.Unix(0, 1) },
		"content":  func(tr *Tree) { tr.Get("/c").Content = Bytes("tw2") },
		"target":   func(tr *Tree) { tr.Get("/l").Target = "e" },
		"device":   func(tr *Tree) { tr.Get("/null").Minor = 5 },
		"xattr":    func(tr *Tree) { tr.Get("/c").Xattrs["user.x"] = []byte("2") },
		"hardlink": func(tr *Tree) { tr.Put("/d/b", File(0o644, Bytes("one"))) },
	} {
		if make(change) == same {
			t.Errorf("a change of the %s doesn't show", what)
		}
	}
}

func TestManifestForm(t *testing.T) {
	tr := build(t, "f /a hi", "h /b /a", "l /l x", "c /null")
	var b bytes.Buffer
	if err := Manifest(&b, tr); err != nil {
		t.Fatal(err)
	}
	want := `"/" d0755 0:0 0
"/a" -0644 0:0 0 2 sha256:8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4
"/b" -0644 0:0 0 2 sha256:8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4 links="/a"
"/l" l0777 0:0 0 -> "x"
"/null" c0666 0:0 0 1,3
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestUnpackerRules(t *testing.T) {
	u := NewUnpacker(Limits{Entries: 10, Metadata: 200})
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	bad := func(err error, say string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("got %v, want an error that says %q", err, say)
		}
	}
	ok(u.Put("./", Dir(0o700)))
	ok(u.Put("/a/b/f", File(0o644, nil))) // makes /a and /a/b
	ok(u.Put("l", Symlink("/a")))
	bad(u.Put("l/x", File(0o644, nil)), "not followed")
	bad(u.Put("a/b/f/x", File(0o644, nil)), "not a directory")
	bad(u.Put("a", Symlink("/etc")), "already exists")
	bad(u.Put("", File(0o644, nil)), "empty")
	bad(u.Put("x/../y", File(0o644, nil)), "..")
	bad(u.Link("nope", "x"), "not in the archive")
	bad(u.Link("", "x"), "not in the archive")
	bad(u.Link("a", "x"), "directory")
	bad(u.Link("l/b/f", "x"), "not in the archive")
	ok(u.Link("a/b/f", "h"))
	bad(u.Put("p/q/r/s/t/u/v", File(0o644, nil)), "limit of 10 entries")
	u = NewUnpacker(Limits{Metadata: 200})
	bad(u.Put("x", Symlink(strings.Repeat("y", 200))), "limit of 200 bytes")
}

func TestContentsThatLie(t *testing.T) {
	tr := New()
	tr.Put("/f", File(0o644, liar{}))
	if _, err := tr.ReadFile("/f", 100); err == nil {
		t.Error("ReadFile believed a wrong size")
	}
	if _, err := Digest(tr); err == nil {
		t.Error("Digest believed a wrong size")
	}
}

type liar struct{}

func (liar) Size() int64                  { return 5 }
func (liar) Open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("1234567")), nil }

type nopReaderAt struct{ *strings.Reader }

func (nopReaderAt) Close() error { return nil }

func TestSection(t *testing.T) {
	open := func() (ReaderAtCloser, error) { return nopReaderAt{strings.NewReader("0123456789")}, nil }
	read := func(off, size int64) (string, error) {
		r, err := Section(open, off, size).Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return string(b), err
	}
	if s, err := read(3, 4); s != "3456" || err != nil {
		t.Error(s, err)
	}
	if s, err := read(6, 4); s != "6789" || err != nil {
		t.Error(s, err)
	}
	if _, err := read(6, 5); err != io.ErrUnexpectedEOF {
		t.Error("a file that became shorter:", err)
	}
}

// How a content says where its holes are must not show in the digest.
func TestDigestOfLargeContents(t *testing.T) {
	const size = wholeSum + sumBlock + 5
	b := make([]byte, size)
	b[0], b[3*sumBlock-1], b[3*sumBlock], b[size-1] = 1, 2, 3, 4
	plain := File(0o644, Bytes(b))
	want, err := contentSum(plain)
	if err != nil || !strings.HasPrefix(want, "sha256-blocks:") {
		t.Fatal(want, err)
	}
	for _, data := range [][]Extent{
		{{0, size}},
		{{0, 1}, {3*sumBlock - 1, 2}, {size - 1, 1}},
		{{0, 1}, {1, 5}, {3*sumBlock - 1, 1}, {3 * sumBlock, 1}, {size - 9, 9}},
	} {
		if got, err := contentSum(File(0o644, holes{plain.Content, b, data})); got != want || err != nil {
			t.Errorf("%v: %s, %v, want %s", data, got, err, want)
		}
	}
	b[size-1] = 5
	if got, err := contentSum(File(0o644, Bytes(b))); got == want || err != nil {
		t.Error("another content has the same digest", err)
	}
	for _, wrong := range []int64{size - 1, size + 1, size + sumBlock} {
		if _, err := contentSum(File(0o644, mistaken{plain.Content, wrong})); err == nil {
			t.Errorf("a size of %d was believed", wrong)
		}
	}
}

type holes struct {
	Content
	b    []byte
	data []Extent
}

func (h holes) Data() ([]Extent, error) { return h.data, nil }
func (h holes) OpenAt() (ReaderAtCloser, error) {
	return nopReaderAt{strings.NewReader(string(h.b))}, nil
}

type mistaken struct {
	Content
	size int64
}

func (m mistaken) Size() int64 { return m.size }
