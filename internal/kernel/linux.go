package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"wolffia/internal/debian"
	"wolffia/internal/spell"
)

// LinuxSource is a Debian package that brings a kernel for a machine.
type LinuxSource struct {
	Release string // Debian release that it is taken from
	Arch    string // Debian's name of the kernel's architecture
	Flavour string // the package is linux-image-FLAVOUR
}

// Request asks the archive for the kernel and its modules alone: what would
// make an initramfs and boot it is not needed.
func (s LinuxSource) Request() debian.Request {
	return debian.Request{
		Release: s.Release, Arch: s.Arch, Packages: []string{"linux-image-" + s.Flavour},
		Exclude: []string{"kmod", "linux-base", "initramfs-tools", "dracut", "tiny-initramfs", "linux-initramfs-tool"},
	}
}

func (s LinuxSource) String() string {
	return fmt.Sprintf("linux-image-%s of %s for %s", s.Flavour, s.Release, s.Arch)
}

// flavours are what Debian builds, by architecture. "cloud" and "generic" are
// our words for the same on all of them; others are Debian's own. The first is
// the default, the others are tried after it where a module is missing.
//
// On armhf QEMU's PCI bus lies above 4 GiB, which only an LPAE kernel can
// address. The last i386 kernels are bookworm's; user land of any later
// release runs on them.
var flavours = map[string][]flavour{
	"amd64":   {{name: "cloud", suffix: "cloud-amd64"}, {name: "generic", suffix: "amd64"}},
	"i386":    {{name: "generic", suffix: "686-pae", only: "bookworm"}},
	"arm64":   {{name: "cloud", suffix: "cloud-arm64"}, {name: "generic", suffix: "arm64"}},
	"armhf":   {{name: "generic", suffix: "armmp-lpae"}},
	"riscv64": {{name: "generic", suffix: "riscv64"}},
}

type flavour struct {
	name   string // ours
	suffix string // Debian's
	only   string // the one release that still has it, or ""
}

// FlavourError says that an architecture has no kernel of a name.
type FlavourError struct {
	Flavour, Arch string
	Have          []string
}

func (e *FlavourError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("no Debian kernel is known for architecture %q; there are some for %s",
			e.Arch, strings.Join(slices.Sorted(maps.Keys(flavours)), ", "))
	}
	s := fmt.Sprintf("%s has no kernel flavour %q; it has %s", e.Arch, e.Flavour, strings.Join(e.Have, ", "))
	if near := spell.Nearest(e.Flavour, e.Have); near != "" {
		s += fmt.Sprintf(" (did you mean %s?)", near)
	}
	return s
}

// LinuxSources lists where the kernel of a machine may come from, best first:
// of the flavour "cloud" (for virtual machines; smaller), "generic" (with all
// drivers) or one of Debian's own names, such as "rt-amd64"; of any when
// flavour is empty. On i386 the flavours of amd64 mean a 64-bit kernel, which
// runs 32-bit programs.
func LinuxSources(release, arch, name string) ([]LinuxSource, error) {
	known := flavours[arch]
	if len(known) == 0 {
		return nil, &FlavourError{Flavour: name, Arch: arch}
	}
	var out []LinuxSource
	have := []string{}
	for _, f := range known {
		have = append(have, f.name)
		if name != "" && name != f.name && name != f.suffix {
			continue
		}
		s := LinuxSource{Release: release, Arch: arch, Flavour: f.suffix}
		if f.only != "" {
			s.Release = f.only
		}
		out = append(out, s)
	}
	switch {
	case len(out) > 0:
		return out, nil
	case arch == "i386" && strings.HasSuffix(name, "amd64"):
		return []LinuxSource{{Release: release, Arch: "amd64", Flavour: name}}, nil
	case strings.Contains(name, "-") || name == "686": // of Debian's names
		return []LinuxSource{{Release: release, Arch: arch, Flavour: name}}, nil
	}
	return nil, &FlavourError{Flavour: name, Arch: arch, Have: have}
}
