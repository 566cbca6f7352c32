package tftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"
)

// serve serves a folder on the host's loopback until the test ends.
func serve(t testing.TB, dir string, o Options) *net.UDPAddr {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(root, o).Serve(ctx, socket, dialLoopback) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		root.Close()
	})
	return socket.LocalAddr().(*net.UDPAddr)
}

func dialLoopback(client net.Addr) (net.Conn, error) {
	return net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, client.(*net.UDPAddr))
}

func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// TestClients fetches files of telling lengths with every client there is.
func TestClients(t *testing.T) {
	clients := map[string]func(out, name string, at *net.UDPAddr) *exec.Cmd{
		"tftp-hpa": func(out, name string, at *net.UDPAddr) *exec.Cmd {
			return exec.Command(tooltest.Require(t, "tftp", "tftp-hpa"), "-m", "binary", "127.0.0.1", fmt.Sprint(at.Port), "-c", "get", name, out)
		},
		"curl": func(out, name string, at *net.UDPAddr) *exec.Cmd {
			return exec.Command(tooltest.Require(t, "curl", "curl"), "-sS", "-o", out, fmt.Sprintf("tftp://%v/%s", at, name))
		},
		"curl, long blocks": func(out, name string, at *net.UDPAddr) *exec.Cmd {
			return exec.Command(tooltest.Require(t, "curl", "curl"), "-sS", "--tftp-blksize", "8192", "-o", out, fmt.Sprintf("tftp://%v/%s", at, name))
		},
		"curl, no options": func(out, name string, at *net.UDPAddr) *exec.Cmd {
			return exec.Command(tooltest.Require(t, "curl", "curl"), "-sS", "--tftp-no-options", "-o", out, fmt.Sprintf("tftp://%v/%s", at, name))
		},
		"busybox": func(out, name string, at *net.UDPAddr) *exec.Cmd {
			return exec.Command(tooltest.Require(t, "busybox", "busybox"), "tftp", "-g", "-b", "1468", "-r", name, "-l", out, "127.0.0.1", fmt.Sprint(at.Port))
		},
	}
	dir := t.TempDir()
	at := serve(t, dir, Options{MaxBlock: 1468})
	for name, client := range clients {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 1, 511, 512, 513, 1468, 3 * 1468, 300_000} {
				file := fmt.Sprint("file", size)
				write(t, dir, file, random(size))
				out := filepath.Join(t.TempDir(), "out")
				cmd := client(out, file, at)
				text, err := cmd.CombinedOutput()
				got, _ := os.ReadFile(out)
				if err != nil || sha256.Sum256(got) != sha256.Sum256(random(size)) {
					t.Errorf("%v\n%d of %d bytes, %v: %s", cmd, len(got), size, err, text)
				}
			}
			out := filepath.Join(t.TempDir(), "out")
			cmd := client(out, "missing", at)
			text, err := cmd.CombinedOutput()
			// curl has a status of its own for this.
			if s := strings.ToLower(string(text)); !strings.Contains(s, "not found") && cmd.ProcessState.ExitCode() != 68 {
				t.Errorf("%v: a missing file: %v: %s", cmd, err, text)
			}
		})
	}
}

// More than 65535 blocks: their numbers begin again.
func TestBlockNumbersWrap(t *testing.T) {
	dir := t.TempDir()
	at := serve(t, dir, Options{})
	want := random(70_000 * 8)
	write(t, dir, "long", want)
	for _, window := range []int{1, 16} {
		c := newClient(t, at)
		c.request("long", "octet", "blksize", "8", "windowsize", fmt.Sprint(window), "tsize", "0")
		if got := c.next(); string(got) != fmt.Sprintf("\x00\x06blksize\x008\x00windowsize\x00%d\x00tsize\x00%d\x00", window, len(want)) {
			t.Fatalf("options: %q", got)
		}
		c.ack(0)
		if got := c.fetch(8, window, nil); !bytes.Equal(got, want) {
			t.Errorf("window %d: got %d bytes, want %d", window, len(got), len(want))
		}
	}
}

func TestNetASCII(t *testing.T) {
	dir := t.TempDir()
	at := serve(t, dir, Options{})
	write(t, dir, "text", []byte(strings.Repeat("a line\nanother\rone\n", 100)))
	want := strings.Repeat("a line\r\nanother\r\x00one\r\n", 100)
	c := newClient(t, at)
	c.request("text", "NetASCII", "tsize", "0", "windowsize", "8") // neither is granted
	if got := c.fetch(512, 1, nil); string(got) != want {
		t.Errorf("got %q", got)
	}
}

// TestLosses: blocks and acknowledgements that get lost are sent again, and a
// repeated acknowledgement does not multiply what is sent.
func TestLosses(t *testing.T) {
	dir := t.TempDir()
	at := serve(t, dir, Options{Timeout: 20 * time.Millisecond})
	want := random(100_000)
	write(t, dir, "file", want)
	for _, window := range []int{1, 8} {
		rnd := rand.New(rand.NewPCG(7, uint64(window)))
		c := newClient(t, at)
		c.request("file", "octet", "windowsize", fmt.Sprint(window), "blksize", "1000")
		c.next()
		c.ack(0)
		got := c.fetch(1000, window, func() bool { return rnd.IntN(20) == 0 })
		if !bytes.Equal(got, want) {
			t.Errorf("window %d: got %d bytes, want %d", window, len(got), len(want))
		}
	}
	c := newClient(t, at)
	c.request("file", "octet", "timeout", "200")
	c.next()
	c.ack(0)
	c.next()
	for range 10 {
		c.ack(0)
	}
	c.ack(1)
	if n := binary.BigEndian.Uint16(c.next()[2:]); n != 2 {
		t.Errorf("after repeated acknowledgements came block %d, not 2", n)
	}
}

