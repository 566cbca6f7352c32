package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"

	"golang.org/x/sync/errgroup"
)

// way is one of those in which a command gets into a machine: over ssh, and, where
// the kernel has ports of a virtio console, over these.
type way struct {
	name string
	p    *person
	bin  string   // the program
	run  []string // its first words
}

// eachWay tests all ways. Emulated machines are slow enough without the race
// detector in wolffia.
func eachWay(t *testing.T, test func(t *testing.T, w way)) {
	parallel(t)
	p := newPerson(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("ssh", func(t *testing.T) { test(t, way{"ssh", p, bin, []string{"run"}}) })
	t.Run("ports", func(t *testing.T) {
		tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
		test(t, way{"ports", p, p.plain(t), []string{"run", "-q", "--backend", "qemu"}})
	})
}

// try runs a command.
func (w way) try(t *testing.T, c call, argv ...string) outcome {
	t.Helper()
	c.program, c.limit = w.bin, cold
	return w.p.try(t, c, w.words(argv)...)
}

// ok runs a command that ends with status 0.
func (w way) ok(t *testing.T, c call, argv ...string) outcome {
	t.Helper()
	o := w.try(t, c, argv...)
	if o.status != 0 {
		t.Fatal(o)
	}
	return o
}

// start starts one.
func (w way) start(t *testing.T, argv ...string) *running {
	t.Helper()
	return w.p.start(t, call{program: w.bin}, w.words(argv)...)
}

func (w way) words(argv []string) []string { return slices.Concat(w.run, []string{"--"}, argv) }

// TestPorts holds that an emulated machine that runs a command over ports has no
// card for ssh, and needs no ssh server.
func TestPorts(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	o := p.run(t, call{program: p.plain(t), stdin: strings.NewReader("")}, "run", "-q", "--backend", "qemu", "--network", "none", "--", "sh", "-c",
		"ls /sys/class/net; ls /sys/class/virtio-ports | wc -l; pidof nc dropbear; true")
	if want := "lo\n4\n"; o.out != want {
		t.Errorf("%v, want %q", o, want)
	}
	// What ends its output for the host is nothing that it could print itself. Nor is
	// there a port for what it reads, where that is the null device.
	o = p.run(t, call{program: p.plain(t)}, "run", "-q", "--backend", "qemu", "--", "sh", "-c", "cat /etc/wolffia/*; ls /sys/class/virtio-ports | wc -l; readlink /proc/self/fd/0; echo whole")
	if !strings.Contains(o.out, "\nPORTS=1\n") || !strings.HasSuffix(o.out, "\n3\n/dev/null\nwhole\n") {
		t.Error(o)
	}
	// The command leads a session of its own: what it sends to its group reaches
	// nobody else.
	o = p.try(t, call{program: p.plain(t)}, "run", "-q", "--backend", "qemu", "--", "sh", "-c", "echo out; kill -TERM 0")
	if o.out != "out\n" || o.status != 128+15 {
		t.Error(o)
	}
}

// TestStreamsRoundTrip sends 50 MB of noise through cat in a machine.
func TestStreamsRoundTrip(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		const size = 50 << 20
		in, out := sha256.New(), sha256.New()
		noise := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{2}), size), in)
		cmd := w.p.command(t.Context(), call{program: w.bin, stdin: noise}, w.words([]string{"cat"})...)
		counted := &counter{w: out}
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = counted, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, &errs)
		}
		if counted.n != size || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
			t.Errorf("%d bytes went in, %d others came back", size, counted.n)
		}
		if errs.Len() > 0 {
			t.Errorf("standard error: %s", &errs)
		}
	})
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return c.w.Write(b)
}

