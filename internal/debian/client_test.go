package debian

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/store"
	"wolffia/internal/tree"
)

// hostMirror is the real archive, as the host's apt knows it.
func hostMirror(t testing.TB) Mirror {
	t.Helper()
	m, err := FindMirror(MirrorOptions{Env: os.Getenv("WOLFFIA_MIRROR"), AptDir: "/etc/apt"})
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return m
}

// shared is a store that the tests of one run share, so that each thing is
// fetched once. Tests that break things have their own.
func shared(t testing.TB) *store.Store {
	t.Helper()
	return openStore(t, sharedDir)
}

var sharedDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "wolffia-debian-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sharedDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func openStore(t testing.TB, dir string) *store.Store {
	t.Helper()
	st, err := store.Open(store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// logged is a sink that a test can ask.
func logged(t testing.TB) event.Sink {
	return event.Func(func(e event.Event) {
		if e.Kind != event.Step {
			t.Logf("%s %s %s %s", e.Kind, e.Task, e.Subject, e.Message)
		}
	})
}

var five = []string{"busybox-static", "dropbear-bin", "strace", "gdbserver", "tcpdump"}

func TestEndToEnd(t *testing.T) {
	c := New(Options{Store: shared(t), Mirror: hostMirror(t), Events: logged(t), Getenv: os.Getenv})
	ctx := context.Background()
	for i := range 2 {
		start := time.Now()
		lock, err := c.Resolve(ctx, Request{Release: "bookworm", Arch: "amd64", Packages: five})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d: resolve %v: %d packages", i, time.Since(start), len(lock.Packages))
		start = time.Now()
		if err := c.Fetch(ctx, lock); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d: fetch %v", i, time.Since(start))
		start = time.Now()
		u, err := c.Unpack(ctx, lock, UnpackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d: unpack %v", i, time.Since(start))
		if i == 0 {
			t.Log(u.Scripts, u.Clashes)
			text, _ := u.Tree.ReadFile("/var/lib/dpkg/status", 1<<20)
			t.Log(string(text[:1500]))
			t.Log(string(Locks{lock}.Bytes()))
			var b strings.Builder
			tree.Manifest(&b, u.Tree)
			t.Log(b.String()[:3000])
		}
		u.Close()
	}
}
