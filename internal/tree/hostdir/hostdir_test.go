package hostdir

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes all of tr into a new folder.
func write(t *testing.T, tr *tree.Tree, o Options) (string, Left) {
	t.Helper()
	dir := t.TempDir()
	w, err := Open(dir, o)
	must(t, err)
	defer w.Close()
	must(t, w.Put(t.Context(), "", tr.Root()))
	return dir, w.Left()
}

// TestRoundTrip reads what was written again.
func TestRoundTrip(t *testing.T) {
	root := os.Geteuid() == 0
	tr := treetest.Random(5, treetest.Options{Entries: 300})
	must(t, tr.Walk(func(name string, n *tree.Node) error {
		// What reading a folder of the host does not give, and a host may refuse.
		n.Xattrs = nil
		n.ModTime = time.Unix(n.ModTime.Unix()&0x3FFFFFFF, 0).UTC()
		if !root {
			n.UID, n.GID, n.Mode = 0, 0, n.Mode&^0o6000
			if n.IsDir() {
				n.Mode |= 0o700 // so that it can be read back, and removed
			} else {
				n.Mode |= 0o400
			}
		}
		if n.Type() == tree.TypeSocket || !root && (n.Type() == tree.TypeBlock || n.Type() == tree.TypeChar || n.Type() == tree.TypeFIFO) {
			tr.Remove(name)
		}
		return nil
	}))
	dir, left := write(t, tr, Options{Owners: root})
	if left.Devices > 0 {
		tooltest.Missing(t, "this host lets nobody make device nodes")
	}
	got, err := tree.FromDir(dir, tree.DirOptions{KeepOwners: root})
	must(t, err)
	r, want := got.Root(), tr.Root() // a folder that was there keeps its attributes
	r.Mode, r.UID, r.GID, r.ModTime = want.Mode, want.UID, want.GID, want.ModTime
	var a, b strings.Builder
	must(t, tree.Manifest(&a, tr))
	must(t, tree.Manifest(&b, got))
	if a.String() != b.String() {
		t.Errorf("want\n%s\ngot\n%s", a.String(), b.String())
	}
}

// TestWithoutRoot holds what an ordinary user gets.
func TestWithoutRoot(t *testing.T) {
	tr := tree.New()
	suid := tree.File(0o6755, tree.Bytes("x"))
	suid.UID = 12345
	suid.Xattrs = map[string][]byte{"security.capability": []byte("cap")}
	must(t, tr.Put("/suid", suid))
	must(t, tr.Put("/null", tree.Device(tree.TypeChar, 0o666, 1, 3)))
	must(t, tr.Put("/pipe", &tree.Node{Mode: tree.TypeFIFO | 0o600}))
	must(t, tr.Put("/socket", &tree.Node{Mode: tree.TypeSocket | 0o600}))
	must(t, tr.Put("/closed", tree.Dir(0o111)))
	must(t, tr.Put("/closed/in", tree.File(0o444, nil)))
	dir, left := write(t, tr, Options{})
	if left.SetID != 1 || left.Devices != 2 || left.Sockets != 1 || left.Owners < 1 || left.Xattrs != 1 {
		t.Errorf("left out: %+v", left)
	}
	for name, want := range map[string]fs.FileMode{"suid": 0o755, "closed": fs.ModeDir | 0o111} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	must(t, os.Chmod(filepath.Join(dir, "closed"), 0o755))
	for _, name := range []string{"null", "pipe", "socket"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// hole is a file of a terabyte with a word at its end.
type hole struct{}

func (hole) Size() int64                          { return 1 << 40 }
func (hole) Data() ([]tree.Extent, error)         { return []tree.Extent{{Off: 1<<40 - 4, Len: 4}}, nil }
func (hole) OpenAt() (tree.ReaderAtCloser, error) { return endReader{}, nil }
func (hole) Open() (io.ReadCloser, error) {
	return nil, errors.New("read as a stream")
}

type endReader struct{}

func (endReader) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, "tail"[off-(1<<40-4):]), nil
}
func (endReader) Close() error { return nil }

