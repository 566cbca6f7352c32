package machine

import (
	"slices"
	"strings"
	"sync/atomic"
)

// Symptom is a line that tells why a machine did not live, and what it means.
type Symptom struct {
	Text  string // what the line contains
	Stage string // "start", "kernel", "init"
	Cause string // a trailing space asks for the rest of the line, after Text
	Fix   string // may be empty
}

// Final says that nothing more comes of a machine which shows this, even if its
// process lives on: what makes a machine one of ours comes last in its initramfs,
// and a kernel that was halted has stopped its processors.
func (x Symptom) Final() bool {
	return strings.HasPrefix(x.Text, unpackingFailed) || x.Text == noInitramfs || x.Text == halted
}

// Diagnose finds the first symptom, in the table's order, that any of the lines
// shows. Tables are put together from the special to the general: the ones of
// the backend, then [KernelSymptoms].
func Diagnose(lines []string, tables ...[]Symptom) (Symptom, bool) {
	for _, s := range slices.Concat(tables...) {
		for _, line := range lines {
			_, rest, found := strings.Cut(line, s.Text)
			if !found {
				continue
			}
			if strings.HasSuffix(s.Cause, " ") {
				s.Cause = strings.TrimRight(s.Cause+strings.TrimSpace(rest), ": ")
			}
			return s, true
		}
	}
	return Symptom{}, false
}

// Suspect tells from the lines of its console why a machine is not up that should
// be by now: its kernel has gone on after something that others end at.
func (s *Spec) Suspect(console []string) (Symptom, bool) {
	x, ok := Diagnose(console, KernelSymptoms())
	return s.Refine(x), ok
}

// Refine adds to a symptom what the Spec of the machine tells about it.
func (s *Spec) Refine(x Symptom) Symptom {
	if x.Text != noRoot {
		return x
	}
	for _, p := range s.Cmdline {
		if root, ok := strings.CutPrefix(p, "root="); ok {
			x.Cause = "the root file system " + root + " can't be mounted: there is no such disk, or the kernel has no driver for it or for what is on it"
			x.Fix = "check root= and the disk; drivers that are modules need an initramfs that loads them"
		}
	}
	return x
}

// Fault is why a guest must not go on, where it does not know that itself: the
// first reason that was given. The zero value is none. Its methods may be called
// from any goroutine.
type Fault struct{ why atomic.Pointer[Symptom] }

// Set gives a reason.
func (f *Fault) Set(why Symptom) { f.why.CompareAndSwap(nil, &why) }

// Explain makes the reason that of the machine's end, if there is one.
func (f *Fault) Explain(e *Exit) bool {
	why := f.why.Load()
	if why == nil {
		return false
	}
	e.Stage, e.Cause, e.Fix = why.Stage, why.Cause, why.Fix
	return true
}

// NoSpace is a disk of the host's that is full, while what a guest writes to its
// own disk of that number is kept there.
func (s *Spec) NoSpace(disk int) Symptom {
	x := Symptom{
		Stage: "disks", Cause: "the host's disk is full: what the machine writes to its own disk can't be kept in ",
		Fix: "make room there",
	}
	var d Disk
	if disk >= 0 && disk < len(s.Disks) {
		d = s.Disks[disk]
	}
	switch {
	case d.Overlay != "":
		x.Cause += d.Overlay
	case d.Persistent:
		x.Cause += d.Path
	default:
		x.Cause += "the machine's folder, " + s.Dir
		x.Fix += ", or have that folder elsewhere (XDG_RUNTIME_DIR)"
	}
	return x
}

// What kernels say that have no root, or no whole one, or that were halted.
const (
	halted          = "reboot: System halted"
	noRoot          = "VFS: Unable to mount root fs"
	noInitramfs     = "rootfs image is not initramfs"
	unpackingFailed = "Initramfs unpacking failed: "
)

const (
	fixMemory = "give the machine more memory (--memory)"
	fixImage  = "build the image again; if it comes from the cache, remove it there first (wolffia cache prune)"
	fixInit   = "put an executable /init for this architecture, and the loader and libraries it needs, into the image"
)

// KernelSymptoms are what any Linux kernel says before it gives up, special
// causes before the panics they lead to.
func KernelSymptoms() []Symptom {
	return []Symptom{
		{unpackingFailed + "write error", "kernel", "the initramfs does not fit into the machine's memory", fixMemory},
		{unpackingFailed, "kernel", "the initramfs is damaged: ", fixImage},
		{noInitramfs, "kernel", "the initramfs is damaged or of an unknown format: ", fixImage},
		{"System is deadlocked on memory", "kernel", "the machine ran out of memory", fixMemory},
		{"Out of memory and no killable processes", "kernel", "the machine ran out of memory", fixMemory},
		{"Failed to allocate", "kernel", "the machine has too little memory to boot: failed to allocate ", fixMemory},
		{"not enough memory", "kernel", "the machine has too little memory to boot", fixMemory},
		{"page allocation failure", "kernel", "the machine ran out of memory", fixMemory},
		{"Out of memory: Killed process ", "init", "the machine ran out of memory; the kernel killed process ", fixMemory},
		{"Failed to execute /init (error -2)", "init", "/init, or the interpreter or loader that it names, is not in the image", fixInit},
		{"Failed to execute /init (error -8)", "init", "/init is not a program for this machine's architecture", fixInit},
		{"Failed to execute /init (error -13)", "init", "/init is not executable", fixInit},
		{"Failed to execute /init (error -12)", "init", "there is not enough memory to run /init", fixMemory},
		{"Failed to execute /init ", "init", "/init can't be executed ", fixInit},
		{"Failed to execute ", "init", "init can't be executed: ", fixInit},
		{"Requested init ", "init", "the init= program can't be executed: ", fixInit},
		{"No working init found", "init", "there is no init in the image", fixInit},
		{noRoot, "kernel", "there is no /init in the initramfs (or the initramfs is cut short), and no other root", fixInit},
		{"exitcode=0x00000004", "init", "init was killed by an illegal instruction (SIGILL): it was built for another processor", fixInit},
		{"exitcode=0x00000009", "init", "init was killed (SIGKILL), most likely for lack of memory", fixMemory},
		{"exitcode=0x0000000b", "init", "init crashed (SIGSEGV)", ""},
		{"exitcode=0x00007f00", "init", "init ended with status 127: a program or library that it needs is not in the image", fixInit},
		{"exitcode=0x00000000", "init", "init ended (status 0), which it never may", "let init start what it starts and wait, or power the machine off"},
		{"Attempted to kill init! exitcode=", "init", "init ended, which it never may; exit code ", "let init start what it starts and wait, or power the machine off"},
		{"Kernel panic - not syncing:", "kernel", "the kernel panicked: ", ""},
		{"kernel BUG at ", "kernel", "the kernel stopped at a bug: ", ""},
		{"Unable to handle kernel ", "kernel", "the kernel crashed: unable to handle kernel ", ""},
		{halted, StageRunning, "it was halted from inside, after which it is still there and does nothing", "power it off instead: poweroff, or poweroff -f"},
		{"insmod: ", "init", "a kernel module could not be loaded: ", "take a kernel and modules of the same release"},
	}
}
