package machinetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wolffia/internal/machine"
	"wolffia/internal/tree"
)

func (s suite) powerOff(t *testing.T) {
	spec := s.spec(t, "echo hello; echo stage one >$STATUS; echo ready >$STATUS; poweroff -f")
	m := s.start(t, spec)
	status := bufio.NewReader(m.Status())
	for _, want := range []string{"stage one\n", "ready\n"} {
		if line, err := status.ReadString('\n'); line != want {
			t.Errorf("status %q (%v), want %q", line, err, want)
		}
	}
	if out := output(t, m); !strings.HasPrefix(out, "hello\r\n") { // and no kernel message before it
		t.Errorf("console %q", out)
	}
	exit := clean(t, m)
	if exit.Reboot || exit.Host == "" || len(exit.Argv) == 0 {
		t.Errorf("exit %+v", exit)
	}
	if log, err := os.ReadFile(exit.Log); err != nil || !strings.HasPrefix(string(log), "hello\r\n") {
		t.Errorf("log %q, %v", log, err)
	}
	if _, err := status.ReadByte(); err == nil {
		t.Error("status goes on after the machine's end")
	}
	if again := m.Wait(); again.Clean != exit.Clean || again.Host != exit.Host {
		t.Errorf("second Wait %+v", again)
	}
	m.Kill() // harmless
	if err := m.Stop(context.Background()); err != nil {
		t.Errorf("stop after the end: %v", err)
	}
}

func (s suite) reboot(t *testing.T) {
	m := s.start(t, s.spec(t, "reboot -f"))
	if exit := clean(t, m); !exit.Reboot {
		t.Errorf("exit %+v", exit)
	}
}

// segments: several archives are joined, later ones over earlier ones,
// whatever their length and compression.
func (s suite) segments(t *testing.T) {
	spec := s.spec(t, "cat /etc/one /etc/two; poweroff -f")
	for _, text := range []string{"first", "second"} {
		r := tree.New()
		if err := errors.Join(
			r.MkdirAll("/etc", 0o755),
			r.Put("/etc/one", tree.File(0o644, tree.Bytes(text+"\n"))),
			r.Put("/etc/two", tree.File(0o644, tree.Bytes("also "+text+"\n"))),
		); err != nil {
			t.Fatal(err)
		}
		spec.Initramfs = append(spec.Initramfs, WriteInitramfs(t, r))
	}
	m := s.start(t, spec)
	if out := output(t, m); !strings.HasPrefix(out, "second\r\nalso second\r\n") {
		t.Errorf("console %q", out)
	}
	clean(t, m)
}

const trapInit = `trap 'echo stopping; poweroff -f' INT
/bin/busybox echo 0 >/proc/sys/kernel/ctrl-alt-del
echo ready >$STATUS
while :; do sleep 1000 & wait; done`

func (s suite) stopClean(t *testing.T) {
	spec := s.spec(t, trapInit)
	m := s.start(t, spec)
	until(t, m.Status(), "ready\n")
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
	if out := output(t, m); !strings.Contains(out, "stopping\r\n") {
		t.Errorf("console %q", out)
	}
	clean(t, m)
}

// stopAtOnce stops a machine whose kernel is not up yet.
func (s suite) stopAtOnce(t *testing.T) {
	m := s.start(t, s.spec(t, trapInit))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
	clean(t, m)
}

func (s suite) stopForced(t *testing.T) {
	m := s.start(t, s.spec(t, "echo 0 >/proc/sys/kernel/ctrl-alt-del; trap : INT; echo ready >$STATUS; while :; do sleep 1000; done"))
	until(t, m.Status(), "ready\n")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := m.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	if exit := m.Wait(); exit.Clean {
		t.Errorf("exit %+v", exit)
	}
}

// busyInit has many processes, some born all the time.
const busyInit = `(while :; do sleep 0.01; done) & (while :; do :; done) & setsid sleep 1000 & seq 1 10000000 >/dev/null &
echo ready >$STATUS; wait; sleep 1000`

func (s suite) kill(t *testing.T) {
	for range 5 {
		spec := s.spec(t, busyInit)
		m := s.start(t, spec)
		time.Sleep(rand.N(150 * time.Millisecond))
		m.Kill()
		if exit := m.Wait(); exit.Clean || exit.Cause != "killed" {
			t.Errorf("exit %+v", exit)
		}
		if left := Leftovers(spec); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func (s suite) contextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	spec := s.spec(t, busyInit)
	m, err := s.b.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	until(t, m.Status(), "ready\n")
	cancel()
	if exit := m.Wait(); exit.Clean {
		t.Errorf("exit %+v", exit)
	}
	if left := Leftovers(spec); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func (s suite) contextEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if m, err := s.b.Start(ctx, s.spec(t, busyInit)); !errors.Is(err, context.Canceled) {
		t.Errorf("start: %v", err)
		if m != nil {
			m.Kill()
		}
	}
}

func (s suite) twoAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for range 2 {
		m := s.start(t, s.spec(t, "echo ready >$STATUS; head -c 3 >/tmp/in; cat /tmp/in; poweroff -f"))
		wg.Go(func() {
			until(t, m.Status(), "ready\n")
			if _, err := m.Console().Write([]byte("abc\r")); err != nil {
				t.Error(err)
			}
			output(t, m)
			clean(t, m)
		})
	}
	wg.Wait()
}

// parentKilled is the promise about process trees: the process that started the
// machine is killed at any moment, and nothing is left.
func (s suite) parentKilled(t *testing.T) {
	image := diskImage(t, "empty")
	for i := range 12 {
		spec := s.spec(t, busyInit)
		spec.Disks = []machine.Disk{{Path: image, Overlay: filepath.Join(t.TempDir(), "volume")}}
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childEnv+"="+string(text))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for _, want := range []string{"starting", "ready"}[:1+i%2] {
			if lines.Scan(); lines.Text() != want {
				t.Errorf("the parent says %q instead of %q", lines.Text(), want)
			}
		}
		time.Sleep(rand.N(60 * time.Millisecond))
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		if err := machine.RemoveOverlay(spec.Disks[0].Overlay); err != nil { // nobody has it any more
			t.Error(err)
		}
		gone(t, spec)
	}
}

func gone(t *testing.T, spec machine.Spec) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		left := Leftovers(spec)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", left)
		}
	}
	// The memory of the machine is an unlinked file; nothing else may stay behind
	// outside of its folder.
	if names, _ := filepath.Glob("/dev/shm/wolffia*"); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
}
