package keeper

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/program"
	"wolffia/internal/tooltest"
)

// sleeper is a tree that stays, with an orphan in a session of its own.
func sleeper(marker string) Command {
	return Command{
		Path: "/bin/sh", Argv: []string{"sh", "-c", `(setsid sleep 1000.` + marker + ` &); sleep 1000.` + marker},
		Env: []string{"PATH=/usr/bin:/bin"}, Mode: together,
	}
}

// TestGroup: trees have one keeper, end one by one without the others noticing,
// and all at once with the group.
func TestGroup(t *testing.T) {
	var g Group
	var trees []*Process
	var markers []string
	for range 5 {
		marker := newMarker()
		c := sleeper(marker)
		c.Mode, c.Group = "", &g
		p := begin(t, c)
		trees, markers = append(trees, p), append(markers, marker)
	}
	for _, p := range trees {
		if p.home == nil || p.Pid() != trees[0].Pid() {
			t.Fatal("trees have keepers of their own")
		}
	}
	trees[2].Kill()
	if ws, err := trees[2].Wait(); err != nil || ws.Signal() != syscall.SIGKILL {
		t.Errorf("status %v, %v", ws, err)
	}
	if left := alive(t, markers[2]); len(left) > 0 {
		t.Errorf("processes %v outlived Wait", left)
	}
	for i, m := range markers {
		if i != 2 && len(alive(t, m)) == 0 {
			t.Errorf("tree %d ended with another one", i)
		}
	}
	g.Close()
	for i, p := range trees {
		select {
		case <-p.Done():
		case <-time.After(20 * time.Second):
			t.Fatalf("tree %d outlives its group", i)
		}
		if left := alive(t, markers[i]); len(left) > 0 {
			t.Errorf("processes %v of tree %d outlived the group", left, i)
		}
	}
	c := sleeper(newMarker())
	c.Mode, c.Group = "", &g
	if _, err := Start(c); !errors.Is(err, errClosed) {
		t.Errorf("a group that was closed has another tree: %v", err)
	}
}

// TestGroupKeeperKilled: whoever kills the keeper ends all trees, which say so, and
// the next tree has a new one.
func TestGroupKeeperKilled(t *testing.T) {
	var g Group
	defer g.Close()
	start := func() (*Process, string) {
		marker := newMarker()
		c := sleeper(marker)
		c.Mode, c.Group = "", &g
		return begin(t, c), marker
	}
	one, first := start()
	two, second := start()
	syscall.Kill(one.Pid(), syscall.SIGKILL)
	for _, p := range []*Process{one, two} {
		if ws, err := p.Wait(); err == nil || ws.Signal() != syscall.SIGKILL {
			t.Errorf("status %v, %v", ws, err)
		}
	}
	for _, m := range []string{first, second} {
		if left := alive(t, m); len(left) > 0 {
			t.Errorf("processes %v outlived Wait", left)
		}
	}
	if three, _ := start(); three.home == nil || three.home == one.home {
		t.Error("no new keeper")
	}
}

// TestGroupKeeperStopped: a tree can be killed although its keeper does nothing any
// more, and so can the group.
func TestGroupKeeperStopped(t *testing.T) {
	for _, end := range []func(g *Group, p *Process){
		func(_ *Group, p *Process) { p.Kill() },
		func(g *Group, _ *Process) { g.Close() },
	} {
		g := Group{deaf: time.Second}
		marker := newMarker()
		c := sleeper(marker)
		c.Mode, c.Group = "", &g
		p := begin(t, c)
		syscall.Kill(p.Pid(), syscall.SIGSTOP)
		end(&g, p)
		select {
		case <-p.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("it outlives its keeper")
		}
		if left := alive(t, marker); len(left) > 0 {
			t.Errorf("processes %v outlived Done", left)
		}
		g.Close()
	}
}

