package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"wolffia/internal/access"
	"wolffia/internal/build"
	"wolffia/internal/debug"
	"wolffia/internal/event"
	"wolffia/internal/host"
	"wolffia/internal/image/imagefile"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/rootfs"
	"wolffia/internal/supervisor"
	"wolffia/internal/term"
)

type gdbOptions struct {
	buildOptions
	machineOptions
	attach  string
	machine bool // debug the kernel
	wait    bool
	symbols []string
	input   string
	program string
	args    []string // gdb's own, in their order
}

func newGDB(env Env, sig *signals) *cobra.Command {
	o := &gdbOptions{}
	cmd := &cobra.Command{
		Use:   "gdb [IMAGE] -- CMD [ARG]...",
		Short: "Debug a program in a throwaway machine, or its kernel, with gdb",
		Long: `Boots a machine as run does, starts CMD in it under gdbserver, and runs the host's
gdb, connected to it: the program stands before its first instruction. The
terminal is gdb's; what the program writes is shown. gdb's exit status is
wolffia's, and the machine ends with gdb. It needs no network in the machine, and
works for other architectures (with gdb-multiarch, on Debian).

gdbserver is added to the image's packages where it is missing. Programs and
libraries are those of the image; debug symbols are found in them, in the image's
/usr/lib/debug (as of the package libc6-dbg), in the folders given with --symbols
(in which dpkg-deb -x unpacked NAME-dbgsym packages, or which a compiler left), and
by debuginfod where DEBUGINFOD_URLS is set.

--attach debugs a process that runs, such as a service of the image, in place of a
new one. --debug-kernel debugs the kernel of a QEMU machine, of any architecture;
with --wait it stands before its first instruction. Symbols come from the vmlinux
in the folder that --kernel names, with the kernel's own scripts for gdb, or from
--symbols. CMD then runs in the machine meanwhile.

-ex, -x and -batch are gdb's, and --gdb-arg passes on anything else.`,
		Example: `  wolffia gdb -- /bin/ls -l
  wolffia gdb -ex 'break write' -ex continue -ex bt -batch -- /usr/bin/strace -V
  wolffia gdb --arch arm64 --symbols ./build -- /opt/program
  wolffia gdb server --attach dropbear
  wolffia gdb --debug-kernel --wait --kernel ~/linux -ex 'hbreak start_kernel' -ex continue`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, argv, err := splitArgs(cmd, args)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), env, sig, name, argv)
		},
	}
	o.buildOptions.flags(env, cmd)
	o.machineOptions.flags(env, &o.file, cmd)
	f := cmd.Flags()
	f.StringVar(&o.attach, "attach", "", "debug this process of the machine: its number, or its program's name")
	f.BoolVarP(&o.machine, "debug-kernel", "k", false, "debug the kernel, of a QEMU machine")
	f.BoolVar(&o.wait, "wait", false, "with --debug-kernel: before its first instruction")
	f.StringArrayVar(&o.symbols, "symbols", nil, "a folder with debug symbols, or a vmlinux; may be repeated")
	f.StringVar(&o.input, "input", "", "a file that is the program's standard input (default none)")
	f.StringVar(&o.program, "gdb", "", "the gdb to run (default gdb or gdb-multiarch, as the machine needs)")
	f.Func("ex", "a command for gdb; may be repeated, also as -ex", func(s string) error {
		o.args = append(o.args, "-ex", s)
		return nil
	})
	f.FuncP("command", "x", "a file of commands for gdb", func(s string) error {
		o.args = append(o.args, "-x", inDir(env.Dir, s))
		return nil
	})
	f.BoolFunc("batch", "have gdb end after the commands given, without questions; also as -batch", func(s string) error {
		yes, err := strconv.ParseBool(s)
		if yes {
			o.args = append(o.args, "-batch")
		}
		return err
	})
	f.Func("gdb-arg", "a further argument of gdb's", func(s string) error {
		o.args = append(o.args, s)
		return nil
	})
	complete(cmd, "symbols", nil)
	complete(cmd, "command", files("gdb", "py"))
	for _, name := range []string{"attach", "ex", "gdb-arg"} {
		complete(cmd, name, words())
	}
	cmd.ValidArgsFunction = oneName(env, fromLab(env, &o.file, runnable))
	return cmd
}

