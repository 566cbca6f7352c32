package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"

	"wolffia/internal/tree"
)

var five = []string{"busybox-static", "dropbear-bin", "strace", "gdbserver", "tcpdump"}

// TestArchive resolves, fetches and unpacks from the real archive, and compares
// the tree with what dpkg-deb makes of the same files.
func TestArchive(t *testing.T) {
	tooltest.Require(t, "dpkg-deb", "dpkg")
	for _, tc := range []struct{ release, arch, linker string }{
		{"bookworm", "amd64", "/usr/lib64/ld-linux-x86-64.so.2"},
		{"bookworm", "arm64", "/usr/lib/ld-linux-aarch64.so.1"},
		{"trixie", "amd64", "/usr/lib64/ld-linux-x86-64.so.2"},
		{"trixie", "arm64", "/usr/lib/ld-linux-aarch64.so.1"},
		{"trixie", "riscv64", "/usr/lib/ld-linux-riscv64-lp64d.so.1"},
	} {
		t.Run(tc.release+"-"+tc.arch, func(t *testing.T) {
			c := New(Options{Store: shared(t), Mirror: hostMirror(t), Getenv: os.Getenv})
			ctx := t.Context()
			req := Request{Release: tc.release, Arch: tc.arch, Packages: five}
			if raced {
				req.Packages = []string{"strace", "tcpdump"}
			}
			lock, err := c.Resolve(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Fetch(ctx, lock); err != nil {
				t.Fatal(err)
			}
			u, err := c.Unpack(ctx, lock, UnpackOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			if len(u.Clashes) > 0 {
				t.Error(u.Clashes)
			}
			if _, _, err := u.Tree.Resolve(strings.TrimPrefix(tc.linker, "/usr")); err != nil {
				t.Error(err)
			}
			if n := u.Tree.Get(tc.linker); n == nil {
				t.Errorf("%s is missing", tc.linker)
			}
			compareWithDpkg(t, c, lock, u.Tree)
			checkDatabase(t, lock, u)
			checkOffline(t, c, lock)
		})
	}
}

// compareWithDpkg extracts the same packages with dpkg-deb, behind the same links.
func compareWithDpkg(t *testing.T, c *Client, lock *Lock, got *tree.Tree) {
	t.Helper()
	dir := t.TempDir()
	for _, link := range append(slices.Clone(usrLinks), libDirs...) {
		if n := got.Get("/" + link); n != nil {
			os.MkdirAll(filepath.Join(dir, "usr", link), 0o755)
			if err := os.Symlink(n.Target, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range lock.Packages {
		deb, ok := c.store.Get(kindDeb, lock.Packages[i].Key())
		if !ok {
			t.Fatalf("%s is not there", &lock.Packages[i])
		}
		// As dpkg-deb -x, which in some versions would replace the links.
		tar := exec.Command("tar", "-x", "-p", "--keep-directory-symlink", "--numeric-owner", "-C", dir)
		fsys := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
		var err error
		if tar.Stdin, err = fsys.StdoutPipe(); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Start(); err != nil {
			t.Fatal(err)
		}
		if out, err := tar.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := fsys.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	want, err := tree.FromDir(dir, tree.DirOptions{KeepOwners: true})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	want.Walk(func(name string, w *tree.Node) error {
		names[name] = true
		if g := got.Get(name); g == nil {
			t.Errorf("%s is missing", name)
		} else if why := differ(g, w); why != "" {
			t.Errorf("%s: %s", name, why)
		}
		return nil
	})
	got.Walk(func(name string, _ *tree.Node) error {
		if !names[name] && !strings.HasPrefix(name, dpkgDir) && !strings.HasPrefix(dpkgDir, name) {
			t.Errorf("%s is too much", name)
		}
		return nil
	})
}

func differ(g, w *tree.Node) string {
	switch {
	case g.Mode != w.Mode && g.Type() != tree.TypeSymlink:
		return fmt.Sprintf("mode %o, not %o", g.Mode, w.Mode)
	case g.Type() != w.Type():
		return "another type"
	case g.Target != w.Target:
		return fmt.Sprintf("target %q, not %q", g.Target, w.Target)
	case g.Size() != w.Size():
		return fmt.Sprintf("size %d, not %d", g.Size(), w.Size())
	case os.Getuid() == 0 && (g.UID != w.UID || g.GID != w.GID):
		return fmt.Sprintf("owner %d:%d, not %d:%d", g.UID, g.GID, w.UID, w.GID)
	case g.Type() == tree.TypeRegular && !g.ModTime.Equal(w.ModTime):
		return fmt.Sprintf("time %v, not %v", g.ModTime, w.ModTime)
	}
	if same, err := sameFile(g, w); err != nil || !same && !g.IsDir() {
		return fmt.Sprintf("other content (%v)", err)
	}
	return ""
}

// checkDatabase lets dpkg itself read the database that was written.
func checkDatabase(t *testing.T, lock *Lock, u *Unpacked) {
	t.Helper()
	tooltest.Require(t, "dpkg-query", "dpkg")
	dir := t.TempDir()
	if err := os.CopyFS(dir, subFS{u.Tree.FS(), strings.TrimPrefix(dpkgDir, "/")}); err != nil {
		t.Fatal(err)
	}
	query := func(args ...string) []string {
		out, err := exec.Command("dpkg-query", append([]string{"--admindir=" + dir}, args...)...).Output()
		if err != nil {
			t.Fatalf("dpkg-query %v: %v", args, err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	var want []string
	for i := range lock.Packages {
		p := &lock.Packages[i]
		want = append(want, fmt.Sprintf("%s %s %s installed", p.Name, p.Arch, p.Version))
	}
	slices.Sort(want)
	got := query("-W", "-f", "${Package} ${Architecture} ${Version} ${db:Status-Status}\n")
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("dpkg sees %q, not %q", got, want)
	}
	if list := query("-L", "strace"); !slices.Contains(list, "/usr/bin/strace") || list[0] != "/." {
		t.Errorf("files of strace: %q", list)
	}
	if owner := u.Owner("/usr/bin/strace"); !strings.HasPrefix(owner, "strace:"+lock.Request.Arch+"=") {
		t.Errorf("owner %q", owner)
	}
	if !slices.ContainsFunc(u.Scripts, func(s Script) bool {
		return strings.HasPrefix(s.Package, "tcpdump:") && s.Name == "postinst"
	}) {
		t.Errorf("tcpdump's postinst is not reported: %v", u.Scripts)
	}
}

// subFS is fs.Sub without what does not matter to CopyFS.
type subFS struct {
	fs.FS
	dir string
}

func (s subFS) Open(name string) (fs.File, error) { return s.FS.Open(path.Join(s.dir, name)) }

// checkOffline does it all once more without a network and without a mirror.
func checkOffline(t *testing.T, c *Client, lock *Lock) {
	t.Helper()
	o := c.o
	o.Offline = true
	again, err := New(o).Resolve(t.Context(), lock.Request)
	if err != nil || again.Digest() != lock.Digest() {
		t.Errorf("offline: %v", err)
	}
	u, err := New(Options{Store: c.store, Offline: true}).Unpack(t.Context(), lock, UnpackOptions{NoDatabase: true})
	if err != nil {
		t.Fatalf("offline, without a mirror: %v", err)
	}
	u.Close()
}

// TestUnpackTwice wants the same tree from the same lock, from an empty store and
// from a full one.
func TestUnpackTwice(t *testing.T) {
	st := shared(t)
	c := New(Options{Store: st, Mirror: hostMirror(t), Getenv: os.Getenv})
	lock, err := c.Resolve(t.Context(), Request{Release: "bookworm", Arch: "amd64", Packages: []string{"strace", "passwd"}})
	if err != nil {
		t.Fatal(err)
	}
	digest := func() [32]byte {
		u, err := c.Unpack(t.Context(), lock, UnpackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		sum, err := tree.Digest(u.Tree)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	first := digest()
	for i := range lock.Packages {
		st.Remove(kindUnpacked, unpackedKey(&lock.Packages[i]))
	}
	if digest() != first {
		t.Error("the second tree differs")
	}
}

// TestDamagedStore mends what it finds damaged.
func TestDamagedStore(t *testing.T) {
	st := openStore(t, t.TempDir())
	c := New(Options{Store: st, Mirror: hostMirror(t), Getenv: os.Getenv})
	req := Request{Release: "bookworm", Arch: "amd64", Packages: []string{"busybox-static"}}
	lock, err := c.Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.Unpack(t.Context(), lock, UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u.Close()
	// As a power failure leaves them: there, and cut off or empty.
	cut := func(kind, key string, size int64) {
		t.Helper()
		p, ok := st.Get(kind, key)
		if !ok {
			t.Fatalf("%s %s is not there", kind, key)
		}
		if err := os.Truncate(p, size); err != nil {
			t.Fatal(err)
		}
	}
	pin := &lock.Packages[0]
	cut(kindUnpacked, unpackedKey(pin), 1000)
	cut(kindDeb, pin.Key(), 0)
	entries, err := st.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Kind {
		case kindIndex:
			cut(e.Kind, e.Key, e.Size/2)
		case kindRelease:
			cut(e.Kind, e.Key, 100)
		}
	}
	again, err := c.Resolve(t.Context(), req)
	if err != nil || again.Digest() != lock.Digest() {
		t.Fatalf("resolve: %v", err)
	}
	u, err = c.Unpack(t.Context(), lock, UnpackOptions{})
	if err != nil {
		t.Fatalf("unpack: %v", err)
	}
	u.Close()
}

func TestBadRequests(t *testing.T) {
	c := New(Options{Store: shared(t), Mirror: hostMirror(t), Getenv: os.Getenv})
	for _, tc := range []struct {
		req  Request
		want string
	}{
		{Request{Release: "trixie", Arch: "amd64", Packages: []string{"stracee"}}, "strace"},
		{Request{Release: "trixie", Arch: "amd64", Packages: []string{"strace=0.1-1"}}, "strace"},
		{Request{Release: "bookworm", Arch: "riscv64", Packages: five}, "amd64"},
		{Request{Release: "trixie", Arch: "amd46", Packages: five}, "did you mean amd64"},
		{Request{Release: "../trixie", Arch: "amd64"}, "not a name such as"},
		{Request{Release: "trixie", Arch: "a b"}, "not a name such as"},
		{Request{Release: "trixie", Arch: "amd64", Packages: []string{"a b"}}, "is not written"},
		{Request{Release: "trixie", Arch: "amd64", Packages: []string{"_"}}, "_"},
	} {
		_, err := c.Resolve(t.Context(), tc.req)
		if !errors.As(err, new(*RequestError)) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc.req, err)
		}
	}
	_, err := c.Resolve(t.Context(), Request{Release: "trixy", Arch: "amd64"})
	var status *StatusError
	if !errors.As(err, &status) || !strings.Contains(err.Error(), `"trixy"`) {
		t.Errorf("a release that is not there: %v", err)
	}
}

// TestOtherSuites: unstable is signed by other keys, and past its Valid-Until on
// mirrors that lag behind.
func TestOtherSuites(t *testing.T) {
	for _, release := range []string{"sid", "stable", "trixie-backports"} {
		warned := &log{}
		c := New(Options{Store: shared(t), Mirror: hostMirror(t), Getenv: os.Getenv, AllowExpired: true, Events: warned})
		lock, err := c.Resolve(t.Context(), Request{Release: release, Arch: "amd64", Packages: []string{"busybox-static"}})
		var absent *StatusError
		if release == "trixie-backports" && errors.As(err, &absent) {
			continue // not every mirror has it
		}
		if err != nil || len(lock.Packages) == 0 {
			t.Errorf("%s: %v", release, err)
		}
		t.Log(release, warned.warnings())
	}
}

func TestSplitUsr(t *testing.T) {
	c := New(Options{Store: shared(t), Mirror: hostMirror(t), Getenv: os.Getenv})
	lock, err := c.Resolve(t.Context(), Request{Release: "bookworm", Arch: "amd64", Packages: []string{"libc6"}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.Unpack(t.Context(), lock, UnpackOptions{SplitUsr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if n := u.Tree.Get("/lib"); n == nil || !n.IsDir() {
		t.Error("/lib is no folder")
	}
}

func TestForeignArchitecture(t *testing.T) {
	c := New(Options{Store: shared(t), Mirror: hostMirror(t), Getenv: os.Getenv})
	lock, err := c.Resolve(t.Context(), Request{Release: "trixie", Arch: "amd64", Packages: []string{"libc6", "libc6:arm64"}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.Unpack(t.Context(), lock, UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, name := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/var/lib/dpkg/info/libc6:arm64.list"} {
		if _, _, err := u.Tree.Resolve(name); err != nil {
			t.Error(err)
		}
	}
	arch, err := u.Tree.ReadFile("/var/lib/dpkg/arch", 100)
	if err != nil || string(arch) != "amd64\narm64\n" || len(u.Clashes) > 0 {
		t.Errorf("%q, %v, %v", arch, err, u.Clashes)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := New(Options{Store: openStore(t, t.TempDir()), Mirror: hostMirror(t), Getenv: os.Getenv})
	if _, err := c.Resolve(ctx, Request{Release: "trixie", Arch: "amd64", Packages: five}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDigestOfBytes(t *testing.T) {
	if ok, err := sameBytes(bytes.NewReader(make([]byte, 100_000)), bytes.NewReader(make([]byte, 100_000))); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, _ := sameBytes(bytes.NewReader(make([]byte, 100_000)), bytes.NewReader(make([]byte, 99_999))); ok {
		t.Error("different lengths are the same")
	}
}
