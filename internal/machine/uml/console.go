package uml

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/machine"
)

// console is the near side of the pseudo-terminal.
type console struct {
	machine.Transcript
	pty  *os.File
	keys atomic.Uint64 // how often something was typed
	full fullWatch     // of what the guest says

	mu    sync.Mutex  // over calls to set the size, which don't wait, and again
	again *time.Timer // tells the size once more; nil before the first
}

// openPTY makes a pseudo-terminal in raw mode, 80 by 24. It goes through
// TIOCGPTPEER, so that no path in /dev/pts has to be right.
func openPTY() (near, far *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open pseudo-terminal: /dev/ptmx: %w", err)
	}
	near = os.NewFile(uintptr(fd), "console")
	fail := func(err error) (*os.File, *os.File, error) {
		near.Close()
		return nil, nil, fmt.Errorf("open pseudo-terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail(errno)
	}
	far = os.NewFile(peer, "console")
	if err := errors.Join(raw(int(peer)), setSize(int(peer), unix.Winsize{Col: 80, Row: 24})); err != nil {
		far.Close()
		return fail(err)
	}
	return near, far, nil
}

// raw is cfmakeraw(3).
func raw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func setSize(fd int, size unix.Winsize) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &size)
}

// Write implements [machine.Console].
func (c *console) Write(p []byte) (int, error) {
	n, err := c.pty.Write(p)
	c.keys.Add(1)
	_ = c.pty.SetReadDeadline(time.Now()) // for pump to see it
	return n, err
}

// resizeAgain is when a size is told once more: the kernel on the other side
// reads it when it opens the terminal, and some time later starts a process that
// hears of changes. One in between would be lost.
const resizeAgain = time.Second

// Resize implements [machine.Console]. The kernel on the other side gets a
// SIGWINCH from the pseudo-terminal and passes it on.
func (c *console) Resize(cols, rows int) error {
	if cols < 0 || rows < 0 || cols > 0xffff || rows > 0xffff {
		return fmt.Errorf("resize console: %d by %d is no size of a terminal", cols, rows)
	}
	size := unix.Winsize{Col: uint16(cols), Row: uint16(rows)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.again != nil {
		c.again.Stop()
	}
	if err := c.tell(size); err != nil {
		return fmt.Errorf("resize console: %w", err)
	}
	var mine *time.Timer
	mine = time.AfterFunc(resizeAgain, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.again == mine {
			size.Xpixel = 1 // only what is another size is told
			_ = c.tell(size)
		}
	})
	c.again = mine
	return nil
}

func (c *console) tell(size unix.Winsize) error {
	raw, err := c.pty.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = setSize(int(fd), size) }); err != nil {
		return err
	}
	return set
}

// close frees the terminal.
func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.again != nil {
		c.again.Stop()
		c.again = nil
	}
	if c.pty != nil {
		c.pty.Close()
	}
}

// A pseudo-terminal that was full can lose the signal that tells the kernel
// of new room: Linux notes that a writer waits for it (TTY_DO_WRITE_WAKEUP)
// only after the write has failed, and the reader may have made room in
// between. The guest's console would then stand still until somebody types. So
// after as much output as fills a terminal's buffer, when there is silence, the
// kernel is made to look again, a few times. So it is after something was
// typed: on busy hosts it was seen to take that only with the next key. Output is
// no sign that it has, since it may be of what was typed before.
const (
	ptyBuffer  = 4096 // bytes that a pseudo-terminal holds at least
	firstNudge = 10 * time.Millisecond
	nudges     = 8 // each after twice the time of the one before
)

// pump moves the guest's output into the transcript until the machine is gone.
// first is called once, before the first output is taken; nudge makes the
// kernel look at its console again.
func (c *console) pump(first, nudge func()) {
	defer c.Transcript.Close()
	buf := make([]byte, 16<<10)
	burst, nudged := 0, 0
	var seen uint64 // of keys
	typed := false  // and not followed by all nudges
	for {
		if keys := c.keys.Load(); keys != seen {
			seen, typed, nudged = keys, true, 0
		}
		var wait time.Time // for ever
		if (burst >= ptyBuffer || typed) && nudged < nudges {
			wait = time.Now().Add(firstNudge << nudged)
		}
		_ = c.pty.SetReadDeadline(wait)
		if c.keys.Load() != seen {
			continue // Write's own deadline was overwritten
		}
		n, err := c.pty.Read(buf)
		if n > 0 {
			if first != nil {
				first()
				first = nil
			}
			_, _ = c.Transcript.Write(buf[:n])
			c.full.look(buf[:n])
			burst, nudged = burst+n, 0
		}
		switch {
		case err == nil || errors.Is(err, syscall.EINTR):
		case errors.Is(err, os.ErrDeadlineExceeded):
			nudge()
			if nudged++; nudged == nudges {
				burst, typed = 0, false
			}
		default: // EIO is the end of a pseudo-terminal whose other side is closed
			return
		}
	}
}
