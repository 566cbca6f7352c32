package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// TestDiskRoots boots machines whose root is a disk, under both backends: what
// they write is there as long as they are, and the image stays as it was.
func TestDiskRoots(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	dir := p.folder(t, "lab")
	p.write(t, filepath.Join(dir, "wolffia.yaml"), `
images:
  base: {packages: [busybox-static, dropbear-bin], deps: elf, size: 48M, init: script}
machines:
  uml: {image: base, backend: uml, root: disk}
  qemu: {image: base, backend: qemu, root: disk}
`)
	for _, backend := range []string{"uml", "qemu"} {
		t.Run(backend, func(t *testing.T) {
			for range 2 { // the second finds nothing of the first
				o := p.run(t, call{dir: dir, limit: cold}, "run", "-q", backend, "--", "sh", "-ec",
					`test ! -e /kept; echo new >/kept; sync; cat /kept; while read dev dir type _; do [ "$dir" = / ] && echo "${dev%[a-z]} $type"; done </proc/mounts; true`)
				want := map[string]string{"uml": "new\n/dev/ubd ext4\n", "qemu": "new\n/dev/vd ext4\n"}[backend]
				if o.out != want {
					t.Errorf("want %q: %v", want, o)
				}
			}
			o := p.try(t, call{dir: dir, limit: cold}, "run", "-q", backend, "--", "sh", "-c", "dd if=/dev/zero of=/full bs=1024k count=100; echo $?; rm /full; echo room >/tmp/again && cat /tmp/again")
			if o.status != 0 || o.out != "1\nroom\n" || !strings.Contains(o.err, "No space left on device") {
				t.Errorf("a full disk in the guest: %v", o)
			}
		})
	}
}

// TestPartsAreWrong gives machines kernels, modules, images and roots that are
// wrong: one report with the cause, status 125, and nothing left running, which
// every test looks for at its end.
func TestPartsAreWrong(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	plain := p.plain(t)
	dir := p.folder(t, "lab")
	p.write(t, filepath.Join(dir, "wolffia.yaml"), `
images:
  base: {packages: [busybox-static, dropbear-bin], deps: elf}
  damaged: {from: ./damaged.tar, packages: [busybox-static, dropbear-bin], deps: elf}
  cut: {from: ./cut.img, packages: [busybox-static, dropbear-bin], deps: elf}
  small: {packages: [busybox-static, dropbear-bin], deps: elf, size: 4M}
  large: {from: base, files: [{from: ./large, to: /zlarge}]}
  larger: {from: base, files: [{from: ./large, to: /alarge}]}
`)
	// An EFI program's and a bzImage's beginning, and noise; and a file system
	// that was cut off.
	noise := make([]byte, 100<<10)
	r := rand.NewChaCha8([32]byte{})
	r.Read(noise)
	p.write(t, filepath.Join(dir, "noise"), string(noise))
	p.write(t, filepath.Join(dir, "damaged.tar"), string(noise))
	if err := os.WriteFile(filepath.Join(dir, "large"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "large"), 60<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(p.home, "whole.ext4")
	p.run(t, call{program: plain, dir: dir, limit: cold}, "build", "-q", "base", "-o", image)
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, filepath.Join(dir, "cut.img"), string(whole[:len(whole)/3]))

	for _, c := range []struct {
		name  string
		flags []string
		says  []string
	}{
		{"noise for a kernel", []string{"base", "--kernel", "noise"}, []string{"stage:   kernel", "not a Linux kernel", "fix:"}},
		{"a folder for a kernel", []string{"base", "--kernel", "tree"}, []string{"stage:   kernel", "no .config"}},
		{"a kernel for another machine", []string{"base", "--arch", "arm64", "--kernel", "bzImage"}, []string{"stage:   kernel", "is for amd64, and the machine is arm64", "fix:"}},
		{"an unknown module", []string{"base", "--backend", "qemu", "--module", "virtio_nett"}, []string{"stage:   modules", `no module "virtio_nett"; did you mean "virtio_net"?`}},
		{"a damaged archive", []string{"damaged", "--backend", "qemu"}, []string{"stage:   image", "damaged.tar"}},
		{"half a file system", []string{"cut", "--backend", "qemu"}, []string{"stage:   image", "cut.img"}},
		{"a disk that is too small", []string{"small", "--backend", "qemu", "--root", "disk"}, []string{"stage:   image", "does not fit in 4M", "fix:"}},
		{"no such root", []string{"base", "--backend", "qemu", "--root", "disk", "--cmdline", "root=/dev/vdz rootwait=2"},
			[]string{"stage:   root", "root=/dev/vdz did not appear within 2 s", "the disks that are there: vda"}},
		{"hardly any memory", []string{"base", "--backend", "qemu", "-m", "1"}, []string{"stage:   start", "1 MiB", "--memory"}},
		{"an initramfs that fits half", []string{"large", "--backend", "qemu", "-m", "180M"},
			[]string{"stage:   kernel", "cause:   the initramfs does not fit into the machine's memory\n", "fix:     give the machine more memory (--memory)", "write error"}},
		{"an initramfs without room for /init", []string{"larger", "--backend", "qemu", "-m", "180M"},
			[]string{"stage:   kernel", "cause:   the initramfs does not fit into the machine's memory\n", "fix:     give the machine more memory (--memory)"}},
		{"an initramfs that leaves no memory", []string{"large", "--backend", "uml", "-m", "150M"},
			[]string{"stage:   ", "memory", "fix:     give the machine more memory (--memory)"}},
		{"too little memory", []string{"base", "--backend", "qemu", "-m", "32M"}, []string{"stage:   ", "memory", "--memory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(strings.Join(c.flags, " "), "bzImage") {
				p.write(t, filepath.Join(dir, "bzImage"), pcKernel(t, p, dir))
			}
			o := p.try(t, call{program: plain, dir: dir, limit: cold}, append(append([]string{"run", "-q"}, c.flags...), "--", "true")...)
			if o.status != 125 || o.out != "" || strings.Count(o.err, "did not come up") != 1 {
				t.Errorf("want one report and status 125: %v", o)
			}
			for _, s := range c.says {
				if !strings.Contains(o.err, s) {
					t.Errorf("%q is not in: %s", s, o.err)
				}
			}
		})
	}
}

