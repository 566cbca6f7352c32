package cpio

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/image/compress"
	"wolffia/internal/tooltest"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// run runs a tool in dir with the given input and gives its standard output.
func run(t *testing.T, dir string, in []byte, argv ...string) []byte {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v\n%s", argv, err, stderr.Bytes())
	}
	return out
}

// sample has one of everything, with all attributes told apart.
func sample() *tree.Tree {
	t := tree.New()
	when := time.Unix(1_000_000_000, 0)
	put := func(name string, n *tree.Node) {
		n.UID, n.GID, n.ModTime = 1000, 2000, when
		if err := t.Put(name, n); err != nil {
			panic(err)
		}
	}
	t.Root().ModTime = when
	put("/dev", tree.Dir(0o755))
	put("/dev/console", tree.Device(tree.TypeChar, 0o600, 5, 1))
	put("/dev/sda300", tree.Device(tree.TypeBlock, 0o660, 259, 300))
	put("/etc", tree.Dir(0o1777))
	put("/etc/motd", tree.File(0o4640, tree.Bytes("hello\n")))
	put("/etc/empty", tree.File(0o604, nil))
	put("/etc/link", tree.Symlink("../etc/motd"))
	put("/etc/pipe", &tree.Node{Mode: tree.TypeFIFO | 0o620})
	put("/"+trailerName, tree.File(0o600, tree.Bytes("not the end")))
	if err := t.Link("/etc/motd", "/hard"); err != nil {
		panic(err)
	}
	return t
}

func TestGNUList(t *testing.T) {
	cpio := tooltest.Require(t, "cpio", "cpio")
	got := string(run(t, "", write(t, sample(), Options{}), cpio, "-itvn", "--quiet"))
	want := `
drwxr-xr-x   2 0        0               0 Sep  9  2001 .
-rw-------   1 1000     2000           11 Sep  9  2001 ./TRAILER!!!
drwxr-xr-x   2 1000     2000            0 Sep  9  2001 dev
crw-------   1 1000     2000       5,   1 Sep  9  2001 dev/console
brw-rw----   1 1000     2000     259, 300 Sep  9  2001 dev/sda300
drwxrwxrwt   2 1000     2000            0 Sep  9  2001 etc
-rw----r--   1 1000     2000            0 Sep  9  2001 etc/empty
lrwxrwxrwx   1 1000     2000           11 Sep  9  2001 etc/link -> ../etc/motd
-rwSr-----   2 1000     2000            0 Sep  9  2001 etc/motd
prw--w----   1 1000     2000            0 Sep  9  2001 etc/pipe
-rwSr-----   2 1000     2000            6 Sep  9  2001 hard
`
	if got != want[1:] {
		t.Errorf("got\n%swant%s", got, want)
	}
}

