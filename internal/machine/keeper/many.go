package keeper

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"wolffia/internal/program"
)

// initCode is the machine code of the first process of each namespace, by Go's
// name of the architecture. When it dies, the kernel kills the others; and it
// collects those whose parents are gone:
//
//	static const struct sigaction ignore = {SIG_IGN};
//	sigaction(SIGCHLD, &ignore, NULL);      // so that the kernel collects them
//	prctl(PR_SET_NAME, "wolffia-init");
//	for (;;) pause();                       // ppoll() where there is no pause()
//
// Go would take the memory and the time of a keeper for that.
var initCode = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	"amd64": {elf.EM_X86_64, []byte{
		0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov $0x8,%r10d
		0x31, 0xd2, // xor %edx,%edx
		0x48, 0x8d, 0x35, 0x39, 0x00, 0x00, 0x00, // lea 0x39(%rip),%rsi # 48 <act>
		0xbf, 0x11, 0x00, 0x00, 0x00, // mov $0x11,%edi
		0xb8, 0x0d, 0x00, 0x00, 0x00, // mov $0xd,%eax
		0x0f, 0x05, // syscall
		0x48, 0x8d, 0x35, 0x15, 0x00, 0x00, 0x00, // lea 0x15(%rip),%rsi # 37 <name>
		0xbf, 0x0f, 0x00, 0x00, 0x00, // mov $0xf,%edi
		0xb8, 0x9d, 0x00, 0x00, 0x00, // mov $0x9d,%eax
		0x0f, 0x05, // syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, // mov $0x22,%eax
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp 2e <_start+0x2e>
		'w', 'o', 'l', 'f', 'f', 'i', 'a', '-', 'i', 'n', 'i', 't', 0,
		0, 0, 0, 0,
		0x01, // SIG_IGN; zeros follow
	}},
	"arm64": {elf.EM_AARCH64, []byte{
		0x03, 0x01, 0x80, 0xd2, // mov x3, #0x8
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0x0
		0x81, 0x02, 0x00, 0x10, // adr x1, 58 <act>
		0x20, 0x02, 0x80, 0xd2, // mov x0, #0x11
		0xc8, 0x10, 0x80, 0xd2, // mov x8, #0x86
		0x01, 0x00, 0x00, 0xd4, // svc #0x0
		0x81, 0x01, 0x00, 0x10, // adr x1, 48 <name>
		0xe0, 0x01, 0x80, 0xd2, // mov x0, #0xf
		0xe8, 0x14, 0x80, 0xd2, // mov x8, #0xa7
		0x01, 0x00, 0x00, 0xd4, // svc #0x0
		0x04, 0x00, 0x80, 0xd2, // mov x4, #0x0
		0x03, 0x00, 0x80, 0xd2, // mov x3, #0x0
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0x0
		0x01, 0x00, 0x80, 0xd2, // mov x1, #0x0
		0x00, 0x00, 0x80, 0xd2, // mov x0, #0x0
		0x28, 0x09, 0x80, 0xd2, // mov x8, #0x49
		0x01, 0x00, 0x00, 0xd4, // svc #0x0
		0xf9, 0xff, 0xff, 0x17, // b 28 <_start+0x28>
		'w', 'o', 'l', 'f', 'f', 'i', 'a', '-', 'i', 'n', 'i', 't', 0,
		0, 0, 0,
		0x01, // SIG_IGN; zeros follow
	}},
}

// many is the own side of a keeper of many trees. It needs no more threads for more
// trees: one that could not be made would end them all.
type many struct {
	first   string      // path of the program of initCode
	space   int         // descriptor of the keeper's own PID namespace
	allowed unix.CPUSet // the processors that it may run on
	persona uintptr     // and its personality(2)

	mu    sync.Mutex
	trees map[int]*held              // by the pids of their programs and first processes, until they are reaped
	early map[int]syscall.WaitStatus // of those that were reaped while their tree was started
	more  chan struct{}              // holds something when there may be more to reap than before
}

// held is a tree of many; all but ctl is ordered by many.mu.
type held struct {
	ctl        *os.File // end of file means: kill the tree
	init, main int      // pids; 0 before they run and after they were reaped
	last       byte     // the message when nothing is left
	value      uint32
}

// keepMany runs as a keeper of many trees, which is process 1 of a PID namespace;
// args are what newHome put behind the mode.
func keepMany(args []string) int {
	runtime.LockOSThread() // which starts all trees: their parent-death signals are of its end
	if len(args) != 1 {
		return 2
	}
	ctl, err := strconv.Atoi(args[0])
	if err != nil || ctl < 3 {
		return 2
	}
	settle(ctl)
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0) // see keep
	k := &many{trees: map[int]*held{}, early: map[int]syscall.WaitStatus{}, more: make(chan struct{}, 1)}
	if k.first, err = initProgram(); err != nil {
		return 1
	}
	if k.space, err = syscall.Open("/proc/self/ns/pid", syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err != nil {
		return 1
	}
	if err := bequeathNothing(); err != nil {
		return 1
	}
	_ = unix.SchedGetaffinity(0, &k.allowed)
	k.persona, _, _ = syscall.RawSyscall(syscall.SYS_PERSONALITY, 0xffffffff, 0, 0)
	go k.reapAll()
	buf, oob := make([]byte, maxRequest), make([]byte, unix.CmsgSpace(maxFiles*4))
	for {
		n, oobn, flags, _, err := unix.Recvmsg(ctl, buf, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return 0 // the parent is gone, or wants an end: the kernel kills the rest
		}
		fds := received(oob[:oobn])
		if len(fds) == 0 {
			continue
		}
		_ = syscall.SetNonblock(fds[0], true) // so that who waits at it takes no thread
		t := &held{ctl: os.NewFile(uintptr(fds[0]), "ctl")}
		r, ok := readRequest(buf[:n])
		switch {
		case t.send(msgHeard, 0) != nil: // this keeper was too slow: another one has started it
			t.ctl.Close()
		case !ok || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(fds) < 4:
			_ = t.send(msgNoTree, uint32(syscall.E2BIG))
			t.ctl.Close()
		default:
			if err := k.hold(t, r, fds[1:]); err != nil {
				return 1
			}
		}
		for _, fd := range fds[1:] { // or the other ends would never see that the program is gone
			syscall.Close(fd)
		}
	}
}

