package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"wolffia/internal/machine"
)

// escape is the byte that starts an escape sequence on a console: Ctrl-], as
// in telnet and virsh. A line editor hardly ever wants it.
const escape = 0x1d

// What the escape does, on the console of a throwaway machine and on that of a
// machine in the background.
const (
	endConsole   = "\r\n[wolffia: Ctrl-] then q ends the machine, Ctrl-] sends Ctrl-], anything else goes on]\r\n"
	leaveConsole = "\r\n[wolffia: Ctrl-] then q leaves, and the machine goes on; Ctrl-] sends Ctrl-], anything else goes on]\r\n"
)

// errEscape is the person leaving a console by the escape.
var errEscape = errors.New("left by the escape")

// attach joins a console to the terminal until the machine has ended (nil),
// the person leaves (errEscape) or ctx ends. Output that was under way is
// written before it returns.
//
// The end of an input that is no terminal is typed, too, with hangUp, so that a
// shell that reads it ends.
func attach(ctx context.Context, env Env, c machine.Console, help string, hangUp bool) error {
	fd := int(env.Stdin.Fd())
	tty := xterm.IsTerminal(fd)
	if tty {
		old, err := xterm.MakeRaw(fd)
		if err != nil {
			return fmt.Errorf("set the terminal to raw mode: %w", err)
		}
		defer xterm.Restore(fd, old)
		stop := followSize(env.Stdout, c)
		defer stop()
	}
	output := make(chan error, 1)
	go func() {
		_, err := io.Copy(env.Stdout, c)
		output <- err
	}()
	left := make(chan error, 1)
	// This goroutine may stay in a read that only the person at the keyboard
	// can end; the process ends soon after.
	go func() { left <- typeInto(c, env, tty, help, hangUp) }()
	for {
		select {
		case err := <-output:
			return err
		case err := <-left:
			if err != nil {
				return err
			}
			left = nil // end of input that is no terminal: go on showing output
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hangUpEvery is how often the end of an input is typed again.
const hangUpEvery = 250 * time.Millisecond

// typeEnd types that the input has ended, as Ctrl-D on a line of its own, until
// the machine is gone: who does not read yet, or reads in raw mode only later,
// would lose a single one.
func typeEnd(c machine.Console, last byte) {
	if last != '\n' && last != '\r' {
		if _, err := c.Write([]byte{'\n'}); err != nil {
			return
		}
	}
	for {
		if _, err := c.Write([]byte{4}); err != nil {
			return
		}
		time.Sleep(hangUpEvery)
	}
}

// typeInto copies what is typed to the console, looking for the escape when
// the input is a terminal.
func typeInto(c machine.Console, env Env, tty bool, help string, hangUp bool) error {
	buf := make([]byte, 4096)
	escaped, last := false, byte('\n')
	for {
		n, err := env.Stdin.Read(buf)
		if n > 0 {
			last = buf[n-1]
		}
		out := buf[:0:n]
		for _, b := range buf[:n] {
			switch {
			case !tty:
				out = append(out, b)
			case escaped && b == 'q':
				return errEscape
			case escaped && b == '?':
				io.WriteString(env.Stderr, help)
				escaped = false
			case !escaped && b == escape:
				escaped = true
			default:
				escaped = false
				out = append(out, b)
			}
		}
		if _, werr := c.Write(out); werr != nil {
			return nil // the machine is gone; the output's end says so
		}
		if err != nil {
			if !tty && hangUp {
				typeEnd(c, last)
			}
			return nil
		}
	}
}

// sizer is told the size of a terminal; a machine.Console is one.
type sizer interface{ Resize(cols, rows int) error }

type sizeFunc func(cols, rows int) error

func (f sizeFunc) Resize(cols, rows int) error { return f(cols, rows) }

// followSize tells c the terminal's size, now and at each change, until stop
// is called.
func followSize(out *os.File, c sizer) (stop func()) {
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, unix.SIGWINCH)
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			if cols, rows, err := xterm.GetSize(int(out.Fd())); err == nil {
				c.Resize(cols, rows)
			}
			select {
			case <-winch:
			case <-end:
				return
			}
		}
	})
	return func() {
		signal.Stop(winch)
		close(end)
		done.Wait()
	}
}
