package debian

import (
	"context"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian/control"
	"wolffia/internal/debian/deb"
	"wolffia/internal/tree"
)

// madeUp is a package of the files in lines: "/a content", "/d/" or "/l -> target".
func madeUp(t *testing.T, name, fields string, files ...string) *pkg {
	t.Helper()
	p := &pkg{pin: &Pin{Name: name, Arch: "amd64"}, tree: tree.New()}
	p.pin.Version, _ = control.ParseVersion("1.0")
	paragraph := &control.Paragraph{Fields: []control.Field{{Name: "Package", Value: name}}}
	for line := range strings.Lines(fields) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
		paragraph.Set(k, v)
	}
	p.control = &deb.Control{Paragraph: paragraph, Files: map[string][]byte{}}
	for _, line := range files {
		name, content, _ := strings.Cut(line, " ")
		n := tree.File(0o644, tree.Bytes(content))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			n = tree.Symlink(target)
		}
		n.ModTime = time.Unix(1000, 0)
		err := p.tree.MkdirAll(path.Dir(name), 0o755)
		if err == nil && strings.HasSuffix(name, "/") {
			err = p.tree.MkdirAll(name, 0o700)
		} else if err == nil {
			err = p.tree.Put(name, n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p.tree.Walk(func(_ string, n *tree.Node) error {
		n.ModTime = time.Unix(1000, 0)
		return nil
	})
	return p
}

func TestMerge(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pkgs  []*pkg
		files map[string]string // content, or "-> target"
		clash []string
		err   string
	}{
		{name: "merged /usr", pkgs: []*pkg{madeUp(t, "a", "", "/bin/x 1", "/lib/y 2", "/lib64/ld 3", "/usr/bin/z 4")},
			files: map[string]string{"/usr/bin/x": "1", "/usr/lib/y": "2", "/usr/lib64/ld": "3", "/usr/bin/z": "4", "/bin": "-> usr/bin", "/lib64": "-> usr/lib64"}},
		{name: "the links themselves in a package", pkgs: []*pkg{madeUp(t, "a", "", "/bin/x 1"), madeUp(t, "base-files", "", "/bin -> usr/bin", "/lib -> usr/lib")},
			files: map[string]string{"/usr/bin/x": "1", "/bin": "-> usr/bin"}},
		{name: "other links in a package", pkgs: []*pkg{madeUp(t, "a", "", "/bin -> elsewhere")}, err: "merged /usr wants"},
		{name: "one file in two packages", pkgs: []*pkg{madeUp(t, "a", "", "/etc/x 1"), madeUp(t, "b", "", "/etc/x 2")},
			files: map[string]string{"/etc/x": "1"}, clash: []string{"/etc/x a b"}},
		{name: "under two names of one place", pkgs: []*pkg{madeUp(t, "a", "", "/lib/x 1"), madeUp(t, "b", "", "/usr/lib/x 2")},
			files: map[string]string{"/usr/lib/x": "1"}, clash: []string{"/usr/lib/x a b"}},
		{name: "the same file in two packages", pkgs: []*pkg{madeUp(t, "a", "", "/etc/x 1"), madeUp(t, "b", "", "/etc/x 1")},
			files: map[string]string{"/etc/x": "1"}},
		{name: "the later replaces", pkgs: []*pkg{madeUp(t, "a", "", "/etc/x 1"), madeUp(t, "b", "Replaces: z, a (<< 2)", "/etc/x 2")},
			files: map[string]string{"/etc/x": "2"}},
		{name: "the earlier replaces", pkgs: []*pkg{madeUp(t, "a", "Replaces: b", "/etc/x 1"), madeUp(t, "b", "", "/etc/x 2")},
			files: map[string]string{"/etc/x": "1"}},
		{name: "replaces another version", pkgs: []*pkg{madeUp(t, "a", "", "/etc/x 1"), madeUp(t, "b", "Replaces: a (<< 1)", "/etc/x 2")},
			files: map[string]string{"/etc/x": "1"}, clash: []string{"/etc/x a b"}},
		{name: "a link and the folder it leads to", pkgs: []*pkg{madeUp(t, "a", "", "/usr/doc/a/f 1", "/usr/doc/b -> a"), madeUp(t, "b", "", "/usr/doc/b/", "/usr/doc/b/g 2")},
			files: map[string]string{"/usr/doc/a/g": "2", "/usr/doc/b": "-> a"}},
		{name: "a folder and a link to a folder", pkgs: []*pkg{madeUp(t, "b", "", "/usr/doc/a/", "/usr/doc/b/g 2"), madeUp(t, "a", "", "/usr/doc/b -> a")},
			files: map[string]string{"/usr/doc/b/g": "2"}},
		{name: "a folder over a file", pkgs: []*pkg{madeUp(t, "a", "", "/etc/x 1"), madeUp(t, "b", "", "/etc/x/")}, err: "package a:amd64=1.0 has something else there"},
		{name: "a file over a folder", pkgs: []*pkg{madeUp(t, "a", "", "/etc/x/"), madeUp(t, "b", "", "/etc/x 1")}, err: "/etc/x is a folder"},
		{name: "a link out of the tree", pkgs: []*pkg{madeUp(t, "a", "", "/etc/x -> ../../../../tmp"), madeUp(t, "b", "", "/etc/x/", "/etc/x/y 1", "/tmp/")},
			err: "something else there"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := &Unpacked{Tree: tree.New(), owners: map[string]*pkg{}, pkgs: tc.pkgs}
			err := u.merge(&Lock{}, UnpackOptions{})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range tc.files {
				n := u.Tree.Get(name)
				if n == nil {
					t.Errorf("%s is missing", name)
					continue
				}
				got := "-> " + n.Target
				if n.Type() != tree.TypeSymlink {
					b, err := u.Tree.ReadFile(name, 100)
					if err != nil {
						t.Fatal(err)
					}
					got = string(b)
				}
				if got != want {
					t.Errorf("%s is %q, not %q", name, got, want)
				}
			}
			var clashes []string
			for _, c := range u.Clashes {
				first, _, _ := strings.Cut(c.First, ":")
				second, _, _ := strings.Cut(c.Second, ":")
				clashes = append(clashes, c.Path+" "+first+" "+second)
			}
			if !slices.Equal(clashes, tc.clash) {
				t.Errorf("clashes %q, want %q", clashes, tc.clash)
			}
		})
	}
}

