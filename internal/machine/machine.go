// Package machine says what a running Linux is, whatever runs it.
//
// A [Spec] is plain data: it can be printed, compared and started twice. A
// [Backend] turns it into a [Machine]: a kernel process tree that the backend
// owns and ends. Packages machine/uml and machine/qemu are backends; both pass
// the conformance suite machine/machinetest.
//
// What a guest can rely on, whatever the backend:
//
//   - /dev/console is the console, and what the kernel has to say there is
//     errors only (loglevel=4), unless Spec.Cmdline asks for more;
//
//   - network interfaces have the MAC addresses of Spec.NICs, by which to find
//     them: their names differ between backends;
//
//   - Ctrl-Alt-Del (SIGINT to an init that asked for it, a restart otherwise)
//     is how Stop asks for an end.
//
//     m, err := backend.Start(ctx, machine.Spec{Name: "alice", Kernel: k, Initramfs: []string{image, identity}, Dir: dir})
//     io.Copy(os.Stdout, m.Console())
//     if exit := m.Wait(); !exit.Clean { return exit.Err("alice", "init") }
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"wolffia/internal/vnet"
)

// Spec describes one machine to start.
type Spec struct {
	Name      string   // a DNS label; the default host name
	Arch      string   // Debian's name: amd64, arm64, ...
	Memory    int64    // bytes of RAM; 0 means [DefaultMemory]
	Firmware  Firmware // what boots it; with any but none, Kernel, Initramfs and Cmdline are empty
	Kernel    string   // absolute path of the kernel, of the kind the backend boots
	Initramfs []string // cpio archives on the host, joined in this order into the initramfs; none for a root on a disk
	Cmdline   []string // further kernel parameters, after the backend's own, which they override
	Disks     []Disk   // in the guest's order: see Guest.Disk
	NICs      []NIC    // in the guest's order
	Shares    []Share  // folders of the host: see Guest.Share
	Channels  []string // names of streams between guest and host, of backends whose machines are a [Channeler]
	Dir       string   // existing private folder for sockets and scratch files; the caller removes it
	Env       []string // the environment of host processes, as in os/exec; HOME need not exist
	CPU       *int     // the host's processor that a User-Mode Linux stays on; nil for the one that is found at its start
	Paused    bool     // it stands still until a debugger lets it run: of backends whose machines are a [GDBServer]
}

// DefaultMemory is the RAM of a machine whose Spec does not say, in bytes.
const DefaultMemory = 128 << 20

// Firmware is what finds a machine's kernel.
type Firmware string

// The kinds of firmware. Machines with one boot from their first disk.
const (
	FirmwareNone Firmware = ""     // the backend itself loads Spec.Kernel
	FirmwareBIOS Firmware = "bios" // a PC's, which starts a boot sector
	FirmwareUEFI Firmware = "uefi" // which starts a program on an EFI system partition
)

// Disk is one disk of a machine.
type Disk struct {
	Path     string // absolute, of the image on the host
	Format   string // [Raw] or [QCOW2]; "" means Raw
	Serial   string // its serial number, where the backend's disks have one; at most 20 letters, digits and dashes
	ReadOnly bool   // the guest can't write to it
	// Persistent has writes go into the image; otherwise they go into a scratch
	// file, gone with the machine. No two machines have an image that one writes to.
	Persistent bool
	// Overlay is the absolute path of a file that takes the writes instead, and
	// lasts: it is made, in an existing folder, where there is none, and used again
	// by the next machine with the same image, whatever became of the last. It
	// belongs to one machine at a time. [RemoveOverlay] removes it.
	Overlay string
	// Base names the content of Path, such as by its key in the store, so that an
	// Overlay is never used over another. Empty means that it is told by Path, its
	// size, and the time when it was changed.
	Base string
}

// The formats of disk images.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
)