func TestRefuses(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, "secret", []byte("secret"))
	dir := filepath.Join(outside, "root")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "file", []byte("inside"))
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"out": "../secret", "absolute": filepath.Join(outside, "secret"), "up": "..", "in": "file", "sub/in": "../file"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	at := serve(t, dir, Options{})
	for name, want := range map[string]string{
		"../secret":         "\x00\x05\x00\x02",
		"/../secret":        "\x00\x05\x00\x02",
		"sub/../../secret":  "\x00\x05\x00\x02",
		outside + "/secret": "\x00\x05\x00\x01",
		"out":               "\x00\x05\x00\x02",
		"absolute":          "\x00\x05\x00\x02",
		"up/secret":         "\x00\x05\x00\x02",
		"pipe":              "\x00\x05\x00\x02",
		"sub":               "\x00\x05\x00\x02",
		"/":                 "\x00\x05\x00\x02",
		"missing":           "\x00\x05\x00\x01",
		"in":                "\x00\x03\x00\x01inside",
		"sub/in":            "\x00\x03\x00\x01inside",
		"/file":             "\x00\x03\x00\x01inside",
		"sub/../file":       "\x00\x03\x00\x01inside",
	} {
		c := newClient(t, at)
		c.request(name, "octet")
		if got := c.next(); !strings.HasPrefix(string(got), want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	c := newClient(t, at)
	for packet, want := range map[string]string{
		"\x00\x02file\x00octet\x00": "\x00\x05\x00\x02", // to write
		"\x00\x01file\x00mail\x00":  "\x00\x05\x00\x04",
		"\x00\x01file":              "\x00\x05\x00\x04",
		"\x00\x09file\x00octet\x00": "\x00\x05\x00\x04",
	} {
		c.sendTo(at, []byte(packet))
		if got := c.next(); !strings.HasPrefix(string(got), want) {
			t.Errorf("%q: got %q, want %q", packet, got, want)
		}
	}
}

func TestSessionsAreBounded(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", random(5000))
	released := make(chan struct{}, 10)
	at := serve(t, dir, Options{MaxSessions: 2, Admit: func(net.Addr) (func(), bool) { return func() { released <- struct{}{} }, true }})
	var held []*client
	for range 2 {
		c := newClient(t, at)
		c.request("file", "octet")
		c.next()
		c.request("file", "octet") // again, as if the block had got lost: no second transfer
		held = append(held, c)
	}
	late := newClient(t, at)
	late.request("file", "octet")
	late.sendTo(at, []byte("\x00\x02file\x00octet\x00")) // a fence
	if got := late.next(); got[1] != opError {
		t.Errorf("a third transfer began: %q", got[:4])
	}
	held[0].sendTo(held[0].peer, []byte{0, opError, 0, 0, 0}) // the client gives up
	<-released
	late.request("file", "octet")
	if got := late.next(); got[1] != opData {
		t.Errorf("no transfer after one had ended: %q", got)
	}
}

// client is one that does as it is told.
type client struct {
	t    testing.TB
	conn *net.UDPConn
	at   *net.UDPAddr
	peer *net.UDPAddr // where the last packet came from
}

func newClient(t testing.TB, at *net.UDPAddr) *client {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn, at: at}
}

func (c *client) sendTo(to *net.UDPAddr, b []byte) {
	if _, err := c.conn.WriteToUDP(b, to); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) request(words ...string) {
	c.sendTo(c.at, []byte("\x00\x01"+strings.Join(words, "\x00")+"\x00"))
}

func (c *client) ack(n int64) {
	c.sendTo(c.peer, []byte{0, opAck, byte(n >> 8), byte(n)})
}

func (c *client) next() []byte {
	c.t.Helper()
	b := make([]byte, 65536)
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, from, err := c.conn.ReadFromUDP(b)
	if err != nil {
		c.t.Fatalf("no packet came: %v", err)
	}
	c.peer = from
	return b[:n]
}

// fetch reads a file as RFC 7440 has it; lose says which packets to lose.
func (c *client) fetch(size, window int, lose func() bool) (data []byte) {
	c.t.Helper()
	have, inWindow := int64(0), 0
	for {
		p := c.next()
		if p[1] != opData {
			c.t.Fatalf("got %q", p)
		}
		if lose != nil && lose() {
			continue
		}
		if binary.BigEndian.Uint16(p[2:]) != uint16(have+1) {
			c.ack(have) // out of order, or once more
			inWindow = 0
			continue
		}
		have++
		data = append(data, p[4:]...)
		inWindow++
		last := len(p)-4 < size
		if last || inWindow == window {
			if lose == nil || last || !lose() {
				c.ack(have)
			}
			inWindow = 0
		}
		if last {
			return data
		}
	}
}
