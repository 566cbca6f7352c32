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
		0x48, 0x8d, 0x35, 0x19, 0x00, 0x00, 0x00, // lea 0x19(%rip),%rsi # 28
		0xbf, 0x11, 0x00, 0x00, 0x00, // mov $0x11,%edi
		0xb8, 0x0d, 0x00, 0x00, 0x00, // mov $0xd,%eax
		0x0f, 0x05, // syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, // mov $0x22,%eax
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp 1b
		0x0f, 0x1f, 0x40, 0x00, // nopl 0x0(%rax)
		0x01, // SIG_IGN; zeros follow
	}},
	"arm64": {elf.EM_AARCH64, []byte{
		0x03, 0x01, 0x80, 0xd2, // mov x3, #0x8
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0x0
		0x81, 0x01, 0x00, 0x10, // adr x1, 38
		0x20, 0x02, 0x80, 0xd2, // mov x0, #0x11
		0xc8, 0x10, 0x80, 0xd2, // mov x8, #0x86
		0x01, 0x00, 0x00, 0xd4, // svc #0x0
		0x04, 0x00, 0x80, 0xd2, // mov x4, #0x0
		0x03, 0x00, 0x80, 0xd2, // mov x3, #0x0
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0x0
		0x01, 0x00, 0x80, 0xd2, // mov x1, #0x0
		0x00, 0x00, 0x80, 0xd2, // mov x0, #0x0
		0x28, 0x09, 0x80, 0xd2, // mov x8, #0x49
		0x01, 0x00, 0x00, 0xd4, // svc #0x0
		0xf9, 0xff, 0xff, 0x17, // b 18
		0x01, // SIG_IGN; zeros follow
	}},
}

// keepMany runs as a keeper of many trees, which is process 1 of a PID namespace;
// args are what newHome put behind the mode.
func keepMany(args []string) int {
	runtime.LockOSThread() // parent-death signals belong to a thread
	if len(args) != 1 {
		return 2
	}
	ctl, err := strconv.Atoi(args[0])
	if err != nil || ctl < 3 {
		return 2
	}
	settle(ctl)
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0) // see keep
	first, err := initProgram()
	if err != nil {
		return 1
	}
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
		r, ok := readRequest(buf[:n])
		if !ok || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(fds) < 4 {
			closeAll(fds) // the socket among them: the parent takes that for a no
			continue
		}
		go hold(r, first, fds[0], fds[1:])
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

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
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

// held is a tree of many.
type held struct {
	ctl *os.File // end of file means: kill the tree

	mu         sync.Mutex
	init, main int // pids; 0 before they run, and before they are reaped
}

// hold starts a tree in a namespace of its own, of which first is the first program,
// and stays until the tree has ended.
func hold(r request, first string, ctl int, fds []int) {
	runtime.LockOSThread() // what is set below is this thread's, which ends with this goroutine
	_ = syscall.SetNonblock(ctl, true)
	t := &held{ctl: os.NewFile(uintptr(ctl), "ctl")}
	defer t.ctl.Close()
	stayOnCPU(r.processor)
	failed, errno := t.start(r, first, fds)
	closeAll(fds) // or the other ends would never see that the program is gone
	if failed != 0 {
		t.end()
		t.send(failed, uint32(errno))
		return
	}
	pid := t.main // which is this goroutine's alone until obey runs
	t.send(msgStarted, uint32(pid))
	go t.obey()
	status := t.wait(pid)
	t.end()
	t.send(msgExited, uint32(status))
}

// start starts the first process of the namespace, and the program. What failed is
// a message to the parent, or 0.
func (t *held) start(r request, first string, fds []int) (failed byte, errno syscall.Errno) {
	err := unix.Unshare(unix.CLONE_NEWPID) // for what this thread starts
	if err == nil {
		err = bequeathNothing()
	}
	if err == nil {
		t.init, err = syscall.ForkExec(first, []string{"wolffia-init"}, &syscall.ProcAttr{Env: r.env, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
	}
	if err != nil {
		errors.As(err, &errno)
		return msgNoTree, errno
	}
	if r.fixedLayout {
		fixLayout()
	}
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	// No parent-death signal: the first process has one, and this one ends with it.
	t.main, err = syscall.ForkExec(r.path, r.argv, &syscall.ProcAttr{Dir: r.dir, Env: r.env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true}})
	if err != nil {
		errors.As(err, &errno)
		return msgFailed, errno
	}
	return 0, 0
}

// wait waits for the program's end.
func (t *held) wait(pid int) syscall.WaitStatus {
	var info unix.Siginfo
	for { // without reaping it, so that its number is nobody else's yet
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WALL, nil)
		if err != unix.EINTR {
			break
		}
	}
	t.mu.Lock()
	t.main = 0
	t.mu.Unlock()
	return reap(pid)
}

// end kills what is left of the tree, and waits until nothing is.
func (t *held) end() {
	t.mu.Lock()
	pid := t.init
	t.init = 0
	if pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	t.mu.Unlock()
	if pid > 0 {
		reap(pid)
	}
}

// reap waits for the end of a child.
func reap(pid int) (status syscall.WaitStatus) {
	for {
		if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != syscall.EINTR {
			return status
		}
	}
}

// obey passes signals on until the parent is gone or wants an end.
func (t *held) obey() {
	var b [1]byte
	for {
		n, err := t.ctl.Read(b[:])
		t.mu.Lock()
		if err != nil || n != 1 {
			if t.init > 0 {
				_ = syscall.Kill(t.init, syscall.SIGKILL)
				t.send(msgKilled, 0)
			}
			t.mu.Unlock()
			return
		}
		if t.main > 0 {
			_ = syscall.Kill(t.main, syscall.Signal(b[0]))
		}
		t.mu.Unlock()
	}
}

func (t *held) send(kind byte, v uint32) {
	_, _ = t.ctl.Write(binary.NativeEndian.AppendUint32([]byte{kind}, v)) // who does not listen has gone
}
