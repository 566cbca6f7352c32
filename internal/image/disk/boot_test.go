package disk_test

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/boottest"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/grub"
	"wolffia/internal/image/uki"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// system is a complete disk's options, but for the boot loaders.
func system(t testing.TB, sys boottest.System) disk.Options {
	return disk.Options{
		Arch: "amd64", Root: files(t), Kernel: sys.Kernel, Initrd: []tree.Content{sys.Initrd},
		Cmdline: "quiet console=ttyS0 panic=-1", Uname: "6", Time: time.Unix(1_700_000_000, 0), Free: 8 << 20,
		FS: ext4.Options{Checksums: true},
	}
}

func stub(t testing.TB, arch string) []byte {
	t.Helper()
	at, err := uki.For(arch)
	must(t, err)
	b, err := boottest.Package(t, "bookworm", arch, at.Package).ReadFile(at.Stub, uki.MaxStub)
	must(t, err)
	return b
}

func grubPackage(t testing.TB) *tree.Tree {
	return boottest.Package(t, "bookworm", "amd64", grub.Package, grub.Needless[:]...)
}

// TestBoot has plain emulators boot one disk with a BIOS and with UEFI, for
// both kinds of partition tables.
func TestBoot(t *testing.T) {
	qemu := tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	sys := boottest.NewSystem(t, "bookworm", "amd64")
	firmware := boottest.Package(t, "bookworm", "amd64", "ovmf")
	for _, table := range []disk.Table{disk.GPT, disk.MBR} {
		o := system(t, sys)
		o.Table, o.Stub, o.GRUB = table, stub(t, "amd64"), grubPackage(t)
		f := create(t, func(w io.WriterAt) error { return disk.System(w, o) })
		i := open(t, f)
		root, err := i.Part(0)
		must(t, err)
		want := "x86_64 quiet console=ttyS0 panic=-1 root=PARTUUID=" + root.UUID
		argv := []string{qemu, "-m", "512", "-display", "none", "-serial", "stdio", "-monitor", "none", "-net", "none", "-no-reboot",
			"-drive", "if=none,id=d,format=raw,snapshot=on,file=" + f.Name(), "-device", "virtio-blk-pci,drive=d"}
		t.Run(string(table)+" BIOS", func(t *testing.T) {
			if got := boottest.Run(t, boottest.Marker, argv...); got != strings.Replace(want, "x86_64 ", "x86_64 BOOT_IMAGE=/boot/vmlinuz ", 1) {
				t.Errorf("it says %q, not %q", got, want)
			}
		})
		t.Run(string(table)+" UEFI", func(t *testing.T) {
			got := boottest.Run(t, boottest.Marker, append(argv, "-M", "q35",
				"-drive", "if=pflash,format=raw,readonly=on,file="+file(t, firmware, "/usr/share/OVMF/OVMF_CODE_4M.fd"),
				"-drive", "if=pflash,format=raw,file="+file(t, firmware, "/usr/share/OVMF/OVMF_VARS_4M.fd"))...)
			if got != want {
				t.Errorf("it says %q, not %q", got, want)
			}
		})
	}
}

// TestBootArm64 has AAVMF boot a disk for another architecture.
func TestBootArm64(t *testing.T) {
	qemu := tooltest.Require(t, "qemu-system-aarch64", "qemu-system-arm")
	o := system(t, boottest.NewSystem(t, "bookworm", "arm64"))
	o.Arch, o.Stub, o.Cmdline = "arm64", stub(t, "arm64"), "quiet console=ttyAMA0 panic=-1 root=LABEL=root"
	f := create(t, func(w io.WriterAt) error { return disk.System(w, o) })
	root, err := open(t, f).Part(0)
	must(t, err)
	if root.Type != "root-arm64" || root.Number != 2 {
		t.Errorf("the root is %+v", root)
	}
	firmware := boottest.Package(t, "bookworm", "arm64", "qemu-efi-aarch64")
	got := boottest.Run(t, boottest.Marker, qemu, "-M", "virt", "-cpu", "cortex-a57", "-m", "1024", "-display", "none", "-serial", "stdio",
		"-monitor", "none", "-net", "none", "-no-reboot",
		"-drive", "if=pflash,format=raw,readonly=on,file="+file(t, firmware, "/usr/share/AAVMF/AAVMF_CODE.fd"),
		"-drive", "if=pflash,format=raw,file="+file(t, firmware, "/usr/share/AAVMF/AAVMF_VARS.fd"),
		"-drive", "if=none,id=d,format=raw,file="+f.Name(), "-device", "virtio-blk-pci,drive=d")
	if got != "aarch64 "+o.Cmdline {
		t.Errorf("it says %q", got)
	}
}

func file(t *testing.T, pkg *tree.Tree, name string) string {
	t.Helper()
	b, err := pkg.ReadFile(name, 128<<20)
	must(t, err)
	return boottest.File(t, "file", tree.Bytes(b))
}

// e2fsck and the others look at the parts of a complete disk.
func TestSystem(t *testing.T) {
	sys := boottest.NewSystem(t, "bookworm", "amd64")
	o := system(t, sys)
	o.Stub, o.GRUB, o.Free, o.Size = stub(t, "amd64"), grubPackage(t), 0, 200<<20
	f := create(t, func(w io.WriterAt) error { return disk.System(w, o) })
	if out := run(t, "sgdisk", "gdisk", "-v", f.Name()); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk says %s", out)
	}
	i := open(t, f)
	var seen []string
	for k, want := range []string{"bios-boot", "esp", "root-amd64"} {
		p := &i.Parts[k]
		if p.Type != want {
			t.Errorf("partition %d is %+v", k+1, p)
		}
		if k == 0 {
			continue
		}
		part := create(t, func(w io.WriterAt) error {
			_, err := io.Copy(io.NewOffsetWriter(w, 0), p.Reader())
			return err
		})
		if k == 1 {
			run(t, "fsck.vfat", "dosfstools", "-n", part.Name())
		} else {
			run(t, "e2fsck", "e2fsprogs", "-fn", part.Name())
		}
		fs, err := p.FileSystem()
		must(t, err)
		tr, err := fs.Tree(tree.Limits{})
		must(t, err)
		must(t, tr.Walk(func(name string, n *tree.Node) error {
			if n.Type() == tree.TypeRegular {
				seen = append(seen, name)
			}
			if name != "/" && !n.ModTime.Equal(o.Time) {
				t.Errorf("%s is of %v", name, n.ModTime)
			}
			return nil
		}))
	}
	if got := strings.Join(seen, " "); got != "/EFI/BOOT/BOOTX64.EFI /boot/grub/grub.cfg /boot/initrd /boot/vmlinuz /dir/file" {
		t.Errorf("files are %s", got)
	}
	if len(o.Root.Root().Names()) != 1 {
		t.Errorf("the root that was given has now %q", o.Root.Root().Names())
	}

	again := create(t, func(w io.WriterAt) error { return disk.System(w, o) })
	a, err := os.ReadFile(f.Name())
	must(t, err)
	b, err := os.ReadFile(again.Name())
	must(t, err)
	if string(a) != string(b) {
		t.Error("the same options give other bytes")
	}
	o.Size = 40 << 20
	if err := disk.System(again, o); err == nil || !strings.Contains(err.Error(), "is too small: its partitions need") {
		t.Errorf("got %v", err)
	}
	o.GRUB, o.Stub = nil, nil
	if err := disk.System(again, o); err == nil || !strings.Contains(err.Error(), "nothing would boot it") {
		t.Errorf("got %v", err)
	}
}