// TestGroupKeeperSlow: a tree whose keeper does not answer gets one of its own, and
// is not started again when the other goes on.
func TestGroupKeeperSlow(t *testing.T) {
	g := Group{deaf: time.Second}
	defer g.Close()
	first := sleeper(newMarker())
	first.Mode, first.Group = "", &g
	p := begin(t, first)
	syscall.Kill(p.Pid(), syscall.SIGSTOP)
	log := filepath.Join(t.TempDir(), "log")
	c := Command{
		Path: "/bin/sh", Argv: []string{"sh", "-c", `echo started >>"$0"; exec sleep 1000`, log},
		Env: []string{"PATH=/usr/bin:/bin"}, Group: &g,
	}
	if q := begin(t, c); q.home != nil {
		t.Error("a keeper that was stopped holds another tree")
	}
	syscall.Kill(p.Pid(), syscall.SIGCONT)
	c.Argv = []string{"sh", "-c", "exit 3"} // what comes after it is heard after it
	q := begin(t, c)
	if ws, err := q.Wait(); q.home == nil || err != nil || ws.ExitStatus() != 3 {
		t.Errorf("held together: %v; %v, %v", q.home != nil, ws, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(log)
		if string(text) == "started\n" {
			break
		}
		if len(text) > 0 || time.Now().After(deadline) {
			t.Fatalf("%q, %v", text, err)
		}
	}
	select {
	case <-p.Done():
		t.Error("a tree ended with its keeper's sleep")
	default:
	}
}

// TestGroupFallsBack: what can't be asked of a keeper of many is started by one of
// its own.
func TestGroupFallsBack(t *testing.T) {
	var g Group
	defer g.Close()
	c := Command{Path: "/bin/true", Argv: []string{"true"}, Env: slices.Repeat([]string{"X=" + strings.Repeat("x", 1<<10)}, maxRequest>>10), Group: &g}
	p := begin(t, c)
	if ws, err := p.Wait(); p.home != nil || err != nil || ws != 0 {
		t.Errorf("held together: %v; %v, %v", p.home != nil, ws, err)
	}
	c.Env = nil
	p = begin(t, c)
	if ws, err := p.Wait(); p.home == nil || err != nil || ws != 0 {
		t.Errorf("held together: %v; %v, %v", p.home != nil, ws, err)
	}
}

// TestGroupIsolation: a tree sees neither its keeper's descriptors nor its
// privileges, and no process of another tree by its number. It has a session of its
// own.
func TestGroupIsolation(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	begin(t, sleeper(newMarker()))
	p := begin(t, Command{
		Path: "/bin/sh", Argv: []string{"sh", "-c", `echo $$; read -r pid _ _ _ _ session _ </proc/self/stat; [ $pid = $session ] && echo leads; ls /proc/self/fd; grep -e CapAmb -e CapInh /proc/self/status; kill -KILL 3 2>/dev/null && echo killed`},
		Env: []string{"PATH=/usr/bin:/bin"}, Mode: together, Stdio: [3]*os.File{1: w},
	})
	w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	// 3 is the folder that ls itself has open, and the number of no process, since
	// those before it have ended.
	want := []string{"2", "leads", "0", "1", "2", "3", "CapInh:", "0000000000000000", "CapAmb:", "0000000000000000"}
	if got := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestGroupOrphansAreCollected: of orphans that have ended nothing is left.
func TestGroupOrphansAreCollected(t *testing.T) {
	marker := newMarker()
	p := begin(t, Command{
		Path: "/bin/sh", Argv: []string{"sh", "-c", `i=0; while [ $i -lt 20 ]; do (sleep 0.01 & ); i=$((i+1)); done; exec sleep 1000.` + marker},
		Env: []string{"PATH=/usr/bin:/bin"}, Mode: together,
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var below []string
		for _, pid := range descendants(p.Pid()) {
			if name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat")); err == nil && bytes.Contains(name, []byte("(sleep)")) {
				below = append(below, string(name))
			}
		}
		if len(below) == 1 && strings.Contains(strings.Join(lines(t, marker), ""), "sleep\x001000."+marker) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are %q", below)
		}
	}
}

// lines gives the command lines that begin with sleep and hold marker.
func lines(t *testing.T, marker string) (out []string) {
	for _, pid := range alive(t, marker) {
		if b, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.HasPrefix(b, []byte("sleep")) {
			out = append(out, string(b))
		}
	}
	return out
}

// TestGroupCrowd starts and ends many trees at the same time, some before they are
// up, and leaves neither processes nor descriptors nor threads.
func TestGroupCrowd(t *testing.T) {
	var g Group
	defer g.Close()
	before := openFiles(t, "self")
	one := Command{Path: "/bin/true", Argv: []string{"true"}, Group: &g}
	begin(t, one).Wait()
	pid := g.home.proc.Pid
	keepers := openFiles(t, strconv.Itoa(pid))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			p, err := Start(Command{
				Path: "/bin/sh", Argv: []string{"sh", "-c", "exit 3"}, Env: []string{"PATH=/usr/bin:/bin"}, Group: &g,
			})
			if err != nil {
				t.Error(err)
				return
			}
			if i%4 == 0 {
				p.Kill()
			}
			ws, err := p.Wait()
			if err != nil || i%4 != 0 && ws.ExitStatus() != 3 {
				t.Errorf("status %v, %v", ws, err)
			}
		})
	}
	wg.Wait()
	for range 10 {
		one.Path = "/nonexistent"
		if _, err := Start(one); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%v", err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, files := descendants(pid), openFiles(t, strconv.Itoa(pid))
		if len(left) == 0 && files <= keepers {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are left; %d files are open, and %d were with one tree", left, files, keepers)
		}
	}
	if threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task")); err != nil || len(threads) > 12 {
		t.Errorf("the keeper has %d threads, %v", len(threads), err)
	}
	g.Close()
	if after := openFiles(t, "self"); after > before {
		t.Errorf("%d files are open, and %d were before", after, before)
	}
}

