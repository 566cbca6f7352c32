// Package qemu runs machines in QEMU 7.2 or later: emulated, or by KVM where
// that works, for amd64, i386, arm64, armhf and riscv64. It needs no privilege.
//
//	program, err := qemu.Find(ctx, "arm64", os.Getenv("PATH"))
//	b := qemu.Backend{Program: program}
//	m, err := b.Start(ctx, machine.Spec{Name: "bob", Arch: "arm64", Kernel: image, Initramfs: []string{root}, Dir: scratch})
//
// What differs between architectures is in one table (boards). Every machine
// has a serial console, a second serial line for status lines, a source of
// random numbers, a disk controller for each disk and a network card for each
// NIC, the latter three by virtio; and nothing else. Where the board has no
// keyboard it gets one, for Ctrl-Alt-Del, which is how Stop asks any system for
// an end: nothing has to run in the guest for that but a kernel with a driver.
//
// Each machine is one process under package machine/keeper, which ends with
// this process whatever happens, in QEMU's own seccomp sandbox. All that it
// talks over are sockets that it inherits: the monitor (QMP), the console, the
// status line, and for each NIC one that carries its frames
// (-netdev stream); QEMU's user network is never used. Scratch copies of disks
// are files in Spec.Dir, which QEMU unlinks as soon as it has them open.
//
// Kernels boot quietly (loglevel=4: errors are shown on the console) and
// without the self tests of their crypto code, a quarter of the boot under
// emulation. Another quarter goes if Spec.Kernel is unpacked already: see
// kernel.Uncompress. A kernel that panics restarts at once (panic=-1), and a
// guest that restarts ends; Exit tells one from the other by what the console
// said.
//
// Disks are /dev/vda and so on. What the guest writes goes into the image of a
// persistent disk, into the overlay of one that has it (a qcow2 image), and
// otherwise into a scratch file. A disk that can't be written, for lack of
// room on the host or otherwise, is an error to the guest, which goes on.
//
// Shared folders of the host are 9P devices, which need drivers that the smallest
// kernels (Debian's cloud for amd64) have not got. What one side changes the other
// sees at once, since the guest caches nothing; so no file can be mapped for
// writing (MAP_SHARED).
//
// A machine gives [machine.LinkSetter], [machine.GDBServer] and [machine.Examiner],
// the backend [machine.Scripter]. The console is a serial line, which carries no size:
// Resize is [machine.ErrNoResize].
//
// Deliberately absent: more than one processor, graphics, USB, migration.
//
// See https://www.qemu.org/docs/master/system/invocation.html.
package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
)

// Backend starts QEMU machines of one architecture.
type Backend struct {
	Program Program // of the Spec's architecture: see [Find] and [Probe]
	Accel   Accel   // what runs the guest's code; empty means TCG
	MicroVM bool    // amd64 only: the machine microvm, which has no PCI bus and boots no disk
	UEFI    UEFI    // for machines with that firmware: see [FindUEFI]
	// Hold forces a way of holding the process tree; empty for the best there
	// is.
	Hold keeper.Mode
	// Group, if set, has one keeper for the machines of all backends that have it.
	Group *keeper.Group
}

// UEFI is a UEFI firmware for QEMU, as two images of flash memory.
type UEFI struct {
	Code string // absolute path of the program
	Vars string // and of the initial content of its variables, which is copied
}

// Accel is what runs a guest's code.
type Accel string

// The accelerators.
const (
	TCG Accel = "tcg" // QEMU's own translator
	KVM Accel = "kvm" // the host's processor
)

// Bounds of what a Spec may ask for.
const (
	MinMemory = 16 << 20 // bytes; a distribution's kernel does not boot in less
	maxNICs   = 16
	maxDisks  = 8
	maxSlots  = 27 // of one PCI bus, for network interfaces, disks and shares
	maxPorts  = 8  // of the virtio console
)

// Names in Spec.Dir.
const (
	consoleLog = "console.log" // what the guest's console said
	hostLog    = "host.log"    // what QEMU said
	varsFile   = "efivars.fd"  // this machine's UEFI variables
	firstFD    = 3
)

