package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/event"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writer(content string) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.WriteString(content)
		return err
	}
}

func mustCreate(t *testing.T, s *Store, kind, key, content string) string {
	t.Helper()
	path, err := s.Create(t.Context(), kind, key, writer(content))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// clean fails when something is left in the store's own folders.
func clean(t *testing.T, s *Store) {
	t.Helper()
	for _, dir := range []string{s.tempDir(), s.lockDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left over: %s/%s", dir, e.Name())
		}
	}
}

func TestCreateOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "new", "cache"))
	if _, ok := s.Get("deb", "abc"); ok {
		t.Error("an empty store has an object")
	}
	path := mustCreate(t, s, "deb", "abc", "hello")
	if got, err := s.Create(t.Context(), "deb", "abc", func(*os.File) error { panic("made twice") }); got != path || err != nil {
		t.Errorf("second Create: %q, %v", got, err)
	}
	if got, ok := s.Get("deb", "abc"); !ok || got != path || read(t, got) != "hello" {
		t.Errorf("Get: %q, %v", got, ok)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "CACHEDIR.TAG")); err != nil {
		t.Error(err)
	}
	clean(t, s)
}

func TestCreateFails(t *testing.T) {
	s := open(t, t.TempDir())
	boom := errors.New("boom")
	_, err := s.Create(t.Context(), "deb", "abc", func(f *os.File) error {
		f.WriteString("half")
		return boom
	})
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	_, err = s.CreateDir(t.Context(), "tree", "abc", func(dir string) error {
		os.WriteFile(dir+"/half", nil, 0o600)
		os.Mkdir(dir+"/sub", 0)
		return boom
	})
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	if list, err := s.List(); len(list) > 0 || err != nil {
		t.Error(list, err)
	}
	clean(t, s)
}

func TestCreateDir(t *testing.T) {
	s := open(t, t.TempDir())
	path, err := s.CreateDir(t.Context(), "tree", "x", func(dir string) error {
		return os.WriteFile(dir+"/a", []byte("1"), 0o644)
	})
	if err != nil || read(t, path+"/a") != "1" {
		t.Fatal(err)
	}
	held, release, ok := s.Hold("tree", "x")
	if !ok || held != path {
		t.Fatal("a folder can't be held")
	}
	release()
	clean(t, s)
}

