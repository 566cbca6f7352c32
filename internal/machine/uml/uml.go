// Package uml runs machines as User-Mode Linux: a Linux kernel that is an
// ordinary process. It needs neither root nor KVM; it does need ptrace or, from
// Linux 6.16 on, seccomp filters.
//
//	b := uml.Backend{}
//	m, err := b.Start(ctx, machine.Spec{Name: "alice", Kernel: dir + "/linux", Initramfs: []string{image}, Dir: scratch})
//
// Each machine is one process tree under package machine/keeper, which ends
// with this process whatever happens. The console is a pseudo-terminal whose
// size the guest follows; status lines come over a serial line (/dev/ttyS0)
// that is a pipe; each NIC is a vector device on a SOCK_SEQPACKET socket pair;
// orders (Ctrl-Alt-Del) go to the management console's socket. Everything the
// kernel writes on the host lies in Spec.Dir, except its memory: an unlinked
// file on the first of /dev/shm, TMPDIR and Spec.Dir that takes it.
//
// The kernel boots quietly (loglevel=4: errors are shown on the console) and
// without what costs time for nothing in a machine: the calibration of the
// delay loop, the benchmark of RAID 6 code, which is most of the boot of a
// distribution's kernel, and the pseudo-terminals of BSD (/dev/ptyp0), a
// quarter of the rest. A machine that wants RAID 5 or 6 (md, btrfs) gives an
// initcall_blacklist= of its own in Spec.Cmdline, which replaces this
// package's.
//
// The kernel and the guest's programs only ever hand over to each other, so a
// machine stays on the processor that its start found: waking the other side
// on another one doubles the time of every system call and page fault.
//
// A guest that restarts ends: the kernel would execute itself again, which is
// made to fail, and shows as [machine.Exit].Reboot.
//
// Disks are /dev/ubda and so on, raw images alone. What the guest writes goes
// into the image of a persistent disk, and otherwise into a copy-on-write file of
// the kernel's own format: the overlay of a disk that has it, or one in Spec.Dir. A guest can't
// make its kernel take the image for such a file of its own (and so read the
// host's files): that is switched off. So is hostfs, by which a guest could
// mount the host's folders; Spec.Cmdline may name one for it (hostfs=/folder).
//
// Shared folders are hostfs, too. It resolves names on the host, so that a guest
// has many ways out of a folder; therefore a machine with shares is kept from all
// of the host's files but these and its own, by a mount namespace
// ([keeper.Jail]). Where there is none, a machine can't have shares.
//
// None of this holds a guest's root that means it: who can load modules or
// write to /dev/mem of a User-Mode Linux rules its kernel, which is a process of
// this user. What is not trusted wants package machine/qemu.
//
// Deliberately absent: more than one processor, firmware, pulling network
// cables, and the old network transports (tuntap, daemon, vde), which newer
// kernels have not got.
//
// See https://docs.kernel.org/virt/uml/user_mode_linux_howto_v2.html.
package uml

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/program"
)

// Backend starts User-Mode Linux machines.
type Backend struct {
	// Hold forces a way of holding the process tree; empty for the best there
	// is.
	Hold keeper.Mode
	// Group, if set, has one keeper for the machines of all backends that have it.
	Group *keeper.Group
}

// Bounds of what a Spec may ask for.
const (
	MinMemory = 16 << 20 // bytes; a distribution's kernel does not boot in less
	MaxMemory = 1 << 40
	maxNICs   = 16 // vec0 to vec15
	maxDisks  = 16 // ubd0 to ubdf
	maxShares = 64
)

// Names in Spec.Dir.
const (
	umid       = "u"           // folder of the management console
	consoleLog = "console.log" // what the guest's console said
	hostLog    = "host.log"    // what the kernel said as a host process
	firstFD    = 3
)

// Name implements [machine.Backend].
func (Backend) Name() string { return "uml" }

// Guest implements [machine.Backend].
func (Backend) Guest(string) machine.Guest {
	return machine.Guest{
		Console: "/dev/tty0", Status: "/dev/ttyS0", Disk: "/dev/ubda",
		Share: machine.ShareMount{Type: "hostfs", Tagged: true},
	}
}

// plan is how a Spec is run.
type plan struct {
	spec    machine.Spec
	argv    []string // argv[0] is a name, not the kernel's path
	env     []string
	fds     []string // what descriptor 3 and up are
	runtime string   // folder of the kernel's own loader and libraries, or ""
	join    bool     // the initramfs has to be put together, as the last descriptor
}

// defaults are the kernel parameters that every machine gets, unless
// Spec.Cmdline has one of the same name. The initcalls are those of RAID 6
// before and since Linux 7; unknown ones do no harm.
var defaults = []string{
	"loglevel=4",
	"seccomp=auto", // guests' system calls by seccomp, where the kernel can; twice as fast as ptrace
	"lpj=15000000",
	"initcall_blacklist=raid6_select_algo,raid6_init",
	// Checksums and names are read eight bytes at a time, past the end of what
	// is asked for, and nobody catches the fault behind the last page of memory:
	// the kernel panics ("Segfault without recovery target") as soon as a packet
	// ends there. The initramfs lies in the last pages; kept, nothing else does.
	// A machine without one gets an empty one for this.
	"retain_initrd",
	// Whatever a guest mounts lies below this, which is no folder: nothing can
	// be found there, not even by way of "..".
	noHostfs,
	"pty.legacy_count=0", // 512 devices of BSD terminals, and a try to start /sbin/hotplug for each
}

