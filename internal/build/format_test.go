package build

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/oci"
	"wolffia/internal/lab"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/rootfs"
	"wolffia/internal/store"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// formats is a builder with a store of its own and an image to be written.
func formats(t *testing.T) (*Builder, *lab.Image, *[]string) {
	t.Helper()
	client, _ := machinetest.Archive(t)
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	said := &[]string{}
	b := &Builder{Store: st, Client: client, Dir: t.TempDir(), Now: time.Now, Events: event.Func(func(e event.Event) {
		if e.Kind == event.Note || e.Kind == event.Warn {
			*said = append(*said, e.Message)
		}
	})}
	return b, &lab.Image{Name: "base", Release: "trixie", Arch: "amd64", Packages: []string{"busybox-static"}, Deps: rootfs.DepsELF}, said
}

// write makes an image and gives its path in the store.
func write(t *testing.T, b *Builder, img *lab.Image, f Format) string {
	t.Helper()
	a, err := b.Image(t.Context(), img, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Release)
	return a.Path
}

// command runs a tool that has to be content.
func command(t *testing.T, pkg string, argv ...string) string {
	t.Helper()
	out, err := exec.Command(tooltest.Require(t, argv[0], pkg), argv[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// TestFileSystems: what the tools say of them, with a size and without one.
func TestFileSystems(t *testing.T) {
	b, img, _ := formats(t)
	for _, name := range []string{"ext2", "ext3", "ext4"} {
		for _, size := range []lab.Size{0, 40 * lab.MiB} {
			img.Size = size
			raw := write(t, b, img, Format{Name: name})
			command(t, "e2fsprogs", "e2fsck", "-fn", raw)
			st, err := os.Stat(raw)
			if err != nil || size != 0 && st.Size() != int64(size) || st.Size() < int64(size) {
				t.Errorf("%s of %v has %d bytes, %v", name, size, st.Size(), err)
			}
			packed := write(t, b, img, Format{Name: name, QCOW2: true})
			command(t, "qemu-utils", "qemu-img", "check", packed)
			command(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, packed)
		}
	}
	img.Size = lab.MiB
	_, err := b.Image(t.Context(), img, Format{Name: "ext4"})
	var small *TooSmallError
	if !errors.As(err, &small) || small.Size != 1<<20 || small.Need < 2<<20 || !strings.Contains(small.Fix(), "--size") {
		t.Errorf("got %v", err)
	}
}

// TestOCI: the image that another reader finds has the tree's files.
func TestOCI(t *testing.T) {
	b, img, _ := formats(t)
	got, info, err := oci.ReadTree(write(t, b, img, Format{Name: "oci", Compression: "zstd"}), oci.ReadOptions{Arch: "amd64", Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, n, err := got.Resolve("/bin/busybox"); err != nil || n.Size() < 1<<20 || !slices.Equal(info.Config.Cmd, []string{"/bin/sh"}) {
		t.Errorf("%v %+v", err, info)
	}
}

// TestDisks: partitions, packings and what is said of them, with a kernel of
// Debian's, and one of the person's own.
func TestDisks(t *testing.T) {
	b, img, said := formats(t)
	img.Kernel = "cloud"
	f := Format{Name: "disk"}
	raw := write(t, b, img, f)
	if len(*said) == 0 || !strings.Contains((*said)[0], "nobody can log in") {
		t.Errorf("it was said %q", *said)
	}
	if out := command(t, "gdisk", "sgdisk", "-v", raw); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk says %s", out)
	}
	d, err := b.Disk(t.Context(), img, f)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, p := range d.Partitions {
		types = append(types, strings.TrimSpace(p.Type+" "+p.FileSystem))
	}
	if got := strings.Join(types, ", "); got != "bios-boot, esp fat32, root-amd64 ext4" {
		t.Errorf("partitions are %s", got)
	}
	root := d.Partitions[len(d.Partitions)-1]
	if root.Free < Room || root.Free > Room*5/4 || !strings.HasSuffix(d.Cmdline, " console=ttyS0,115200 root=PARTUUID="+root.UUID) ||
		!strings.HasPrefix(d.Source, "linux-image-cloud-amd64:amd64=") || !strings.Contains(d.UEFI, "systemd-boot-efi") || !strings.Contains(d.BIOS, "grub-pc-bin") {
		t.Errorf("it is %+v", d)
	}
	files := rootOf(t, raw)
	for _, want := range []string{"/boot/vmlinuz", "/boot/initrd", "/boot/grub/grub.cfg", "/lib/modules/" + d.Kernel + "/modules.dep"} {
		if _, n, err := files.Resolve(want); err != nil || n.Size() == 0 || n.ModTime.Year() < 2020 {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, c := range []string{"gzip", "zstd"} {
		command(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, write(t, b, img, Format{Name: "qcow2", Compression: c}))
		unpack := exec.Command(tooltest.Require(t, c, c), "-dc")
		if unpack.Stdin, err = os.Open(write(t, b, img, Format{Name: "disk", Compression: c})); err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		unpack.Stdout = h
		if err := unpack.Run(); err != nil || !bytes.Equal(h.Sum(nil), sum(t, raw)) {
			t.Errorf("what %s unpacks differs: %v", c, err)
		}
	}

	k, err := b.Linux(t.Context(), KernelRequest{Release: "trixie", Arch: "amd64", Flavour: "cloud"})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	*said, img.Kernel, img.Size = nil, k.Path, 128*lab.MiB
	d, err = b.Disk(t.Context(), img, Format{Name: "qcow2", Table: disk.MBR})
	if err != nil {
		t.Fatal(err)
	}
	if d.Table != "mbr" || len(d.Partitions) != 2 || d.Size != 128<<20 || d.Source != k.Path || d.Kernel != k.Release {
		t.Errorf("it is %+v", d)
	}
	if !slices.ContainsFunc(*said, func(s string) bool { return strings.Contains(s, "comes without modules") }) {
		t.Errorf("it was said %q", *said)
	}
	for kernel, want := range map[string]string{"./nothing": "kernel ./nothing", "clod": `no kernel flavour "clod"`} {
		img.Kernel = kernel
		if _, err := b.Image(t.Context(), img, f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("kernel %s gave %v", kernel, err)
		}
	}
	var small *TooSmallError
	img.Kernel, img.Size = "cloud", 40*lab.MiB
	if _, err := b.Image(t.Context(), img, f); !errors.As(err, &small) || small.Need < 100<<20 {
		t.Errorf("got %v", err)
	}
}

// sum is a file's SHA-256.
func sum(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

// rootOf is the tree of a disk's root.
func rootOf(t *testing.T, name string) *tree.Tree {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d, err := disk.Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	part, err := d.Part(0)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := part.FileSystem()
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Tree(tree.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