func TestResumeContinues(t *testing.T) {
	s := open(t, t.TempDir())
	broken := errors.New("broken")
	_, err := s.Resume(t.Context(), "deb", "k", func(f *os.File) error {
		f.WriteString("first ")
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || !list[0].Partial || list[0].Kind != "deb" || list[0].Key != "k" {
		t.Fatal(list, err)
	}
	path, err := s.Resume(t.Context(), "deb", "k", writer("second"))
	if err != nil || read(t, path) != "first second" {
		t.Fatal(path, err)
	}
	_, err = s.Resume(t.Context(), "deb", "bad", func(f *os.File) error {
		f.WriteString("wrong")
		f.Truncate(0)
		return broken
	})
	if list, _ := s.List(); !errors.Is(err, broken) || len(list) != 1 {
		t.Error("a truncated part is kept:", list, err)
	}
	clean(t, s)
}

func TestReplace(t *testing.T) {
	s := open(t, t.TempDir())
	for _, text := range []string{"one", "two"} {
		path, err := s.Replace(t.Context(), "release", "k", writer(text))
		if err != nil || read(t, path) != text {
			t.Fatal(err)
		}
	}
	clean(t, s)
}

func TestNames(t *testing.T) {
	s := open(t, t.TempDir())
	for _, bad := range [][2]string{{"deb", ""}, {"deb", ".."}, {"deb", "a/b"}, {"deb", ".hidden"}, {"", "a"}, {".tmp", "a"},
		{"De", "a"}, {"a.b", "c"}, {"deb", "a\nb"}, {"deb", strings.Repeat("a", 201)}} {
		if _, err := s.Create(t.Context(), bad[0], bad[1], writer("")); err == nil {
			t.Errorf("kind %q, key %q is taken", bad[0], bad[1])
		}
		if _, ok := s.Get(bad[0], bad[1]); ok {
			t.Errorf("kind %q, key %q is found", bad[0], bad[1])
		}
	}
	mustCreate(t, s, "a-1", "1.0~rc1+b2_x=%3a", "")
}

func TestWaitsAndGivesUp(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Create(t.Context(), "deb", "k", func(*os.File) error {
		go cancel()
		_, err := open(t, dir).Create(ctx, "deb", "k", writer(""))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ended with %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	clean(t, s)
}

func TestPrune(t *testing.T) {
	s := open(t, t.TempDir())
	now := time.Now()
	for i, key := range []string{"c", "a", "b", "d"} {
		path := mustCreate(t, s, "deb", key, string(bytes.Repeat([]byte{'x'}, 64<<10)))
		used := now.Add(-time.Duration(10-i) * time.Hour)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
	}
	s.Resume(t.Context(), "deb", "part", func(f *os.File) error {
		f.WriteString("x")
		return errors.New("later")
	})
	if p, err := s.Prune(t.Context(), PruneOptions{Now: now}); err != nil || len(p.Removed) > 0 {
		t.Errorf("without limits: %+v, %v", p, err)
	}
	if p, err := s.Prune(t.Context(), PruneOptions{Now: now, MaxAge: 570 * time.Minute, DryRun: true}); err != nil || len(p.Removed) != 1 {
		t.Errorf("dry run: %+v, %v", p, err)
	}
	p, err := s.Prune(t.Context(), PruneOptions{Now: now, MaxAge: 570 * time.Minute})
	if err != nil || len(p.Removed) != 1 || p.Removed[0].Key != "c" || p.Freed < 64<<10 {
		t.Errorf("by age: %+v, %v", p, err)
	}
	f, ok := s.Open("deb", "a")
	if !ok {
		t.Fatal("not there")
	}
	past := now.Add(-20 * time.Hour) // holding counts as use
	os.Chtimes(f.Name(), past, past)
	p, err = s.Prune(t.Context(), PruneOptions{Now: now, MaxBytes: 140 << 10})
	if err != nil || len(p.Removed) != 1 || p.Removed[0].Key != "b" || len(p.InUse) != 1 || p.InUse[0].Key != "a" {
		t.Errorf("by size, one held: %+v, %v", p, err)
	}
	f.Close()
	p, err = s.Prune(t.Context(), PruneOptions{All: true})
	if err != nil || len(p.Removed) != 3 || p.Left != 0 {
		t.Errorf("all: %+v, %v", p, err)
	}
	clean(t, s)
}

func TestPruneSparesWhatIsBeingMade(t *testing.T) {
	s := open(t, t.TempDir())
	path, err := s.Resume(t.Context(), "deb", "k", func(f *os.File) error {
		f.WriteString("half, ")
		p, err := s.Prune(t.Context(), PruneOptions{All: true})
		if err != nil || len(p.InUse) != 1 {
			t.Errorf("%+v, %v", p, err)
		}
		f.WriteString("whole")
		return nil
	})
	if err != nil || read(t, path) != "half, whole" {
		t.Error(err)
	}
	path, err = s.Create(t.Context(), "deb", "k2", func(f *os.File) error {
		if _, err := s.Prune(t.Context(), PruneOptions{}); err != nil {
			return err
		}
		open(t, s.Dir()) // sweeps
		_, err := f.WriteString("whole")
		return err
	})
	if err != nil || read(t, path) != "whole" {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	s := open(t, t.TempDir())
	mustCreate(t, s, "deb", "k", "x")
	f, _ := s.Open("deb", "k")
	defer f.Close()
	for range 2 {
		if err := s.Remove("deb", "k"); err != nil {
			t.Error(err)
		}
	}
	if _, ok := s.Get("deb", "k"); ok {
		t.Error("still there")
	}
	mustCreate(t, s, "deb", "k", "y")
	clean(t, s)
}

func TestOpenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o644)
	for _, dir := range []string{"", "relative", file} {
		if _, err := Open(Options{Dir: dir}); err == nil {
			t.Errorf("opened %q", dir)
		}
	}
}

func TestFoldersOf(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	uid := os.Getuid()
	for _, tc := range []struct {
		env  map[string]string
		want Folders
	}{
		{map[string]string{"HOME": "/h"}, Folders{"/h/.cache/wolffia", "/h/.local/state/wolffia", fmt.Sprintf("/tmp/wolffia-%d", uid)}},
		{map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"},
			Folders{"/c/wolffia", "/s/wolffia", "/r/wolffia"}},
		{map[string]string{"HOME": "/h", "WOLFFIA_CACHE": "/w/", "XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "relative", "TMPDIR": "/t"},
			Folders{"/w", "/h/.local/state/wolffia", fmt.Sprintf("/t/wolffia-%d", uid)}},
	} {
		got, err := FoldersOf(env(tc.env))
		if err != nil || got != tc.want {
			t.Errorf("%v: %+v, %v", tc.env, got, err)
		}
	}
	for _, bad := range []map[string]string{{}, {"HOME": "/h", "WOLFFIA_CACHE": "relative"}} {
		if got, err := FoldersOf(env(bad)); err == nil {
			t.Errorf("%v: %+v", bad, got)
		}
	}
}

func TestPrivateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := PrivateDir(dir); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Error(st.Mode(), err)
		}
		os.Chmod(dir, 0o755)
	}
	link := filepath.Join(t.TempDir(), "link")
	os.Symlink(dir, link)
	if err := PrivateDir(link); err == nil {
		t.Error("a link passes for a private folder")
	}
	if os.Getuid() == 0 {
		os.Chown(dir, 12345, 12345)
		if err := PrivateDir(dir); err == nil || !strings.Contains(err.Error(), "12345") {
			t.Errorf("somebody else's folder: %v", err)
		}
	}
	// With sudo -E root had the XDG_RUNTIME_DIR of a user, who could put a link
	// to any folder in the place of root's, which is swept.
	if os.Getuid() == 0 {
		theirs := t.TempDir()
		os.Chown(theirs, 12345, 12345)
		if err := PrivateDir(filepath.Join(theirs, "wolffia")); err == nil || !strings.Contains(err.Error(), "12345") {
			t.Errorf("in somebody else's folder: %v", err)
		}
	}
	for _, c := range []struct {
		owner, user int
		want        bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {65534, 1000, true}, {1000, 0, false}, {1001, 1000, false}} {
		if got := trusted(c.owner, c.user); got != c.want {
			t.Errorf("user %d in a folder of user %d: %v", c.user, c.owner, got)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[Size]string{0: "0 bytes", 999: "999 bytes", 1000: "1.0 kB", 14_249_000: "14.2 MB", 999_960: "1.0 MB", 3e12: "3.0 TB"} {
		if got := n.String(); got != want {
			t.Errorf("%d: %q, want %q", int64(n), got, want)
		}
	}
}

func TestWaitIsSaid(t *testing.T) {
	// The lock of another process, as far as the file says.
	dir := t.TempDir()
	s := open(t, dir)
	said := make(chan event.Event, 1)
	other, err := Open(Options{Dir: dir, Events: event.Func(func(e event.Event) { said <- e })})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), "deb", "k", func(f *os.File) error {
		if err := os.WriteFile(s.lockPath("deb", "k"), []byte("1"), 0o600); err != nil {
			return err
		}
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := other.Create(ctx, "deb", "k", writer(""))
			done <- err
		}()
		if e := <-said; e.Kind != event.Note || !strings.Contains(e.Message, "process 1") {
			t.Errorf("said %+v", e)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
