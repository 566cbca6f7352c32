// Package debug looks into the programs of a machine, and into its kernel, with
// the tools that everybody knows: gdb here, gdbserver and strace there.
//
// All of it goes over an [access.Client], so it works with every machine that
// can be entered, one without any network included. gdb reaches gdbserver over
// a unix socket that nobody else can open ([Server.Join]), and an ssh channel
// from there.
//
//	s, err := debug.Serve(ctx, client, debug.Program{Argv: []string{"/bin/ls"}, Stdout: os.Stdout})
//	defer s.Close()
//	go s.Join(ctx, listener)
//	gdb, err := debug.FindGDB(ctx, "arm64", os.Getenv("PATH"))
//	cmd := exec.Command(gdb, debug.Session{Socket: socket, Sysroot: dir}.Arguments()...)
//
// gdb finds programs and libraries in a folder of the host's ([Sysroot]), since
// reading them out of an emulated machine takes minutes. Debug symbols come from
// there, too, and from where the person says ([Symbols]).
//
// Deliberately absent: a debugger of our own, and the remote protocol itself,
// which passes through unread.
//
// See https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Debugging.html.
package debug

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"wolffia/internal/access"
	"wolffia/internal/lazy"
)

// Program is a program in a machine to debug: a new one, or one that runs.
type Program struct {
	Argv []string // program and arguments, to start
	PID  int      // or else the process to attach to

	// Of a new one. Its terminal, where it has one, is its input and output.
	Stdin          io.Reader // nil is an empty input
	Stdout, Stderr io.Writer // nil drops what is written
	Terminal       string    // with a value such as "xterm", it gets a terminal of this kind
	Size           access.Size

	// NoThreads has gdbserver do without libthread_db, and gdb without the values
	// of thread-local variables; threads are seen. The kernel of User-Mode Linux
	// needs that: asked by PTRACE_ARCH_PRCTL where the thread-local storage of the
	// program is, it tells gdbserver where gdbserver's own is, and with a library
	// that reads there gdbserver gives up at the first stop. The machine is
	// without the library from then on.
	NoThreads bool
}

// Server is a gdbserver that runs in a machine, with a program that stands
// before its first instruction.
type Server struct {
	PID  int    // of the program
	File string // the path of its file in the machine, without links; empty when it is not known

	client *access.Client
	port   int
	cancel context.CancelFunc
	ended  chan struct{} // closed when gdbserver has ended and all it wrote has come
	err    error         // valid after ended
}

// ServeError is a program that can't be debugged.
type ServeError struct {
	Program string
	Said    string // what gdbserver said
	fix     string
}

func (e *ServeError) Error() string {
	return fmt.Sprintf("debug %q: gdbserver in the machine gives up: %s", e.Program, e.Said)
}

// Fix says what to do about it; empty where nobody knows.
func (e *ServeError) Fix() string { return e.fix }