// received gives the descriptors that came with a message.
func received(oob []byte) (fds []int) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		more, _ := unix.ParseUnixRights(&m)
		fds = append(fds, more...)
	}
	return fds
}

// initProgram makes the file of initCode, in memory, and gives a path at which it
// can be executed.
func initProgram() (string, error) {
	code := initCode[runtime.GOARCH]
	text := program.FromCode(code.machine, code.code)
	if text == nil {
		return "", errors.ErrUnsupported
	}
	fd, err := unix.MemfdCreate("init", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 every such file can be executed
		fd, err = unix.MemfdCreate("init", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd) // what is open for writing is not executed
	if _, err := syscall.Write(fd, text); err != nil {
		return "", err
	}
	read, err := syscall.Open("/proc/self/fd/"+strconv.Itoa(fd), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	return "/proc/self/fd/" + strconv.Itoa(read), nil
}

// hold starts a tree in a namespace of its own. An error is a keeper that can't go
// on: of a tree that can't be started it tells the parent.
func (k *many) hold(t *held, r request, fds []int) error {
	failed, errno := k.start(t, r, fds)                            // which may take its time
	if err := unix.Setns(k.space, unix.CLONE_NEWPID); err != nil { // for what comes next
		return err
	}
	_ = unix.SchedSetaffinity(0, &k.allowed)
	_, _, _ = syscall.RawSyscall(syscall.SYS_PERSONALITY, k.persona, 0, 0)

	k.mu.Lock()
	defer k.mu.Unlock()
	switch t.last, t.value = failed, uint32(errno); {
	case failed == 0:
		_ = t.send(msgStarted, uint32(t.main))
		go k.obey(t)
	case t.init == 0:
		t.over()
	default:
		_ = syscall.Kill(t.init, syscall.SIGKILL)
	}
	for _, pid := range []int{t.main, t.init} {
		if pid > 0 {
			k.trees[pid] = t
		}
		if status, ok := k.early[pid]; ok {
			k.reaped(pid, status)
		}
	}
	clear(k.early)
	select {
	case k.more <- struct{}{}:
	default:
	}
	return nil
}

// start starts the first process of a namespace, and the program. What failed is a
// message to the parent, or 0.
func (k *many) start(t *held, r request, fds []int) (failed byte, errno syscall.Errno) {
	err := unix.Unshare(unix.CLONE_NEWPID) // for what this thread starts
	if err == nil {
		// Go has a process that finds no parent kill itself, which the first one of a
		// namespace can't; others would die of it, and end with that one anyway.
		t.init, err = syscall.ForkExec(k.first, []string{"wolffia-init"}, &syscall.ProcAttr{Env: r.env, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
	}
	if err != nil {
		errors.As(err, &errno)
		return msgNoTree, errno
	}
	stayOnCPU(r.processor)
	if r.fixedLayout {
		fixLayout()
	}
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	// A session of its own: the kernel gives every session the same share of a busy
	// processor (sched(7), autogroups), and who has started the keeper has one, too.
	t.main, err = syscall.ForkExec(r.path, r.argv, &syscall.ProcAttr{Dir: r.dir, Env: r.env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		errors.As(err, &errno)
		return msgFailed, errno
	}
	return 0, 0
}

// reapAll collects what has ended, for as long as the keeper runs.
func (k *many) reapAll() {
	for {
		var info unix.Siginfo
		// Without reaping anything: that is done when nobody can signal its number.
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|unix.WALL, nil)
		if err == unix.ECHILD {
			<-k.more
			continue
		}
		k.mu.Lock()
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WALL|syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			k.reaped(pid, status)
		}
		k.mu.Unlock()
	}
}

// reaped notes the end of a program, which ends its tree, or that of the first
// process, which the kernel gives when no other is left; k is locked.
func (k *many) reaped(pid int, status syscall.WaitStatus) {
	t := k.trees[pid]
	if t == nil {
		k.early[pid] = status
		return
	}
	delete(k.trees, pid)
	if pid == t.main {
		t.main, t.last, t.value = 0, msgExited, uint32(status)
		if t.init > 0 {
			_ = syscall.Kill(t.init, syscall.SIGKILL)
		}
		return
	}
	t.init = 0
	t.over()
}

// over tells the parent how it ended.
func (t *held) over() {
	_ = t.send(t.last, t.value)
	t.ctl.Close()
}

// obey passes signals on until the parent is gone or wants an end, or the tree has
// ended.
func (k *many) obey(t *held) {
	var b [1]byte
	for {
		n, err := t.ctl.Read(b[:])
		k.mu.Lock()
		switch {
		case err == nil && n == 1:
			if t.main > 0 {
				_ = syscall.Kill(t.main, syscall.Signal(b[0]))
			}
			k.mu.Unlock()
			continue
		case t.init > 0:
			_ = syscall.Kill(t.init, syscall.SIGKILL)
		}
		k.mu.Unlock()
		return
	}
}

// send tells the parent, which has room for all that it is ever told. An error is a
// parent that does not listen any more.
func (t *held) send(kind byte, v uint32) error {
	_, err := t.ctl.Write(binary.NativeEndian.AppendUint32([]byte{kind}, v))
	return err
}
