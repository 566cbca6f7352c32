package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"golang.org/x/sys/unix"
)

// The tests here run this test program once more, as another process that does
// one of these things with the store in a folder.
var children = map[string]func(dir string) error{
	"race":     childRace,
	"churn":    childChurn,
	"full":     childFull,
	"rofs":     childReadOnlyFS,
	"denied":   childDenied,
	"hold":     childHold,
	"makeslow": childMakeSlow,
}

const childEnv = "WOLFFIA_STORE_TEST"

func TestMain(m *testing.M) {
	if what, dir, ok := strings.Cut(os.Getenv(childEnv), ":"); ok {
		if err := children[what](dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, what, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+what+":"+dir)
	return cmd
}

// inNamespaces gives the child user and mount namespaces of its own, where it is
// the user uid.
func inNamespaces(cmd *exec.Cmd, uid int) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// runInNamespaces runs such a child; a host without user namespaces is an error
// in CI only.
func runInNamespaces(t *testing.T, what string, uid int) {
	t.Helper()
	out, err := inNamespaces(child(t, what, t.TempDir()), uid).CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) {
		tooltest.Missing(t, "user namespaces are needed: %v", err)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// content is what the object key must hold: many writes long, different for
// each key.
func content(key string) string { return strings.Repeat(key+"\n", 5000) }

const raceKeys = 40

func childRace(dir string) error {
	s, err := Open(Options{Dir: filepath.Join(dir, "cache")})
	if err != nil {
		return err
	}
	made, err := os.OpenFile(filepath.Join(dir, "made"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer made.Close()
	for _, i := range rand.Perm(raceKeys) {
		key := fmt.Sprintf("key%02d", i)
		path, err := s.Create(context.Background(), "file", key, func(f *os.File) error {
			fmt.Fprintln(made, key)
			for line := range strings.Lines(content(key)) {
				if _, err := f.WriteString(line); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content(key) {
			return fmt.Errorf("%s is not whole: %d bytes, %v", key, len(got), err)
		}
	}
	return nil
}

func TestProcessesRace(t *testing.T) {
	dir := t.TempDir()
	var cmds []*exec.Cmd
	for range 4 {
		cmd := child(t, "race", dir)
		cmd.Stdout = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	made := strings.Fields(read(t, filepath.Join(dir, "made")))
	slices.Sort(made)
	if n := len(slices.Compact(slices.Clone(made))); n != raceKeys || len(made) != raceKeys {
		t.Errorf("%d objects were made %d times", n, len(made))
	}
	clean(t, open(t, filepath.Join(dir, "cache")))
}

// childChurn makes, continues, replaces and removes objects until it is killed.
func childChurn(dir string) error {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ctx := context.Background()
	for i := 0; ; i++ {
		key := fmt.Sprintf("key%d", i%7)
		write := func(f *os.File) error {
			st, err := f.Stat()
			if err != nil {
				return err
			}
			for rest := content(key)[st.Size():]; rest != ""; {
				n := min(len(rest), 1000)
				if _, err := f.WriteString(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		}
		_, err1 := s.Create(ctx, "file", key, write)
		_, err2 := s.Resume(ctx, "resumed", key, write)
		_, err3 := s.Replace(ctx, "replaced", key, write)
		_, err4 := s.CreateDir(ctx, "tree", key, func(d string) error {
			for j := range 5 {
				if err := os.WriteFile(fmt.Sprintf("%s/%d", d, j), []byte(content(key)), 0o644); err != nil {
					return err
				}
			}
			return nil
		})
		var err5 error
		if i%5 == 4 {
			_, err5 = s.Prune(ctx, PruneOptions{MaxBytes: 1 << 20})
		}
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
			return err
		}
	}
}

// TestKilled kills a process that works on the store at random moments: what
// can be seen afterwards is whole, and nothing is left over.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	seen := 0
	for range 25 {
		cmd := child(t, "churn", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		s := open(t, dir)
		clean(t, s)
		list, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if !e.Partial {
				seen++
				checkWhole(t, s, e)
			}
		}
	}
	if seen == 0 {
		t.Error("nothing was ever made")
	}
}

func checkWhole(t *testing.T, s *Store, e Entry) {
	t.Helper()
	path, ok := s.Get(e.Kind, e.Key)
	if !ok {
		t.Fatalf("%s %s is listed and not there", e.Kind, e.Key)
	}
	files := []string{path}
	if e.Kind == "tree" {
		files = nil
		for j := range 5 {
			files = append(files, fmt.Sprintf("%s/%d", path, j))
		}
	}
	for _, f := range files {
		if read(t, f) != content(e.Key) {
			t.Errorf("%s is not whole", f)
		}
	}
}

func childHold(dir string) error {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	if _, _, ok := s.Hold("deb", "k"); !ok {
		return errors.New("not there")
	}
	fmt.Println("ready")
	select {}
}

func TestPruneSparesWhatAnotherProcessHolds(t *testing.T) {
	s := open(t, t.TempDir())
	mustCreate(t, s, "deb", "k", "x")
	cmd := child(t, "hold", s.Dir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if p, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(p.InUse) != 1 || len(p.Removed) != 0 {
		t.Errorf("while held: %+v, %v", p, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if p, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(p.Removed) != 1 {
		t.Errorf("after its holder's death: %+v, %v", p, err)
	}
}

func childMakeSlow(dir string) error {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	_, err = s.Create(context.Background(), "deb", "k", func(f *os.File) error {
		f.WriteString("half")
		fmt.Println("ready")
		select {}
	})
	return err
}

// TestMakerDies: one process waits for another's object, and makes it itself
// when that one is killed.
func TestMakerDies(t *testing.T) {
	s := open(t, t.TempDir())
	cmd := child(t, "makeslow", s.Dir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	done := make(chan error)
	go func() {
		path, err := s.Create(t.Context(), "deb", "k", writer("whole"))
		if err == nil && read(t, path) != "whole" {
			err = errors.New("not what was written")
		}
		done <- err
	}()
	cmd.Process.Kill()
	cmd.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.sweep()
	clean(t, s)
}

// A full disk: an error that says which file, how much room there is and what to
// do; nothing left over; and room for something smaller.
func TestFullDisk(t *testing.T) { runInNamespaces(t, "full", 0) }

func childFull(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	s, err := Open(Options{Dir: filepath.Join(dir, "cache")})
	if err != nil {
		return err
	}
	big := func(f *os.File) error {
		_, err := f.Write(make([]byte, 4<<20))
		return err
	}
	ctx := context.Background()
	_, err1 := s.Create(ctx, "deb", "big", big)
	_, err2 := s.CreateDir(ctx, "tree", "big", func(d string) error { return os.WriteFile(d+"/x", make([]byte, 4<<20), 0o644) })
	_, err3 := s.Replace(ctx, "release", "big", big)
	for _, err := range []error{err1, err2, err3} {
		var full *SpaceError
		if !errors.As(err, &full) || !errors.Is(err, unix.ENOSPC) || !strings.HasSuffix(full.Path, "/big") || full.Free < 0 ||
			!strings.Contains(err.Error(), "wolffia cache prune") {
			return fmt.Errorf("full disk gives: %v", err)
		}
	}
	if list, err := s.List(); err != nil || len(list) > 0 {
		return fmt.Errorf("left over: %v, %v", list, err)
	}
	if _, err := s.Create(ctx, "deb", "small", func(f *os.File) error { _, err := f.Write(make([]byte, 900<<10)); return err }); err != nil {
		return fmt.Errorf("after a full disk: %w", err)
	}
	// Where not even a name finds room.
	os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o644)
	_, err = s.Create(ctx, "deb", "tiny", writer("x"))
	if !errors.As(err, new(*SpaceError)) {
		return fmt.Errorf("a quite full disk gives: %v", err)
	}
	return nil
}

// A cache on a read-only file system: what is there is used, the rest is an error
// that names the folder and the fix.
func TestReadOnlyFileSystem(t *testing.T) { runInNamespaces(t, "rofs", 0) }

func childReadOnlyFS(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return readOnly(dir, func() error { return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") })
}

// A cache that belongs to somebody else.
func TestReadOnlyFolder(t *testing.T) { runInNamespaces(t, "denied", 1000) }

func childDenied(dir string) error {
	return readOnly(dir, func() error {
		return filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(p, 0o555)
			}
			return err
		})
	})
}

func readOnly(dir string, lock func() error) error {
	cache := filepath.Join(dir, "cache")
	s, err := Open(Options{Dir: cache})
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := s.Create(ctx, "deb", "k", writer("x")); err != nil {
		return err
	}
	if err := lock(); err != nil {
		return err
	}
	if s, err = Open(Options{Dir: cache}); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if _, ok := s.Get("deb", "k"); !ok {
		return errors.New("what is there is not found")
	}
	f, ok := s.Open("deb", "k")
	if !ok {
		return errors.New("what is there can't be held")
	}
	f.Close()
	if _, err := s.Create(ctx, "deb", "k", writer("x")); err != nil {
		return fmt.Errorf("what is there needs no writing: %w", err)
	}
	_, err1 := s.Create(ctx, "deb", "new", writer("x"))
	_, err2 := s.CreateDir(ctx, "tree", "new", func(string) error { return nil })
	_, err3 := s.Resume(ctx, "deb", "new", writer("x"))
	_, err4 := s.Replace(ctx, "deb", "k", writer("x"))
	_, err5 := s.Prune(ctx, PruneOptions{All: true})
	err6 := s.Remove("deb", "k")
	_, err7 := Open(Options{Dir: filepath.Join(dir, "other")})
	for i, err := range []error{err1, err2, err3, err4, err5, err6} {
		var ro *ReadOnlyError
		if !errors.As(err, &ro) || ro.Dir != cache || !strings.Contains(err.Error(), cache) || !strings.Contains(err.Error(), "WOLFFIA_CACHE") {
			return fmt.Errorf("%d: a cache that can't be written gives: %v", i+1, err)
		}
	}
	if !errors.As(err7, new(*ReadOnlyError)) {
		return fmt.Errorf("a cache that can't be made gives: %v", err7)
	}
	return nil
}
