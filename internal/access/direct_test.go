package access

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

// FuzzCopyUntil cuts streams in pieces of all sizes: what comes out is what comes
// before the first end, or an error where there is none.
func FuzzCopyUntil(f *testing.F) {
	for _, s := range []string{"", "END\n", "text END\n", "E", "ENEND\nEND\n", "\nEN", "END", "aENDbEND\nc"} {
		f.Add([]byte(s), uint8(1))
		f.Add([]byte(s), uint8(3))
	}
	end := []byte("END\n")
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		var out bytes.Buffer
		err := copyUntil(&out, &pieces{stream, max(int(piece), 1)}, end)
		want, _, found := bytes.Cut(stream, end)
		if !bytes.Equal(out.Bytes(), want) || found != (err == nil) {
			t.Errorf("%q in pieces of %d became %q, %v", stream, piece, out.Bytes(), err)
		}
	})
}

// pieces gives at most size bytes at a time.
type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// TestCopyUntilErrors passes on what broke.
func TestCopyUntilErrors(t *testing.T) {
	broken := errors.New("broken")
	if err := copyUntil(io.Discard, io.MultiReader(strings.NewReader("a"), iotest.ErrReader(broken)), []byte("END\n")); err != broken {
		t.Error(err)
	}
	if err := copyUntil(iotest.TruncateWriter(io.Discard, 0), strings.NewReader("aEND\n"), []byte("END\n")); err != nil {
		t.Error(err)
	}
}

// directGuest is a machine's side of channels with a command.
type directGuest struct {
	control *bufio.ReadWriter
	conns   []*net.UnixConn
}

func newDirect(t *testing.T) (*Direct, *directGuest) {
	t.Helper()
	g := &directGuest{}
	var ours []*net.UnixConn
	for range DirectChannels(&Command{Stdin: strings.NewReader("")}) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "channel")
			conn, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			ends[i] = conn.(*net.UnixConn)
		}
		ours, g.conns = append(ours, ends[0]), append(g.conns, ends[1])
	}
	g.control = bufio.NewReadWriter(bufio.NewReader(g.conns[0]), bufio.NewWriter(g.conns[0]))
	d := NewDirect(ours, "END")
	t.Cleanup(func() { d.Close() })
	return d, g
}

func (g *directGuest) say(t *testing.T, line string) {
	t.Helper()
	if _, err := g.conns[0].Write([]byte(line + "\n")); err != nil {
		t.Error(err)
	}
}

func (g *directGuest) hear(t *testing.T, want string) {
	t.Helper()
	if got, err := g.control.ReadString('\n'); got != want+"\n" {
		t.Errorf("heard %q, %v; want %q", got, err, want)
	}
}

// TestDirect is a command whose output others hold open at its end: they are left
// behind at the host's word.
func TestDirect(t *testing.T) {
	d, g := newDirect(t)
	var out, errs bytes.Buffer
	signals := make(chan string, 1)
	signals <- "USR1"
	ended := make(chan error, 1)
	var status Status
	go func() {
		var err error
		status, err = d.Run(t.Context(), Command{Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errs, Signals: signals})
		ended <- err
	}()
	g.hear(t, "signal USR1")
	if in, err := io.ReadAll(g.conns[3]); string(in) != "in" || err != nil {
		t.Errorf("input %q, %v", in, err)
	}
	io.WriteString(g.conns[1], "out")
	io.WriteString(g.conns[2], "errEND\n")
	g.say(t, "exit 7")
	g.hear(t, "drain")
	io.WriteString(g.conns[1], " moreEND\nlost")
	if err := <-ended; err != nil || status.Code != 7 || out.String() != "out more" || errs.String() != "err" {
		t.Errorf("%v, %+v, %q, %q", err, status, &out, &errs)
	}
}

// TestDirectEnds is a machine that ends before the command, that speaks nonsense,
// or that falls silent; and a person who does not wait.
func TestDirectEnds(t *testing.T) {
	for name, c := range map[string]struct {
		guest func(t *testing.T, d *Direct, g *directGuest)
		want  func(error) bool
		out   string
	}{
		"it ends": {func(t *testing.T, d *Direct, g *directGuest) {
			io.WriteString(g.conns[1], "last words EN")
			for _, c := range g.conns {
				c.Close()
			}
		}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }, "last words EN"},
		"nonsense": {func(t *testing.T, d *Direct, g *directGuest) {
			go io.Copy(io.Discard, g.conns[0])
			fmt.Fprint(g.conns[0], strings.Repeat("x", 2*maxControlLine))
		}, func(err error) bool { return err != nil }, ""},
		"silence": {func(t *testing.T, d *Direct, g *directGuest) {
			d.KeepAlive(Alive{Every: 5 * time.Millisecond, Patient: 4})
		}, func(err error) bool { return errors.As(err, new(*SilentError)) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, g := newDirect(t)
			c.guest(t, d, g)
			var out bytes.Buffer
			if _, err := d.Run(t.Context(), Command{Stdout: &out}); !c.want(err) || out.String() != c.out {
				t.Errorf("it ended with %v, %q", err, &out)
			}
		})
	}
}

// TestDirectUnread is a command whose output nobody reads, and a person who has
// enough of it: Run waited for the output, for ever.
func TestDirectUnread(t *testing.T) {
	for _, exit := range []string{"", "exit 0"} {
		d, g := newDirect(t)
		r, w := io.Pipe()
		defer r.Close()
		ctx, cancel := context.WithCancel(t.Context())
		io.WriteString(g.conns[1], "out")
		if exit != "" {
			g.say(t, exit)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := d.Run(ctx, Command{Stdout: w})
			ended <- err
		}()
		io.ReadFull(r, make([]byte, 1)) // the rest is stuck in w
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%q: %v", exit, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%q: it does not end", exit)
		}
	}
}

// TestDirectKept is a guest that answers, which is left alone, and its console's
// size.
func TestDirectKept(t *testing.T) {
	d, g := newDirect(t)
	answered := make(chan int, 1)
	d.KeepAlive(Alive{Every: time.Millisecond, Patient: 60_000, Vain: func(looks int) {
		if looks == 0 {
			select {
			case answered <- looks:
			default:
			}
		}
	}})
	g.hear(t, "ping now")
	g.say(t, "pong now")
	<-answered
	d2, g2 := newDirect(t)
	if err := d2.Resize(Size{Cols: 123, Rows: 45}); err != nil {
		t.Error(err)
	}
	g2.hear(t, "size 123 45")
}
