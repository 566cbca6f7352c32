// Package machine says what a running Linux is, whatever runs it.
//
// A [Spec] is plain data: it can be printed, compared and started twice. A
// [Backend] turns it into a [Machine]: a kernel process tree that the backend
// owns and ends. Packages machine/uml and machine/qemu are backends; both pass
// the conformance suite machine/machinetest.
package machine

import (
	"context"
	"fmt"
	"io"
	"net"

	"wolffia/internal/vnet"
)

// Spec describes one machine to start.
type Spec struct {
	Name      string   // a DNS label; the default host name
	Arch      string   // Debian's name: amd64, arm64, ...
	Memory    int64    // bytes of RAM
	Kernel    string   // path of the kernel, of the kind the backend boots
	Initramfs []string // cpio archives on the host, joined in this order into the initramfs
	Cmdline   []string // further kernel parameters, after the backend's own
	NICs      []NIC    // in the guest's order
	Dir       string   // existing private folder for sockets and scratch files; the caller removes it
	Env       []string // the environment of host processes, as in os/exec; HOME need not exist
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
	// Start boots the machine. It returns when the kernel's process runs, not
	// when the guest is up. Ending ctx kills the machine at once.
	Start(ctx context.Context, spec Spec) (Machine, error)
}

// Command is what a backend would run.
type Command struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	FDs  []string `json:"fds"` // what descriptor 3 and up are, in words
}

// Machine is a running machine. All methods may be called from any goroutine.
type Machine interface {
	// Console is the guest's console. Its bytes are kept until read, up to a
	// bound; reading ends with io.EOF when the machine has ended and all is read.
	Console() Console
	// Status carries the lines that the guest's init reports about its own
	// progress, one word and free text each ("stage network", "ready"). It
	// ends with io.EOF with the machine.
	Status() io.Reader
	// Ports are the host's ends of Spec.NICs, in the same order. They are
	// closed with the machine.
	Ports() []vnet.Port
	// Wait blocks until no process of the machine is left, and says how it ended.
	Wait() Exit
	// Stop asks the guest to shut down and kills it when ctx ends first.
	Stop(ctx context.Context) error
	// Kill ends it at once.
	Kill()
}

// Console is a machine's console: the guest's output is read, what is written
// is typed.
type Console interface {
	io.ReadWriter
	// Resize tells the guest the size of the terminal that shows the console.
	Resize(cols, rows int) error
}

// Exit says how a machine ended.
type Exit struct {
	Clean bool   // the guest powered off or rebooted by itself, or after Stop
	Cause string // otherwise: what was seen, such as "exit status 1" or "killed"
}

// StartError is a machine that could not be started or did not come up.
type StartError struct {
	Machine string   // its name
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
	s := fmt.Sprintf("machine %s did not come up: stage %s: %s", e.Machine, e.Stage, e.Cause)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *StartError) Unwrap() error { return e.Err }