// gdbSpelling lets the flags of wolffia gdb be written as gdb's own, with one
// dash, which would be a flag for each letter.
func gdbSpelling(args []string) []string {
	if len(args) == 0 || args[0] != "gdb" {
		return args
	}
	out := slices.Clone(args)
	for i, a := range out {
		name, _, _ := strings.Cut(a, "=")
		switch {
		case a == "--":
			return out
		case name == "-ex", name == "-batch":
			out[i] = "-" + a
		}
	}
	return out
}

// check refuses what does not go together.
func (o *gdbOptions) check(argv []string) error {
	switch {
	case o.machine && o.attach != "":
		return usagef("--attach and --debug-kernel exclude each other")
	case o.attach != "" && len(argv) > 0:
		return usagef("--attach %s debugs what runs already: leave %q out", o.attach, argv)
	case !o.machine && o.attach == "" && len(argv) == 0:
		return usagef("wolffia gdb wants what to debug: a program, as in: wolffia gdb -- /bin/ls; or --attach NAME, or --debug-kernel")
	case o.wait && !o.machine:
		return usagef("--wait goes with --debug-kernel; a program waits by itself")
	case o.attach != "" && o.input != "":
		return usagef("--attach debugs what runs already, which has its input: leave --input out")
	case o.machine && o.machineOptions.backend == string(lab.BackendUML):
		return usagef("the kernel of User-Mode Linux can't be debugged this way yet; use --backend qemu")
	}
	return nil
}

// find finds what the flags name on the host, before anything is built.
func (o *gdbOptions) find(env Env) error {
	if o.program != "" {
		if strings.Contains(o.program, "/") {
			o.program = inDir(env.Dir, o.program)
		}
		path, err := exec.LookPath(o.program)
		if err != nil {
			return usagef("--gdb: %v", err)
		}
		o.program = path
	}
	for i, s := range o.symbols {
		o.symbols[i] = inDir(env.Dir, s)
		if info, err := os.Stat(o.symbols[i]); err != nil {
			return usagef("--symbols: %v", err)
		} else if !info.IsDir() && !o.machine {
			return usagef("--symbols %s: it is no folder", s)
		}
	}
	if o.input == "" {
		return nil
	}
	o.input = inDir(env.Dir, o.input)
	if info, err := os.Stat(o.input); err != nil {
		return usagef("--input: %v", err)
	} else if info.IsDir() {
		return usagef("--input %s: it is a folder", o.input)
	}
	return nil
}

func (o *gdbOptions) run(ctx context.Context, env Env, sig *signals, name string, argv []string) error {
	if err := o.check(argv); err != nil {
		return err
	}
	if err := o.find(env); err != nil {
		return err
	}
	screen := o.renderer(env)
	defer screen.Close()
	p, err := o.open(env, screen)
	if err != nil {
		return err
	}
	ready, err := o.prepare(ctx, env, p, name, argv, screen)
	if err != nil {
		return asUsage(err)
	}
	defer ready.close()
	gdb := o.program
	if gdb == "" {
		if gdb, err = debug.FindGDB(ctx, ready.config.Arch, env.Getenv("PATH")); err != nil {
			return err
		}
	}
	d := &debugger{env: env, sig: sig, screen: screen, gdb: gdb, dir: ready.config.Dir}
	defer d.catchPipe()()
	d.session.Args = o.args
	if o.machine {
		err = o.debugKernel(ctx, d, p, ready, argv)
	} else {
		err = o.debugProgram(ctx, d, p, ready, argv)
	}
	keepLog(env, err)
	return err
}

