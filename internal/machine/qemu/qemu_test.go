package qemu

import (
	"context"
	"os"
	"testing"

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