// Name implements [machine.Backend].
func (Backend) Name() string { return "qemu" }

// Guest implements [machine.Backend].
func (b Backend) Guest(arch string) machine.Guest {
	board, err := b.board(arch)
	if err != nil {
		return machine.Guest{}
	}
	return board.guest()
}

func (b Backend) board(arch string) (board, error) {
	arch = orHost(arch)
	x, ok := boards[arch]
	if !ok {
		return x, fmt.Errorf("no QEMU machine is known for architecture %q; there are %s", arch, strings.Join(Arches(), ", "))
	}
	if b.MicroVM {
		if arch != "amd64" {
			return x, fmt.Errorf("the machine microvm is of architecture amd64, not %s", arch)
		}
		return microvm, nil
	}
	return x, nil
}

// plan is how a Spec is run.
type plan struct {
	spec  machine.Spec
	board board
	argv  []string
	env   []string
	fds   []string // what descriptor 3 and up are
	join  bool     // the initramfs has to be put together, as the last descriptor
	// byHand is for a script: no descriptors are inherited.
	byHand bool
}

// defaults are the kernel parameters that every machine gets, unless
// Spec.Cmdline has one of the same name. Unknown initcalls do no harm.
var defaults = []string{
	"loglevel=4",
	"panic=-1",
	"cryptomgr.notests",
	"initcall_blacklist=jent_mod_init", // the self test of a source of randomness that is used in FIPS mode only
}

func (b Backend) newPlan(spec machine.Spec) (*plan, error) {
	board, err := b.board(spec.Arch)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", spec.Name, err)
	}
	limits := machine.Limits{MinMemory: MinMemory, MaxMemory: board.most, MaxNICs: maxNICs, MaxDisks: maxDisks, MaxShares: maxSlots - len(spec.NICs) - len(spec.Disks), MaxChannels: maxPorts}
	if err := spec.Check(limits); err != nil {
		return nil, err
	}
	if len(b.Program.Argv) == 0 || !filepath.IsAbs(b.Program.Argv[0]) {
		return nil, fmt.Errorf("machine %s: the command of QEMU, %q, must begin with an absolute path", spec.Name, b.Program.Argv)
	}
	if err := b.checkFirmware(spec, board); err != nil {
		return nil, err
	}
	if spec.Firmware == machine.FirmwareNone {
		if err := checkKernel(spec); err != nil {
			return nil, err
		}
	}
	p := &plan{spec: spec, board: board}
	p.arguments(b)
	p.environment(b)
	return p, nil
}

// fd takes the next descriptor.
func (p *plan) fd(what string) int {
	p.fds = append(p.fds, what)
	return firstFD + len(p.fds) - 1
}

func (p *plan) add(args ...string) { p.argv = append(p.argv, args...) }

// arguments lays out descriptors and the command line.
func (p *plan) arguments(b Backend) {
	p.add(b.Program.command()...)
	p.add("-name", "guest="+escape(p.spec.Name))
	p.system(b)
	p.add("-display", "none", "-no-reboot")
	if !b.Program.NoSandbox {
		p.add("-sandbox", sandboxOption)
	}
	p.lines()
	p.channels()
	p.devices()
	for i, n := range p.spec.NICs {
		p.add("-netdev", p.netdev(i), "-device", p.nic(i, n))
	}
	for i, x := range p.spec.Shares {
		p.add("-fsdev", fsdev(i, x), "-device", fmt.Sprintf("virtio-9p-%s,fsdev=%s,mount_tag=%s", p.board.bus, shareID(i), x.Tag))
	}
	if !p.byHand {
		for range p.spec.DiskLocks() {
			p.fd("a file that is locked while the machine has its disk")
		}
	}
	if p.spec.Firmware == machine.FirmwareNone {
		p.boot(b)
	}
}