// Share is a folder of the host that a machine can mount. What the guest does
// there, whoever does it, it does as the person who started the machine; it gets
// at nothing outside of the folder, whatever links there are.
type Share struct {
	Tag      string // what the guest mounts: letters, digits, "_", "-" and ".", at most 31; no two the same
	Path     string // absolute, of the folder
	ReadOnly bool   // the guest can't change anything
}

// ShareMount is how a guest mounts a [Share].
type ShareMount struct {
	Type    string   // of file system: "9p", "hostfs"
	Common  []string // options for mount -o
	Tagged  bool     // the tag is an option, too: the type does not look at what is mounted
	Modules []string // drivers, as Guest.Modules are, but of no use without shares; a kernel without them has no shares
}

// Options are those for mount -o, with commas between them; maybe none. A mount
// that knows a newer way to give them to the kernel than mount(2), as that of
// util-linux 2.39 does, gives Tagged ones in vain: busybox's does not.
func (m ShareMount) Options(tag string) string {
	options := m.Common
	if m.Tagged {
		options = append(slices.Clone(options), tag)
	}
	return strings.Join(options, ",")
}

// NIC is one network interface of a machine.
type NIC struct {
	MAC net.HardwareAddr
	MTU int // bytes of payload, as in ip link; 0 means 1500
}

// Backend starts machines of one kind.
type Backend interface {
	// Name is the word in the file and on the command line: "uml", "qemu".
	Name() string
	// Command gives the exact argv and environment that Start would use, with
	// descriptor numbers as they would be, for explain and dry runs.
	Command(Spec) (Command, error)
	// Guest gives the names that things have inside a machine of an
	// architecture, which "" leaves to the backend.
	Guest(arch string) Guest
	// Start boots the machine. It returns when the kernel's process runs, not
	// when the guest is up. Ending ctx kills the machine at once.
	Start(ctx context.Context, spec Spec) (Machine, error)
}

// Scripter is a Backend whose machines a person can also start by hand.
type Scripter interface {
	// Script gives a shell script that runs the machine without wolffia, as far
	// as that goes; it says in comments what is different.
	Script(Spec) (string, error)
}

// Guest is what a machine's init has to know about its backend.
type Guest struct {
	Console string // the console's own device, such as "/dev/tty0", which can be a controlling terminal
	Status  string // the device that takes status lines, such as "/dev/ttyS0"
	Disk    string // the first of Spec.Disks, such as "/dev/vda"; the next ends with b
	// Modules are the drivers of the machine's devices, to be loaded in this
	// order before anything needs them, as far as the kernel has them as modules.
	Modules []string
	Share   ShareMount // how Spec.Shares are mounted
	// Channel is the option of a kernel's configuration that has to be built in for
	// Spec.Channels, which are ports of a virtio console with their names; empty for
	// backends without channels.
	Channel string
}

// Command is what a backend would run.
type Command struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	FDs  []string `json:"fds"` // what descriptor 3 and up are, in words
	// Files are all that the process sees of the host's files, in words; empty
	// where it sees them all.
	Files []string `json:"files,omitempty"`
}

// Machine is a running machine. All methods may be called from any goroutine.
type Machine interface {
	// Console is the guest's console. Its last megabyte is kept until read (a
	// guest is never held up by a reader); reading ends with io.EOF when the
	// machine has ended and all is read.
	Console() Console
	// Status carries the lines that the guest's init reports about its own
	// progress, one word and free text each ("stage network", "ready"). It
	// ends with io.EOF with the machine.
	Status() io.Reader
	// Ports are the host's ends of Spec.NICs, in the same order. They are
	// closed with the machine.
	Ports() []vnet.Port
	// Wait blocks until no process of the machine is left, and says how it
	// ended. It may be called any number of times.
	Wait() Exit
	// Stop asks the guest to shut down, kills it when ctx ends first, and
	// waits for its end. The error is about a guest that had to be killed.
	Stop(ctx context.Context) error
	// Kill ends it at once.
	Kill()
}