func openFiles(t *testing.T, pid string) int {
	t.Helper()
	all, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestInitCode runs the first process of a namespace for each host: it stays, and
// of its children nothing is left.
func TestInitCode(t *testing.T) {
	for arch, emulator := range map[string]string{"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"} {
		t.Run(arch, func(t *testing.T) {
			qemu := tooltest.Require(t, emulator, "qemu-user")
			code := initCode[arch]
			name := filepath.Join(t.TempDir(), "init")
			if err := os.WriteFile(name, program.FromCode(code.machine, code.code), 0o755); err != nil {
				t.Fatal(err)
			}
			// The shell that becomes the program leaves it a child, which lives until
			// the signals are as they should be.
			cmd := exec.Command("/bin/sh", "-c", `exec 3<&0; cat <&3 >/dev/null & exec "$@" </dev/null 3<&-`, "sh", qemu, name)
			child, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			status := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status"
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				text, err := os.ReadFile(status)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(text, []byte("SigIgn:\t0000000000010000")) {
					child.Close()
					if len(descendants(cmd.Process.Pid)) == 0 {
						break
					}
				}
				if time.Now().After(deadline) {
					t.Fatalf("children %v; %s", descendants(cmd.Process.Pid), text)
				}
			}
			if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
				t.Errorf("it did not stay: %v", err)
			}
			if text, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm"); string(text) != "wolffia-init\n" {
				t.Errorf("it is called %q, %v", text, err)
			}
		})
	}
	if _, ok := initCode[runtime.GOARCH]; !ok {
		t.Errorf("no code for %s", runtime.GOARCH)
	}
}

func FuzzReadRequest(f *testing.F) {
	good, err := Command{Path: "/bin/sh", Argv: []string{"sh", "-c", "x"}, Env: []string{"A=b"}, OneCPU: true}.request()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("true\x00false\x00/x\x00/\x007\x00a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := readRequest(b)
		if !ok {
			return
		}
		c := Command{FixedLayout: r.fixedLayout, Path: r.path, Dir: "/" + r.dir, Argv: r.argv, Env: r.env}
		again, err := c.request()
		if errors.Is(err, errNoGroup) {
			return // too long
		}
		s, ok := readRequest(again)
		if err != nil || !ok || !slices.Equal(r.argv, s.argv) || !slices.Equal(r.env, s.env) || r.path != s.path || r.fixedLayout != s.fixedLayout {
			t.Errorf("%q became %+v, then %+v", b, r, s)
		}
	})
}