// prepare makes the machine ready to be debugged.
func (o *gdbOptions) prepare(ctx context.Context, env Env, p *project, name string, argv []string, events event.Sink) (*ready, error) {
	if !o.machine {
		if err := p.need(name, "gdbserver", events); err != nil {
			return nil, err
		}
		r, err := p.prepare(ctx, env, &o.machineOptions, name, rootfs.ConsoleNone, events)
		if err == nil && r.kernel.UML && host.New().Trace() == nil {
			// By seccomp, floating point registers come in a form that makes
			// gdbserver tell of others than there are, and gdb refuse them all.
			r.config.Cmdline = append(r.config.Cmdline, "seccomp=off")
		}
		return r, err
	}
	if o.machineOptions.backend == "" {
		o.machineOptions.backend = string(lab.BackendQEMU)
	}
	o.cmdline = append(o.cmdline, "nokaslr") // symbols are where the linker put them
	r, err := p.prepare(ctx, env, &o.machineOptions, name, consoleFor(argv), events)
	if err != nil {
		return nil, err
	}
	r.config.Paused = o.wait
	r.config.Patience = standstill
	return r, nil
}

// standstill is how long a kernel may stand still in a debugger.
const standstill = 365 * 24 * time.Hour

// need adds a package to the image of a machine that is to be debugged.
func (p *project) need(name, pkg string, events event.Sink) error {
	m, err := pick(p.Spec, name)
	if err != nil {
		return &usageError{err}
	}
	img := p.Images[m.Image]
	if build.Wants(img, pkg) {
		return nil
	}
	img.Packages = append(slices.Clone(img.Packages), pkg)
	events.Emit(event.Event{Kind: event.Note, Task: "build", Subject: m.Image, Message: fmt.Sprintf(
		"image %s gets the package %s, which it lacks, for this machine", m.Image, pkg)})
	return nil
}

// debugger runs gdb on the terminal.
type debugger struct {
	env     Env
	sig     *signals
	screen  *term.Renderer
	gdb     string
	dir     string // private, for sockets
	session debug.Session
}

// catchPipe makes a reader that goes away an error of writing.
func (*debugger) catchPipe() (stop func()) {
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGPIPE)
	return func() { signal.Stop(broken) }
}

// debugProgram debugs a new process of the machine, or one that runs.
func (o *gdbOptions) debugProgram(ctx context.Context, d *debugger, p *project, r *ready, argv []string) error {
	sysroot, release, err := p.sysroot(ctx, r)
	if err != nil {
		return err
	}
	defer release()
	for _, s := range o.symbols {
		d.session.Symbols = append(d.session.Symbols, debug.Symbols(s))
	}
	what := debug.Program{Argv: argv, NoThreads: r.kernel.UML}
	if o.input != "" {
		f, err := os.Open(o.input)
		if err != nil {
			return &usageError{err}
		}
		defer f.Close()
		what.Stdin = f
	}
	s, err := supervisor.Start(ctx, r.config)
	if err != nil {
		return err
	}
	defer s.Close()
	client, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	s.KeepAlive(client, access.Alive{})
	if err := s.Ready(ctx); err != nil {
		return err
	}
	if o.attach != "" {
		if what.PID, err = o.process(ctx, client, s.Name()); err != nil {
			return err
		}
	}
	d.streams(&what)
	d.screen.Pause()
	server, err := debug.Serve(ctx, client, what)
	var refused *debug.ServeError
	if errors.As(err, &refused) && refused.Fix() != "" {
		return fmt.Errorf("%w; %s", err, refused.Fix())
	}
	if err != nil {
		return err
	}
	defer server.Close()
	if _, err := os.Stat(filepath.Join(sysroot, server.File)); err == nil && server.File != "" {
		d.session.Sysroot = sysroot // otherwise it is none of the image's: gdb reads it out of the machine
	}
	err = d.joined(ctx, server)
	server.Wait(lastWords)
	if exit, ended := s.Ended(); err == nil && ended && !exit.Clean {
		return exit.Err(s.Name(), machine.StageRunning)
	}
	return err
}