func TestConffilesInStatus(t *testing.T) {
	p := madeUp(t, "a", "Version: 1.0\nArchitecture: amd64\nMulti-Arch: same", "/etc/x hello")
	p.control.Files["conffiles"] = []byte("/etc/x\nremove-on-upgrade /etc/old\n/etc/absent\n")
	got, err := p.status()
	if err != nil {
		t.Fatal(err)
	}
	want := "Package: a\nStatus: install ok installed\nVersion: 1.0\nArchitecture: amd64\nMulti-Arch: same\n" +
		"Conffiles:\n /etc/x 5d41402abc4b2a76b9719d911017c592\n /etc/absent newconffile\n"
	if got != want || p.infoName() != "a:amd64" {
		t.Errorf("%s\n%q", p.infoName(), got)
	}
}

// benchmarkLock is the set that notes on other tools' speed are about.
func benchmarkLock(b *testing.B) (*Client, *Lock) {
	b.Helper()
	c := New(Options{Store: shared(b), Mirror: hostMirror(b), Getenv: os.Getenv})
	lock, err := c.Resolve(b.Context(), Request{Release: "bookworm", Arch: "amd64", Packages: five})
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Fetch(b.Context(), lock); err != nil {
		b.Fatal(err)
	}
	return c, lock
}

func BenchmarkResolve(b *testing.B) {
	c, lock := benchmarkLock(b)
	for b.Loop() {
		if _, err := New(c.o).Resolve(b.Context(), lock.Request); err != nil {
			b.Fatal(err)
		}
	}
}

func unpackAll(b *testing.B, c *Client, lock *Lock) {
	u, err := c.Unpack(context.Background(), lock, UnpackOptions{})
	if err != nil {
		b.Fatal(err)
	}
	u.Close()
}

func BenchmarkUnpackFirst(b *testing.B) {
	c, lock := benchmarkLock(b)
	for b.Loop() {
		b.StopTimer()
		for i := range lock.Packages {
			c.store.Remove(kindUnpacked, unpackedKey(&lock.Packages[i]))
			if !c.haveDeb(&lock.Packages[i]) {
				if err := c.Fetch(b.Context(), lock); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.StartTimer()
		unpackAll(b, c, lock)
	}
}

func BenchmarkUnpackAgain(b *testing.B) {
	c, lock := benchmarkLock(b)
	for b.Loop() {
		unpackAll(b, c, lock)
	}
}
