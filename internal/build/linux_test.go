package build

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/event"
	"wolffia/internal/image/cpio"
	"wolffia/internal/kernel"
	"wolffia/internal/machine/machinetest"
)

// messages keeps what is said while a kernel is got.
type messages []string

func (m *messages) Emit(e event.Event) {
	if e.Kind == event.Note {
		*m = append(*m, e.Message)
	}
}

func builder(t *testing.T) (*Builder, *messages) {
	client, st := machinetest.Archive(t)
	m := &messages{}
	return &Builder{Store: st, Client: client, Events: m}, m
}

// TestLinux: the kernel of every architecture, in the form that QEMU starts.
func TestLinux(t *testing.T) {
	for _, c := range []struct {
		release, arch string
		version       string // how the kernel's release begins
		format        kernel.Format
		direct        string // how the unpacked kernel begins, if there is one
		note          string
	}{
		{"trixie", "amd64", "6.12.", kernel.BzImage, elf.ELFMAG, ""},
		{"sid", "amd64", "7.", kernel.BzImage, elf.ELFMAG, ""},
		{"trixie", "i386", "6.1.", kernel.BzImage, elf.ELFMAG, "trixie has no kernel of its own for i386; taking linux-image-686-pae of bookworm for i386"},
		{"trixie", "arm64", "6.12.", kernel.Image, "", ""},
		{"trixie", "armhf", "6.12.", kernel.ZImage, "\xfe\xdf\x07\xea", ""},
		{"trixie", "riscv64", "6.12.", kernel.Image, "", ""},
	} {
		t.Run(c.release+"/"+c.arch, func(t *testing.T) {
			b, said := builder(t)
			k, err := b.Linux(context.Background(), KernelRequest{
				Release: c.release, Arch: c.arch, Modules: []string{"virtio_pci", "virtio_net", "virtio_blk", "ext4", "ipv6"},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if !strings.HasPrefix(k.Release, c.version) || k.Arch != c.arch {
				t.Errorf("kernel %s for %s", k.Release, k.Arch)
			}
			if got := strings.Join(*said, "\n"); got != c.note {
				t.Errorf("said %q", got)
			}
			f, err := os.Open(k.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			info, err := kernel.Identify(f, st.Size())
			if err != nil || info.Format != c.format || info.Release != k.Release {
				t.Errorf("%+v, %v", info, err)
			}
			checkDirect(t, k, c.direct)
			if config, err := os.ReadFile(k.Config); err != nil || !strings.Contains(string(config), "CONFIG_VIRTIO") {
				t.Errorf("configuration: %v", err)
			}
			checkModules(t, k)
		})
	}
}

// checkDirect looks at the kernel that needs no unpacking, if there is to be one.
func checkDirect(t *testing.T, k *Kernel, begins string) {
	t.Helper()
	if begins == "" || k.Direct == "" {
		if begins != "" || k.Direct != "" {
			t.Errorf("the unpacked kernel is %q", k.Direct)
		}
		return
	}
	b, err := os.ReadFile(k.Direct)
	if err != nil || !strings.HasPrefix(string(b), begins) || !bytes.Contains(b, []byte("Linux version "+k.Release)) {
		t.Errorf("the unpacked kernel begins with %x, %v", b[:min(len(b), 4)], err)
	}
}

// checkModules holds the archive to its own list.
func checkModules(t *testing.T, k *Kernel) {
	t.Helper()
	f, err := os.Open(k.Modules)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := cpio.Read(f, cpio.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.ReadFile("/etc/wolffia/modules", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(list)) {
		b, err := r.ReadFile(name, 64<<20)
		if err != nil || !strings.HasPrefix(string(b), elf.ELFMAG) || !strings.HasPrefix(name, "/usr/lib/modules/"+k.Release+"/") {
			t.Errorf("module %s: %v", name, err)
		}
	}
	if !strings.Contains(string(list), "/virtio_net.ko\n") {
		t.Errorf("modules: %s", list)
	}
}

// TestLinuxFlavours: what the small kernel lacks, the large one may have.
func TestLinuxFlavours(t *testing.T) {
	b, said := builder(t)
	ctx := context.Background()
	_, err := b.Linux(ctx, KernelRequest{Release: "trixie", Arch: "amd64", Flavour: "cloud", Modules: []string{"virtio_nte"}})
	var unknown *kernel.UnknownModuleError
	if !errors.As(err, &unknown) || unknown.Nearest != "virtio_net" {
		t.Errorf("unknown module: %v", err)
	}
	_, err = b.Linux(ctx, KernelRequest{Release: "trixie", Arch: "amd64", Flavour: "clod"})
	var flavour *kernel.FlavourError
	if !errors.As(err, &flavour) || !strings.Contains(err.Error(), "did you mean cloud?") {
		t.Errorf("unknown flavour: %v", err)
	}
	if len(*said) > 0 {
		t.Errorf("said %q", *said)
	}
}

// TestLinuxKept: the second time is a look-up.
func TestLinuxKept(t *testing.T) {
	b, _ := builder(t)
	req := KernelRequest{Release: "trixie", Arch: "amd64", Modules: []string{"virtio_net"}}
	first, err := b.Linux(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	before, err := os.Stat(filepath.Dir(first.Path))
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Linux(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	after, err := os.Stat(filepath.Dir(again.Path))
	if err != nil || again.Path != first.Path || again.Modules != first.Modules || !os.SameFile(before, after) {
		t.Errorf("%+v is not %+v, %v", again, first, err)
	}
}
