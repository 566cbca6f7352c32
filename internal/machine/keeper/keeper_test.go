package keeper

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/schedule"
)

// parentEnv makes the test binary a process that starts a tree and waits, so
// that a test can kill it.
const parentEnv = "KEEPER_TEST_PARENT"

func TestMain(m *testing.M) {
	Main()
	if arg := os.Getenv(parentEnv); arg != "" {
		mode, marker, _ := strings.Cut(arg, ":")
		fmt.Println("starting")
		p, err := launch(tree(Mode(mode), marker))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("started")
		p.Wait()
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// together is the tests' word for a tree of a group, beside the modes.
const together Mode = "together"

var (
	modes = []Mode{Namespace, Subreaper, together}
	group Group
)

// launch starts c as its Mode says.
func launch(c Command) (*Process, error) {
	if c.Mode != together {
		return Start(c)
	}
	c.Mode, c.Group = "", &group
	p, err := Start(c)
	if err == nil && p.home == nil {
		p.Kill()
		return nil, errors.New("it is not held together with others")
	}
	return p, err
}

// tree is a shell with children of all sorts: plain, in other sessions,
// orphaned, and born all the time. Each carries the marker in its arguments.
func tree(m Mode, marker string) Command {
	script := `sleep 1000.` + marker + ` & setsid sleep 1000.` + marker + ` &
(setsid sleep 1000.` + marker + ` &)
i=0; while [ $i -lt 40 ]; do (setsid sleep 1000.` + marker + ` & ); i=$((i+1)); done
echo up; wait`
	return Command{Path: "/bin/sh", Argv: []string{"sh", "-c", script, marker}, Env: []string{"PATH=/usr/bin:/bin"}, Mode: m}
}

func newMarker() string { return fmt.Sprintf("%012d", rand.Int64N(1e12)) }

// alive lists the processes whose arguments hold marker.
func alive(t *testing.T, marker string) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(marker)) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// gone waits until no process with the marker is left.
func gone(t *testing.T, marker string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		left := alive(t, marker)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are still there", left)
		}
	}
}

func begin(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := launch(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(); p.Wait() })
	return p
}

func each(t *testing.T, f func(t *testing.T, m Mode)) {
	for _, m := range modes {
		t.Run(string(m), func(t *testing.T) { f(t, m) })
	}
}

func TestStatusAndDescriptors(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		dir := t.TempDir()
		p := begin(t, Command{
			Path: "/bin/sh", Argv: []string{"name", "-c", `echo "$0 $A $PWD" >&3; ls /proc/self/fd >&3; exit 42`},
			Env: []string{"A=b", "PATH=/usr/bin:/bin"}, Dir: dir, Files: []*os.File{w}, Mode: m,
		})
		w.Close()
		out, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		// "3 4": the pipe and the folder that ls itself has open, nothing of the keeper's.
		if want := "name b " + dir + "\n0\n1\n2\n3\n4\n"; string(out) != want {
			t.Errorf("got %q, want %q", out, want)
		}
		ws, err := p.Wait()
		if err != nil || !ws.Exited() || ws.ExitStatus() != 42 {
			t.Errorf("status %v, %v", ws, err)
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v", err)
		}
	})
}

func TestExecError(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		for path, want := range map[string]error{"/nonexistent": syscall.ENOENT, "/etc": syscall.EACCES} {
			if _, err := launch(Command{Path: path, Argv: []string{"x"}, Mode: m}); !errors.Is(err, want) {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

func TestSignal(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		p := begin(t, Command{Path: "/bin/sleep", Argv: []string{"sleep", "1000"}, Mode: m})
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if ws, err := p.Wait(); err != nil || ws.Signal() != syscall.SIGTERM {
			t.Errorf("status %v, %v", ws, err)
		}
	})
}

func TestOrphansEndWithTheProgram(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		marker := newMarker()
		p := begin(t, Command{
			Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin"}, Mode: m,
			Argv: []string{"sh", "-c", `(setsid sleep 1000.` + marker + ` &); setsid sleep 1000.` + marker + ` & exit 7`},
		})
		if ws, err := p.Wait(); err != nil || ws.ExitStatus() != 7 {
			t.Errorf("status %v, %v", ws, err)
		}
		if left := alive(t, marker); len(left) > 0 { // at once, not some time later
			t.Errorf("processes %v outlived Wait", left)
		}
	})
}

func TestKill(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		for range 10 {
			marker := newMarker()
			p := begin(t, tree(m, marker))
			time.Sleep(rand.N(20 * time.Millisecond))
			p.Kill()
			p.Kill()
			if ws, _ := p.Wait(); ws.Signal() != syscall.SIGKILL {
				t.Errorf("status %v", ws)
			}
			if left := alive(t, marker); len(left) > 0 {
				t.Fatalf("processes %v outlived Wait", left)
			}
		}
	})
}

// The promise of the package: the parent is killed at any moment, from before
// the keeper runs until long after, and nothing is left.
func TestParentKilled(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		var wg sync.WaitGroup
		for i := range 60 {
			marker := newMarker()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), parentEnv+"="+string(m)+":"+marker)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if line, _ := lines.ReadString('\n'); line != "started\n" {
					t.Fatalf("parent says %q", line)
				}
			}
			time.Sleep(rand.N(8 * time.Millisecond))
			cmd.Process.Kill()
			cmd.Wait()
			wg.Go(func() { gone(t, marker) })
		}
		wg.Wait()
	})
}

