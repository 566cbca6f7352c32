package tree

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func hostDir(t *testing.T) string {
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
	dir := hostDir(t)
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
	tr, err := FromDir(hostDir(t), DirOptions{KeepOwners: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := tr.Get("/d/f"); n.UID != uint32(os.Getuid()) {
		t.Errorf("owner %d, want %d", n.UID, os.Getuid())
	}
}

// Contents are opened late; by then the file may be another.
func TestFromDirSeesChanges(t *testing.T) {
	dir := hostDir(t)
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
	if _, err := FromDir(hostDir(t), DirOptions{Limits: Limits{Entries: 2}}); err == nil || !strings.Contains(err.Error(), "limit of 2 entries") {
		t.Error(err)
	}
}
