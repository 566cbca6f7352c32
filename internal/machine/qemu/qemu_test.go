package qemu

import (
	"os/exec"
	"testing"

	"wolffia/internal/machine/machinetest"
	"wolffia/internal/tooltest"
)

func TestMain(m *testing.M) {
	path, _ := exec.LookPath("qemu-system-x86_64")
	machinetest.Main(m, Backend{Program: path})
}

func TestConformance(t *testing.T) {
	b := Backend{Program: tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")}
	machinetest.Run(t, b, machinetest.Debian(t, "amd64", b.Guest("amd64").Modules))
}
