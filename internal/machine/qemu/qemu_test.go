package qemu

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/tooltest"
)

func TestMain(m *testing.M) {
	program, _ := Find(context.Background(), "amd64", os.Getenv("PATH"))
	machinetest.Main(m, Backend{Program: program})
}

// backend is the host's QEMU for an architecture, without KVM.
func backend(t testing.TB, arch string) Backend {
	t.Helper()
	tooltest.Require(t, ProgramName(arch), boards[arch].pkg)
	p, err := Find(t.Context(), arch, os.Getenv("PATH"))
	if err != nil {
		t.Fatal(err)
	}
	return Backend{Program: p}
}

func TestConformance(t *testing.T) {
	b := backend(t, "amd64")
	machinetest.Run(t, b, machinetest.Debian(t, "amd64", b.Guest("amd64").Modules))
}

// TestArchitectures boots Debian's kernel of each architecture.
func TestArchitectures(t *testing.T) {
	for _, arch := range Arches() {
		t.Run(arch, func(t *testing.T) {
			b := backend(t, arch)
			machinetest.Smoke(t, b, machinetest.Debian(t, arch, b.Guest(arch).Modules))
		})
	}
}

func TestMicroVM(t *testing.T) {
	b := backend(t, "amd64")
	b.MicroVM = true
	machinetest.Smoke(t, b, machinetest.Debian(t, "amd64", b.Guest("amd64").Modules))
}

func TestChannels(t *testing.T) {
	b := backend(t, "amd64")
	machinetest.Channels(t, b, machinetest.Debian(t, "amd64", b.Guest("amd64").Modules))
}

// TestShares takes a kernel with drivers for 9P, which that of the suite has not
// got.
func TestShares(t *testing.T) {
	b := backend(t, "i386")
	g := b.Guest("i386")
	machinetest.Shares(t, b, machinetest.Debian(t, "i386", append(g.Modules, g.Share.Modules...)))
}

// TestMicroVMShare: a machine without a PCI bus has the device, though Debian's
// kernel for it has no driver.
func TestMicroVMShare(t *testing.T) {
	b := backend(t, "amd64")
	b.MicroVM = true
	f := machinetest.Debian(t, "amd64", b.Guest("amd64").Modules)
	m, err := b.Start(t.Context(), machine.Spec{
		Name: "small", Arch: "amd64", Kernel: f.Kernel, Dir: t.TempDir(),
		Initramfs: []string{f.Initramfs(t, "cat /sys/bus/virtio/devices/*/device; poweroff -f"), f.Modules},
		Shares:    []machine.Share{{Tag: "src", Path: t.TempDir(), ReadOnly: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(m.Console())
	if exit := m.Wait(); !exit.Clean || err != nil || !strings.Contains(string(said), "0x0009") { // 9P transport
		t.Errorf("%q, %v, %+v", said, err, exit)
	}
}
