package build

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/kernel"
)

// TestLocalKernel: an image by itself, for its own architecture and none other.
func TestLocalKernel(t *testing.T) {
	ctx := context.Background()
	b, said := builder(t)
	stock, err := b.Linux(ctx, KernelRequest{Release: "trixie", Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	path := filepath.Join(t.TempDir(), "mine")
	copyFile(t, path, stock.Path)
	k, err := b.LocalKernel(ctx, path, KernelRequest{Arch: "amd64", Modules: []string{"virtio_net"}, Optional: []string{"overlay"}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.Path != path || k.Release != stock.Release || k.Arch != "amd64" || k.Modules != "" || k.Config != "" {
		t.Errorf("%+v", k)
	}
	if !stock.BuiltIn("CONFIG_VIRTIO_CONSOLE") || stock.BuiltIn("CONFIG_VIRTIO_NET") || k.BuiltIn("CONFIG_VIRTIO_CONSOLE") {
		t.Error("what is built in is told wrongly: the console is, the network's driver is a module, of an image nothing is known")
	}
	checkDirect(t, k, "\x7fELF")
	if got := strings.Join(*said, "\n"); !strings.Contains(got, "comes without modules: virtio_net must be built into it") {
		t.Errorf("said %q", got)
	}
	if k, err := b.LocalKernel(ctx, path, KernelRequest{Arch: "i386"}); err != nil || k.Arch != "amd64" {
		t.Errorf("a 64-bit kernel for i386: %v", err)
	}
	_, err = b.LocalKernel(ctx, path, KernelRequest{Arch: "arm64"})
	var wrong *KernelArchError
	if !errors.As(err, &wrong) || wrong.Fix() != "give a kernel for arm64, or an image with arch: amd64" {
		t.Errorf("%v", err)
	}
	if _, err := b.LocalKernel(ctx, filepath.Dir(path), KernelRequest{Arch: "amd64"}); !errors.As(err, new(*kernel.NotKernelError)) {
		t.Errorf("%v", err)
	}
}

// TestLocalGzip: what QEMU takes on some architectures only is unpacked.
func TestLocalGzip(t *testing.T) {
	ctx := context.Background()
	b, _ := builder(t)
	stock, err := b.Linux(ctx, KernelRequest{Release: "trixie", Arch: "riscv64"})
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	image, err := os.ReadFile(stock.Path)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "Image.gz")
	if err := os.WriteFile(path, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := b.LocalKernel(ctx, path, KernelRequest{Arch: "riscv64"})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if got, err := os.ReadFile(k.Path); err != nil || !bytes.Equal(got, image) || k.Release != stock.Release {
		t.Errorf("%d bytes of %d, %v", len(got), len(image), err)
	}
}

// TestLocalTree: a kernel's build folder, with its modules; what was built last
// is what boots.
func TestLocalTree(t *testing.T) {
	ctx := context.Background()
	b, said := builder(t)
	stock, err := b.Linux(ctx, KernelRequest{Release: "trixie", Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	from, err := stock.source(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mods, err := from.Closure([]string{"virtio_net"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"arch/x86/boot", "include/config", "drivers"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, filepath.Join(dir, ".config"), stock.Config)
	copyFile(t, filepath.Join(dir, "arch/x86/boot/bzImage"), stock.Path)
	copyFile(t, filepath.Join(dir, "vmlinux"), stock.Direct)
	order := ""
	for _, m := range mods {
		order += "drivers/" + m.Name + ".o\n"
		if err := os.WriteFile(filepath.Join(dir, "drivers", m.Name+".ko"), m.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"include/config/kernel.release": stock.Release + "\n", "modules.order": order} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	req := KernelRequest{Arch: "amd64", Modules: []string{"virtio_net"}}
	k, err := b.LocalKernel(ctx, dir, req)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.Path != filepath.Join(dir, "arch/x86/boot/bzImage") || k.Direct != filepath.Join(dir, "vmlinux") || k.Config != filepath.Join(dir, ".config") {
		t.Errorf("%+v", k)
	}
	checkModules(t, k)
	again, err := b.LocalKernel(ctx, dir, req)
	if err != nil || again.Modules != k.Modules {
		t.Errorf("%+v, %v", again, err)
	}
	again.Close()
	if k, err := b.LocalKernel(ctx, dir, KernelRequest{Arch: "amd64", Optional: []string{"virtio_net", "virtio_nte", "virtio_rng"}}); err != nil {
		t.Error(err)
	} else {
		k.Close()
	}
	if want := "lacks virtio_nte, which"; !strings.Contains(strings.Join(*said, "\n"), want) {
		t.Errorf("no note %q: %q", want, *said)
	}
	var unknown *kernel.UnknownModuleError
	if _, err := b.LocalKernel(ctx, dir, KernelRequest{Arch: "amd64", Modules: []string{"virtio_nte"}}); !errors.As(err, &unknown) || unknown.Nearest != "virtio_net" {
		t.Errorf("%v", err)
	}
}