// lines adds the monitor and the serial lines. The processor stands still until
// the monitor says otherwise, so that no event is missed.
func (p *plan) lines() {
	if p.byHand {
		p.add("-serial", "mon:stdio", "-chardev", "null,id=status")
	} else {
		p.add("-S", "-chardev", p.socket("monitor", "monitor (QMP)"), "-mon", "chardev=monitor,mode=control")
		p.add("-chardev", p.socket("console", "console"), "-serial", "chardev:console")
		p.add("-chardev", p.socket("status", "status lines"))
	}
	p.add("-device", p.board.serial+",chardev=status")
}

// channels adds the virtio console, for its ports alone. The first port, which
// would be a console, is left out.
func (p *plan) channels() {
	if len(p.spec.Channels) == 0 {
		return
	}
	p.add("-device", fmt.Sprintf("virtio-serial-%s,max_ports=%d", p.board.bus, len(p.spec.Channels)+1))
	for i, name := range p.spec.Channels {
		id := fmt.Sprintf("channel%d", i)
		p.add("-chardev", p.socket(id, "channel "+name), "-device", fmt.Sprintf("virtserialport,chardev=%s,name=%s", id, name))
	}
}

// boot adds what QEMU itself loads.
func (p *plan) boot(b Backend) {
	p.add("-kernel", p.spec.Kernel)
	switch archives := p.spec.Initramfs; {
	case len(archives) == 0:
	case len(archives) == 1:
		p.add("-initrd", archives[0])
	case p.byHand:
		p.join = true
		p.add("-initrd", joinedFile)
	default:
		p.join = true
		p.add("-initrd", fmt.Sprintf("/proc/self/fd/%d", p.fd("initramfs: "+strings.Join(archives, " + "))))
	}
	p.add("-append", p.parameters(b))
}

// system adds what the machine itself is, with its firmware.
func (p *plan) system(b Backend) {
	accel, cpu := b.Accel, p.board.cpu
	if accel == "" {
		accel = TCG
	}
	if accel == KVM {
		cpu = "host"
	}
	kind := p.board.machine + ",accel=" + string(accel)
	if p.spec.Firmware == machine.FirmwareUEFI {
		kind += ",pflash0=uefi,pflash1=vars"
		p.add("-blockdev", "driver=file,node-name=uefi,read-only=on,filename="+escape(b.UEFI.Code))
		p.add("-blockdev", "driver=file,node-name=vars,filename="+escape(filepath.Join(p.spec.Dir, varsFile)))
	}
	p.add("-machine", kind, "-cpu", cpu, "-m", fmt.Sprintf("%dK", p.spec.Memory>>10), "-nodefaults", "-no-user-config")
	if p.board.global != "" {
		p.add("-global", p.board.global)
	}
	if p.spec.Firmware == machine.FirmwareBIOS {
		p.add("-bios", p.board.bios)
	}
}

// devices adds what every machine has, and the disks.
func (p *plan) devices() {
	p.add("-device", "virtio-rng-"+p.board.bus)
	if p.board.keyboard {
		p.add("-device", "virtio-keyboard-"+p.board.bus)
	}
	for i, d := range p.spec.Disks {
		p.add("-drive", drive(i, d))
		device := fmt.Sprintf("virtio-blk-%s,drive=%s", p.board.bus, diskID(i))
		if d.Serial != "" {
			device += ",serial=" + d.Serial
		}
		if p.spec.Firmware != machine.FirmwareNone { // otherwise it would come before the kernel, on some machines
			device += fmt.Sprintf(",bootindex=%d", i)
		}
		p.add("-device", device)
	}
}