// unprivileged makes t into what an ordinary user can unpack and compare: no
// device nodes, access for the owner, no owners, times of files alone.
func unprivileged(t *testing.T, from *tree.Tree) *tree.Tree {
	t.Helper()
	out := tree.New()
	seen := map[*tree.Node]*tree.Node{}
	err := from.Walk(func(name string, n *tree.Node) error {
		c := seen[n]
		if c == nil {
			switch n.Type() {
			case tree.TypeBlock, tree.TypeChar, tree.TypeSocket:
				return nil
			case tree.TypeDir:
				c = tree.Dir(n.Mode | 0o700)
			default:
				copied := *n
				c = &copied
				c.Mode |= 0o600
			}
			c.Mode &^= 0o7000 // file systems and nosuid mounts differ
			c.ModTime = n.ModTime
			if c.Type() == tree.TypeSymlink || c.IsDir() { // GNU cpio sets neither, or too early
				c.ModTime = time.Time{}
			}
			c.UID, c.GID, c.Xattrs = 0, 0, nil
			seen[n] = c
		}
		return out.Put(name, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fromDir(t *testing.T, dir string, o tree.DirOptions) *tree.Tree {
	t.Helper()
	tr, err := tree.FromDir(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// truncate drops what is finer than a second.
func truncate(tr *tree.Tree) *tree.Tree {
	tr.Walk(func(_ string, n *tree.Node) error { n.ModTime = n.ModTime.Truncate(time.Second); return nil })
	return tr
}

var unpackers = map[string]struct {
	pkg  string
	args []string
}{
	"cpio":    {"cpio", []string{"-idm", "--quiet", "--no-preserve-owner"}},
	"bsdcpio": {"libarchive-tools", []string{"-idm", "--quiet"}},
}

func TestToolsUnpack(t *testing.T) {
	for name, tool := range unpackers {
		t.Run(name, func(t *testing.T) {
			path := tooltest.Require(t, name, tool.pkg)
			for seed := range uint64(5) {
				want := unprivileged(t, treetest.Random(seed, treetest.Options{Entries: 100}))
				dir := t.TempDir()
				run(t, dir, write(t, want, Options{}), append([]string{path}, tool.args...)...)
				treetest.Equal(t, unprivileged(t, fromDir(t, dir, tree.DirOptions{})), want)
			}
		})
	}
}

// unpack makes tr's files below a new directory, without any archive.
func unpack(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	dir := t.TempDir()
	first := map[*tree.Node]string{}
	times := []func() error{}
	err := tr.Walk(func(name string, n *tree.Node) error {
		at := filepath.Join(dir, name)
		if old := first[n]; old != "" {
			return os.Link(old, at)
		}
		if n.Type() != tree.TypeDir {
			first[n] = at
		}
		times = append(times, func() error { return os.Chtimes(at, n.ModTime, n.ModTime) })
		mode := os.FileMode(n.Mode & 0o777)
		switch n.Type() {
		case tree.TypeDir:
			if name != "/" {
				if err := os.Mkdir(at, 0o700); err != nil {
					return err
				}
			}
		case tree.TypeSymlink:
			times = times[:len(times)-1]
			return os.Symlink(n.Target, at)
		case tree.TypeFIFO:
			if err := syscall.Mkfifo(at, 0o600); err != nil {
				return err
			}
		default:
			b, err := tr.ReadFile(name, 1<<20)
			if err != nil {
				return err
			}
			if err := os.WriteFile(at, b, 0o600); err != nil {
				return err
			}
		}
		return os.Chmod(at, mode)
	})
	for i := len(times) - 1; i >= 0 && err == nil; i-- { // children before parents
		err = times[i]()
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestToolsPack(t *testing.T) {
	for _, c := range []struct{ tool, pkg, format string }{
		{"cpio", "cpio", "newc"}, {"cpio", "cpio", "crc"}, {"bsdcpio", "libarchive-tools", "newc"},
	} {
		t.Run(c.tool+" "+c.format, func(t *testing.T) {
			path := tooltest.Require(t, c.tool, c.pkg)
			for seed := range uint64(5) {
				dir := unpack(t, unprivileged(t, treetest.Random(seed, treetest.Options{Entries: 100})))
				want := truncate(fromDir(t, dir, tree.DirOptions{KeepOwners: true}))
				var list strings.Builder
				want.Walk(func(name string, _ *tree.Node) error { fmt.Fprintf(&list, ".%s\x00", name); return nil })
				got := run(t, dir, []byte(list.String()), path, "-o", "-0", "--quiet", "-H", c.format)
				treetest.Equal(t, read(t, got, ReadOptions{}), want)
			}
		})
	}
}

// The reference decompressors take what we compress, and we what they do.
func TestCompressors(t *testing.T) {
	want := big()
	plain := write(t, want, Options{})
	for c, args := range map[compress.Kind][2][]string{
		compress.Gzip: {{"gzip", "-dc"}, {"gzip", "-9c"}},
		compress.Zstd: {{"zstd", "-dcq"}, {"zstd", "-qc", "--ultra", "-20", "--long=27"}},
	} {
		tooltest.Require(t, string(c), string(c))
		if got := run(t, "", write(t, want, Options{Compression: c}), args[0]...); !bytes.Equal(got, plain) {
			t.Errorf("%s gives other bytes back", c)
		}
		treetest.Equal(t, read(t, run(t, "", plain, args[1]...), ReadOptions{}), want)
	}
}