// TestHalted ends a session in a machine that was halted from inside: an emulated
// one is still there afterwards, and does nothing.
func TestHalted(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	o := p.try(t, call{limit: cold}, "run", "-q", "--backend", "qemu", "--", "sh", "-c", "echo before; sleep 1; halt -f")
	if o.status != 125 || o.out != "before\n" || !strings.Contains(o.err, "cause:   it was halted from inside") || !strings.Contains(o.err, "fix:     power it off instead") {
		t.Error(o)
	}
}

// pcKernel gives the kernel of a PC, out of the image of a disk.
func pcKernel(t *testing.T, p *person, dir string) string {
	t.Helper()
	return pcKernelOf(t, p, call{dir: dir, limit: cold}, "base")
}

// pcKernelOf gives the kernel that a machine or an image would run with.
func pcKernelOf(t *testing.T, p *person, c call, name string) string {
	t.Helper()
	o := p.run(t, c, "explain", "run", name, "-q", "--backend", "qemu", "--json")
	_, rest, ok := strings.Cut(o.out, `"kernel": "`)
	path, _, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 {
		t.Fatal(o)
	}
	kernel, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(kernel)
}

// TestStoredQEMU runs a machine on a host that has no QEMU: it comes from the
// archive.
func TestStoredQEMU(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	c := call{program: p.plain(t), env: []string{"PATH=/nonexistent"}, limit: cold}
	o := p.run(t, c, "run", "-q", "--arch", "riscv64", "--", "uname", "-m")
	if o.out != "riscv64\n" {
		t.Error(o)
	}
	o = p.run(t, c, "explain", "run", "-q", "--arch", "riscv64")
	if !strings.Contains(o.out, p.cache+"/qemu/") || !strings.Contains(o.out, "qemu-system-riscv64") {
		t.Errorf("the command does not name a QEMU in the cache: %v", o)
	}
}

// TestFirmware boots a complete disk by a PC's firmware, on a network of
// wolffia's, and logs in on the console.
func TestFirmware(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	dir := p.folder(t, "lab")
	p.write(t, filepath.Join(dir, "wolffia.yaml"), fmt.Sprintf(`
images:
  base:
    packages: [busybox-static, dropbear-bin]
    deps: elf
    kernel: cloud
    users: [{name: root, password: %q}]
machines:
  pc: {image: base, boot: bios, networks: [lan]}
networks:
  lan: {}
`, secret))
	keys, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	defer typed.Close()
	r := p.start(t, call{program: p.plain(t), dir: dir, stdin: keys}, "run", "-q", "pc")
	r.out.within(t, cold, `login: $`)
	typed.WriteString("root\n")
	r.out.expect(t, `Password: $`)
	typed.WriteString("secret\n")
	r.out.expect(t, `# `)
	typed.WriteString("ping -c1 10.0.2.2 | grep -o '[0-9]* packets received'\n")
	r.out.expect(t, `1 packets received`)
	typed.WriteString("poweroff\n")
	if st := r.end(t); st != 0 {
		t.Errorf("status %d\n%s\n%s", st, r.out, r.err)
	}
	o := p.try(t, call{dir: dir}, "run", "-q", "pc", "--", "true")
	if o.status != 2 || !oneLine(o.err) || !strings.Contains(o.err, "the console alone") {
		t.Error(o)
	}
}
