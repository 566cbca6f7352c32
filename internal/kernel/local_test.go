package kernel_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"wolffia/internal/kernel"
	"wolffia/internal/tree"
)

// content is a regular file's bytes.
func content(t *testing.T, n *tree.Node) []byte {
	t.Helper()
	r, err := n.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// zboot packs an Image as the kernel's EFI zboot does.
func zboot(t *testing.T, name string, payload []byte) []byte {
	t.Helper()
	head := make([]byte, 4096)
	copy(head, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(head[8:], uint32(len(head)))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(payload)))
	copy(head[24:], name)
	return append(head, payload...)
}

// files writes files into a folder of the test's own.
func files(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOpenImages: every form of a kernel is recognised by its content, and
// unpacks to one that is recognised too.
func TestOpenImages(t *testing.T) {
	zst, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	pc, arm64, arm := linux(t, "trixie", "amd64", "cloud"), linux(t, "trixie", "arm64", "cloud"), linux(t, "trixie", "armhf", "")
	image := content(t, arm64.Image)
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(image)))
	bz := content(t, pc.Image)
	elf, ok, err := kernel.Uncompress(bytes.NewReader(bz), int64(len(bz)))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	mixed, _ := uml(t, "bookworm")
	_, pkg := uml(t, "bookworm")
	_, program, err := pkg.Resolve("/usr/bin/linux.uml")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    []byte
		want kernel.ImageInfo
		raw  bool // it unpacks
	}{
		"bzImage":     {bz, kernel.ImageInfo{Format: kernel.BzImage, Arch: "amd64", Release: pc.Release}, true},
		"vmlinux":     {elf, kernel.ImageInfo{Format: kernel.Vmlinux, Arch: "amd64", Release: pc.Release, PVH: true}, false},
		"Image":       {image, kernel.ImageInfo{Format: kernel.Image, Arch: "arm64", Release: arm64.Release}, false},
		"Image.gz":    {gzipped(t, image), kernel.ImageInfo{Format: kernel.Image, Arch: "arm64", Release: arm64.Release, Gzip: true}, true},
		"vmlinuz.efi": {zboot(t, "gzip", gzipped(t, image)), kernel.ImageInfo{Format: kernel.ZBoot, Arch: "arm64", Release: arm64.Release}, true},
		"zstd.efi":    {zboot(t, "zstd22", append(zst.EncodeAll(image, nil), size...)), kernel.ImageInfo{Format: kernel.ZBoot, Arch: "arm64", Release: arm64.Release}, true},
		"zImage":      {content(t, arm.Image), kernel.ImageInfo{Format: kernel.ZImage, Arch: "armhf", Release: arm.Release}, true},
		"linux":       {content(t, program), kernel.ImageInfo{Format: kernel.UML, Arch: "amd64", Release: mixed.Release}, false},
	} {
		dir := files(t, map[string][]byte{name: c.b})
		l, err := kernel.Open(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if l.Info != c.want || l.Release != c.want.Release || !l.Bare || l.Path != filepath.Join(dir, name) {
			t.Errorf("%s: %+v", name, l.Info)
		}
		if raw, ok, err := kernel.Uncompress(bytes.NewReader(c.b), int64(len(c.b))); ok != c.raw || err != nil || ok && len(raw) < len(c.b) {
			t.Errorf("%s unpacks to %d bytes, %v, %v", name, len(raw), ok, err)
		}
		for _, cut := range []int{len(c.b) / 3, 1000, 0} {
			var not *kernel.NotKernelError
			if _, err := kernel.Open(filepath.Join(files(t, map[string][]byte{"cut": c.b[:cut]}), "cut")); !errors.As(err, &not) {
				t.Errorf("%s of %d bytes: %v", name, cut, err)
			}
		}
	}
}

