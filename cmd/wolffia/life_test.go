package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestKilled kills wolffia with SIGKILL at one moment after the other, all on
// one cache that starts empty: nothing of it goes on, what is in the cache is
// right, and the next run goes on where the last one was.
func TestKilled(t *testing.T) {
	parallel(t)
	p := newcomer(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	a := openArchive(t)
	p.killed = true
	moments := []struct {
		name  string
		event string // in the JSON of standard error, or a path that is asked for
		fault fault
	}{
		{"before the index", "/InRelease", hang},
		{"in the index", "binary-amd64", trickle},
		{"in a package", "busybox-static_", trickle},
		{"in all packages", "/pool/", trickle},
		{"unpacking", `"kind":"begin","task":"unpack"`, nil},
		{"in the kernel's package", "user-mode-linux_", trickle},
		{"unpacking the kernel", `"kind":"begin","task":"unpack"`, nil},
		{"starting to boot", `"kind":"begin","task":"boot"`, nil},
		{"booted", `"kind":"done","task":"boot"`, nil},
		{"in the command", "ready", nil},
	}
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			for len(a.seen) > 0 {
				<-a.seen
			}
			a.spoil(nil)
			if m.fault != nil {
				a.spoil(only(m.event, m.fault))
			}
			r := p.start(t, call{program: plain}, "run", "--json", a.flag(), "--", "sh", "-c", "echo ready; sleep 1000")
			eventually(t, cold, m.name, func() bool {
				for len(a.seen) > 0 {
					if path := <-a.seen; m.fault != nil && strings.Contains(path, m.event) {
						time.Sleep(100 * time.Millisecond) // into the transfer
						return true
					}
				}
				select {
				case <-r.ended:
					t.Fatalf("it ended: %s", r.err)
				default:
				}
				return m.fault == nil && (strings.Contains(r.err.String(), m.event) || strings.Contains(r.out.String(), m.event))
			})
			r.Process.Kill()
			<-r.ended
			p.checkGone(t)
			p.checkCache(t)
		})
	}
	a.spoil(nil)
	p.killed = false // the next run sweeps up what the killed ones left
	o := p.run(t, call{program: plain, limit: cold}, "run", a.flag(), "--", "echo", "up")
	if o.out != "up\n" {
		t.Error(o)
	}
	p.checkGone(t)
}

// TestKilledWithItsKeeper kills the process that holds the machine: wolffia
// says so and leaves nothing.
func TestKilledWithItsKeeper(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	r := p.start(t, call{}, "run", "--", "sh", "-c", "echo ready; sleep 1000")
	r.out.expect(t, "ready\n")
	for pid, line := range p.processes() {
		if strings.HasPrefix(line, "wolffia-keeper") {
			proc, err := os.FindProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			proc.Kill()
		}
	}
	if got := r.end(t); got != 125 || !strings.Contains(r.err.String(), "killed") {
		t.Errorf("status %d: %s", got, r.err)
	}
}

// TestSharedCache starts several runs at once with an empty cache: all come
// up, and each package is fetched once.
func TestSharedCache(t *testing.T) {
	parallel(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{2, 4} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			p := newcomer(t)
			a := openArchive(t)
			var runs []*running
			for i := range n {
				runs = append(runs, p.start(t, call{program: plain}, "run", "-q", a.flag(), "--", "echo", fmt.Sprint("up ", i)))
			}
			for i, r := range runs {
				select {
				case <-r.ended:
				case <-time.After(cold):
					t.Fatalf("run %d does not end: %s", i, r.err)
				}
				if got := status(r.Cmd); got != 0 || r.out.String() != fmt.Sprintf("up %d\n", i) || r.err.String() != "" {
					t.Errorf("run %d: status %d, %q, %q", i, got, r.out, r.err)
				}
			}
			for path, times := range a.asked {
				if times != 1 {
					t.Errorf("%s was fetched %d times", path, times)
				}
			}
			p.checkCache(t)
		})
	}
}

// TestIdle holds that a machine that waits uses no processor to speak of.
func TestIdle(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	r := p.start(t, call{program: plain}, "run", "--", "sh", "-c", "echo ready; sleep 1000")
	r.out.expect(t, "ready\n")
	const ticks = 100 // of a second, in /proc
	const span = 5 * time.Second
	// Services may have some seconds to settle.
	best := 1e9
	for range 4 {
		before := p.cpu(t)
		time.Sleep(span)
		used := float64(p.cpu(t)-before) / ticks / span.Seconds() * 100
		if best = min(best, used); best < 2 {
			break
		}
	}
	t.Logf("idle: %.1f %% of a processor", best)
	if best >= 2 {
		t.Errorf("an idle machine uses %.1f %% of a processor", best)
	}
}

// cpu is the time, in ticks, that the person's processes have used.
func (p *person) cpu(t testing.TB) (ticks int64) {
	t.Helper()
	found := p.processes()
	if len(found) < 3 {
		t.Fatalf("not all processes are found: %v", found)
	}
	for pid := range found {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		_, rest, ok := bytes.Cut(stat, []byte(") "))
		f := strings.Fields(string(rest))
		if err != nil || !ok || len(f) < 13 {
			t.Fatalf("%s: %v", stat, err)
		}
		for _, i := range []int{11, 12} { // utime and stime, proc_pid_stat(5)
			n, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			ticks += n
		}
	}
	return ticks
}

// TestNoOrphans holds that init, when it becomes busybox's, leaves it no process to
// bury: one made it sleep, and a machine that was told to end at once took a second.
func TestNoOrphans(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), small+"networks: {lan: {}}\nmachines: {anna: {networks: [lan]}}\n")
	c := call{dir: l.dir, limit: cold, program: l.plain(t)} // which is there before they are buried
	l.run(t, c, "up", "-q")
	const dead = `for d in /proc/[0-9]*; do
		read -r pid name state parent rest <$d/stat || continue
		[ "$state$parent" = Z1 ] && echo "$pid $name"
	done; true`
	if o := l.run(t, c, "exec", "anna", "--", "sh", "-c", dead); o.out != "" {
		t.Errorf("dead children of init: %s", o.out)
	}
}
