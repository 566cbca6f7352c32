package qemu

import (
	"maps"
	"runtime"
	"slices"

	"wolffia/internal/machine"
)

// board is a machine that QEMU emulates, with what a kernel needs to know of it.
type board struct {
	program string   // the emulator, as Debian names it
	pkg     string   // Debian's package of it
	machine string   // -machine
	cpu     string   // -cpu under TCG
	hosts   []string // of the host's architectures (GOARCH), those whose KVM runs this one
	bus     string   // what a virtio device's name ends with: "pci", "device" (virtio-mmio)
	global  string   // -global
	console string   // the kernel's name of the first serial line
	status  string   // and of the second
	serial  string   // the device that is the second serial line
	// keyboard says that the board has none, so that one on virtio is needed for
	// Ctrl-Alt-Del.
	keyboard bool
	cmdline  []string // kernel parameters of this board
	modules  []string // that the guest loads first
	most     int64    // bytes of memory
	bios     string   // file in QEMU's data folder that boots disks as "bios"; empty for none
	uefi     []uefiFiles
	// banner is what firmware says on the console before it starts the kernel
	// that QEMU has loaded; it is kept in the log, and out of sight.
	banner banner
}

// banner is a text by how it begins and how its last line does.
type banner struct{ first, last string }

// uefiFiles are where distributions keep a board's UEFI: the program and the
// initial content of its variables.
type uefiFiles struct{ code, vars string }

// boards are the machines by Debian's architecture.
//
// The machines are the plainest that QEMU has for each: memory, processor,
// serial line and a PCI bus, which arm64, armhf and riscv64 call "virt".
var boards = map[string]board{
	"amd64": {
		program: "qemu-system-x86_64", pkg: "qemu-system-x86", machine: "q35,vmport=off,sata=off,smbus=off", cpu: tcgPC, hosts: []string{"amd64"},
		bus: "pci", console: "ttyS0", status: "ttyS1", serial: "isa-serial,index=1",
		cmdline: pc, most: 1 << 40, modules: virtio, bios: "bios-256k.bin",
		uefi: []uefiFiles{
			{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
			{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
			{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
			{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
		},
	},
	"i386": {
		program: "qemu-system-i386", pkg: "qemu-system-x86", machine: "q35,vmport=off,sata=off,smbus=off", cpu: tcgPC, hosts: []string{"amd64", "386"},
		bus: "pci", console: "ttyS0", status: "ttyS1", serial: "isa-serial,index=1",
		cmdline: pc, most: 3 << 30, modules: virtio, bios: "bios-256k.bin",
		uefi: []uefiFiles{{"/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF32_VARS_4M.fd"}},
	},
	"arm64": {
		program: "qemu-system-aarch64", pkg: "qemu-system-arm", machine: "virt", cpu: "cortex-a72", hosts: []string{"arm64"},
		bus: "pci", console: "ttyAMA0", status: "ttyS0", serial: "pci-serial",
		keyboard: true, cmdline: arm, most: 255 << 30, modules: append(virtio, "virtio_input"),
		uefi: []uefiFiles{
			{"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
			{"/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"},
		},
	},
	"armhf": {
		// The PCI bus below 4 GiB, where a kernel without LPAE reaches it.
		program: "qemu-system-arm", pkg: "qemu-system-arm", machine: "virt,highmem=off", cpu: "max", hosts: []string{"arm"},
		bus: "pci", console: "ttyAMA0", status: "ttyS0", serial: "pci-serial",
		keyboard: true, cmdline: arm, most: 2 << 30, modules: append(virtio, "virtio_input"),
		uefi: []uefiFiles{{"/usr/share/AAVMF/AAVMF32_CODE.fd", "/usr/share/AAVMF/AAVMF32_VARS.fd"}},
	},
	"riscv64": {
		program: "qemu-system-riscv64", pkg: "qemu-system-misc", machine: "virt", cpu: "rv64", hosts: []string{"riscv64"},
		bus: "pci", console: "ttyS0", status: "ttyS1", serial: "pci-serial",
		keyboard: true, most: 255 << 30, modules: append(virtio, "virtio_input"),
		uefi:   []uefiFiles{{"/usr/share/qemu-efi-riscv64/RISCV_VIRT_CODE.fd", "/usr/share/qemu-efi-riscv64/RISCV_VIRT_VARS.fd"}},
		banner: banner{"\r\nOpenSBI v", "\nBoot HART MEDELEG"},
	},
}

var (
	// On a busy host an emulated timer's interrupt comes too late for the
	// kernel's check that it comes at all.
	pc = []string{"no_timer_check"}
	// Memory set aside for the cameras and screens of small boards is missed in
	// small machines.
	arm = []string{"cma=0"}
)

// tcgPC is a PC's processor with all that TCG can do, but without the promise
// that strings of bytes are moved fast (erms): a kernel that does not count on it
// moves words, and boots some three percent sooner.
const tcgPC = "max,erms=off"

// virtio are the drivers of what every machine has. In most kernels some of
// them are built in.
var virtio = []string{"virtio_pci", "virtio_rng", "virtio_net", "virtio_blk"}

// microvm is a PC without a PCI bus and firmware to speak of.
var microvm = board{
	program: "qemu-system-x86_64", pkg: "qemu-system-x86", machine: "microvm", cpu: tcgPC, hosts: []string{"amd64"},
	bus: "device", console: "ttyS0", status: "ttyS1", serial: "isa-serial,index=1",
	global:   "virtio-mmio.force-legacy=off", // the keyboard has no legacy form
	keyboard: true, most: 1 << 40, modules: []string{"virtio_mmio", "virtio_rng", "virtio_net", "virtio_blk", "virtio_input"},
}

// Arches lists the architectures that there are machines for, by Debian's names.
func Arches() []string { return slices.Sorted(maps.Keys(boards)) }

// hostArch is Debian's name of this host's architecture.
func hostArch() string {
	switch runtime.GOARCH {
	case "arm":
		return "armhf"
	case "386":
		return "i386"
	}
	return runtime.GOARCH
}

// ProgramName is the name of the emulator for an architecture ("" is the
// host's), or "" when there is none.
func ProgramName(arch string) string { return boards[orHost(arch)].program }

func orHost(arch string) string {
	if arch == "" {
		return hostArch()
	}
	return arch
}

// shareOptions are those of Linux for QEMU's 9P. The largest message that its
// virtio transport takes is half a megabyte.
var shareOptions = []string{"trans=virtio", "version=9p2000.L", "msize=262144"}

// guest says what an init has to know of the board.
func (b board) guest() machine.Guest {
	return machine.Guest{
		Console: "/dev/" + b.console, Status: "/dev/" + b.status, Disk: "/dev/vda", Modules: slices.Clone(b.modules),
		Share:   machine.ShareMount{Type: "9p", Common: shareOptions, Modules: []string{"9pnet_virtio", "9p"}},
		Channel: "CONFIG_VIRTIO_CONSOLE",
	}
}
