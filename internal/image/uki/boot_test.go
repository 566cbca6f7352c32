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

// A plain QEMU with a firmware from its package boots what was written.
func TestBoot(t *testing.T) {
	for _, c := range []struct {
		suite, arch, console, answer string
		firmware                     string // its two files
		vars, pkg                    string
		qemu                         []string
	}{
		{"bookworm", "amd64", "ttyS0", "x86_64", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf", []string{"qemu-system-x86_64", "-M", "q35"}},
		{"trixie", "amd64", "ttyS0", "x86_64", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf", []string{"qemu-system-x86_64", "-M", "q35"}},
		{"bookworm", "arm64", "ttyAMA0", "aarch64", "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd", "qemu-efi-aarch64", []string{"qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57"}},
		{"trixie", "arm64", "ttyAMA0", "aarch64", "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd", "qemu-efi-aarch64", []string{"qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57"}},
	} {
		t.Run(c.suite+"/"+c.arch, func(t *testing.T) {
			c.qemu[0] = tooltest.Require(t, c.qemu[0], map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}[c.arch])
			sys := boottest.NewSystem(t, c.suite, c.arch)
			cmdline := "quiet console=" + c.console + " wolffia.test=\"two words\" panic=-1"
			image, err := uki.New(uki.Options{
				Stub: stub(t, c.suite, c.arch), Kernel: sys.Kernel, Initrd: []tree.Content{sys.Initrd}, Cmdline: cmdline,
				Uname: "6", OSRelease: "ID=wolffia\nPRETTY_NAME=\"a test\"\n",
			})
			must(t, err)
			at, err := uki.For(c.arch)
			must(t, err)
			vars, err := os.ReadFile(c.vars)
			if err != nil {
				t.Fatalf("%v: apt-get install %s", err, c.pkg)
			}
			got := boottest.Run(t, append(c.qemu, "-m", "1024", "-display", "none", "-serial", "stdio", "-monitor", "none", "-net", "none", "-no-reboot",
				"-drive", "if=pflash,format=raw,readonly=on,file="+c.firmware,
				"-drive", "if=pflash,format=raw,file="+boottest.File(t, "vars", tree.Bytes(vars)),
				"-drive", "if=virtio,format=raw,file="+esp(t, at.Boot, image))...)
			if got != c.answer+" "+cmdline {
				t.Errorf("it says %q", got)
			}
		})
	}
}