// TestEveryExitStatus brings back every status there is.
func TestEveryExitStatus(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	plain, err := plainProgram() // four times as fast as with the race detector
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.SetLimit(2)
	for want := range 256 {
		g.Go(func() error {
			var errs bytes.Buffer
			cmd := p.command(t.Context(), call{program: plain}, "run", "--", "sh", "-c", fmt.Sprint("exit ", want))
			cmd.Stderr = &errs
			cmd.Run()
			if got := status(cmd); got != want || errs.Len() > 0 {
				return fmt.Errorf("exit %d became %d: %s", want, got, &errs)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestStreamsApart holds that each of the two outputs has its own bytes, all
// of them and no others.
func TestStreamsApart(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		cases := []struct {
			name, script, in, out, err string
			status                     int
			once                       bool // what another case tells too: over ssh only, where a boot takes no time
		}{
			{name: "out and err", script: "echo out; echo err >&2", out: "out\n", err: "err\n"},
			{name: "status too", script: "echo err >&2; exit 9", err: "err\n", status: 9, once: true},
			{name: "bytes of all kinds", script: `printf 'a\0\377\r\n\n\r\033[2J\177\200'; printf '\0\r\n\377' >&2`,
				out: "a\x00\xff\r\n\n\r\x1b[2J\x7f\x80", err: "\x00\r\n\xff"},
			{name: "no newline at the end", script: "printf x; printf y >&2", out: "x", err: "y", once: true},
			{name: "binary input", script: "cat", in: "\x00\x03\x04\x1a\x1c\x1d\r\n\xff\xfe", out: "\x00\x03\x04\x1a\x1c\x1d\r\n\xff\xfe"},
			{name: "empty input", script: "wc -c; cat", out: "0\n", once: true},
			{name: "last bytes after the input's end", script: "cat >/dev/null; echo done", in: "x", out: "done\n"},
			{name: "closed outputs", script: "exec >&- 2>&-; exit 5", status: 5},
			{name: "no such command", script: "no-such-command", err: "sh: no-such-command: not found\n", status: 127},
			{name: "opened by name", script: "cat /dev/stdin; echo out >/dev/stdout; echo err >/dev/stderr", in: "in\n", out: "in\nout\n", err: "err\n"},
			{name: "others go on", script: "sleep 1000 & echo out; echo err >&2; exit 2", out: "out\n", err: "err\n", status: 2},
			{name: "where it is", script: "pwd; echo $HOME $USER $LOGNAME $SHELL; umask; echo $TERM",
				out: "/root\n/root root root /bin/sh\n0022\n\n"},
			{name: "killed", script: "kill -KILL $$", status: 128 + 9},
			{name: "ended by TERM", script: "kill -TERM $$", status: 128 + 15},
			{name: "ended by USR1", script: "kill -USR1 $$", status: 128 + 10, once: true},
			{name: "crashed", script: "kill -SEGV $$", status: 128 + 11, once: true},
		}
		for _, c := range cases {
			if c.once && w.name != "ssh" {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				o := w.try(t, call{stdin: strings.NewReader(c.in)}, "sh", "-c", c.script)
				if o.out != c.out || o.err != c.err || o.status != c.status {
					t.Errorf("got %q, %q and %d, want %q, %q and %d", o.out, o.err, o.status, c.out, c.err, c.status)
				}
			})
		}
	})
}

// TestArguments holds that the command's words arrive as they are.
func TestArguments(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		words := []string{"", " ", "a b", "'", `"`, `\`, "$HOME", "`id`", "*", "--", "-x", "ü\n\t", "\xff\x01", "#", "~", ";|&<>()"}
		o := w.ok(t, call{}, append([]string{"printf", `%s\0`}, words...)...)
		if got := strings.Split(strings.TrimSuffix(o.out, "\x00"), "\x00"); !equal(got, words) {
			t.Errorf("got %q, want %q", got, words)
		}
	})
}

func equal(a, b []string) bool { return fmt.Sprintf("%q", a) == fmt.Sprintf("%q", b) }

// TestStdinUnread ends commands that leave a large input, and one that never
// ends, unread.
func TestStdinUnread(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		t.Run("large", func(t *testing.T) {
			noise := io.LimitReader(rand.NewChaCha8([32]byte{3}), 8<<20)
			if o := w.ok(t, call{stdin: noise}, "echo", "done"); o.out != "done\n" || o.err != "" {
				t.Error(o)
			}
		})
		t.Run("open for ever", func(t *testing.T) {
			r, open, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer open.Close()
			if o := w.ok(t, call{stdin: r}, "echo", "done"); o.out != "done\n" || o.err != "" {
				t.Error(o)
			}
		})
		t.Run("closed", func(t *testing.T) {
			sh := []string{"sh", "-c", `exec "$0" "$@" <&-`}
			if o := w.ok(t, call{wrap: sh}, "sh", "-c", "wc -c; echo done"); o.out != "0\ndone\n" || o.err != "" {
				t.Error(o)
			}
		})
		t.Run("only as much as is wanted", func(t *testing.T) {
			noise := io.LimitReader(rand.NewChaCha8([32]byte{3}), 8<<20)
			if o := w.ok(t, call{stdin: noise}, "sh", "-c", "head -c 100000 | wc -c"); o.out != "100000\n" {
				t.Error(o)
			}
		})
	})
}

// TestReaderGone ends a command whose output nobody reads any more, as in a
// pipe to head.
func TestReaderGone(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		script := []string{"sh", "-c", `"$0" "$@" | head -c 10`}
		if o := w.ok(t, call{wrap: script}, "yes"); o.out != "y\ny\ny\ny\ny\n" {
			t.Error(o)
		}
	})
}

// TestLargeStderr moves several megabytes over standard error beside standard
// output.
func TestLargeStderr(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		o := w.ok(t, call{}, "sh", "-c",
			`head -c 6000000 /dev/zero | tr '\0' e >&2 & head -c 3000000 /dev/zero | tr '\0' o; wait`)
		if o.out != strings.Repeat("o", 3000000) {
			t.Errorf("standard output has %d bytes: %s", len(o.out), clip(o.out))
		}
		if o.err != strings.Repeat("e", 6000000) {
			t.Errorf("standard error has %d bytes: %s", len(o.err), clip(o.err))
		}
	})
}

// TestKernelMessages holds that what the kernel says is never in the command's
// streams, however loud.
func TestKernelMessages(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	o := p.run(t, call{}, "run", "--cmdline", "loglevel=8", "--", "sh", "-c", `
		dmesg -n 8
		for level in 0 1 3 7; do echo "<$level>hello from the kernel" >/dev/kmsg; done
		[ -e /proc/sysrq-trigger ] && echo h >/proc/sysrq-trigger
		echo noise >/dev/console
		dmesg | grep -c 'hello from the kernel'
		echo err >&2`)
	if o.out != "4\n" || o.err != "err\n" {
		t.Error(o)
	}
}

// TestNoNetwork runs a command in a machine that is on no network: nothing but
// the loopback is to be seen, and all else works as ever.
func TestNoNetwork(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	o := p.try(t, call{stdin: strings.NewReader("in")}, "run", "--network", "none", "--", "sh", "-c",
		`cd /sys/class/net; echo *; ip -o route; cat; echo err >&2; exit 3`)
	if o.out != "lo\nin" || o.err != "err\n" || o.status != 3 {
		t.Error(o)
	}
}

// TestAsRoot runs a command when wolffia itself is root, in a user namespace
// where the tests are not.
func TestAsRoot(t *testing.T) {
	parallel(t)
	c := call{stdin: strings.NewReader("in")}
	p := newPerson(t)
	if os.Getuid() == 0 {
		shared := p.cache
		p = stranger(t, 0)
		if out, err := exec.Command("cp", "-a", shared, p.cache).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := exec.Command("chown", "-R", "0:0", p.cache).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	} else {
		c.wrap = []string{tooltest.Require(t, "unshare", "util-linux"), "--user", "--map-root-user", "--"}
	}
	if o := p.try(t, c, "run", "--", "sh", "-c", "id -u; cat; exit 4"); o.out != "0\nin" || o.err != "" || o.status != 4 {
		t.Error(o)
	}
}

// TestInitramfsStays keeps a panic away: reads eight bytes at a time went past
// the last page of memory when a packet's data ended there ("Segfault without
// recovery target", under load). The kernel has to keep the initramfs, which
// lies in the last pages.
func TestInitramfsStays(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	if o := p.run(t, call{}, "run", "--", "test", "-s", "/sys/firmware/initrd"); o.status != 0 {
		t.Errorf("the initramfs was freed: %v", o)
	}
}