// drive is a disk's image. QEMU stops a guest whose disk can't be written for lack
// of room on the host, and tells us; of other errors the guest is told. What an
// overlay says that it lies upon is not asked. QEMU's locks on what nobody writes
// to would only be in the way of others that read it: it takes those of User-Mode
// Linux, which are for the whole file, for a writer's.
func drive(i int, d machine.Disk) string {
	format, file := d.Format, d.Path
	if d.Overlay != "" {
		format, file = machine.QCOW2, d.Overlay
	}
	s := fmt.Sprintf("if=none,id=%s,format=%s,discard=unmap,werror=enospc,rerror=report,file=%s", diskID(i), format, escape(file))
	switch {
	case d.Overlay != "":
		s += fmt.Sprintf(",backing.driver=%s,backing.file.driver=file,backing.file.locking=off,backing.file.filename=%s", d.Format, escape(d.Path))
	case d.ReadOnly:
		s += ",readonly=on,file.locking=off"
	case !d.Persistent:
		s += ",snapshot=on,file.locking=off"
	}
	return s
}

// fsdev is a shared folder. QEMU opens what is in it step by step, and follows no
// link. What the guest creates is the person's, with the guest's permissions
// (security_model=none), so that both can work on the same files; to give files
// away is refused.
func fsdev(i int, x machine.Share) string {
	s := fmt.Sprintf("local,id=%s,security_model=none,multidevs=remap,path=%s", shareID(i), escape(x.Path))
	if x.ReadOnly {
		s += ",readonly=on"
	}
	return s
}

// netdev is where a network card's cable leads.
func (p *plan) netdev(i int) string {
	if p.byHand {
		return "user,id=" + netID(i)
	}
	return fmt.Sprintf("stream,id=%s,addr.type=fd,addr.str=%d", netID(i), p.fd(fmt.Sprintf("network interface %d: a SOCK_STREAM socket", i)))
}

func (p *plan) nic(i int, n machine.NIC) string {
	s := fmt.Sprintf("virtio-net-%s,netdev=%s,id=%s,mac=%s,host_mtu=%d", p.board.bus, netID(i), nicID(i), n.MAC, n.MTU)
	if p.board.bus == "pci" {
		s += ",romfile=" // no network boot
	}
	return s
}

func diskID(i int) string  { return fmt.Sprintf("disk%d", i) }
func netID(i int) string   { return fmt.Sprintf("net%d", i) }
func nicID(i int) string   { return fmt.Sprintf("nic%d", i) }
func shareID(i int) string { return fmt.Sprintf("share%d", i) }

// parameters is the kernel's command line.
func (p *plan) parameters(b Backend) string {
	own := append([]string{"console=" + p.board.console}, defaults...)
	own = append(own, p.board.cmdline...)
	if b.MicroVM && b.Accel != KVM {
		own = append(own, tscParameters()...)
	}
	if len(p.spec.Initramfs) > 0 {
		own = append(own, "init=/init") // so that an /init that can't be executed is an error: the kernel would go on to try a bare shell
	}
	return strings.Join(machine.Parameters(own, p.spec.Cmdline), " ")
}

// environment makes QEMU put scratch files into Spec.Dir.
func (p *plan) environment(b Backend) {
	p.env = append(slices.Clone(b.Program.Env), p.spec.Env...)
	p.env = slices.DeleteFunc(p.env, func(e string) bool { return strings.HasPrefix(e, "TMPDIR=") })
	p.env = append(p.env, "TMPDIR="+p.spec.Dir)
}

// socket is a character device on an inherited, connected socket.
func (p *plan) socket(id, what string) string {
	return fmt.Sprintf("socket,id=%s,fd=%d", id, p.fd(what+": a SOCK_STREAM socket"))
}

// escape makes text one value of an option, in which a comma ends a value.
func escape(text string) string { return strings.ReplaceAll(text, ",", ",,") }

// Command implements [machine.Backend].
func (b Backend) Command(spec machine.Spec) (machine.Command, error) {
	p, err := b.newPlan(spec)
	if err != nil {
		return machine.Command{}, err
	}
	return machine.Command{Argv: p.argv, Env: p.env, FDs: p.fds}, nil
}

// Start implements [machine.Backend].
func (b Backend) Start(ctx context.Context, spec machine.Spec) (machine.Machine, error) {
	p, err := b.newPlan(spec)
	if err != nil {
		return nil, err
	}
	m, err := b.start(ctx, p)
	if err != nil {
		return nil, err
	}
	return m, nil
}