const noHostfs = "hostfs=/dev/null"

func newPlan(spec machine.Spec) (*plan, error) {
	if err := spec.Check(machine.Limits{MinMemory: MinMemory, MaxMemory: MaxMemory, MaxNICs: maxNICs, MaxDisks: maxDisks, MaxShares: maxShares}); err != nil {
		return nil, err
	}
	if spec.Paused {
		return nil, fmt.Errorf("machine %s: no debugger can let a User-Mode Linux run", spec.Name)
	}
	if err := checkDisks(spec); err != nil {
		return nil, err
	}
	p := &plan{spec: spec}
	interp, err := program.Interpreter(spec.Kernel)
	if err != nil {
		return nil, &machine.StartError{
			Machine: spec.Name, Stage: "start", Cause: "the kernel is not an executable program for this host",
			Fix: "give a user-mode-linux kernel built for this host's architecture", Err: err,
		}
	}
	switch {
	case interp == program.RuntimeLoader:
		p.runtime = filepath.Join(filepath.Dir(spec.Kernel), program.RuntimeDir)
		interp = filepath.Join(filepath.Dir(spec.Kernel), program.RuntimeLoader)
		fallthrough
	case interp != "":
		if _, err := os.Stat(interp); err != nil {
			return nil, &machine.StartError{
				Machine: spec.Name, Stage: "start", Cause: "the kernel's dynamic loader is missing: " + interp,
				Fix: "let wolffia get a kernel with a C library of its own, or use a static one", Err: err,
			}
		}
	}
	p.arguments()
	return p, nil
}

// arguments lays out descriptors, parameters and environment.
func (p *plan) arguments() {
	s := p.spec
	fd := func(what string) int {
		p.fds = append(p.fds, what)
		return firstFD + len(p.fds) - 1
	}
	console, status := fd("console: terminal side of a pseudo-terminal"), fd("status lines: writing end of a pipe")
	// A restarting kernel executes argv[0], which must not exist then.
	p.argv = []string{
		"wolffia-uml/" + s.Name,
		fmt.Sprintf("mem=%dK", s.Memory>>10),
		"uml_dir=./", "umid=" + umid,
		"con=null", fmt.Sprintf("con0=fd:%d,fd:%d", console, console),
		"ssl=null", fmt.Sprintf("ssl0=null,fd:%d", status),
	}
	for i, n := range s.NICs {
		p.argv = append(p.argv, fmt.Sprintf("vec%d:transport=fd,fd=%d,mac=%s,mtu=%d,depth=128",
			i, fd(fmt.Sprintf("network interface %d: a SOCK_SEQPACKET socket", i)), n.MAC, n.MTU))
	}
	for range s.DiskLocks() {
		fd("a file that is locked while the machine has its disk")
	}
	p.argv = append(p.argv, p.disks()...)
	own := slices.Clone(defaults)
	switch len(s.Initramfs) {
	case 0:
		p.join = true
		p.argv = append(p.argv, "initrd=/proc/self/fd/"+strconv.Itoa(fd("initramfs: an empty archive")))
	case 1:
		p.argv = append(p.argv, "initrd="+s.Initramfs[0])
	default:
		p.join = true
		p.argv = append(p.argv, "initrd=/proc/self/fd/"+strconv.Itoa(fd("initramfs: "+strings.Join(s.Initramfs, " + "))))
	}
	if len(s.Initramfs) > 0 {
		own = append(own, "init=/init") // so that an /init that can't be executed is an error: the kernel would go on to try a bare shell
	}
	if len(s.Shares) > 0 {
		own = append(own, "hostfs="+sharesDir)
		own = slices.DeleteFunc(own, func(o string) bool { return o == noHostfs })
	}
	if len(s.Disks) == 0 {
		own = append(own, "ubd0r=/dev/null") // instead of looking for a file called root_fs
	}
	p.argv = append(p.argv, machine.Parameters(own, s.Cmdline)...)

	for _, e := range s.Env {
		name, _, _ := strings.Cut(e, "=")
		switch {
		case name == "TMPDIR", name == "TMP", name == "TEMP":
		case p.runtime != "" && strings.HasPrefix(name, "LD_"): // meant for another C library
		default:
			p.env = append(p.env, e)
		}
	}
	if p.runtime != "" {
		p.env = append(p.env, "LD_LIBRARY_PATH="+program.RuntimeDir)
	}
}

// Command implements [machine.Backend]. The command is to be run in Spec.Dir,
// which needs a link to the kernel's runtime folder if it has one.
func (Backend) Command(spec machine.Spec) (machine.Command, error) {
	p, err := newPlan(spec)
	if err != nil {
		return machine.Command{}, err
	}
	dir, err := p.memoryDir()
	if err != nil {
		return machine.Command{}, err
	}
	return machine.Command{
		Argv: append([]string{spec.Kernel}, p.argv[1:]...),
		Env:  append(p.env, "TMPDIR="+dir),
		FDs:  p.fds, Files: p.files(dir),
	}, nil
}

// Start implements [machine.Backend].
func (b Backend) Start(ctx context.Context, spec machine.Spec) (machine.Machine, error) {
	p, err := newPlan(spec)
	if err != nil {
		return nil, err
	}
	m, err := b.start(ctx, p)
	if err != nil {
		return nil, err
	}
	return m, nil
}
