// Package machinetest is the conformance suite that every machine backend
// passes: start, console, status lines, network cards, and above all every way
// a machine can end, with nothing left of it afterwards.
//
//	func TestMain(m *testing.M) { machinetest.Main(m, uml.Backend{}) }
//	func TestConformance(t *testing.T) {
//		machinetest.Run(t, uml.Backend{}, machinetest.UML(t))
//	}
//
// The fixtures are real: kernels and busybox from Debian packages, fetched by
// package debian and kept in WOLFFIA_TEST_CACHE (or a folder wolffia-test in the
// user's cache). Nothing is timed; a machine that hangs fails by the suite's own
// limit of two minutes.
package machinetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
)

// limit is how long anything may take before the suite calls it hung.
const limit = 2 * time.Minute

// childEnv makes the test binary a process that starts a machine and waits for
// it, so that a test can kill it; its value is the Spec as JSON.
const childEnv = "MACHINETEST_SPEC"

// Main is the TestMain of a backend's tests.
func Main(m *testing.M, b machine.Backend) {
	keeper.Main()
	spec, ok := os.LookupEnv(childEnv)
	if !ok {
		os.Exit(m.Run())
	}
	os.Exit(child(b, spec))
}

func child(b machine.Backend, text string) int {
	var spec machine.Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("starting")
	m, err := b.Start(context.Background(), spec)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if line, err := bufio.NewReader(m.Status()).ReadString('\n'); err == nil {
		fmt.Print(line)
	}
	m.Wait()
	return 1
}

// Run runs the suite.
func Run(t *testing.T, b machine.Backend, f Fixtures) {
	s := suite{b, f}
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Command", s.command},
		{"PowerOff", s.powerOff},
		{"Reboot", s.reboot},
		{"ConsoleEcho", s.consoleEcho},
		{"ConsoleResize", s.consoleResize},
		{"ConsoleFlood", s.consoleFlood},
		{"Segments", s.segments},
		{"Memory", s.memory},
		{"Cmdline", s.cmdline},
		{"Entropy", s.entropy},
		{"Frames", s.frames},
		{"Link", s.link},
		{"Disks", s.disks},
		{"DiskFull", s.diskFull},
		{"Overlay", s.overlay},
		{"OverlayBase", s.overlayBase},
		{"NoRoot", s.noRoot},
		{"Restart", s.restart},
		{"StopClean", s.stopClean},
		{"StopAtOnce", s.stopAtOnce},
		{"StopForced", s.stopForced},
		{"Kill", s.kill},
		{"ContextEnds", s.contextEnds},
		{"ContextEnded", s.contextEnded},
		{"TwoAtOnce", s.twoAtOnce},
		{"Failures", s.failures},
		{"Examine", s.examine},
		{"BadSpecs", s.badSpecs},
		{"ParentKilled", s.parentKilled},
	} {
		t.Run(c.name, c.test)
	}
}

type suite struct {
	b machine.Backend
	f Fixtures
}

// spec is a machine with an init script and a name of its own.
func (s suite) spec(t testing.TB, init string) machine.Spec {
	t.Helper()
	id := make([]byte, 6)
	rand.Read(id)
	spec := machine.Spec{
		Name: "test-" + hex.EncodeToString(id), Arch: s.f.Arch, Kernel: s.f.Kernel,
		Dir: t.TempDir(), Env: []string{"PATH=/usr/bin:/bin"},
	}
	if init != "" {
		g := s.b.Guest(s.f.Arch)
		init = fmt.Sprintf("STATUS=%s CONSOLE=%s DISK=%s\n", g.Status, g.Console, strings.TrimSuffix(g.Disk, "a")) + init
		spec.Initramfs = []string{s.f.Initramfs(t, init)}
		if s.f.Modules != "" {
			spec.Initramfs = append(spec.Initramfs, s.f.Modules)
		}
	}
	return spec
}

// start starts a machine whose end, and the absence of anything left of it, are
// checked when the test ends.
func (s suite) start(t testing.TB, spec machine.Spec) machine.Machine {
	t.Helper()
	m, err := s.b.Start(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	s.watch(t, spec, m)
	return m
}

// watch ends a machine with the test, or before it when it hangs.
func (s suite) watch(t testing.TB, spec machine.Spec, m machine.Machine) {
	t.Helper()
	watch := time.AfterFunc(limit, func() {
		t.Errorf("machine %s hangs", spec.Name)
		m.Kill()
	})
	t.Cleanup(func() {
		m.Kill()
		exit := m.Wait()
		watch.Stop()
		if left := Leftovers(spec); len(left) > 0 {
			t.Errorf("processes of %s outlived Wait: %v", spec.Name, left)
		}
		if t.Failed() {
			t.Logf("exit %+v\n%s", exit, strings.Join(exit.Tail, "\n"))
		}
	})
}

// clean fails the test unless the machine ends by itself.
func clean(t testing.TB, m machine.Machine) machine.Exit {
	t.Helper()
	exit := m.Wait()
	if !exit.Clean {
		t.Errorf("exit %+v", exit)
	}
	return exit
}

// until reads until want was seen, and gives what was read.
func until(t testing.TB, r io.Reader, want string) string {
	t.Helper()
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), want) {
		n, err := r.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v before %q in %q", err, want, seen.String())
		}
	}
	return seen.String()
}

// output is all that a machine says on its console until it ends.
func output(t testing.TB, m machine.Machine) string {
	t.Helper()
	b, err := io.ReadAll(m.Console())
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// Leftovers lists the processes on this host that belong to a machine: those
// that have its name in their arguments or its folder as their working folder.
func Leftovers(spec machine.Spec) (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		args, err := os.ReadFile(p + "/cmdline")
		if err != nil {
			continue
		}
		cwd, _ := os.Readlink(p + "/cwd")
		if strings.TrimSuffix(cwd, " (deleted)") == spec.Dir || bytes.Contains(args, []byte(spec.Name)) {
			found = append(found, fmt.Sprintf("%s %.60q", filepath.Base(p), args))
		}
	}
	return found
}
