package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/boottest"
	"wolffia/internal/tooltest"
)

// secret is the hash of the password "secret".
const secret = "$6$wolffia$iXUMCTWGFTxqP.y0gxvaxrQqNPgwHbmcruUU.HPI4Z2MUEPacAyRebuGc8fqcPGMQX4uTFC5bspWNVHruMOn3."

// bootPatience is how long a computer without KVM may take to its prompt.
const bootPatience = 6 * time.Minute

// TestDisk builds disks and has QEMU start them, without wolffia, as a PC with
// a BIOS, as one with UEFI, and as an arm64 one with UEFI. Somebody logs in on
// the serial port, looks around, and switches the computer off. The second PC
// finds what the first has left.
func TestDisk(t *testing.T) {
	t.Run("amd64", func(t *testing.T) {
		parallel(t)
		qemu := tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
		p := newPerson(t)
		p.buildDisk(t, "disk.img")
		o := p.run(t, call{program: p.plain(t), limit: cold}, "explain", "build", "-o", "disk.img")
		for _, want := range []string{"root-amd64, ext4", "from linux-image-amd64:amd64=", "started by UEFI: /EFI/BOOT/BOOTX64.EFI", "started by BIOS: GRUB"} {
			if !strings.Contains(o.out, want) {
				t.Errorf("%q is not in %v", want, o)
			}
		}
		t.Run("BIOS", func(t *testing.T) {
			c := p.powerOn(t, qemu, "-m", "256", "-drive", "file=disk.img,format=raw", "-nic", "user")
			c.look(t, "x86_64")
			c.do(t, "echo lasting >/root/here; echo $?", `(?m)^0\r?$`)
			c.off(t)
		})
		t.Run("UEFI", func(t *testing.T) {
			code, vars := p.firmware(t, "ovmf", "OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd")
			c := p.powerOn(t, qemu, "-M", "q35", "-m", "512", "-nic", "user,model=virtio-net-pci",
				"-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,file="+vars,
				"-drive", "if=none,id=d,file=disk.img,format=raw", "-device", "nvme,serial=1,drive=d")
			c.look(t, "x86_64")
			c.do(t, "cat /root/here", `(?m)^lasting\r?$`)
			c.off(t)
		})
	})
	t.Run("arm64", func(t *testing.T) {
		parallel(t)
		qemu := tooltest.Require(t, "qemu-system-aarch64", "qemu-system-arm")
		p := newPerson(t)
		p.buildDisk(t, "disk.qcow2", "--arch", "arm64", "--kernel", "cloud", "--size", "1G")
		code, vars := p.firmware(t, "qemu-efi-aarch64", "AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd")
		c := p.powerOn(t, qemu, "-M", "virt", "-cpu", "cortex-a57", "-m", "512",
			"-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=",
			"-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,file="+vars,
			"-drive", "if=virtio,file=disk.qcow2,format=qcow2")
		c.look(t, "aarch64")
		c.do(t, "df -m / | tail -n 1", `\s9\d\d\s`)
		c.off(t)
	})
}

