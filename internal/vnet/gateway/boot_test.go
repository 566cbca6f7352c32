package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/gateway"
	"wolffia/internal/vnet/wire"
)

// TestTFTP fetches files from a guest, over both IP versions, with clients that
// read each block, long ones, and ahead.
func TestTFTP(t *testing.T) {
	folder := t.TempDir()
	data := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(data)
	if err := os.WriteFile(filepath.Join(folder, "image"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	n := newStatic(t, gateway.Config{DHCP: gateway.DHCP{TFTP: folder}, Restrict: true})
	want := fmt.Sprintf("%x", sha256.Sum256(data))
	for _, get := range []string{
		"busybox tftp -g -r image -l $out 10.0.2.2",
		"busybox tftp -g -b 65464 -r image -l $out 10.0.2.2", // as much as the network carries
		"tftp -m binary 10.0.2.2 -c get image $out",
		"tftp -6 -m binary fd00:77:6f6c:66::2 -c get image $out",
		"curl -sS --tftp-blksize 1456 -o $out tftp://10.0.2.2/image",
	} {
		tool := strings.Fields(get)[0]
		tooltest.Require(t, tool, pkgOf[tool])
		out := filepath.Join(t.TempDir(), "out")
		if got := n.run("sh", "-c", "out="+out+"; "+get+" && sha256sum < $out"); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s", get, got)
		}
	}
	if _, err := n.try("busybox", "tftp", "-g", "-r", "../image", "-l", "-", "10.0.2.2"); err == nil {
		t.Error("a file outside of the folder was served")
	}
	if err := n.gw.SetDHCP(gateway.DHCP{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.try("curl", "-sS", "-m", "2", "-o", "/dev/null", "tftp://10.0.2.2/image"); err == nil {
		t.Error("a folder that is no longer served was")
	}
}

// bootSector is what a PC boots from the network: 16-bit code, loaded at
// 0000:7c00, that writes a line to the first serial port and has QEMU exit
// through isa-debug-exit with the status 2*16+1.
func bootSector(line string) []byte {
	code := []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xfc,             // cld
		0xbe, 0x1b, 0x7c, // mov si, 0x7c1b: the line
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // next: lodsb
		0x08, 0xc0, // or al, al
		0x74, 0x03, // jz end
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp next
		0xba, 0xf4, 0x00, // end: mov dx, 0xf4
		0xb0, 0x10, // mov al, 16
		0xee,       // out dx, al
		0xfa, 0xf4, // cli; hlt
	}
	b := append(append(code, line...), 0)
	return append(b, make([]byte, 20_000-len(b))...) // a few blocks
}

// TestNetworkBoot boots a PC from the network: the firmware of QEMU's own card
// (iPXE) asks by DHCP, fetches the file that it is told of by TFTP, and runs it.
func TestNetworkBoot(t *testing.T) {
	qemu := tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "hello.0"), bootSector("booted from the network\r\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	defer sw.Close()
	inside, err := sw.Plug(vnet.PortOptions{Offloads: true, Queue: gateway.PortQueue})
	if err != nil {
		t.Fatal(err)
	}
	gw, err := gateway.New(inside, gateway.Config{DHCP: gateway.DHCP{
		First: netip.MustParseAddr("10.0.2.100"), BootFile: "hello.0", TFTP: folder,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer gw.Close()
	port, card, err := wire.StreamPair()
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	if _, err := sw.Attach(port, vnet.PortOptions{Name: "pc"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, strings.Fields(`-M pc -accel tcg -m 32 -nodefaults -no-user-config -display none -serial stdio
		-boot n -netdev stream,id=net,addr.type=fd,addr.str=3 -device virtio-net-pci,netdev=net,mac=02:00:00:00:00:05
		-device isa-debug-exit,iobase=0xf4,iosize=4`)...)
	cmd.ExtraFiles = []*os.File{card}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 33 || !strings.Contains(out.String(), "booted from the network") {
		t.Fatalf("%v: %v\n%s", cmd, err, out.String())
	}
	if l := gw.Leases(); len(l) != 1 || l[0].Addr.String() != "10.0.2.100" {
		t.Errorf("leases: %v", l)
	}
}
