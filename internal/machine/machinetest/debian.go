package machinetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/image/cpio"
	"wolffia/internal/kernel"
	"wolffia/internal/tree"
)

// packages are the kernels that QEMU machines of each architecture boot, from
// the newest Debian release that has one for it.
var packages = map[string]struct{ release, kernel string }{
	"amd64":   {"trixie", "linux-image-cloud-amd64"},
	"i386":    {"bookworm", "linux-image-686"},
	"arm64":   {"trixie", "linux-image-arm64"},
	"armhf":   {"trixie", "linux-image-armmp"},
	"riscv64": {"trixie", "linux-image-riscv64"},
}

// scripts are packages that a kernel's package wants for its installation, of
// which nothing is needed to boot it.
var scripts = []string{"kmod", "linux-base", "initramfs-tools", "dracut", "tiny-initramfs", "linux-initramfs-tool"}

// most is the largest file of a package that is read, in bytes.
const most = 128 << 20

// Debian makes the fixtures of an architecture: Debian's kernel for it with the
// named modules and what they need, and busybox-static. They are made once and
// kept with the packages.
func Debian(t testing.TB, arch string, modules []string) Fixtures {
	t.Helper()
	from, ok := packages[arch]
	if !ok {
		t.Fatalf("no fixtures for architecture %s", arch)
	}
	c, st := Archive(t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	image, err := c.Resolve(ctx, debian.Request{Release: from.release, Arch: arch, Packages: []string{from.kernel}, Exclude: scripts})
	if err != nil {
		t.Fatal(err)
	}
	programs, err := c.Resolve(ctx, debian.Request{Release: from.release, Arch: arch, Packages: []string{"busybox-static"}})
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256(fmt.Append(nil, "2", image.Digest(), programs.Digest(), modules))
	dir, err := st.CreateDir(ctx, "fixture", hex.EncodeToString(key[:16]), func(dir string) error {
		return makeFixture(ctx, c, dir, image, programs, modules)
	})
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(filepath.Join(dir, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	return Fixtures{
		Arch: arch, Memory: 112 << 20, Kernel: filepath.Join(dir, "vmlinuz"), Modules: filepath.Join(dir, "modules.cpio"),
		Busybox: tree.File(0o755, tree.Bytes(busybox)),
	}
}

func makeFixture(ctx context.Context, c *debian.Client, dir string, image, programs *debian.Lock, modules []string) error {
	u, err := c.Unpack(ctx, image, debian.UnpackOptions{NoDatabase: true})
	if err != nil {
		return err
	}
	defer u.Close()
	k, err := kernel.FromPackage(u.Tree)
	if err != nil {
		return err
	}
	mods, err := k.Closure(modules)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if r, err := kernel.ModuleTree(k.Release, mods); err != nil {
		return err
	} else if err := cpio.Write(&archive, r, cpio.Options{}); err != nil {
		return err
	}
	p, err := c.Unpack(ctx, programs, debian.UnpackOptions{NoDatabase: true})
	if err != nil {
		return err
	}
	defer p.Close()
	for name, read := range map[string]func() ([]byte, error){
		"vmlinuz":      func() ([]byte, error) { return readKernel(u.Tree, k.Release) },
		"busybox":      func() ([]byte, error) { return p.Tree.ReadFile("/bin/busybox", most) },
		"config":       func() ([]byte, error) { return []byte(k.Config), nil },
		"modules.cpio": func() ([]byte, error) { return archive.Bytes(), nil },
	} {
		b, err := read()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readKernel gives the kernel in the form that QEMU starts soonest.
func readKernel(pkg *tree.Tree, release string) ([]byte, error) {
	var b []byte
	var err error
	for _, name := range []string{"/boot/vmlinuz-", "/boot/vmlinux-"} {
		if b, err = pkg.ReadFile(name+release, most); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	raw, ok, err := kernel.Uncompress(bytes.NewReader(b), int64(len(b)))
	if ok {
		b = raw
	}
	return b, err
}
