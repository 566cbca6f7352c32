package uml

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/kernel"
	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/program"
	"wolffia/internal/tooltest"
)

// fails starts a machine that fails, and gives its exit.
func fails(t *testing.T, spec machine.Spec) *machine.StartError {
	t.Helper()
	m, err := Backend{}.Start(t.Context(), spec)
	if err != nil {
		var e *machine.StartError
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		return e
	}
	watch := time.AfterFunc(2*time.Minute, m.Kill)
	defer watch.Stop()
	exit := m.Wait()
	e := exit.Err(spec.Name, "kernel")
	t.Logf("%v; %s (%s)", e, e.Fix, e.Exit)
	if exit.Clean {
		t.Errorf("clean exit %+v", exit)
	}
	return e
}

func umlSpec(t *testing.T) machine.Spec {
	f := machinetest.UML(t)
	return machine.Spec{Name: "failing", Kernel: f.Kernel, Dir: t.TempDir(), Initramfs: []string{f.Initramfs(t, "poweroff -f")}}
}

// copyKernel copies the kernel and its runtime to a folder of the test's own.
func copyKernel(t *testing.T, from string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kernel")
	if err := os.CopyFS(dir, os.DirFS(filepath.Dir(from))); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{kernel.UMLName, program.RuntimeLoader} {
		if err := os.Chmod(filepath.Join(dir, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, kernel.UMLName)
}

// The kernel's own C library is missing, or not the right one: the report says
// so, instead of an exit status 127.
func TestRuntimeMissing(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		cause string
	}{
		"loader":       {func(dir string) error { return os.Remove(filepath.Join(dir, program.RuntimeLoader)) }, "dynamic loader is missing"},
		"library":      {func(dir string) error { return os.Remove(filepath.Join(dir, "rt/libc.so.6")) }, "libc.so.6"},
		"no-execution": {func(dir string) error { return os.Chmod(filepath.Join(dir, kernel.UMLName), 0o644) }, "not an executable file"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := umlSpec(t)
			spec.Kernel = copyKernel(t, spec.Kernel)
			if err := c.spoil(filepath.Dir(spec.Kernel)); err != nil {
				t.Fatal(err)
			}
			if name == "library" {
				// The host's own library may take its place, and be good enough.
				spec.Cmdline = nil
				if _, err := os.Stat("/lib/x86_64-linux-gnu/libc.so.6"); err == nil {
					if err := os.WriteFile(filepath.Join(filepath.Dir(spec.Kernel), "rt/libc.so.6"), []byte("no library\n"), 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			e := fails(t, spec)
			if e.Stage != "start" || !strings.Contains(e.Cause, c.cause) || e.Fix == "" {
				t.Errorf("%+v", e)
			}
		})
	}
}

// An older kernel on a processor with AMX can't run programs; the report says
// which one can.
func TestProcessorTooNew(t *testing.T) {
	c, st := machinetest.Archive(t)
	lock, err := c.Resolve(t.Context(), kernel.UMLRequest("bookworm", "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	old, err := kernel.InstallLockedUML(t.Context(), c, st, lock)
	if err != nil {
		t.Fatal(err)
	}
	spec := umlSpec(t)
	spec.Kernel = old.Path
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(info, []byte(" amx_tile")) { // then it has to work
		m, err := Backend{}.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if exit := m.Wait(); !exit.Clean {
			t.Errorf("%+v", exit)
		}
		return
	}
	if e := fails(t, spec); e.Stage != "init" || !strings.Contains(e.Cause, "AMX") || !strings.Contains(e.Fix, "6.13") {
		t.Errorf("%+v", e)
	}
}

// No folder takes the machine's memory.
func TestMemoryFolders(t *testing.T) {
	spec := umlSpec(t)
	spec.Memory = 1 << 39 // more than any test host has
	spec.Env = []string{"TMPDIR=/nonexistent"}
	e := fails(t, spec)
	if e.Stage != "start" || !strings.Contains(e.Cause, "no folder takes") || !strings.Contains(e.Error(), "/nonexistent") || e.Fix == "" {
		t.Errorf("%+v", e)
	}
	if err := takesMemory("/proc", 1<<20); err == nil {
		t.Error("/proc takes memory")
	}
	if names, _ := filepath.Glob("/dev/shm/wolffia-memory*"); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
}

// A folder mounted noexec does not take memory, and the next one does.
func TestMemoryNoExec(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
		"mount -t tmpfs -o noexec none "+dir+" && exec /proc/self/exe -c 'echo mounted; cat' ")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	line := make([]byte, 8)
	if _, err := out.Read(line); err != nil || string(line) != "mounted\n" {
		tooltest.Missing(t, "no user namespace with a mount: %q %v", line, err)
	}
	// Through the other process's root, its mounts are seen.
	inside := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "root", dir)
	if err := takesMemory(inside, 1<<20); !errors.Is(err, unix.EPERM) {
		t.Errorf("noexec: %v", err)
	}
}

// The folder's path may be longer than a socket's address.
func TestLongFolder(t *testing.T) {
	spec := umlSpec(t)
	f := machinetest.UML(t)
	spec.Dir = filepath.Join(t.TempDir(), strings.Repeat("long-folder-", 12), "with space, comma: and colon")
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec.Initramfs = []string{f.Initramfs(t, "echo ready >/dev/ttyS0; sleep 1000")}
	m, err := Backend{}.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if line, err := bufio.NewReader(m.Status()).ReadString('\n'); err != nil || line != "ready\n" {
		t.Errorf("%q, %v", line, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
	if exit := m.Wait(); !exit.Clean {
		t.Errorf("%+v", exit)
	}
}

// An idle machine takes no processor time: its processes' clocks stand still
// as soon as the kernel has come to rest, which seeds its random numbers for a
// while, longer on a busy host.
func TestIdle(t *testing.T) {
	spec := umlSpec(t)
	f := machinetest.UML(t)
	spec.Initramfs = []string{f.Initramfs(t, "echo ready >/dev/ttyS0; sleep 1000")}
	m, err := Backend{}.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	b := make([]byte, 6)
	if _, err := m.Status().Read(b); err != nil {
		t.Fatal(err)
	}
	const span = 3 * time.Second
	const most = 3 // hundredths of a second: 1 %
	var used []int
	for range 5 {
		before := ticks(t, spec)
		time.Sleep(span)
		n := ticks(t, spec) - before
		if n <= most {
			return
		}
		used = append(used, n)
	}
	t.Errorf("idle, it used these hundredths of a second in one span of %s after the other: %d", span, used)
}

// ticks is the processor time of a machine's processes, in clock ticks.
func ticks(t *testing.T, spec machine.Spec) int {
	t.Helper()
	sum := 0
	for _, p := range machinetest.Leftovers(spec) {
		pid, _, _ := strings.Cut(p, " ")
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, f := range fields[11:13] { // utime, stime
			n, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// Modules of a kernel load in it: for kernels that have IPv6 as a module it is
// that, for others another one.
func TestModulesLoad(t *testing.T) {
	f := machinetest.UML(t)
	c, _ := machinetest.Archive(t)
	k, err := kernel.FromPackage(machinetest.Unpack(t, c, kernel.UMLRequest(kernel.UMLSuites(0)[0], "amd64")))
	if err != nil {
		t.Fatal(err)
	}
	mods, err := k.Closure([]string{"ipv6", "overlay", "vfat", "nf_conntrack"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := kernel.ModuleTree(k.Release, mods)
	if err != nil {
		t.Fatal(err)
	}
	spec := umlSpec(t)
	spec.Initramfs = []string{
		f.Initramfs(t, "busybox lsmod | tail -n +2 | wc -l; poweroff -f"),
		machinetest.WriteInitramfs(t, r),
	}
	m, err := Backend{}.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	exit := m.Wait()
	if want := strconv.Itoa(len(mods)); !exit.Clean || len(exit.Tail) == 0 || exit.Tail[0] != want {
		t.Errorf("want %s modules: %+v", want, exit)
	}
}

// fakeMconsole answers as a kernel would.
func fakeMconsole(t *testing.T, reply func(order string) []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mconsole")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1024)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			size := binary.NativeEndian.Uint32(b[8:])
			if n < 12 || binary.NativeEndian.Uint32(b) != mconsoleMagic || binary.NativeEndian.Uint32(b[4:]) != mconsoleVersion {
				continue
			}
			if r := reply(string(b[12 : 12+size])); r != nil {
				_, _ = c.WriteTo(r, from)
			}
		}
	}()
	return path
}

func replyOf(code uint32, text string) []byte {
	b := make([]byte, 12+mconsoleData)
	binary.NativeEndian.PutUint32(b, code)
	binary.NativeEndian.PutUint32(b[8:], uint32(len(text)))
	copy(b[12:], text)
	return b
}

func TestMconsole(t *testing.T) {
	path := fakeMconsole(t, func(order string) []byte {
		switch order {
		case "version":
			return replyOf(0, "OK Linux")
		case "short":
			return []byte{1, 2, 3}
		case "silent":
			return nil
		}
		return replyOf(1, "Unknown command")
	})
	if s, err := mconsole(path, "version"); s != "OK Linux" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
	for _, order := range []string{"nonsense", "short", "silent", strings.Repeat("x", 600)} {
		if s, err := mconsole(path, order); err == nil {
			t.Errorf("%.20s: %q", order, s)
		}
	}
	if _, err := mconsole(path+"-missing", "version"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}

func FuzzMconsoleReply(f *testing.F) {
	f.Add(replyOf(0, "OK"))
	f.Add(replyOf(1, "no")[:13])
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseReply(b); len(s) > len(b) || err == nil && len(b) < 12 {
			t.Errorf("%q, %v", s, err)
		}
	})
}