// Console is a machine's console: the guest's output is read, what is written
// is typed.
type Console interface {
	io.ReadWriter
	// Resize tells the guest the size of the terminal that shows the console.
	// Where the console has no way to say it the error is [ErrNoResize]; the
	// guest can be told by stty(1), in it.
	Resize(cols, rows int) error
}

// ErrNoResize says that a console, such as a serial line, carries no size.
var ErrNoResize = errors.New("this console carries no size of its terminal")

// LinkSetter is a Machine whose network cables can be pulled out.
type LinkSetter interface {
	// SetLink makes the guest see the carrier of its network interface nic, as
	// counted in Spec.NICs, go down or come up; frames are lost while it is down.
	SetLink(nic int, up bool) error
}

// Channeler is a Machine with Spec.Channels.
type Channeler interface {
	// Channels are the host's ends of Spec.Channels, in the same order. They are the
	// caller's, who calls it once and closes them; what the guest wrote before the
	// machine's end can still be read. To close one for writing (CloseWrite) is what
	// the guest reads as its end.
	Channels() []*net.UnixConn
}

// GDBServer is a Machine whose kernel can be debugged.
type GDBServer interface {
	// GDBServer has the machine wait for gdb, and gives the path of a unix
	// socket in Spec.Dir where it does ("target remote PATH"). The machine
	// stands still whenever gdb wants it to. It is called once at most.
	GDBServer(ctx context.Context) (socket string, err error)
}

// Examiner is a Machine that can say why it gives no sign of life.
type Examiner interface {
	// Examine looks at a machine that should be up by now. It reports what is
	// most likely wrong with it, or false when nothing looks wrong.
	Examine(ctx context.Context) (Symptom, bool)
}

// Exit says how a machine ended, with all that a report needs.
type Exit struct {
	Clean  bool // the guest powered off or restarted by itself, or after Stop
	Reboot bool // the guest asked for a restart; starting it again is the caller's choice

	Stage string   // otherwise, the stage it did not survive: "start", "kernel", "init"
	Cause string   // otherwise, the likely cause in words
	Fix   string   // what to do about it, if that is known
	Host  string   // how the host process ended: "exit status 1", "signal: killed"
	Argv  []string // of the host process
	Tail  []string // the last console lines, in order
	Log   string   // path of the whole console log, in Spec.Dir
}

// StageRunning is the stage of a machine that is up.
const StageRunning = "running"

// Err makes a report of an exit that came before the machine was up, or before
// it was asked for, for a machine called name. stage says where the caller was
// waiting ("network", "access", [StageRunning], ...) and is used where the exit
// does not know better.
func (e Exit) Err(name, stage string) *StartError {
	s := &StartError{
		Machine: name, Stage: e.Stage, Cause: e.Cause, Fix: e.Fix, Up: stage == StageRunning,
		Argv: e.Argv, Exit: e.Host, Tail: e.Tail, Log: e.Log,
	}
	if e.Clean {
		s.Cause = "the guest powered off"
		if e.Reboot {
			s.Cause = "the guest restarted"
		}
		if !s.Up {
			s.Cause += " before it was up"
		}
	}
	if s.Stage == "" {
		s.Stage = stage
	}
	if s.Cause == "" {
		s.Cause = "it ended"
	}
	return s
}

// StartError is a machine that could not be started, did not come up, or did
// not stay up.
type StartError struct {
	Machine string   // its name
	Up      bool     // it had come up, and died
	Stage   string   // "start", "kernel", "init", "network", "access"
	Cause   string   // the likely cause, in words
	Fix     string   // what to do about it
	Argv    []string // of the host process
	Exit    string   // how the host process ended; empty while it runs
	Tail    []string // the last console lines
	Log     string   // path of the whole console log, if kept
	Err     error
}

func (e *StartError) Error() string {
	what := "did not come up"
	if e.Up {
		what = "died"
	}
	s := fmt.Sprintf("machine %s %s: stage %s: %s", e.Machine, what, e.Stage, e.Cause)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *StartError) Unwrap() error { return e.Err }