// TestDiskArchitectures has the disks of the other architectures started, each
// by firmware as Debian has it.
func TestDiskArchitectures(t *testing.T) {
	for _, c := range []struct {
		arch, machine string
		program, pkg  string
		flags         []string
		firmware      func(t *testing.T, p *person) []string
	}{
		{"i386", "i686", "qemu-system-i386", "qemu-system-x86",
			[]string{"-drive", "file=disk.img,format=raw", "-nic", "user"},
			func(*testing.T, *person) []string { return nil }}, // SeaBIOS, which QEMU brings
		{"i386", "i686", "qemu-system-i386", "qemu-system-x86",
			[]string{"-M", "q35,smm=on", "-drive", "file=disk.img,format=raw", "-nic", "user"},
			flash("ovmf-ia32", "OVMF/OVMF32_CODE_4M.secboot.fd", "OVMF/OVMF32_VARS_4M.fd")},
		{"armhf", "armv7l", "qemu-system-arm", "qemu-system-arm",
			[]string{"-M", "virt,highmem=off", "-cpu", "max", "-drive", "if=virtio,file=disk.img,format=raw", "-nic", "user,model=virtio-net-pci"},
			flash("qemu-efi-arm", "AAVMF/AAVMF32_CODE.fd", "AAVMF/AAVMF32_VARS.fd")},
		{"riscv64", "riscv64", "qemu-system-riscv64", "qemu-system-misc",
			[]string{"-M", "virt", "-drive", "if=virtio,file=disk.img,format=raw", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"},
			func(t *testing.T, p *person) []string { // OpenSBI, which QEMU brings, and U-Boot's UEFI
				return []string{"-kernel", p.fromPackage(t, "u-boot-qemu", "/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf")}
			}},
	} {
		t.Run(c.arch, func(t *testing.T) {
			parallel(t)
			qemu := tooltest.Require(t, c.program, c.pkg)
			p := newPerson(t)
			p.buildDisk(t, "disk.img", "--arch", c.arch, "--size", "1G")
			args := append([]string{"-m", "512"}, c.firmware(t, p)...)
			on := p.powerOn(t, qemu, append(args, c.flags...)...)
			on.look(t, c.machine)
			on.off(t)
		})
	}
}

// flash gives the flags for the two flash images of a UEFI.
func flash(pkg, code, vars string) func(*testing.T, *person) []string {
	return func(t *testing.T, p *person) []string {
		code, vars := p.firmware(t, pkg, code, vars)
		return []string{"-drive", "if=pflash,format=raw,readonly=on,file=" + code, "-drive", "if=pflash,format=raw,file=" + vars}
	}
}

// buildDisk makes a disk in the person's home, with a password for root.
func (p *person) buildDisk(t *testing.T, name string, flags ...string) {
	t.Helper()
	p.write(t, filepath.Join(p.home, "wolffia.yaml"), fmt.Sprintf(`
images:
  base:
    packages: [busybox-static, dropbear-bin]
    deps: elf
    hostname: pond
    users: [{name: root, password: %q}]
`, secret))
	o := p.run(t, call{program: p.plain(t), limit: cold}, append([]string{"build", "-q", "-o", name}, flags...)...)
	if f := strings.Fields(o.out); len(f) != 3 || f[2] != name || strings.Contains(o.err, "nobody can log in") {
		t.Errorf("build said %v", o)
	}
}

// plain is wolffia without the race detector, for what unpacks a lot.
func (p *person) plain(t *testing.T) string {
	t.Helper()
	path, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// firmware gives the two flash images of a UEFI, as a Debian package has them.
func (p *person) firmware(t *testing.T, pkg, code, vars string) (string, string) {
	t.Helper()
	return p.fromPackage(t, pkg, "/usr/share/"+code), p.fromPackage(t, pkg, "/usr/share/"+vars)
}

// fromPackage puts a file of a Debian package into the person's home.
func (p *person) fromPackage(t *testing.T, pkg, file string) string {
	t.Helper()
	data, err := boottest.Package(t, "bookworm", "amd64", pkg).ReadFile(file, 128<<20)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(p.home, filepath.Base(file))
	p.write(t, name, string(data))
	return name
}

// computer is a running emulator whose serial port we sit at.
type computer struct {
	*running
	keys *os.File
}

// powerOn starts an emulator in the person's home and logs in as root.
func (p *person) powerOn(t *testing.T, qemu string, args ...string) *computer {
	t.Helper()
	in, keys, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	args = append([]string{"-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"}, args...)
	c := &computer{p.start(t, call{program: qemu, stdin: in}, args...), keys}
	in.Close()
	c.out.within(t, bootPatience, `pond login: $|pond login: .*\n`)
	c.line(t, "root")
	c.out.expect(t, "Password: ")
	c.line(t, "secret")
	c.out.expect(t, "# ")
	if text := c.out.String(); strings.Contains(text, "can't load") || strings.Contains(text, "wolffia:  ") {
		t.Errorf("something went wrong on the way:\n%s", clip(text))
	}
	c.do(t, "dmesg -n 1; echo quiet $((1 + 1))", "quiet 2")
	return c
}

func (c *computer) line(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c.keys, text+"\n"); err != nil {
		t.Fatal(err)
	}
}

// do has the shell run a command whose output is to match.
func (c *computer) do(t *testing.T, command, want string) {
	t.Helper()
	c.line(t, command)
	c.out.expect(t, regexp.QuoteMeta(command[len(command)-1:])+`\r?\n`) // the echo, which may be wrapped
	c.out.expect(t, want)
	c.out.expect(t, "# ")
}

// look does what people do first in a new system.
func (c *computer) look(t *testing.T, machine string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "a page at %s\n", r.URL.Path)
	})}
	served := make(chan error, 1)
	go func() { served <- web.Serve(l) }()
	defer func() {
		web.Close()
		<-served
	}()
	c.do(t, "uname -nm", `(?m)^pond `+machine+`\r?$`)
	c.do(t, "udhcpc -i eth0 -n -q", "lease of 10.0.2.15 obtained from 10.0.2.2")
	c.do(t, "ping -c 1 10.0.2.2", "1 packets transmitted, 1 packets received")
	c.do(t, fmt.Sprintf("wget -q -O - http://10.0.2.2:%d/pond", l.Addr().(*net.TCPAddr).Port), `(?m)^a page at /pond\r?$`)
	c.do(t, "mount", `(?m)^/dev/\S+ on / type ext4 \(rw`)
}

// off switches the computer off, which ends the emulator.
func (c *computer) off(t *testing.T) {
	t.Helper()
	c.line(t, "poweroff")
	if status := c.end(t); status != 0 || c.err.String() != "" {
		t.Errorf("status %d: %s", status, c.err.String())
	}
}