// Serve starts gdbserver, which must be in the machine, and waits until it
// listens. Ending ctx kills it, and with it a program that it started.
func Serve(ctx context.Context, c *access.Client, p Program) (*Server, error) {
	// Where it listens can't be confined to the loopback address, whatever is
	// written here. It takes one connection (--once), and ours comes first.
	argv := []string{"gdbserver", "--once"}
	name := strconv.Itoa(p.PID)
	if p.PID != 0 {
		argv = append(argv, "--attach", "127.0.0.1:0", name)
	} else {
		name = p.Argv[0]
		file, err := find(ctx, c, name)
		if err != nil {
			return nil, err
		}
		argv = append(append(argv, "127.0.0.1:0", file), p.Argv[1:]...)
	}
	if p.NoThreads {
		if err := hide(ctx, c); err != nil {
			return nil, fmt.Errorf("debug %q: %w", name, err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{client: c, cancel: cancel, ended: make(chan struct{})}
	m := &messages{out: p.Stderr, listening: make(chan struct{})}
	// The shell that starts programs for gdbserver is busybox's, or the like.
	cmd := access.Command{Argv: argv, Env: []string{"SHELL=/bin/sh"}, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: m, Terminal: p.Terminal, Size: p.Size}
	if p.Terminal != "" { // where all is one stream
		m.out, m.terminal = p.Stdout, true
		cmd.Stdout, cmd.Stderr = m, nil
	}
	go func() {
		defer close(s.ended)
		_, s.err = c.Run(ctx, cmd)
		m.flush()
	}()
	select {
	case <-m.listening:
	case <-s.ended:
		cancel()
		if s.err != nil {
			return nil, fmt.Errorf("debug %q: %w", name, s.err)
		}
		return nil, m.failure(name)
	}
	s.port, s.PID = m.port, cmp.Or(p.PID, m.pid)
	file, err := c.Output(ctx, "readlink", fmt.Sprintf("/proc/%d/exe", s.PID))
	if err != nil && ctx.Err() != nil {
		s.Close()
		return nil, err
	}
	s.File = strings.TrimSuffix(string(file), "\n")
	return s, nil
}

// hideThreads lays an empty file over libthread_db, which gdbserver then can't
// load, and which the image, the base of the root, keeps.
const hideThreads = `for f in /lib/libthread_db.so.1 /lib/*/libthread_db.so.1 /usr/lib/libthread_db.so.1 /usr/lib/*/libthread_db.so.1; do
	if [ -f "$f" ]; then mount --bind /dev/null "$f" || exit; fi
done`

// hide hides libthread_db.
func hide(ctx context.Context, c *access.Client) error {
	var said bytes.Buffer
	status, err := c.Run(ctx, access.Command{Argv: []string{"sh", "-c", hideThreads}, Stderr: &said})
	if err == nil && status.Code != 0 {
		err = fmt.Errorf("hide libthread_db from gdbserver: %s", strings.TrimSpace(said.String()))
	}
	return err
}

// find looks for a program in the machine's PATH. A shell that is asked to run
// one by its name alone, as gdbserver does, may have a command of that name in
// itself: busybox's has most.
func find(ctx context.Context, c *access.Client, name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var out bytes.Buffer
	status, err := c.Run(ctx, access.Command{Argv: []string{"which", "--", name}, Stdout: &out})
	path := strings.TrimSuffix(out.String(), "\n")
	switch {
	case err != nil:
		return "", fmt.Errorf("debug %q: %w", name, err)
	case status.Code != 0 || !strings.HasPrefix(path, "/"):
		return "", fmt.Errorf("debug %q: there is no program of this name in the machine", name)
	}
	return path, nil
}

// Join joins the first connection that comes to l with gdbserver, until one of
// them ends it or ctx ends. It closes l.
func (s *Server) Join(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	near, err := l.Accept()
	l.Close()
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer near.Close()
	far, err := s.client.Connect(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
	if err != nil {
		return err
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(near, far)
		near.Close()
	})
	io.Copy(far, near)
	far.Close()
	back.Wait()
	return nil
}

// Wait waits for gdbserver's end, which comes with gdb's, and for the last byte
// that the program wrote, but no longer than for the time given: a program that
// gdb detached from goes on.
func (s *Server) Wait(patience time.Duration) {
	select {
	case <-s.ended:
	case <-time.After(patience):
	}
}

// Close ends gdbserver, if it still runs.
func (s *Server) Close() {
	s.cancel()
	<-s.ended
}

// Processes finds processes of a machine by the name of their program. The
// dropbear that serves c itself is none: nobody could ask for it any more.
func Processes(ctx context.Context, c *access.Client, name string) ([]int, error) {
	var out bytes.Buffer
	if _, err := c.Run(ctx, access.Command{Argv: []string{"sh", "-c", listProcesses, name}, Stdout: &out}); err != nil {
		return nil, err
	}
	var pids []int
	for word := range strings.FieldsSeq(out.String()) {
		if pid, err := strconv.Atoi(word); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// listProcesses prints what the program of its argument runs as, but for what
// its own parent is.
const listProcesses = `for pid in $(pidof "$0"); do
	[ "$pid" = $PPID ] || echo "$pid"
done`

// messages takes what gdbserver itself says out of what a program writes.
type messages struct {
	out       io.Writer
	terminal  bool          // lines end as a terminal's do; the one that shows them does that, too
	listening chan struct{} // closed when port and pid are known

	mu    sync.Mutex
	text  []byte // not taken yet
	said  []byte // before it listened
	state int
	port  int
	pid   int
}

// What the stream is at: lines of gdbserver's own; its line about our
// connection; the program's.
const (
	starting = iota
	joining
	passing
)

// maxSaid bounds what is kept of gdbserver's own lines, in bytes.
const maxSaid = 16 << 10

var (
	listenLine  = lazy.Regexp(`^Listening on port (\d+)$`)
	createdLine = lazy.Regexp(`; pid = (\d+)$`)
	// What it says at the end, each written at once. gdb tells the same.
	farewell = lazy.Regexp(`(?:\r?\n)?(?:Child exited with status \d+|Child terminated with signal = [^\n]*|Detaching from process \d+|Killing process\(es\):[^\n]*|Remote side has terminated connection[^\n]*)\r?\n$`)
)

const joinedLine = "Remote debugging from host "

func (m *messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text = append(m.text, b...)
	for m.state != passing {
		line, rest, whole := bytes.Cut(m.text, []byte("\n"))
		if m.state == joining && !bytes.HasPrefix(line, []byte(joinedLine)[:min(len(line), len(joinedLine))]) {
			m.state = passing
			break
		}
		if !whole {
			if len(line) > maxSaid {
				m.text = nil
			}
			return len(b), nil
		}
		m.text = rest
		m.take(string(bytes.TrimRight(line, "\r")))
	}
	text := farewell().ReplaceAll(m.text, nil)
	m.text = nil
	if m.terminal {
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	}
	if m.out != nil {
		if _, err := m.out.Write(text); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// take reads a line of gdbserver's.
func (m *messages) take(line string) {
	if m.state == joining {
		m.state = passing
		return
	}
	if len(m.said)+len(line) < maxSaid {
		m.said = append(append(m.said, line...), '\n')
	}
	if f := createdLine().FindStringSubmatch(line); f != nil {
		m.pid, _ = strconv.Atoi(f[1])
	}
	if f := listenLine().FindStringSubmatch(line); f != nil {
		m.port, _ = strconv.Atoi(f[1])
		m.state = joining
		close(m.listening)
	}
}

// flush passes on what stayed at the end.
func (m *messages) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == starting {
		m.said = append(m.said, m.text...)
	} else if m.out != nil {
		m.out.Write(m.text)
	}
	m.text = nil
}

// failure is a gdbserver that ended before it listened.
func (m *messages) failure(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := &ServeError{Program: name, Said: strings.TrimSuffix(strings.Join(strings.Fields(string(m.said)), " "), " Exiting")}
	switch {
	case strings.Contains(e.Said, "gdbserver: not found"):
		e.Said, e.fix = "it is not there", "add gdbserver to the packages of the machine's image"
	case strings.Contains(e.Said, "exited with code 127"), strings.Contains(e.Said, "exited with code 126"):
		e.Said, _, _ = strings.Cut(e.Said, " During startup")
		e.fix = "give a program of the machine, by its path or a name in its PATH"
	case e.Said == "":
		e.Said = "it ended without a word"
	}
	return e
}
