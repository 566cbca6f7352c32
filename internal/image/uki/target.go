package uki

import (
	"fmt"
	"strings"

	"wolffia/internal/spell"
)

// Target is what UEFI and Debian call the things of one architecture.
type Target struct {
	Arch    string // Debian's name: "amd64"
	Package string // Debian's package with the stub, which needs no other package
	Stub    string // the stub's path in it
	Boot    string // where a firmware looks for a program on the EFI system partition
}

// architectures that have both UEFI and a stub in Debian. The names are those
// of the UEFI specification.
var architectures = []struct {
	arch, efi string
	machine   uint16
}{
	{"amd64", "x64", 0x8664},
	{"arm64", "aa64", 0xaa64},
	{"armhf", "arm", 0x1c2},
	{"i386", "ia32", 0x14c},
	{"riscv64", "riscv64", 0x5064},
}

// For gives the target of a Debian architecture: amd64, arm64, armhf, i386 or
// riscv64. The last is in Debian from trixie on; bookworm's stub for armhf
// (systemd 252) has no room for more sections, so armhf too needs trixie's.
func For(arch string) (Target, error) {
	var known []string
	for _, a := range architectures {
		if a.arch == arch {
			return Target{
				Arch:    arch,
				Package: "systemd-boot-efi",
				Stub:    "/usr/lib/systemd/boot/efi/linux" + a.efi + ".efi.stub",
				Boot:    "/EFI/BOOT/BOOT" + strings.ToUpper(a.efi) + ".EFI",
			}, nil
		}
		known = append(known, a.arch)
	}
	hint := ""
	if near := spell.Nearest(arch, known); near != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", near)
	}
	return Target{}, fmt.Errorf("architecture %q has no unified kernel image; %s have one%s", arch, strings.Join(known, ", "), hint)
}

// machineName is Debian's name for a machine number of a PE file.
func machineName(machine uint16) string {
	for _, a := range architectures {
		if a.machine == machine {
			return a.arch
		}
	}
	return fmt.Sprintf("machine %#x", machine)
}
