package keeper

import (
	"encoding/binary"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// addrNoRandomize is ADDR_NO_RANDOMIZE of personality(2).
const addrNoRandomize = 0x0040000

// child is the keeper's own side.
type child struct {
	mode Mode
	ctl  int // socket to the parent; end of file means: kill everything

	mu   sync.Mutex
	main int // the program's pid; 0 before it runs and after it was reaped
}

// keep runs as the keeper; args are what own put after argv[0].
func keep(args []string) int {
	if len(args) > 0 && args[0] == groupMode {
		return keepMany(args[1:])
	}
	runtime.LockOSThread() // parent-death signals and personality belong to a thread
	if len(args) < 6 {
		return 2
	}
	ctl, err := strconv.Atoi(args[1])
	if err != nil || ctl < 3 {
		return 2
	}
	settle(ctl)
	k := &child{mode: Mode(args[0]), ctl: ctl}
	if k.mode == Namespace {
		// Set again: the kernel clears it when credentials change. That the
		// parent died before this shows as end of file on the socket.
		_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
	} else if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 2
	}
	if args[2] == "true" {
		fixLayout()
	}
	stayOnCPU(args[3])
	jail, args, ok := readJail(args[4:])
	if !ok || len(args) == 0 {
		return 2
	}
	return k.run(jail, args[0], args[1:])
}

// settle sees to what a keeper keeps to itself: its socket, and all that the parent
// inherited by accident from its own parent. Nothing below it dumps core.
func settle(ctl int) {
	syscall.CloseOnExec(ctl)
	_ = unix.CloseRange(uint(ctl), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// fixLayout switches address space randomization off for what this thread starts.
// Where that is forbidden the program has to cope.
func fixLayout() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PERSONALITY, addrNoRandomize, 0, 0)
}

// bequeathNothing keeps the capabilities that this thread was given in its
// namespaces from what it executes: those that are not inheritable are not
// ambient either (capabilities(7)).
func bequeathNothing() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&head, &data[0])
}

// stayOnCPU keeps this thread, and what it starts, on a processor: where is what
// Command.processor wrote. Where that is forbidden the program is slower, and runs.
func stayOnCPU(where string) {
	var cpu uint32
	switch where {
	case "":
		return
	case anyCPU: // that it runs on
		if _, _, errno := syscall.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
			return
		}
	default:
		n, err := strconv.ParseUint(where, 10, 32)
		if err != nil {
			return
		}
		cpu = uint32(n)
	}
	var set unix.CPUSet
	set.Set(int(cpu))
	_ = unix.SchedSetaffinity(0, &set)
}

func (k *child) run(jail *Jail, path string, argv []string) int {
	files := make([]uintptr, k.ctl)
	for i := range files {
		files[i] = uintptr(i)
	}
	env := os.Environ()
	for i, e := range env {
		env[i] = strings.TrimPrefix(e, envPrefix)
	}
	if !k.told() {
		return 0
	}
	if jail != nil {
		if step, err := jail.enter(); err != nil {
			k.send(msgNoJail, failed(step, err))
			return 1
		}
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env: env, Files: files,
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		errno, _ := err.(syscall.Errno)
		k.send(msgFailed, uint32(errno))
		return 1
	}
	for i := range files {
		syscall.Close(i) // or the other ends would never see that the program is gone
	}
	k.main = pid
	k.send(msgStarted, uint32(pid))
	go k.obey()

	var ws syscall.WaitStatus
	for {
		var s syscall.WaitStatus
		got, err := syscall.Wait4(-1, &s, syscall.WALL, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 1
		}
		if got == pid && (s.Exited() || s.Signaled()) {
			ws = s
			break
		}
	}
	k.mu.Lock()
	k.main = 0
	k.mu.Unlock()
	if k.mode == Subreaper {
		killAll()
	}
	k.send(msgExited, uint32(ws))
	return 0
}

// told waits for the parent's word to begin; false means that it is gone.
func (k *child) told() bool {
	var b [1]byte
	for {
		n, err := syscall.Read(k.ctl, b[:])
		if err == syscall.EINTR {
			continue
		}
		return err == nil && n == 1 && b[0] == msgGo
	}
}

func (k *child) send(kind byte, v uint32) {
	_ = syscall.Sendto(k.ctl, binary.NativeEndian.AppendUint32([]byte{kind}, v), syscall.MSG_NOSIGNAL, nil)
}

// obey passes signals on until the parent is gone or wants an end.
func (k *child) obey() {
	var b [1]byte
	for {
		n, err := syscall.Read(k.ctl, b[:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil && n == 1:
			k.mu.Lock()
			if k.main > 0 {
				_ = syscall.Kill(k.main, syscall.Signal(b[0]))
			}
			k.mu.Unlock()
			continue
		case k.mode == Namespace:
			syscall.Exit(1) // the kernel kills the rest
		}
		for _, pid := range descendants(os.Getpid()) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		k.mu.Lock()
		if k.main > 0 {
			_ = syscall.Kill(k.main, syscall.SIGKILL)
		}
		k.mu.Unlock()
		return // run sees the program's end and does the rest
	}
}

// killAll kills and reaps until the keeper has no child. Orphans become its
// children, so that nothing escapes by forking.
func killAll() {
	for {
		for _, pid := range descendants(os.Getpid()) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for {
			got, err := syscall.Wait4(-1, nil, syscall.WALL|syscall.WNOHANG, nil)
			if err == syscall.ECHILD {
				return
			}
			if err != syscall.EINTR && got <= 0 {
				break
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// descendants lists the processes below pid, deepest first: a traced process
// must be dead before its tracer, or it would run on untraced for a moment.
func descendants(pid int) []int {
	parents := map[int][]int{}
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if pp := parentOf(name); pp > 0 {
			parents[pp] = append(parents[pp], n)
		}
	}
	var out []int
	level := []int{pid}
	for len(level) > 0 && len(out) < 1<<20 {
		var next []int
		for _, p := range level {
			next = append(next, parents[p]...)
			delete(parents, p)
		}
		out = append(next, out...)
		level = next
	}
	return out
}

// parentOf gives the parent of a process, and 0 of one that is not there.
func parentOf(pid string) int {
	_, parent := stateOf(pid)
	return parent
}

// stateOf reads the third and the fourth field of /proc/PID/stat (proc_pid_stat(5)):
// a letter, and the parent. The second is the command in parentheses and may itself
// hold any byte.
func stateOf(pid string) (state byte, parent int) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, 0
	}
	i := len(b) - 1
	for i >= 0 && b[i] != ')' {
		i--
	}
	if i < 0 || i+4 >= len(b) {
		return 0, 0
	}
	for _, c := range b[i+4:] { // behind ") S "
		if c < '0' || c > '9' {
			break
		}
		parent = parent*10 + int(c-'0')
	}
	return b[i+2], parent
}
