package debug

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/host"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// said is what gdbserver 16 and a program of it write to standard error.
const said = "Process /opt/x created; pid = 251\nListening on port 40121\nRemote debugging from host ::ffff:127.0.0.1, port 49330\nhello\nListening on port 1\n\nChild exited with status 7\n"

// TestMessages takes gdbserver's own lines off, however the stream is cut.
func TestMessages(t *testing.T) {
	for _, step := range []int{1, 7, 64, len(said)} {
		var out bytes.Buffer
		m := &messages{out: &out, listening: make(chan struct{})}
		end := strings.LastIndex(said, "\n\nChild") + 1 // gdbserver writes its last words at once
		for chunk := range slices.Chunk([]byte(said[:end]), step) {
			m.Write(chunk)
		}
		m.Write([]byte(said[end:]))
		m.flush()
		select {
		case <-m.listening:
		default:
			t.Fatal("the port was not seen")
		}
		if m.port != 40121 || m.pid != 251 || out.String() != "hello\nListening on port 1\n" {
			t.Errorf("chunks of %d: port %d, pid %d, and passed on %q", step, m.port, m.pid, &out)
		}
	}
}

// TestMessagesTerminal has lines that end as a terminal ends them.
func TestMessagesTerminal(t *testing.T) {
	var out bytes.Buffer
	m := &messages{out: &out, terminal: true, listening: make(chan struct{})}
	m.Write([]byte(strings.ReplaceAll(said, "\n", "\r\n")))
	if m.port != 40121 || m.pid != 251 || out.String() != "hello\nListening on port 1\n" {
		t.Errorf("port %d, pid %d, and passed on %q", m.port, m.pid, &out)
	}
}

// TestMessagesOutput passes on what comes instead of gdbserver's line.
func TestMessagesOutput(t *testing.T) {
	var out bytes.Buffer
	m := &messages{out: &out, listening: make(chan struct{})}
	m.Write([]byte("Listening on port 1\nRemote"))
	m.flush()
	if out.String() != "Remote" {
		t.Errorf("passed on %q", &out)
	}
	m = &messages{out: &out, listening: make(chan struct{})}
	out.Reset()
	m.Write([]byte("Listening on port 1\nRemoved"))
	if out.String() != "Removed" {
		t.Errorf("passed on %q", &out)
	}
}

// TestFailure says why gdbserver did not come as far as to listen.
func TestFailure(t *testing.T) {
	for text, want := range map[string]string{
		"/bin/sh: exec: line 0: gdbserver: not found\n":                                                         "add gdbserver",
		"/bin/sh: exec: line 0: /x: not found\nDuring startup program exited with code 127.\nExiting\n":         "give a program",
		"/bin/sh: exec: line 0: /x: Permission denied\nDuring startup program exited with code 126.\nExiting\n": "give a program",
		"Cannot attach to process 99: No such process (3)\nExiting\n":                                           "",
		"": "",
	} {
		m := &messages{listening: make(chan struct{})}
		m.Write([]byte(text))
		m.flush()
		var e *ServeError
		if err := m.failure("/x"); !errors.As(err, &e) || e.Said == "" || strings.HasSuffix(e.Said, "Exiting") || !strings.Contains(e.Fix(), want) {
			t.Errorf("%q: %v, fix %q", text, err, e.Fix())
		}
	}
}

// FuzzMessages holds that nothing a guest writes is kept without bounds, and
// that what a program writes comes out.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(said), uint8(3))
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		var out bytes.Buffer
		m := &messages{out: &out, listening: make(chan struct{})}
		for chunk := range slices.Chunk(text, int(step)+1) {
			m.Write(chunk)
			if len(m.text) > maxSaid+len(chunk) || len(m.said) > maxSaid {
				t.Fatalf("%d and %d bytes are kept", len(m.text), len(m.said))
			}
		}
		m.flush()
		if out.Len() > len(text) {
			t.Errorf("%d bytes came of %d", out.Len(), len(text))
		}
	})
}

