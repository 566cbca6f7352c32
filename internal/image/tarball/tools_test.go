package tarball

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"wolffia/internal/tooltest"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// run runs a tool in dir with the given input and gives its standard output.
func run(t *testing.T, dir string, in []byte, argv ...string) []byte {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
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
	motd := tree.File(0o4640, tree.Bytes("hello\n"))
	motd.Xattrs = map[string][]byte{"user.a=b%": []byte("value"), "security.capability": {1, 0, 0, 2}}
	put("/etc/motd", motd)
	put("/etc/empty", tree.File(0o604, nil))
	put("/etc/link", tree.Symlink("../etc/motd"))
	put("/etc/pipe", &tree.Node{Mode: tree.TypeFIFO | 0o620})
	if err := t.Link("/etc/motd", "/hard"); err != nil {
		panic(err)
	}
	return t
}

func TestGNUList(t *testing.T) {
	tar := tooltest.Require(t, "tar", "tar")
	got := string(run(t, "", write(t, sample(), WriteOptions{}), tar, "--numeric-owner", "--full-time", "-tvf", "-"))
	want := `
drwxr-xr-x 0/0               0 2001-09-09 01:46:40 ./
drwxr-xr-x 1000/2000         0 2001-09-09 01:46:40 dev/
crw------- 1000/2000       5,1 2001-09-09 01:46:40 dev/console
brw-rw---- 1000/2000   259,300 2001-09-09 01:46:40 dev/sda300
drwxrwxrwt 1000/2000         0 2001-09-09 01:46:40 etc/
-rw----r-- 1000/2000         0 2001-09-09 01:46:40 etc/empty
lrwxrwxrwx 1000/2000         0 2001-09-09 01:46:40 etc/link -> ../etc/motd
-rwSr----- 1000/2000         6 2001-09-09 01:46:40 etc/motd
prw--w---- 1000/2000         0 2001-09-09 01:46:40 etc/pipe
hrwSr----- 1000/2000         0 2001-09-09 01:46:40 hard link to etc/motd
`
	if got != want[1:] {
		t.Errorf("got\n%swant%s", got, want)
	}
	got = string(run(t, "", write(t, sample(), WriteOptions{}), tar, "--xattrs", "--xattrs-include=*", "-tvvf", "-", "etc/motd"))
	if !strings.Contains(got, "5 user.a=b%") || !strings.Contains(got, "4 security.capability") {
		t.Errorf("extended attributes:\n%s", got)
	}
}

// unprivileged makes a copy that an ordinary user can unpack and compare: no
// device nodes, access for the owner, no owners, no times of links.
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
			c.ModTime = n.ModTime.Truncate(time.Second)
			if c.Type() == tree.TypeSymlink {
				c.ModTime = time.Time{}
			}
			c.UID, c.GID, c.Xattrs = 0, 0, nil
			if c.Type() != tree.TypeFIFO { // GNU tar packs each name of one by itself
				seen[n] = c
			}
		}
		return out.Put(name, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fromDir(t *testing.T, dir string) *tree.Tree {
	t.Helper()
	tr, err := tree.FromDir(dir, tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return unprivileged(t, tr)
}

// Tools unpack what we write, and what they make of it again is read as the
// same, in every format that they have.
func TestToolsBothWays(t *testing.T) {
	for _, c := range []struct {
		tool, pkg, unpack string
		pack              []string
	}{
		{"tar", "tar", "--warning=no-timestamp -xpf -", []string{"--format=gnu", "--format=oldgnu", "--format=pax", "--format=gnu -z", "--format=gnu --zstd"}},
		{"bsdtar", "libarchive-tools", "-xpf -", []string{"--format=pax", "--format=gnutar", "--format=pax -z"}},
	} {
		t.Run(c.tool, func(t *testing.T) {
			path := tooltest.Require(t, c.tool, c.pkg)
			tooltest.Require(t, "zstd", "zstd")
			for seed := range uint64(3) {
				want := unprivileged(t, treetest.Random(seed, treetest.Options{Entries: 100}))
				unpack := func() string {
					dir := t.TempDir()
					run(t, dir, write(t, want, WriteOptions{}), append([]string{path}, strings.Fields(c.unpack)...)...)
					got := fromDir(t, dir)
					got.Root().ModTime = want.Root().ModTime // bsdtar leaves "./" alone
					treetest.Equal(t, got, want)
					return dir
				}
				dir := unpack()
				if c.tool == "bsdtar" { // warns of names that are not UTF-8 when it packs
					want.Walk(func(name string, n *tree.Node) error {
						if !utf8.ValidString(name) || !utf8.ValidString(n.Target) {
							want.Remove(name)
						}
						return nil
					})
					dir = unpack()
				}
				want.Root().ModTime = fromDir(t, dir).Root().ModTime
				for _, format := range c.pack {
					archive := run(t, dir, nil, append([]string{path}, strings.Fields(format+" -cf - .")...)...)
					treetest.Equal(t, unprivileged(t, read(t, archive, ReadOptions{})), want)
				}
			}
		})
	}
}

// The old formats hold short names only.
func TestOldFormats(t *testing.T) {
	tar := tooltest.Require(t, "tar", "tar")
	want := unprivileged(t, sample())
	dir := t.TempDir()
	run(t, dir, write(t, want, WriteOptions{}), tar, "--warning=no-timestamp", "-xpf", "-")
	for _, format := range []string{"ustar", "v7"} {
		if format == "v7" { // has no pipes
			want.Remove("/etc/pipe")
			if err := os.Remove(filepath.Join(dir, "etc/pipe")); err != nil {
				t.Fatal(err)
			}
			want.Get("/etc").ModTime = fromDir(t, dir).Get("/etc").ModTime
		}
		archive := run(t, dir, nil, tar, "--format="+format, "-cf", "-", ".")
		treetest.Equal(t, unprivileged(t, read(t, archive, ReadOptions{})), want)
	}
}

// All forms of GNU tar's sparse files.
func TestSparse(t *testing.T) {
	tar := tooltest.Require(t, "tar", "tar")
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make([]byte, 30<<20)
	for i := range 40 { // more pieces than the first header holds
		off := i * len(want) / 40
		copy(want[off:], "data")
		if _, err := f.WriteAt([]byte("data"), int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(int64(len(want))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "zafter"), []byte("after"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"--format=gnu", "--format=pax --sparse-version=0.0", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"} {
		archive := run(t, dir, nil, append([]string{tar, "-S", "-cf", "-"}, append(strings.Fields(format), "sparse", "zafter")...)...)
		if len(archive) > len(want)/2 {
			t.Logf("%s: the file system made no holes", format)
		}
		tr := read(t, archive, ReadOptions{})
		for name, want := range map[string][]byte{"sparse": want, "zafter": []byte("after")} {
			if got, err := tr.ReadFile(name, 1<<30); !bytes.Equal(got, want) {
				t.Errorf("%s: %s differs, %v", format, name, err)
			}
		}
	}
}
