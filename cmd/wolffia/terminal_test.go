package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with wolffia at the other end.
type terminal struct {
	*running
	near, far *os.File
	before    *unix.Termios
}

// openTerminal makes a pseudo-terminal of a size, see pts(4).
func openTerminal(t testing.TB, cols, rows int) *terminal {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	fd := int(near.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	far, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	term := &terminal{near: near, far: far}
	term.resize(t, cols, rows)
	term.before = term.settings(t)
	return term
}

func (x *terminal) resize(t testing.TB, cols, rows int) {
	t.Helper()
	size := &unix.Winsize{Col: uint16(cols), Row: uint16(rows)}
	if err := unix.IoctlSetWinsize(int(x.near.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
}

func (x *terminal) settings(t testing.TB) *unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(x.far.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (x *terminal) write(t testing.TB, keys string) {
	t.Helper()
	if _, err := io.WriteString(x.near, keys); err != nil {
		t.Fatal(err)
	}
}

// atTerminal starts wolffia on a terminal of 100 by 30 characters.
func (p *person) atTerminal(t testing.TB, args ...string) *terminal {
	t.Helper()
	return p.atTerminalIn(t, "", args...)
}

// atTerminalIn does so in a folder.
func (p *person) atTerminalIn(t testing.TB, dir string, args ...string) *terminal {
	t.Helper()
	x := openTerminal(t, 100, 30)
	x.start(t, p, p.command(context.Background(), call{dir: dir, env: []string{"TERM=xterm"}}, args...))
	return x
}

// start runs a command on the terminal.
func (x *terminal) start(t testing.TB, p *person, cmd *exec.Cmd) {
	t.Helper()
	r := &running{Cmd: cmd, out: &transcript{}, err: &transcript{}, ended: make(chan struct{})}
	r.Stdin, r.Stdout, r.Stderr = x.far, x.far, x.far
	r.SysProcAttr.Setsid, r.SysProcAttr.Setctty = true, true
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	x.running = r
	go io.Copy(r.out, x.near) // until near is closed
	go func() {
		defer close(r.ended)
		r.Wait()
	}()
	t.Cleanup(func() { p.stop(t, r) })
}

// left checks how wolffia ended, and that the terminal is as it was.
func (x *terminal) left(t testing.TB, want int) {
	t.Helper()
	if got := x.end(t); got != want {
		t.Errorf("status %d, want %d; the screen:\n%s", got, want, clip(x.out.String()))
	}
	if after := x.settings(t); !reflect.DeepEqual(after, x.before) {
		t.Errorf("the terminal is left with other settings: %+v, before %+v", after, x.before)
	}
}

// TestCommandTerminal holds that a command gets a terminal where wolffia has
// one: its size, changes of that, its keys and the status.
func TestCommandTerminal(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	x := p.atTerminal(t, "run", "--", "sh", "-c", `
		trap 'echo interrupted; exit 3' INT
		tty; stty size; echo "$TERM"
		until [ "$(stty size)" = "41 123" ]; do sleep 0.05; done; echo resized
		read line; echo "read [$line]"
		while :; do sleep 0.05; done`)
	x.out.expect(t, `/dev/pts/\d+\r\n30 100\r\nxterm\r\n`)
	x.resize(t, 123, 41)
	x.out.expect(t, `resized\r\n`)
	x.write(t, "typed\r")
	x.out.expect(t, `read \[typed\]\r\n`)
	x.write(t, "\x03")
	x.out.expect(t, `interrupted\r\n`)
	x.left(t, 3)
}

// TestCommandNoTerminal holds that -T gives no terminal where there is one,
// and -t one where there is none.
func TestCommandNoTerminal(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	x := p.atTerminal(t, "run", "-T", "--", "sh", "-c", "tty; exit 6")
	x.out.expect(t, "not a tty\r\n")
	x.left(t, 6)
	if o := p.run(t, call{}, "run", "-t", "--", "tty"); !regexp.MustCompile(`^/dev/pts/\d+\r\n$`).MatchString(o.out) {
		t.Error(o)
	}
}

// prompt is what the console's shell asks with.
const prompt = `wolffia:~# `

// TestConsole is a person at the console: a prompt, a real terminal that
// follows the window, job control, and an end by exit.
func TestConsole(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	x := p.atTerminal(t, "run")
	x.out.expect(t, prompt)
	x.write(t, `tty; until [ "$(stty size)" = "30 100" ]; do sleep 0.05; done; echo s''ized`+"\r") // it is told once it can be entered
	x.out.expect(t, `/dev/(tty\d+|console)\r\nsized\r\n`)
	x.resize(t, 132, 43)
	x.write(t, `until [ "$(stty size)" = "43 132" ]; do sleep 0.05; done; echo re''sized`+"\r")
	x.out.expect(t, "resized\r\n")
	x.out.expect(t, prompt)

	// Ctrl-C ends what is in the foreground, and only that.
	x.write(t, "sleep 1000; echo 'st'atus $?\r")
	x.out.expect(t, `\n`)
	eventually(t, patience, "Ctrl-C gives the prompt back", func() bool {
		x.write(t, "\x03")
		time.Sleep(100 * time.Millisecond)
		return strings.Contains(x.out.String(), "^C")
	})
	x.write(t, "\recho still 'h'ere\r")
	x.out.expect(t, `still here\r\n`)
	x.write(t, "sleep 1000 & jobs; kill %1; echo j'o'bs\r")
	x.out.expect(t, `\[1\].*sleep 1000`)
	x.out.expect(t, `jobs\r\n`)
	x.write(t, "exit\r")
	x.left(t, 0)
}

// TestConsoleOfPC is the console of an emulated PC, a serial line: it is told the
// window's size, without a card for that.
func TestConsoleOfPC(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	x := p.atTerminal(t, "run", "--backend", "qemu")
	x.out.expect(t, prompt)
	x.write(t, `ls /sys/class/net; until [ "$(stty size)" = "30 100" ]; do sleep 0.05; done; echo s''ized`+"\r")
	x.out.expect(t, "\neth0 +lo\r\nsized\r\n")
	x.resize(t, 132, 43)
	x.write(t, `until [ "$(stty size)" = "43 132" ]; do sleep 0.05; done; echo re''sized`+"\r")
	x.out.expect(t, "resized\r\n")
	x.write(t, "exit\r")
	x.left(t, 0)
}

// TestGreeting shows what /etc/motd says, byte for byte, and that only root's prompt is
// root's.
func TestGreeting(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	p.write(t, filepath.Join(p.home, "wolffia.yaml"), `images:
  base:
    packages: [busybox-static, dropbear-bin]
    deps: elf
    files: [{path: /etc/motd, content: "a \\n b\n  c"}]
    users: [{name: ann}]
`)
	x := p.atTerminal(t, "run")
	x.out.expect(t, `a \\n b\r\n  c\r\n`)
	x.out.expect(t, `base:~# `)
	x.write(t, `su ann -c '. /etc/profile; echo "<$PS1>"'; sh -l -c 'echo "<$PS1>"'; exit`+"\r")
	x.out.expect(t, `<\\h:\\w\$ >\r\n<\\h:\\w# >\r\n`)
	x.left(t, 0)
}

// TestLogin logs in on a console that asks for it. Leaving it gives the next prompt.
func TestLogin(t *testing.T) {
	parallel(t)
	for _, backend := range []string{"uml", "qemu"} {
		t.Run(backend, func(t *testing.T) {
			parallel(t)
			if backend == "qemu" {
				tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
			}
			p := newPerson(t)
			run := []string{"run", "-q", "-f", filepath.Join(p.example(t, "uml-pair"), "wolffia.yaml"), "--backend", backend, "alice"}
			x := p.atTerminal(t, run...)
			for _, try := range []struct{ password, then string }{{"alice", "Login incorrect"}, {"wolffia", "alice:~# "}} {
				x.out.expect(t, "alice login: ")
				x.write(t, "root\r")
				x.out.expect(t, "Password: ")
				x.write(t, try.password+"\r")
				x.out.expect(t, try.then)
			}
			x.write(t, "ip -4 addr show dev eth0; exit\r")
			x.out.expect(t, `inet 192\.168\.0\.253/24`)
			x.out.expect(t, "alice login: ")
			x.write(t, "\x04") // the end
			x.left(t, 0)
			o := p.try(t, call{}, run...) // with nothing to read
			if o.status != 0 || !strings.Contains(o.out, "alice login: ") {
				t.Error(o)
			}
		})
	}
}

// TestConsoleEnds leaves the console in the other ways that there are.
func TestConsoleEnds(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	cases := []struct {
		name, keys string
	}{
		{"escape", "\x1dq"},
		{"poweroff", "poweroff\r"},
		{"end of file", "\x04"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x := p.atTerminal(t, "run")
			x.out.expect(t, prompt)
			x.write(t, c.keys)
			x.left(t, 0)
		})
	}
	t.Run("help", func(t *testing.T) {
		x := p.atTerminal(t, "run", "--network", "none")
		x.out.expect(t, prompt)
		x.write(t, "\x1d?")
		x.out.expect(t, `Ctrl-\] then q ends the machine`)
		x.write(t, "\x1dq")
		x.left(t, 0)
	})
}

// TestConsolePiped types what comes from a pipe on the console, and shows what
// comes back.
func TestConsolePiped(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	o := p.run(t, call{stdin: strings.NewReader("echo $((6*7)) an''swers\nexit\n")}, "run")
	if !strings.Contains(o.out, "42 answers") {
		t.Error(o)
	}
}