// elf is the head of an ELF file of a type.
func elf(kind byte) tree.Content {
	return tree.Bytes("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + string([]byte{kind, 0}) + strings.Repeat("\x00", 46))
}

// TestSysroot puts programs, and the links to them, into a folder, out of which
// no link leads.
func TestSysroot(t *testing.T) {
	const executable, relocatable = 2, 1
	image := tree.New()
	put := func(name string, n *tree.Node) {
		t.Helper()
		if err := image.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := image.Put(name, n); err != nil {
			t.Fatal(err)
		}
	}
	put("/usr/bin/tool", tree.File(0o4100, elf(executable)))
	put("/usr/bin/script", tree.File(0o755, tree.Bytes("#!/bin/sh\necho this is no ELF file\n")))
	put("/usr/bin/short", tree.File(0o755, tree.Bytes("\x7fELF")))
	put("/usr/lib/modules/6/kernel/x.ko", tree.File(0o644, elf(relocatable)))
	put("/usr/lib/arch/libx.so.1.2", tree.File(0o644, elf(3)))
	put("/usr/lib/arch/libx.so.1", tree.Symlink("libx.so.1.2"))
	put("/usr/lib64/ld.so", tree.Symlink("/lib/arch/libx.so.1")) // through the next
	put("/lib", tree.Symlink("usr/lib"))
	put("/lib64", tree.Symlink("/usr/lib64"))
	put("/usr/bin/alias", tree.Symlink("/etc/alternatives/alias"))
	put("/etc/alternatives/alias", tree.Symlink("../../../../../usr/bin/tool"))
	put("/usr/loop", tree.Symlink("."))
	put("/etc/shadow", tree.Symlink("/proc/self/environ"))
	put("/usr/bin/out", tree.Symlink("/etc/passwd"))

	dir := t.TempDir()
	now := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	if err := Sysroot(context.Background(), dir, image, now); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/bin/tool", "usr/bin/alias", "etc/alternatives/alias", "lib/arch/libx.so.1", "lib64/ld.so", "usr/lib64/ld.so"} {
		real, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err != nil || !strings.HasPrefix(real, dir+"/") {
			t.Errorf("%s leads to %q: %v", name, real, err)
			continue
		}
		info, err := os.Stat(real)
		if err != nil || info.Mode().Perm() != 0o644 || !info.ModTime().Equal(now) || info.Size() != 64 {
			t.Errorf("%s is %v, %v", name, info, err)
		}
	}
	for _, name := range []string{"usr/bin/script", "usr/bin/short", "usr/lib/modules", "usr/loop", "etc/shadow", "usr/bin/out"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

// TestFindGDB finds the gdb that knows an architecture, and names the package
// where there is none.
func TestFindGDB(t *testing.T) {
	tooltest.Require(t, "gdb-multiarch", "gdb-multiarch")
	tooltest.Require(t, "gdb", "gdb")
	for _, arch := range []string{"amd64", "i386", "arm64", "armhf", "riscv64"} {
		gdb, err := FindGDB(t.Context(), arch, os.Getenv("PATH"))
		if err != nil || !knows(t.Context(), gdb, arch) {
			t.Errorf("%s: %q, %v", arch, gdb, err)
		}
	}
	_, err := FindGDB(t.Context(), "s390x", t.TempDir())
	var u *host.UnsupportedError
	if !errors.As(err, &u) || !strings.Contains(u.Fix, "gdb-multiarch") {
		t.Errorf("where there is none: %v", err)
	}
	if knows(t.Context(), "/bin/false", "arm64") {
		t.Error("false knows arm64")
	}
}

// TestArguments holds the order of gdb's arguments: the program, the target,
// then what the person asks for.
func TestArguments(t *testing.T) {
	got := Session{Socket: "/s", File: "/v", Symbols: []string{"/a"}, Trusted: []string{"/t"}, Args: []string{"-ex", "bt"}}.Arguments()
	want := []string{"-q", "-iex", "set remotetimeout 60", "-iex", "set debug-file-directory /a:/usr/lib/debug", "-iex", "add-auto-load-safe-path /t", "/v", "-ex", "target remote /s", "-ex", "bt"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := (Session{Socket: "/s"}).Arguments(); !slices.Contains(got, "set sysroot target:") {
		t.Errorf("without a folder: %q", got)
	}
}

// TestSymbols finds debug symbols where packages and builds have them.
func TestSymbols(t *testing.T) {
	dir := t.TempDir()
	if got := Symbols(dir); got != dir {
		t.Errorf("got %s", got)
	}
	below := filepath.Join(dir, "usr/lib/debug")
	vmlinux := filepath.Join(below, "boot/vmlinux-6.1")
	if err := os.MkdirAll(filepath.Dir(vmlinux), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vmlinux, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Symbols(dir); got != below {
		t.Errorf("got %s", got)
	}
	for _, in := range []string{dir, vmlinux} {
		if got, err := KernelSymbols(in, "6.1"); got != vmlinux || err != nil {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
	if _, err := KernelSymbols(dir, "6.2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another release: %v", err)
	}
}

// TestFirstLine takes the first line off, and bounds it.
func TestFirstLine(t *testing.T) {
	var rest bytes.Buffer
	var broken error
	f := &firstLine{rest: &rest, broken: func(err error) { broken = err }, got: make(chan string, 1)}
	for _, s := range []string{"12", "3\nmo", "re\n"} {
		f.Write([]byte(s))
	}
	if got := <-f.got; got != "123" || rest.String() != "more\n" {
		t.Errorf("got %q, and %q", got, &rest)
	}
	f = &firstLine{rest: &rest, got: make(chan string, 1)}
	f.Write(bytes.Repeat([]byte("1"), 100))
	if len(<-f.got) != 100 {
		t.Error("a line without an end is waited for")
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	f = &firstLine{rest: full, broken: func(err error) { broken = err }, got: make(chan string, 1)}
	if f.Write([]byte("1\nmore\n")); !errors.Is(broken, syscall.ENOSPC) {
		t.Errorf("a full disk is %v", broken)
	}
}
