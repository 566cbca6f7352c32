package program_test

import (
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/debian"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/program"
	"wolffia/internal/tree"
)

// strace is an unpacked program with its libraries, of another release than
// the host's.
func strace(t *testing.T) *tree.Tree {
	c, _ := machinetest.Archive(t)
	return machinetest.Unpack(t, c, debian.Request{Release: "trixie", Arch: "amd64", Packages: []string{"strace"}})
}

// TestInstall: a program runs with its own libraries alone.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	p, err := program.Install(dir, strace(t), "/usr/bin/strace", program.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Path != filepath.Join(dir, "strace") || *program.At(dir, "strace") != *p {
		t.Errorf("%+v", p)
	}
	argv := append(p.Argv(), "--version")
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Env = []string{"LD_DEBUG=files"}
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "strace -- version 6.") {
		t.Errorf("%v, %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		_, file, ok := strings.Cut(line, "calling init: ")
		if file = strings.TrimSpace(file); ok && !strings.HasPrefix(file, dir+"/") {
			t.Errorf("a library of the host: %s", file)
		}
	}
	if _, err := program.Install(dir, strace(t), "/usr/bin/strace", program.Options{}); err == nil {
		t.Error("it is installed twice")
	}
}

// TestRelative: a program that names its loader by a relative path runs where
// a link leads to its runtime.
func TestRelative(t *testing.T) {
	dir, cwd := t.TempDir(), t.TempDir()
	p, err := program.Install(dir, strace(t), "/usr/bin/strace", program.Options{Name: "tracer", Relative: true})
	if err != nil {
		t.Fatal(err)
	}
	if interp, err := program.Interpreter(p.Path); err != nil || interp != program.RuntimeLoader {
		t.Errorf("interpreter %q, %v", interp, err)
	}
	if err := os.Symlink(p.Runtime, filepath.Join(cwd, program.RuntimeDir)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(p.Path, "--version")
	cmd.Dir, cmd.Env = cwd, []string{"LD_LIBRARY_PATH=" + program.RuntimeDir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v, %s", err, out)
	}
}

func TestErrors(t *testing.T) {
	whole := strace(t)
	bare := tree.New()
	_, n, err := whole.Resolve("/usr/bin/strace")
	if err != nil {
		t.Fatal(err)
	}
	if err := bare.MkdirAll("/usr/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := bare.Put("/usr/bin/strace", n); err != nil {
		t.Fatal(err)
	}
	if err := bare.Put("/usr/bin/text", tree.File(0o755, tree.Bytes("#!/bin/sh\n"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/usr/bin/strace":  "dynamic loader: ",
		"/usr/bin/nothing": "not exist",
		"/usr/bin/text":    "read its ELF header",
	} {
		if _, err := program.Install(t.TempDir(), bare, name, program.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestHoles: firmware of 64 MiB, most of it zeros, takes little room.
func TestHoles(t *testing.T) {
	b := make([]byte, 8<<20)
	copy(b, elf.ELFMAG)
	copy(b[5<<20:], "middle")
	name := filepath.Join(t.TempDir(), "file")
	if err := program.WriteFile(name, tree.File(0o644, tree.Bytes(b))); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil || string(got) != string(b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
