package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"wolffia/internal/access"
)

// remote is one command in a machine that behaves as if it ran here: standard
// streams, terminal, signals.
type remote struct {
	env Env
	cmd access.Command
	end context.CancelCauseFunc // of the context that it runs in

	vigil *vigil // over the machine
}

func newRemote(env Env, argv []string, end context.CancelCauseFunc, watch *vigil) *remote {
	return &remote{env: env, end: end, vigil: watch, cmd: access.Command{
		Argv: argv, Stdin: input(env), Stdout: &output{env.Stdout, end}, Stderr: &output{env.Stderr, end},
	}}
}

// input is what a command reads: nil where that is the null device, which needs no
// copier on either side.
func input(env Env) io.Reader {
	in, err := env.Stdin.Stat()
	if err != nil {
		return env.Stdin
	}
	if null, err := os.Stat(os.DevNull); err == nil && os.SameFile(in, null) {
		return nil
	}
	return env.Stdin
}

// onTerminal says whether a command gets a terminal: where input and output are one,
// always with tty, never with noTTY.
func onTerminal(env Env, tty, noTTY bool) bool {
	return tty || !noTTY && xterm.IsTerminal(int(env.Stdin.Fd())) && xterm.IsTerminal(int(env.Stdout.Fd()))
}

// runner is what a command is run by.
type runner interface {
	Run(context.Context, access.Command) (access.Status, error)
}

// run runs it and gives its status. See [onTerminal].
func (r *remote) run(ctx context.Context, sig *signals, client runner, tty, noTTY bool) (access.Status, error) {
	if onTerminal(r.env, tty, noTTY) {
		restore, err := terminal(r.env, &r.cmd)
		if err != nil {
			return access.Status{}, err
		}
		defer restore()
		r.cmd.Stdin = &keys{r.env.Stdin, r.vigil}
	}
	passing := make(chan string, 16)
	r.cmd.Signals = passing
	leave := func() { r.end(statusError(ExitInterrupted)) }
	defer r.vigil.during(leave)()
	pass := passOn(passing, leave)
	defer sig.pass(func(s unix.Signal) {
		pass(s)
		if s == unix.SIGINT || s == unix.SIGTERM {
			r.vigil.interrupt()
		}
	})()
	return client.Run(ctx, r.cmd)
}

// output is where a command's output goes. When it can't be written the command
// is ended: nobody is there to hear more.
type output struct {
	f    *os.File
	fail func(error)
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.f.Write(b)
	if err != nil {
		o.fail(fmt.Errorf("write the command's output: %w", err))
	}
	return n, err
}

// stopPatience is how long the first of two signals in a row waits for the
// second before it counts as one alone.
const stopPatience = 2 * time.Second

// passOn sends signals to the command; three interrupts in a row that it does
// not heed end it.
func passOn(to chan<- string, end func()) func(unix.Signal) {
	var last time.Time
	count := 0
	return func(s unix.Signal) {
		name, ok := access.SignalName(s)
		if !ok {
			return
		}
		if s == unix.SIGINT || s == unix.SIGTERM {
			if time.Since(last) > stopPatience {
				count = 0
			}
			last = time.Now()
			if count++; count >= 3 {
				end()
			}
		}
		select {
		case to <- name:
		default: // sixteen are waiting: one more would say nothing new
		}
	}
}

// terminal puts the person's terminal in raw mode and gives the command one of
// the same kind and size.
func terminal(env Env, cmd *access.Command) (restore func(), err error) {
	cmd.Terminal = env.Getenv("TERM")
	if cmd.Terminal == "" {
		cmd.Terminal = "linux"
	}
	cmd.Size = access.Size{Cols: 80, Rows: 24}
	in, out := int(env.Stdin.Fd()), int(env.Stdout.Fd())
	if cols, rows, err := xterm.GetSize(out); err == nil {
		cmd.Size = access.Size{Cols: cols, Rows: rows}
	}
	resize := make(chan access.Size, 1)
	cmd.Resize = resize
	stopSize := followSize(env.Stdout, sizeFunc(func(cols, rows int) error {
		select {
		case <-resize: // only the newest size counts
		default:
		}
		resize <- access.Size{Cols: cols, Rows: rows}
		return nil
	}))
	if !xterm.IsTerminal(in) {
		return stopSize, nil
	}
	old, err := xterm.MakeRaw(in)
	if err != nil {
		stopSize()
		return nil, err
	}
	return func() {
		xterm.Restore(in, old)
		stopSize()
	}, nil
}
