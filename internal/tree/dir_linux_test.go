package tree

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"golang.org/x/sys/unix"
)

func someDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Chmod(dir, 0o751),
		os.Mkdir(at("d"), 0o700),
		os.Chmod(at("d"), os.ModeSetgid|0o775),
		os.WriteFile(at("d/f"), []byte("hello"), 0o600),
		os.Chmod(at("d/f"), 0o666), // whatever the umask
		os.Chtimes(at("d/f"), time.Time{}, time.Unix(1700000000, 5)),
		os.WriteFile(at("bad\xffname"), nil, 0o600),
		os.Link(at("d/f"), at("hard")),
		os.Symlink("/etc", at("link")),
		syscall.Mkfifo(at("fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	t.Chdir(dir) // a unix socket's path is short
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: "sock"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFromDir(t *testing.T) {
	dir := someDir(t)
	tr, err := FromDir(dir, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, tr), "/ /bad\xffname /d /d/f /fifo /hard /link"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for name, mode := range map[string]uint32{
		"/": TypeDir | 0o751, "/d": TypeDir | 0o2775, "/d/f": TypeRegular | 0o666, "/fifo": TypeFIFO | 0o600,
		"/link": TypeSymlink | 0o777,
	} {
		if n := tr.Get(name); n.Mode != mode || n.UID != 0 || n.GID != 0 {
			t.Errorf("%s is %#o of %d:%d, want %#o of 0:0", name, n.Mode, n.UID, n.GID, mode)
		}
	}
	f := tr.Get("/d/f")
	if tr.Get("/hard") != f {
		t.Error("the hard link was not seen")
	}
	if !f.ModTime.Equal(time.Unix(1700000000, 5)) {
		t.Error(f.ModTime)
	}
	if tr.Get("/link").Target != "/etc" {
		t.Error("the link was followed")
	}
	if b, err := tr.ReadFile("/d/f", 10); string(b) != "hello" || err != nil {
		t.Error(string(b), err)
	}
}

func TestFromDirOwners(t *testing.T) {
	tr, err := FromDir(someDir(t), DirOptions{KeepOwners: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := tr.Get("/d/f"); n.UID != uint32(os.Getuid()) {
		t.Errorf("owner %d, want %d", n.UID, os.Getuid())
	}
}

// Contents are opened late; by then the file may be another.
func TestFromDirSeesChanges(t *testing.T) {
	dir := someDir(t)
	name := filepath.Join(dir, "d/f")
	for what, change := range map[string]func() error{
		"grown":    func() error { return os.WriteFile(name, []byte("hello, world"), 0o600) },
		"touched":  func() error { return os.Chtimes(name, time.Time{}, time.Unix(1, 0)) },
		"replaced": func() error { os.WriteFile(name+"2", []byte("hello"), 0o600); return os.Rename(name+"2", name) },
		"linked out": func() error {
			os.Remove(name)
			return os.Symlink("/etc/passwd", name)
		},
		"gone": func() error { return os.Remove(name) },
	} {
		if what != "grown" {
			os.Remove(name)
			os.WriteFile(name, []byte("hello"), 0o600)
		}
		tr, err := FromDir(dir, DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if b, err := tr.ReadFile("/d/f", 1<<20); err == nil {
			t.Errorf("%s: read %q", what, b)
		}
	}
}

func TestFromDirErrors(t *testing.T) {
	if _, err := FromDir(filepath.Join(t.TempDir(), "no"), DirOptions{}); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := FromDir(someDir(t), DirOptions{Limits: Limits{Entries: 2}}); err == nil || !strings.Contains(err.Error(), "limit of 2 entries") {
		t.Error(err)
	}
}

// A terabyte with two islands of data is neither read nor hashed as one.
func TestFromDirHoles(t *testing.T) {
	const size = 1 << 40
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tooltest.Missing(t, "the file system has no files of a terabyte: %v", err)
	}
	for _, at := range []int64{100 << 20, 1 << 39} {
		if _, err := f.WriteAt([]byte("island"), at); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := FromDir(dir, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, ok := tr.Get("/f").Content.(Sparse)
	if !ok {
		t.Fatal("a file with holes is not Sparse")
	}
	data, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenAt()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var total int64
	var found int
	for _, e := range data {
		total += e.Len
		b := make([]byte, e.Len)
		if _, err := r.ReadAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
		found += strings.Count(string(b), "island")
	}
	if total > 1<<20 || found != 2 {
		t.Errorf("%d bytes of data with %d islands in %v", total, found, data)
	}
	want := New()
	want.Put("/f", File(tr.Get("/f").Mode, islands{size, []int64{100 << 20, 1 << 39}}))
	want.Get("/f").ModTime = tr.Get("/f").ModTime
	copyAttributes(want.Root(), tr.Root())
	a, err := Digest(tr)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Digest(want); a != b || err != nil {
		t.Errorf("%x is not %x, or: %v", a, b, err)
	}
}

// islands is the word "island" at some places.
type islands struct {
	size int64
	at   []int64
}

func (c islands) Size() int64                  { return c.size }
func (c islands) Open() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
func (c islands) OpenAt() (ReaderAtCloser, error) {
	return islandReader{c}, nil
}
func (c islands) Data() (list []Extent, err error) {
	for _, at := range c.at {
		list = append(list, Extent{at, 6})
	}
	return list, nil
}

type islandReader struct{ islands }

func (r islandReader) Close() error { return nil }
func (r islandReader) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for _, at := range r.at {
		if at >= off && at < off+int64(len(p)) {
			copy(p[at-off:], "island")
		}
	}
	return len(p), nil
}

// Kernels without openat2(2) have the same tree.
func TestFromDirWithoutOpenat2(t *testing.T) {
	dir := someDir(t)
	h := &hostDir{dir: dir}
	fd, err := h.open("d", syscall.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(fd)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "d/f"), &st); err != nil {
		t.Fatal(err)
	}
	if b, err := readAll(File(0o644, h.content("d/f", &st))); string(b) != "hello" || err != nil {
		t.Error(string(b), err)
	}
	for _, name := range []string{"link/passwd", "../x", "d/none"} {
		if fd, err := h.open(name, 0); err == nil {
			t.Errorf("%s was opened", name)
			syscall.Close(fd)
		}
	}
}

// A link that takes a folder's place while the tree is used leads nowhere, and
// a FIFO that takes a file's place blocks nobody.
func TestFromDirSeesSwaps(t *testing.T) {
	for what, swap := range map[string]func(dir string) error{
		"folder": func(dir string) error {
			elsewhere := t.TempDir()
			return errors.Join(os.Rename(filepath.Join(dir, "d"), filepath.Join(elsewhere, "d")),
				os.Symlink(filepath.Join(elsewhere, "d"), filepath.Join(dir, "d")))
		},
		"fifo": func(dir string) error {
			name := filepath.Join(dir, "d/f")
			return errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600))
		},
	} {
		dir := someDir(t)
		os.Remove(filepath.Join(dir, "hard")) // the file is read by the name that was seen first
		tr, err := FromDir(dir, DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := swap(dir); err != nil {
			t.Fatal(err)
		}
		if b, err := tr.ReadFile("/d/f", 10); err == nil {
			t.Errorf("%s: read %q", what, b)
		}
	}
}

// The folder's own name may lead through links, and may be relative.
func TestFromDirByLink(t *testing.T) {
	dir := someDir(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, ".", "d/.."} {
		tr, err := FromDir(name, DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := tr.ReadFile("/d/f", 10); string(b) != "hello" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}
