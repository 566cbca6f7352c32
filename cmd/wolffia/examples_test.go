package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// example copies a folder of examples/ to the person's home.
func (p *person) example(t *testing.T, name string) string {
	t.Helper()
	from := filepath.Join("..", "..", "examples", name)
	dir := p.folder(t, name)
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, e.Name())
		p.write(t, to, string(text))
		if info, err := e.Info(); err != nil {
			t.Fatal(err)
		} else if err := os.Chmod(to, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestExampleEarlyUserspace does what the page says, with a kernel in ~/linux as
// make leaves one, and with a kernel alone, whose modules nobody knows.
func TestExampleEarlyUserspace(t *testing.T) {
	parallel(t)
	for tool, pkg := range map[string]string{"qemu-system-x86_64": "qemu-system-x86", "gdb": "gdb", "cpio": "cpio", "gzip": "gzip"} {
		tooltest.Require(t, tool, pkg)
	}
	p := newPerson(t)
	p.kernelTree(t, filepath.Join(p.home, "linux"))
	p.page(t, "early-userspace")

	dir := filepath.Join(p.home, "early-userspace")
	c := call{program: p.plain(t), dir: dir, limit: cold, stdin: strings.NewReader("echo $((6*7)) an''swers\nexit\n")}
	p.write(t, filepath.Join(dir, "vmlinuz"), pcKernelOf(t, p, call{dir: dir, limit: cold}, "early"))
	if o := p.run(t, c, "run", "early", "--kernel", "./vmlinuz"); !strings.Contains(o.out, "42 answers") {
		t.Error(o)
	}
}

func TestExampleDisk(t *testing.T) {
	parallel(t)
	for tool, pkg := range map[string]string{"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"} {
		tooltest.Require(t, tool, pkg)
	}
	newPerson(t).page(t, "disk")
}

func TestExampleARM64(t *testing.T) {
	parallel(t)
	for tool, pkg := range map[string]string{"qemu-system-aarch64": "qemu-system-arm", "gdb-multiarch": "gdb-multiarch", "openssl": "openssl"} {
		tooltest.Require(t, tool, pkg)
	}
	newPerson(t).page(t, "arm64-ssh")
}

// kernelTree makes a folder as make leaves it: Debian's kernel for virtual
// machines, with the modules that a machine needs.
func (p *person) kernelTree(t *testing.T, to string) {
	t.Helper()
	var plan struct {
		Machine struct {
			Kernel, KernelRelease string
			Initramfs             []string
		}
	}
	o := p.run(t, call{program: p.plain(t), limit: cold}, "explain", "run", "-q", "--backend", "qemu", "--json")
	if err := json.Unmarshal([]byte(o.out), &plan); err != nil {
		t.Fatal(err)
	}
	store, release := filepath.Dir(plan.Machine.Kernel), plan.Machine.KernelRelease
	modules := filepath.Join(p.home, "modules")
	p.run(t, call{program: p.plain(t)}, "image", "cp", plan.Machine.Initramfs[1]+":/usr/lib/modules/"+release+"/kernel", modules)

	var order strings.Builder
	put := func(name string, from string) {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.write(t, filepath.Join(to, name), string(b))
	}
	put(".config", filepath.Join(store, "config"))
	put("include/config/kernel.release", filepath.Join(store, "release"))
	put("arch/x86/boot/bzImage", filepath.Join(store, "vmlinuz"))
	err := filepath.WalkDir(modules, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(modules, path)
			put(name, path)
			order.WriteString(strings.TrimSuffix(name, ".ko") + ".o\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, filepath.Join(to, "modules.order"), order.String())
}
