package machinetest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/image/cpio"
	"wolffia/internal/kernel"
	"wolffia/internal/store"
	"wolffia/internal/tree"
)

// Fixtures are what the suite needs to make machines.
type Fixtures struct {
	Arch      string     // Debian's name, such as "amd64"
	Memory    int64      // bytes in which the kernel boots, and few are left
	Kernel    string     // for machine.Spec.Kernel
	Busybox   *tree.Node // a static busybox for Arch
	NoCarrier bool       // the backend can't show a guest that its cable is out
	Modules   string     // a cpio archive with the modules that the backend wants loaded, in the order of its /etc/wolffia/modules; empty without
}

// Archive is a Debian client whose store outlives the test run, in
// WOLFFIA_TEST_CACHE or the user's cache folder.
func Archive(t testing.TB) (*debian.Client, *store.Store) {
	t.Helper()
	dir := os.Getenv("WOLFFIA_TEST_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			cache = os.TempDir()
		}
		dir = filepath.Join(cache, "wolffia-test")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	mirror, err := debian.FindMirror(debian.MirrorOptions{Env: os.Getenv("WOLFFIA_MIRROR"), AptDir: "/etc/apt"})
	return debian.New(debian.Options{
		Store: st, Mirror: mirror, MirrorErr: err, Getenv: os.Getenv, MaxAge: 7 * 24 * time.Hour,
		AllowExpired: true, // a frozen mirror is as good for tests
	}), st
}

// Unpack gives the tree of packages of a suite with what they depend on.
func Unpack(t testing.TB, c *debian.Client, req debian.Request) *tree.Tree {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	lock, err := c.Resolve(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u.Tree
}

// umlOnce makes the fixture once for all tests of a test binary.
var umlOnce struct {
	sync.Mutex
	done bool
	f    Fixtures
}

// UML makes the fixtures of the uml backend: Debian's newest user-mode-linux
// and busybox-static.
func UML(t testing.TB) Fixtures {
	t.Helper()
	umlOnce.Lock()
	defer umlOnce.Unlock()
	if umlOnce.done {
		return umlOnce.f
	}
	c, st := Archive(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	lock, err := c.Resolve(ctx, kernel.UMLRequest(kernel.UMLSuites(0)[0], "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	uml, err := kernel.InstallLockedUML(ctx, c, st, lock)
	if err != nil {
		t.Fatal(err)
	}
	pkg := Unpack(t, c, debian.Request{Release: "bookworm", Arch: "amd64", Packages: []string{"busybox-static"}})
	b, err := pkg.ReadFile("/bin/busybox", 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	umlOnce.f = Fixtures{Arch: "amd64", Memory: 48 << 20, Kernel: uml.Path, Busybox: tree.File(0o755, tree.Bytes(b)), NoCarrier: true}
	umlOnce.done = true
	return umlOnce.f
}

// Initramfs writes an initramfs with busybox, under all its usual names, and
// init, a shell script that finds /proc, /sys and /dev mounted. It gives the
// file's path.
func (f Fixtures) Initramfs(t testing.TB, init string) string {
	t.Helper()
	r := f.Root(t)
	if err := r.Put("/init", tree.File(0o755, tree.Bytes(prologue+init))); err != nil {
		t.Fatal(err)
	}
	return WriteInitramfs(t, r)
}

const prologue = `#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
[ -s /etc/wolffia/modules ] && while read -r m; do busybox insmod $m; done </etc/wolffia/modules
`

// applets are the names of busybox that the suite's scripts use.
var applets = []string{
	"sh", "mount", "poweroff", "reboot", "halt", "cat", "echo", "sleep", "stty", "ip", "ping", "dd", "head", "tail", "ls",
	"od", "tr", "wc", "kill", "setsid", "seq", "arping", "init", "true", "false", "dmesg", "uname", "free", "trap", "grep", "cut", "rm", "umount", "sync", "mkdir", "mv", "ln", "stat", "chmod",
}

// Root is the suite's root without an init.
func (f Fixtures) Root(t testing.TB) *tree.Tree {
	t.Helper()
	r := tree.New()
	for _, d := range []string{"/bin", "/proc", "/sys", "/dev", "/etc", "/tmp"} {
		if err := r.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Put("/bin/busybox", f.Busybox); err != nil {
		t.Fatal(err)
	}
	for _, a := range applets {
		if err := r.Put("/bin/"+a, tree.Symlink("busybox")); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Put("/dev/console", tree.Device(tree.TypeChar, 0o600, 5, 1)); err != nil {
		t.Fatal(err)
	}
	return r
}

// WriteInitramfs writes a tree as a plain cpio archive into a file of the
// test's own.
func WriteInitramfs(t testing.TB, r *tree.Tree) string {
	t.Helper()
	var b bytes.Buffer
	if err := cpio.Write(&b, r, cpio.Options{}); err != nil {
		t.Fatal(err)
	}
	return WriteFile(t, b.Bytes())
}

// WriteFile writes a file of the test's own.
func WriteFile(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}
