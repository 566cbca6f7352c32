// Package lab is the file that describes a lab, wolffia.yaml: its images,
// networks and machines. [Parse] turns the text into a [Spec] in which every
// default is filled in and every name is checked; [Spec.Machine] gives the
// plain data of one machine. Nothing here touches the host.
//
// Every mistake in a file is reported, not only the first, each as one
// [Error] with file, line and column and, where a word is wrong, the nearest
// one that is right. The same tables that drive the parser make the JSON
// [Schema] and docs/file.md, so the three can't differ.
//
//	spec, err := lab.Parse("wolffia.yaml", data)
//
// Subset of YAML 1.2: one document, block and flow collections, plain, quoted
// and block scalars. Anchors, aliases, merge keys and tags are deliberately
// refused: a lab's file says what it means where it means it.
package lab

import (
	"maps"
	"net"
	"slices"

	"wolffia/internal/rootfs"
)

// DefaultRelease is the Debian release of images that name none.
const DefaultRelease = "trixie"

// Spec is a whole lab. Maps are never nil.
type Spec struct {
	Name     string
	Mirror   string // of the Debian archive; empty means the host's
	Keyring  string // file with further OpenPGP keys that may sign the archive
	Images   map[string]*Image
	Networks map[string]*Network
	Machines map[string]*Machine
}

// Image describes a file tree.
type Image struct {
	Name     string
	From     Base     // Path, Reference or nothing, once the file is read
	Release  string   // Debian's code name or suite
	Guess    bool     // no key says which Release: a base that is Debian's may
	Arch     string   // Debian's name of an architecture
	Packages []string // NAME, NAME=VERSION or NAME:ARCH
	Deps     rootfs.Deps
	Files    []rootfs.File
	Users    []rootfs.User
	Groups   []rootfs.Group
	Services []string
	Hostname string
	Init     rootfs.Init // empty means busybox's
	Size     Size        // of a file system or a disk; 0 means as small as can be, with some room
	Kernel   string      // of a disk: a flavour, one of Debian's names, or a path on the host; empty means the generic one
}

// Machine is one Linux.
type Machine struct {
	Name    string
	Image   string
	Backend Backend
	Arch    string // empty means the image's
	Memory  Size
	// OwnMemory is whether the file gives Memory; a large root in memory, or
	// firmware, makes more of what is not.
	OwnMemory bool
	Type      Type
	Boot      Boot
	Root      Root
	Console   Console
	Cards     []Card
	Forwards  []Forward
	Kernel    string   // a kernel image or build folder on the host; empty means Debian's
	Cmdline   []string // further kernel parameters
	Modules   []string // further kernel modules to load at boot

	Place      int      // in the file, from 1
	After      []string // machines that have to be ready first
	Ready      Ready
	Restart    RestartPolicy
	Forwarding bool // it is a router
	Shares     []Share
	Disks      []Disk
}

// Type is the kind of computer that QEMU makes of an amd64 machine.
type Type string

// The types.
const (
	TypeDefault Type = ""        // what the architecture has
	TypeQ35     Type = "q35"     // an ordinary PC
	TypeMicroVM Type = "microvm" // a PC without a PCI bus, which starts a little sooner
)

// Boot is what finds a machine's kernel.
type Boot string

// The ways to boot.
const (
	BootKernel Boot = "kernel" // wolffia hands it to the backend
	BootBIOS   Boot = "bios"   // a PC's firmware does, on the machine's disk
	BootUEFI   Boot = "uefi"   // UEFI firmware does, on the machine's disk
)

// Backend is what runs a machine.
type Backend string

// The backends.
const (
	BackendAuto Backend = "auto"
	BackendUML  Backend = "uml"
	BackendQEMU Backend = "qemu"
	BackendView Backend = "view"
)

// Root is where a machine's root file system lives.
type Root string

// The roots.
const (
	RootInitramfs Root = "initramfs" // in memory; gone with the machine
	RootDisk      Root = "disk"      // on a disk of its own that lasts
)

// Console is what a machine has on its console, where wolffia starts its system.
type Console string

// The consoles.
const (
	ConsoleShell Console = "shell" // a shell for root, without a password
	ConsoleLogin Console = "login" // a login prompt
)

// Limits and defaults of a machine.
const (
	DefaultMemory = 128 * MiB
	// FirmwareMemory is what a machine has instead that boots from its disk:
	// UEFI and a kernel with all drivers are lost in less.
	FirmwareMemory = 512 * MiB
	MinMemory      = 1 * MiB // what a Linux needs is more; the backend knows
	MaxMemory      = 1024 * GiB
	DefaultMTU     = 1500
	MinMTU         = 1280 // what IPv6 asks of a link
	MaxMTU         = 65000
)

// MaxFile bounds the size of a lab's file in bytes.
const MaxFile = 1 << 20

// Default is the lab of those who have written no file: one image with
// busybox and a ssh server, on one network, with one machine.
func Default() *Spec {
	s := newSpec()
	s.Name = "wolffia"
	s.Images["base"] = &Image{
		Name: "base", Release: DefaultRelease, Deps: rootfs.DepsELF, Arch: "",
		Packages: []string{"busybox-static", "dropbear-bin"},
	}
	s.Networks["lan"] = newNetwork("lan")
	m := newMachine("wolffia")
	m.Image, m.Cards = "base", []Card{{Network: "lan"}}
	s.Machines[m.Name] = m
	return s
}

func newSpec() *Spec {
	return &Spec{Images: map[string]*Image{}, Networks: map[string]*Network{}, Machines: map[string]*Machine{}}
}

func newImage(name string) *Image {
	return &Image{Name: name, Release: DefaultRelease, Guess: true, Deps: rootfs.DepsPackages}
}

func newMachine(name string) *Machine {
	return &Machine{Name: name, Backend: BackendAuto, Memory: DefaultMemory, Boot: BootKernel, Root: RootInitramfs, Console: ConsoleShell, Restart: RestartNo}
}

// ImageNames, NetworkNames and MachineNames list the names, sorted.
func (s *Spec) ImageNames() []string { return slices.Sorted(maps.Keys(s.Images)) }

// NetworkNames lists the networks' names, sorted.
func (s *Spec) NetworkNames() []string { return slices.Sorted(maps.Keys(s.Networks)) }

// MachineNames lists the machines' names, sorted.
func (s *Spec) MachineNames() []string { return slices.Sorted(maps.Keys(s.Machines)) }

// MAC is the address of a machine's card on a network: stable, unicast and
// locally administered, derived from the three names.
func MAC(lab, machine, network string) net.HardwareAddr {
	return mac("card", lab, machine, network)
}