func TestOpenOthers(t *testing.T) {
	pad := make([]byte, 2000)
	dir := files(t, map[string][]byte{
		"initrd": append([]byte("070701"), pad...), "disk": append([]byte("QFI\xfb"), pad...), "text": bytes.Repeat([]byte("text\n"), 1000),
		"efi": append([]byte("MZ"), pad...), "module.ko": content(t, tree.File(0, tree.Bytes(make([]byte, 10)))), "empty/x": nil,
	})
	for name, want := range map[string]string{
		"initrd": "cpio archive", "disk": "qcow2", "text": "no kernel format", "efi": "EFI program", "module.ko": "only 10 bytes",
		"empty": "no .config", "absent": "no such file", "/bin/sh": "ordinary program",
	} {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if _, err := kernel.Open(name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// build is a folder as the kernel's own build leaves it, out of a package.
func build(t *testing.T, k *kernel.Kernel) map[string][]byte {
	t.Helper()
	mods, err := k.Closure([]string{"xfs", "virtio_net"})
	if err != nil {
		t.Fatal(err)
	}
	f := map[string][]byte{
		".config": []byte(k.Config), "include/config/kernel.release": []byte(k.Release + "\n"), "Makefile": []byte("include\n"),
		"arch/x86/boot/bzImage": content(t, k.Image), "modules.builtin": content(t, k.Modules.Get("/modules.builtin")),
	}
	var order string
	for _, m := range mods {
		name := strings.TrimPrefix(m.Path, "kernel/")
		f[name] = m.Data
		order += strings.TrimSuffix(name, ".ko") + ".o\n"
	}
	f["modules.order"] = []byte(order)
	return f
}

func TestOpenTree(t *testing.T) {
	k := linux(t, "trixie", "amd64", "cloud")
	want, err := k.Closure([]string{"xfs"})
	if err != nil {
		t.Fatal(err)
	}
	whole := build(t, k)
	dir := files(t, whole)
	old := build(t, k)
	old["modules.order"] = []byte(strings.ReplaceAll(strings.ReplaceAll("kernel/"+string(old["modules.order"]), ".o\n", ".ko\nkernel/"), "kernel/\n", ""))
	for _, name := range []string{dir, filepath.Join(dir, "arch/x86/boot/bzImage"), files(t, old)} {
		l, err := kernel.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if l.Release != k.Release || l.Bare || !strings.HasSuffix(l.Path, "arch/x86/boot/bzImage") || l.Info.Arch != "amd64" || l.Has("VIRTIO_BLK") == "" {
			t.Errorf("%s: %+v", name, l.Info)
		}
		mods, err := l.Closure([]string{"xfs"})
		if err != nil || !slices.Equal(names(mods), names(want)) || mods[0].Path != want[0].Path || !bytes.Equal(mods[0].Data, want[0].Data) {
			t.Errorf("%s: modules %v, %v", name, names(mods), err)
		}
	}
}

func TestOpenTreeErrors(t *testing.T) {
	k := linux(t, "trixie", "amd64", "cloud")
	for name, c := range map[string]struct {
		change    func(f map[string][]byte)
		want, fix string
	}{
		"configured": {func(f map[string][]byte) { delete(f, "include/config/kernel.release") }, "it is configured, and no more", "-j$(nproc) bzImage modules"},
		"no image":   {func(f map[string][]byte) { delete(f, "arch/x86/boot/bzImage") }, "there is no arch/x86/boot/bzImage", "bzImage"},
		"no module":  {func(f map[string][]byte) { delete(f, "drivers/net/virtio_net.ko") }, "modules are missing", "modules"},
		"stale":      {func(f map[string][]byte) { f["include/config/kernel.release"] = []byte("6.12.1-mine\n") }, "still of release " + k.Release, "make -C "},
		"source": {func(f map[string][]byte) {
			clear(f)
			f["Makefile"], f["Kconfig"], f["Kbuild"] = nil, nil, nil
		}, "it has no .config; if it was built in a folder of its own (O=)", "defconfig"},
		"cross": {func(f map[string][]byte) {
			f[".config"] = []byte("CONFIG_RISCV=y\nCONFIG_MODULES=y\n")
		}, "there is no arch/riscv/boot/Image", "ARCH=riscv CROSS_COMPILE=riscv64-linux-gnu- -j$(nproc) Image modules"},
		"uml":     {func(f map[string][]byte) { f[".config"] = []byte("CONFIG_UML=y\nCONFIG_X86_64=y\n") }, "there is no linux", "ARCH=um -j$(nproc) linux"},
		"other":   {func(f map[string][]byte) { f[".config"] = []byte("CONFIG_M68K=y\n") }, "an architecture that wolffia does not run", ""},
		"damaged": {func(f map[string][]byte) { f["arch/x86/boot/bzImage"] = f["arch/x86/boot/bzImage"][:1<<20] }, "it is cut short", ""},
	} {
		f := build(t, k)
		c.change(f)
		dir := files(t, f)
		_, err := kernel.Open(dir)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		var fixer interface{ Fix() string }
		if c.fix != "" && (!errors.As(err, &fixer) || !strings.Contains(fixer.Fix(), c.fix)) {
			t.Errorf("%s: %v has not the fix %q", name, err, c.fix)
		}
	}
}

// TestStaleModule: the kernel would refuse a module of another build.
func TestStaleModule(t *testing.T) {
	k := linux(t, "trixie", "amd64", "cloud")
	f := build(t, k)
	f["drivers/net/virtio_net.ko"] = bytes.Replace(f["drivers/net/virtio_net.ko"], []byte("vermagic="+k.Release), []byte("vermagic=5"+k.Release[1:]), 1)
	l, err := kernel.Open(files(t, f))
	if err != nil {
		t.Fatal(err)
	}
	var stale *kernel.StaleModuleError
	if _, err := l.Closure([]string{"virtio_net"}); !errors.As(err, &stale) || stale.Module != "drivers/net/virtio_net.ko" {
		t.Errorf("%v", err)
	}
	// Those that the machine can do without are passed over.
	if mods, err := l.Closure(nil, "dummy", "virtio-pci", "xfs"); err != nil || !slices.Contains(names(mods), "xfs") {
		t.Errorf("%v, %v", names(mods), err)
	}
}

// TestOpenInstalled: a distribution's kernel comes with its modules.
func TestOpenInstalled(t *testing.T) {
	k := linux(t, "trixie", "amd64", "cloud")
	r := tree.New()
	if err := k.Install(r, kernel.InstallOptions{Modules: []string{"virtio_net"}}); err != nil {
		t.Fatal(err)
	}
	l, err := kernel.Open(filepath.Join(write(t, r), "boot/vmlinuz-"+k.Release))
	if err != nil {
		t.Fatal(err)
	}
	mods, err := l.Closure([]string{"virtio_net"})
	if err != nil || !slices.Contains(names(mods), "virtio_net") || l.Bare || l.Has("MODULES") != "y" {
		t.Errorf("%v, %v", names(mods), err)
	}
}