// TestSparse writes holes as holes, and links as links.
func TestSparse(t *testing.T) {
	tr := tree.New()
	must(t, tr.MkdirAll("/a/b", 0o755))
	must(t, tr.Put("/a/b/hole", tree.File(0o644, hole{})))
	must(t, tr.Link("/a/b/hole", "/z"))
	dir, _ := write(t, tr, Options{})
	info, err := os.Stat(filepath.Join(dir, "z"))
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	if info.Size() != 1<<40 || st.Blocks > 1024 || st.Nlink != 2 {
		t.Errorf("%d bytes, %d blocks, %d links", info.Size(), st.Blocks, st.Nlink)
	}
	f, err := os.Open(filepath.Join(dir, "a/b/hole"))
	must(t, err)
	defer f.Close()
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, 1<<40-8); err != nil || !bytes.Equal(b, []byte("\x00\x00\x00\x00tail")) {
		t.Errorf("%q %v", b, err)
	}
}

// TestThere holds what happens to files that are there already, and that links
// among them lead nowhere.
func TestThere(t *testing.T) {
	outside := t.TempDir()
	tr := tree.New()
	must(t, tr.MkdirAll("/dir/sub", 0o755))
	must(t, tr.Put("/dir/sub/file", tree.File(0o644, tree.Bytes("new"))))
	prepare := func(t *testing.T, make func(dir string)) (string, *Writer, *Writer) {
		dir := t.TempDir()
		make(dir)
		plain, err := Open(dir, Options{})
		must(t, err)
		t.Cleanup(func() { plain.Close() })
		force, err := Open(dir, Options{Force: true})
		must(t, err)
		t.Cleanup(func() { force.Close() })
		return dir, plain, force
	}
	exists := func(t *testing.T, err error, folder bool) {
		t.Helper()
		var e *ExistsError
		if !errors.As(err, &e) || e.Folder != folder || e.Path == "" {
			t.Errorf("got %v", err)
		}
	}
	t.Run("folder is a link", func(t *testing.T) {
		_, plain, force := prepare(t, func(dir string) { must(t, os.Symlink(outside, filepath.Join(dir, "dir"))) })
		exists(t, plain.Put(t.Context(), "", tr.Root()), true)
		exists(t, force.Put(t.Context(), "", tr.Root()), true)
	})
	t.Run("file is a link", func(t *testing.T) {
		victim := filepath.Join(outside, "victim")
		must(t, os.WriteFile(victim, []byte("old"), 0o644))
		dir, plain, force := prepare(t, func(dir string) {
			must(t, os.MkdirAll(filepath.Join(dir, "dir/sub"), 0o755))
			must(t, os.Symlink(victim, filepath.Join(dir, "dir/sub/file")))
		})
		exists(t, plain.Put(t.Context(), "", tr.Root()), false)
		must(t, force.Put(t.Context(), "", tr.Root()))
		if b, err := os.ReadFile(victim); err != nil || string(b) != "old" {
			t.Errorf("what the link led to: %q %v", b, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "dir/sub/file")); err != nil || string(b) != "new" {
			t.Errorf("%q %v", b, err)
		}
	})
	t.Run("folder for a file", func(t *testing.T) {
		_, _, force := prepare(t, func(dir string) { must(t, os.MkdirAll(filepath.Join(dir, "dir/sub/file"), 0o755)) })
		exists(t, force.Put(t.Context(), "", tr.Root()), true)
	})
	t.Run("names", func(t *testing.T) {
		dir, _, force := prepare(t, func(string) {})
		for _, name := range []string{"..", ".", "a/b", "../x", "a\x00b"} {
			if err := force.Put(t.Context(), name, tree.File(0o644, nil)); err == nil {
				t.Errorf("%q was written", name)
			}
		}
		if e, _ := os.ReadDir(dir); len(e) > 0 {
			t.Errorf("%v", e)
		}
	})
	if e, _ := os.ReadDir(outside); len(e) != 1 {
		t.Errorf("outside there are now %v", e)
	}
}

// TestDamaged leaves no half-made file behind.
func TestDamaged(t *testing.T) {
	tr := tree.New()
	must(t, tr.Put("/bad", tree.File(0o644, damaged{})))
	dir := t.TempDir()
	w, err := Open(dir, Options{})
	must(t, err)
	defer w.Close()
	if err := w.Put(t.Context(), "", tr.Root()); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
	if e, _ := os.ReadDir(dir); len(e) > 0 {
		t.Errorf("left: %v", e)
	}
}

type damaged struct{ hole }

func (damaged) Data() ([]tree.Extent, error) { return nil, errors.New("damaged") }
