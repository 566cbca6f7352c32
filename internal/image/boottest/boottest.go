// Package boottest boots what tests have written in an emulator, by a plain
// command line, and reads the serial console. It knows none of the image
// formats.
//
//	sys := boottest.NewSystem(t, "trixie", "amd64")
//	// ... a disk with sys.Kernel and sys.Initrd ...
//	said := boottest.Run(t, boottest.Marker, "qemu-system-x86_64", "-serial", "stdio", ...)
package boottest

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/image/compress"
	"wolffia/internal/image/cpio"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/tree"
)

// Marker begins the line that a [System] prints when it is up; the machine's
// name (uname -m) and the kernel's command line follow.
const Marker = "wolffia-test: up: "

// init ends on the reset that -no-reboot turns into QEMU's end, which needs no
// driver for powering off.
const script = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
/bin/busybox echo "` + Marker + `$(/bin/busybox uname -m) $(/bin/busybox cat /proc/cmdline)"
/bin/busybox reboot -f
`

// System is a kernel and an initial RAM disk that prints [Marker] on the
// console and resets the machine.
type System struct {
	Kernel, Initrd tree.Content
}

// kernels are the packages of kernels that boot in an emulator.
var kernels = map[string]string{
	"amd64": "linux-image-cloud-amd64", "arm64": "linux-image-cloud-arm64",
	"armhf": "linux-image-armmp", "i386": "linux-image-686", "riscv64": "linux-image-riscv64",
}

// needless are what the packages of kernels depend on, and a boot does not.
var needless = []string{"kmod", "linux-base", "initramfs-tools", "linux-initramfs-tool", "dracut", "tiny-initramfs"}

// NewSystem gets Debian's kernel and a busybox.
func NewSystem(t testing.TB, suite, arch string) System {
	t.Helper()
	boot, err := Package(t, suite, arch, kernels[arch], needless...).Lookup("/boot")
	if err != nil {
		t.Fatal(err)
	}
	var s System
	for _, name := range boot.Names() {
		if strings.HasPrefix(name, "vmlinu") {
			s.Kernel = boot.Child(name).Content
		}
	}
	if s.Kernel == nil {
		t.Fatalf("no kernel in %v", boot.Names())
	}
	busybox, err := Package(t, suite, arch, "busybox-static").ReadFile("/usr/bin/busybox", 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	root := tree.New()
	for _, dir := range []string{"/bin", "/dev"} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, n := range map[string]*tree.Node{
		"/bin/busybox": tree.File(0o755, tree.Bytes(busybox)),
		"/init":        tree.File(0o755, tree.Bytes(script)),
		"/dev/console": tree.Device(tree.TypeChar, 0o600, 5, 1),
	} {
		if err := root.Put(name, n); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := cpio.Write(&b, root, cpio.Options{Compression: compress.Gzip}); err != nil {
		t.Fatal(err)
	}
	s.Initrd = tree.Bytes(b.Bytes())
	return s
}

// Package unpacks a Debian package with what it depends on, but for the
// needless ones.
func Package(t testing.TB, suite, arch, name string, needless ...string) *tree.Tree {
	t.Helper()
	c, _ := machinetest.Archive(t)
	return machinetest.Unpack(t, c, debian.Request{Release: suite, Arch: arch, Packages: []string{name}, Exclude: needless})
}

// File writes a content into a file of the test's own and gives its path.
func File(t testing.TB, name string, c tree.Content) string {
	t.Helper()
	r, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return path
}

// patience is when an emulator that prints nothing more is given up; a boot
// takes some seconds to a minute.
const patience = 8 * time.Minute

// Run starts an emulator whose serial console is its standard output, reads it
// until it has printed a line with the mark, ends the emulator and gives what
// comes after the mark in the line. It fails the test where the emulator ends
// before.
func Run(t testing.TB, mark string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && log.Len() < 16<<20 {
		log.WriteString(lines.Text() + "\n")
		if _, found, ok := strings.Cut(lines.Text(), mark); ok {
			cancel()
			_ = cmd.Wait() // killed, or ending
			return strings.TrimSpace(found)
		}
	}
	cancel()
	err = cmd.Wait()
	t.Fatalf("it did not say %q: %v\n%s\n%s\n%s", mark, err, strings.Join(argv, " "), errors.String(), log.String())
	return ""
}
