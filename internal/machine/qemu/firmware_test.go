package qemu

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/boottest"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/uki"
	"wolffia/internal/machine"
	"wolffia/internal/tree"
)

// bootSector is a program that says where it comes from on the first serial
// line and switches the machine off (ICH9's PM1a_CNT at 0x604: SLP_EN, S5).
const bootSector = "\x31\xc0" + // xor ax, ax
	"\x8e\xd8" + // mov ds, ax
	"\xfc" + // cld
	"\xbe\x1d\x7c" + // mov si, text
	"\xac" + // again: lodsb
	"\x84\xc0" + // test al, al
	"\x74\x06" + // jz off
	"\xba\xf8\x03" + // mov dx, 0x3f8
	"\xee" + // out dx, al
	"\xeb\xf5" + // jmp again
	"\xba\x04\x06" + // off: mov dx, 0x604
	"\xb8\x00\x20" + // mov ax, 0x2000
	"\xef" + // out dx, ax
	"\xf4\xeb\xfd" + // hlt; jmp to it
	"from the boot sector\r\n\x00"

// run starts a machine, waits for its end, and gives what it said.
func run(t *testing.T, b Backend, spec machine.Spec) (string, machine.Exit) {
	t.Helper()
	m, err := b.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	watch := time.AfterFunc(3*time.Minute, m.Kill)
	defer watch.Stop()
	said, err := io.ReadAll(m.Console())
	if err != nil {
		t.Error(err)
	}
	return string(said), m.Wait()
}

func TestBIOS(t *testing.T) {
	b := backend(t, "amd64")
	disk := filepath.Join(t.TempDir(), "disk.img")
	sector := bootSector + strings.Repeat("\x00", 510-len(bootSector)) + "\x55\xaa"
	if err := os.WriteFile(disk, []byte(sector+strings.Repeat("\x00", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	said, exit := run(t, b, machine.Spec{
		Name: "bios", Arch: "amd64", Firmware: machine.FirmwareBIOS, Dir: t.TempDir(), Disks: []machine.Disk{{Path: disk}},
	})
	if !strings.Contains(said, "from the boot sector\r\n") || !exit.Clean || exit.Reboot {
		t.Errorf("%q, %+v", said, exit)
	}
}

func TestUEFI(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			b := backend(t, arch)
			var err error
			if b.UEFI, err = FindUEFI(arch); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(b.UEFI.Vars)
			if err != nil {
				t.Fatal(err)
			}
			spec := machine.Spec{
				Name: "uefi", Arch: arch, Memory: 512 << 20, Firmware: machine.FirmwareUEFI, Dir: t.TempDir(),
				Disks: []machine.Disk{{Path: unified(t, arch, "console="+boards[arch].console+" panic=-1")}},
			}
			said, exit := run(t, b, spec)
			if !strings.Contains(said, boottest.Marker) || !exit.Clean || !exit.Reboot {
				t.Errorf("%q, %+v", said, exit)
			}
			if after, err := os.ReadFile(b.UEFI.Vars); err != nil || string(after) != string(before) {
				t.Errorf("the firmware's own variables changed: %v", err)
			}
		})
	}
}

// unified is a disk that is one FAT file system with a unified kernel image.
func unified(t *testing.T, arch, cmdline string) string {
	t.Helper()
	sys := boottest.NewSystem(t, "trixie", arch)
	target, err := uki.For(arch)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := boottest.Package(t, "trixie", arch, target.Package, "systemd-boot-tools").ReadFile(target.Stub, uki.MaxStub)
	if err != nil {
		t.Fatal(err)
	}
	image, err := uki.New(uki.Options{Stub: stub, Kernel: sys.Kernel, Initrd: []tree.Content{sys.Initrd}, Cmdline: cmdline})
	if err != nil {
		t.Fatal(err)
	}
	r := tree.New()
	if err := r.MkdirAll(filepath.Dir(target.Boot), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.Put(target.Boot, tree.File(0o644, image)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "esp.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := fat.Write(f, r, fat.Options{Size: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