func TestKeeperKilled(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		p := begin(t, Command{Path: "/bin/sh", Argv: []string{"sh", "-c", "sleep 1000 & wait"}, Env: []string{"PATH=/usr/bin:/bin"}, Mode: m})
		syscall.Kill(p.Pid(), syscall.SIGKILL)
		if ws, err := p.Wait(); err == nil || ws.Signal() != syscall.SIGKILL {
			t.Errorf("status %v, %v", ws, err)
		}
	})
}

// A group-wide signal from inside, as User-Mode Linux sends when it panics,
// stays inside.
func TestGroupSignalStaysInside(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		p := begin(t, Command{Path: "/bin/sh", Argv: []string{"sh", "-c", "kill -TERM 0; sleep 1000"}, Env: []string{"PATH=/usr/bin:/bin"}, Mode: m})
		if ws, err := p.Wait(); err != nil || ws.Signal() != syscall.SIGTERM {
			t.Errorf("status %v, %v", ws, err)
		}
	})
}

func TestModeIsBest(t *testing.T) {
	p := begin(t, Command{Path: "/bin/true", Argv: []string{"true"}})
	ws, err := p.Wait()
	if err != nil || ws != 0 {
		t.Fatal(ws, err)
	}
	t.Logf("held by %s", p.Mode())
}

func TestFixedLayout(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		begin(t, Command{
			Path: "/bin/cat", Argv: []string{"cat", "/proc/self/personality"}, Mode: m, FixedLayout: true,
			Stdio: [3]*os.File{1: w},
		})
		w.Close()
		if out, _ := io.ReadAll(r); string(out) != "00040000\n" {
			t.Errorf("personality %q", out)
		}
	})
}

func TestParentOf(t *testing.T) {
	if got := parentOf("self"); got != os.Getppid() {
		t.Errorf("parent %d, want %d", got, os.Getppid())
	}
}

func BenchmarkStart(b *testing.B) {
	for _, m := range modes {
		b.Run(string(m), func(b *testing.B) {
			for b.Loop() {
				p, err := launch(Command{Path: "/bin/true", Argv: []string{"true"}, Mode: m})
				if err != nil {
					b.Fatal(err)
				}
				p.Wait()
			}
		})
	}
}

func TestOneCPU(t *testing.T) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, m Mode) {
		on := func(cpu *int) string {
			out := outputOf(t, Command{Mode: m, OneCPU: true, CPU: cpu}, "grep Cpus_allowed_list /proc/self/status")
			return strings.TrimSpace(strings.TrimPrefix(out, "Cpus_allowed_list:"))
		}
		if list := on(nil); list == "" || strings.ContainsAny(list, ",-") {
			t.Errorf("may run on processors %q", list)
		}
		for cpu := range len(allowed) * 64 {
			if allowed.IsSet(cpu) {
				if list := on(&cpu); list != strconv.Itoa(cpu) {
					t.Errorf("may run on processors %q, want %d", list, cpu)
				}
			}
		}
	})
}

// TestOrdinary: a program does not wait its turn because who started it does.
func TestOrdinary(t *testing.T) {
	schedule.Batch()
	group.Close() // whose keeper may be from before
	group = Group{}
	each(t, func(t *testing.T, m Mode) {
		out := outputOf(t, Command{Mode: m}, "cat /proc/self/stat")
		_, fields, _ := strings.Cut(out, ") ")
		if policy := strings.Fields(fields)[41-3]; policy != "0" { // proc_pid_stat(5), SCHED_OTHER
			t.Errorf("its policy is %s", policy)
		}
	})
}

// outputOf is what a script writes in a tree of this kind.
func outputOf(t *testing.T, c Command, script string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Path, c.Argv = "/bin/sh", []string{"sh", "-c", script}
	c.Env, c.Stdio = []string{"PATH=/usr/bin:/bin"}, [3]*os.File{1: w}
	begin(t, c)
	w.Close()
	out, _ := io.ReadAll(r)
	return string(out)
}

// TestMeanwhile: the program sees what was done while the keeper came up, and
// does not start when that failed.
func TestMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, m Mode) {
		marker := filepath.Join(t.TempDir(), "marker")
		c := Command{
			Path: "/bin/sh", Argv: []string{"sh", "-c", `[ -e "$1" ] && rm "$1" && exit 7`, "sh", marker},
			Env: []string{"PATH=/usr/bin:/bin"}, Mode: m,
			Meanwhile: func() error {
				time.Sleep(5 * time.Millisecond)
				return os.WriteFile(marker, nil, 0o600)
			},
		}
		if ws, err := begin(t, c).Wait(); err != nil || ws.ExitStatus() != 7 {
			t.Errorf("status %v, %v", ws, err)
		}
		failed := errors.New("failed")
		c.Meanwhile = func() error { return errors.Join(os.WriteFile(marker, nil, 0o600), failed) }
		if _, err := launch(c); !errors.Is(err, failed) {
			t.Errorf("%v, want %v", err, failed)
		}
		if _, err := os.Stat(marker); err != nil {
			t.Errorf("the program ran all the same: %v", err)
		}
	})
}
