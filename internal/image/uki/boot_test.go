package uki_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wolffia/internal/image/boottest"
	"wolffia/internal/image/uki"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// stub is systemd's stub out of a Debian release's package.
func stub(t testing.TB, suite, arch string) []byte {
	t.Helper()
	at, err := uki.For(arch)
	must(t, err)
	b, err := boottest.Package(t, suite, arch, at.Package).ReadFile(at.Stub, uki.MaxStub)
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// esp is a FAT file system, made by mtools, with a program where a firmware
// looks for it.
func esp(t *testing.T, boot string, program tree.Content) string {
	t.Helper()
	mformat, mmd, mcopy := tooltest.Require(t, "mformat", "mtools"), tooltest.Require(t, "mmd", "mtools"), tooltest.Require(t, "mcopy", "mtools")
	image := filepath.Join(t.TempDir(), "esp.img")
	must(t, os.WriteFile(image, nil, 0o644))
	must(t, os.Truncate(image, 128<<20))
	run(t, mformat, "-i", image, "-F", "-v", "ESP", "::")
	run(t, mmd, "-i", image, "::/EFI", "::/EFI/BOOT")
	run(t, mcopy, "-i", image, boottest.File(t, "program", program), "::"+boot)
	return image
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

// machines are emulators with the firmware of a Debian package.
var machines = map[string]struct {
	qemu            []string
	qemuPackage     string
	suite, firmware string // the firmware's package and where it is from
	code, vars      string // its files; without vars, code is loaded as a kernel is
	console, answer string
}{
	"amd64": {
		[]string{"qemu-system-x86_64", "-M", "q35"}, "qemu-system-x86", "bookworm", "ovmf",
		"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "ttyS0", "x86_64",
	},
	"i386": {
		[]string{"qemu-system-i386", "-M", "q35"}, "qemu-system-x86", "bookworm", "ovmf-ia32",
		"/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF32_VARS_4M.fd", "ttyS0", "i686",
	},
	"arm64": {
		[]string{"qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57"}, "qemu-system-arm", "bookworm", "qemu-efi-aarch64",
		"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd", "ttyAMA0", "aarch64",
	},
	"armhf": {
		[]string{"qemu-system-arm", "-M", "virt", "-cpu", "cortex-a15"}, "qemu-system-arm", "bookworm", "qemu-efi-arm",
		"/usr/share/AAVMF/AAVMF32_CODE.fd", "/usr/share/AAVMF/AAVMF32_VARS.fd", "ttyAMA0", "armv7l",
	},
	"riscv64": { // U-Boot is UEFI too; EDK II wants a newer QEMU than 7.2
		[]string{"qemu-system-riscv64", "-M", "virt"}, "qemu-system-misc", "trixie", "u-boot-qemu",
		"/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf", "", "ttyS0", "riscv64",
	},
}

// A plain QEMU with a firmware boots what was written, on every architecture
// and with the stubs of both releases.
func TestBoot(t *testing.T) {
	for _, c := range []struct{ suite, arch string }{
		{"bookworm", "amd64"}, {"trixie", "amd64"},
		{"bookworm", "arm64"}, {"trixie", "arm64"},
		{"bookworm", "i386"}, {"trixie", "armhf"}, {"trixie", "riscv64"},
	} {
		t.Run(c.suite+"/"+c.arch, func(t *testing.T) {
			m := machines[c.arch]
			argv := append([]string{tooltest.Require(t, m.qemu[0], m.qemuPackage)}, m.qemu[1:]...)
			sys := boottest.NewSystem(t, c.suite, c.arch)
			cmdline := "quiet console=" + m.console + " wolffia.test=\"two words\" panic=-1"
			image, err := uki.New(uki.Options{
				Stub: stub(t, c.suite, c.arch), Kernel: sys.Kernel, Initrd: []tree.Content{sys.Initrd}, Cmdline: cmdline,
				Uname: "6", OSRelease: "ID=wolffia\nPRETTY_NAME=\"a test\"\n",
			})
			must(t, err)
			at, err := uki.For(c.arch)
			must(t, err)
			argv = append(argv, "-m", "1024", "-display", "none", "-serial", "stdio", "-monitor", "none", "-net", "none", "-no-reboot",
				"-drive", "if=none,id=d,format=raw,file="+esp(t, at.Boot, image), "-device", "virtio-blk-pci,drive=d")
			firmware := boottest.Package(t, m.suite, c.arch, m.firmware)
			if m.vars == "" {
				argv = append(argv, "-kernel", file(t, firmware, m.code))
			} else {
				argv = append(argv, "-drive", "if=pflash,format=raw,readonly=on,file="+file(t, firmware, m.code),
					"-drive", "if=pflash,format=raw,file="+file(t, firmware, m.vars))
			}
			if got := boottest.Run(t, boottest.Marker, argv...); got != m.answer+" "+cmdline {
				t.Errorf("it says %q", got)
			}
		})
	}
}

// file puts a file of a package where an emulator can read it.
func file(t *testing.T, pkg *tree.Tree, name string) string {
	t.Helper()
	_, n, err := pkg.Resolve(name)
	must(t, err)
	return boottest.File(t, "firmware", n.Content)
}