// streams shows what a program writes. On a terminal it gets one of its own, so
// that lines come when they are written.
func (d *debugger) streams(p *debug.Program) {
	p.Stdout, p.Stderr = d.env.Stdout, d.env.Stderr
	in, out := int(d.env.Stdin.Fd()), int(d.env.Stdout.Fd())
	if p.Stdin != nil || !xterm.IsTerminal(in) || !xterm.IsTerminal(out) {
		return
	}
	p.Terminal, p.Size = d.env.Getenv("TERM"), access.Size{Cols: 80, Rows: 24}
	if p.Terminal == "" {
		p.Terminal = "linux"
	}
	if cols, rows, err := xterm.GetSize(out); err == nil {
		p.Size = access.Size{Cols: cols, Rows: rows}
	}
}

// joined runs gdb, joined with a gdbserver.
func (d *debugger) joined(ctx context.Context, server *debug.Server) error {
	path, free, err := socketName(d.dir, "gdb")
	if err != nil {
		return err
	}
	defer free()
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for gdb: %w", err)
	}
	d.session.Socket = path
	var joining sync.WaitGroup
	defer joining.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var broken error
	joining.Go(func() { broken = server.Join(ctx, l) })
	err = d.run(ctx)
	cancel()
	joining.Wait()
	if broken != nil && !errors.Is(broken, context.Canceled) {
		return broken // which is why gdb was of no use
	}
	return err
}

// run runs gdb until it ends. The terminal is gdb's, with its signals.
func (d *debugger) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, d.gdb, d.session.Arguments()...) // with the person's environment: it is their gdb
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = d.env.Dir, d.env.Stdin, d.env.Stdout, d.env.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it puts the terminal in order
	cmd.WaitDelay = powerOff
	terminal := xterm.IsTerminal(int(d.env.Stdin.Fd()))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run gdb: %w", err)
	}
	defer d.sig.pass(func(s unix.Signal) {
		if !terminal || s == unix.SIGTERM || s == unix.SIGHUP { // else it comes from the keyboard, and gdb has it
			cmd.Process.Signal(s)
		}
	})()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.As(err, &exit):
		return fmt.Errorf("run gdb: %w", err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return statusError(128 + int(ws.Signal()))
	}
	return statusError(max(exit.ExitCode(), 1))
}

// maxSocket is how long the name of a unix socket may be, in bytes.
const maxSocket = 107

// socketName gives the path of a socket in a folder. One that is too long is
// shortened by a detour over this process, until free.
func socketName(dir, name string) (path string, free func(), err error) {
	path = filepath.Join(dir, name)
	if len(path) <= maxSocket {
		return path, func() {}, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), f.Fd(), name), func() { f.Close() }, nil
}

// process finds what --attach names.
func (o *gdbOptions) process(ctx context.Context, c *access.Client, name string) (int, error) {
	if pid, ok := positive(o.attach); ok {
		return pid, nil
	}
	pids, err := debug.Processes(ctx, c, o.attach)
	switch {
	case err != nil:
		return 0, err
	case len(pids) == 0:
		return 0, fmt.Errorf("no process in machine %q is called %q", name, o.attach)
	case len(pids) > 1:
		return 0, fmt.Errorf("several processes in machine %q are called %q; give the number of one: %s", name, o.attach, strings.Trim(fmt.Sprint(pids), "[]"))
	}
	return pids[0], nil
}

// positive reads a number of decimal digits.
func positive(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil && n > 0
}

// kindSysroot are folders of the store with the programs of an image.
const kindSysroot = "sysroot"

// sysroot is a folder with the programs of a machine's image.
func (p *project) sysroot(ctx context.Context, r *ready) (string, func(), error) {
	key := r.image.Key
	_, err := p.store.CreateDir(ctx, kindSysroot, key, func(dir string) error {
		f, err := imagefile.Open(ctx, r.image.Path, imagefile.Options{Scratch: r.config.Dir})
		if err != nil {
			return err
		}
		defer f.Close()
		t, err := f.Tree(0)
		if err != nil {
			return err
		}
		return debug.Sysroot(ctx, dir, t, time.Now())
	})
	if err != nil {
		return "", nil, fmt.Errorf("get programs for gdb: %w", err)
	}
	dir, release, ok := p.store.Hold(kindSysroot, key)
	if !ok {
		return "", nil, errors.New("get programs for gdb: they were removed from the cache meanwhile; try again")
	}
	return dir, release, nil
}
