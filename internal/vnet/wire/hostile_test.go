package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sys/unix"

	"wolffia/internal/tooltest"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
	"wolffia/internal/vnet/wire"
)

// request is what a VDE client says first.
func request(kind uint32, path, rest string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0xfeedface)
	b = binary.NativeEndian.AppendUint32(b, 3)
	b = binary.NativeEndian.AppendUint32(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.AF_UNIX)
	b = append(b, path...)
	b = append(b, make([]byte, 108-len(path))...)
	return append(b, rest...)
}

// rawClient connects to a listener's socket.
func rawClient(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

// hungUp checks that the other end of a connection goes.
func hungUp(t *testing.T, c *net.UnixConn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 200)); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %d bytes, %v, instead of an end", n, err)
	}
}

// TestVDEHostile: clients that say anything but what they should are hung up
// on, at once or in time, and others don't notice.
func TestVDEHostile(t *testing.T) {
	g := newGate()
	l := serveVDE(t, g, g.options())
	o := g.options()
	o.Hello = 20 * time.Millisecond
	hasty := serveVDE(t, g, o)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stream := filepath.Join(dir, "stream")
	if ln, err := net.Listen("unix", stream); err != nil {
		t.Fatal(err)
	} else {
		defer ln.Close()
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(stream, link); err != nil {
		t.Fatal(err)
	}
	version1 := request(0, stream, "")
	version1[4] = 1
	inet := request(0, stream, "")
	inet[12] = unix.AF_INET
	for name, c := range map[string]struct {
		say  []byte
		want string
	}{
		"nothing":           {nil, "takes too long"},
		"half":              {request(0, stream, "")[:121], "takes too long"},
		"noise":             {bytes.Repeat([]byte{0x55}, 4), "magic number"},
		"much noise":        {bytes.Repeat([]byte{0x55}, 1<<16), "magic number"},
		"version 1":         {version1, "version 1"},
		"unknown type":      {request(2, stream, ""), "type 2"},
		"huge port":         {request(0xffffff00, stream, ""), "port 16777215"},
		"other family":      {inet, "address family"},
		"relative path":     {request(0, "link", ""), "not absolute"},
		"endless path":      {request(0, "/"+strings.Repeat("x", 107), "a"), "no end"},
		"nothing there":     {request(0, filepath.Join(dir, "none"), ""), "no such file"},
		"a file":            {request(0, file, ""), "is not a socket"},
		"a folder":          {request(0, dir, ""), "is not a socket"},
		"a link":            {request(0, link, ""), "is not a socket"},
		"a stream socket":   {request(0, stream, ""), "wrong type"},
		"nobody's name":     {request(0, "\x00nobody", ""), "connection refused"},
		"no name":           {request(0, "", ""), "connection refused"},
		"its own ctl":       {request(0, l.Path()+"/ctl", ""), "wrong type"},
		"a fifo of /proc":   {request(0, "/proc/self/fd/0", ""), "is not a socket"},
		"with a wide smile": {request(0, "/\x1b[2J\xff", "\x1b[31m"), "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			to := l
			if c.want == "takes too long" {
				to = hasty
			}
			c1 := rawClient(t, to.Path()+"/ctl")
			_, _ = c1.Write(c.say) // it may be hung up on before the end
			err := await(t, "a refusal", g.refused)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("refused: %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\x1b") || !utf8.ValidString(err.Error()) {
				t.Errorf("the error has what terminals obey: %q", err)
			}
			hungUp(t, c1)
		})
	}
	if got := ls(t, l.Path()); got != "ctl" {
		t.Errorf("in the folder lie %s", got)
	}
	plug := startPlug(t, l.Path())
	plug.crosses(t, g.next(t).port, 1514)
}

// TestVDEChatter: who goes on talking on the control connection is hung up on.
func TestVDEChatter(t *testing.T) {
	g := newGate()
	l := serveVDE(t, g, g.options())
	c, _ := umlClient(t, l, "chatter")
	g.next(t)
	_, _ = c.Write(make([]byte, 1<<16))
	hungUp(t, c)
	await(t, "its end", g.gone)
}

// umlClient plugs in as User-Mode Linux's daemon transport does: by an abstract
// name that is as long as addresses are, in a message that ends in two bytes of
// nothing, and without connecting its data socket.
func umlClient(t *testing.T, l *wire.Listener, name string) (ctl *net.UnixConn, data int) {
	t.Helper()
	ctl = rawClient(t, l.Path()+"/ctl")
	name = fmt.Sprintf("\x00%s %d", name, os.Getpid())
	data, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(data) })
	req := request(0, name, "\xff\xff")
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(data), uintptr(unsafe.Pointer(&req[12])), 110); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := ctl.Write(req); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 200)
	n, err := ctl.Read(answer)
	if n != 110 || err != nil || binary.NativeEndian.Uint16(answer) != unix.AF_UNIX {
		t.Fatalf("the answer is %q, %v", answer[:n], err)
	}
	path, _, _ := bytes.Cut(answer[2:n], []byte{0})
	if filepath.Dir(string(path)) != l.Path() {
		t.Errorf("the answer is %q", path)
	}
	checkMode(t, string(path), 0o600|os.ModeSocket)
	return ctl, data
}

// TestVDESlowClient: of a client that does not read for a while, nothing is
// lost, and nobody but it waits. The kernel keeps few datagrams for a socket
// that is not connected.
func TestVDESlowClient(t *testing.T) {
	g := newGate()
	l := serveVDE(t, g, g.options())
	_, data := umlClient(t, l, "slow")
	a := g.next(t)
	if a.peer.Description != "" {
		t.Errorf("padding became the description %q", a.peer.Description)
	}
	const count = 1000
	wrote := make(chan error, 1)
	go func() {
		for i := range uint32(count) {
			if _, err := a.port.WriteFrames([]vnet.Frame{{Data: porttest.Frame(i, 1514)}}); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	buf := make([]byte, 2000)
	for i := range uint32(count) {
		n, err := unix.Read(data, buf)
		if err != nil || !bytes.Equal(buf[:n], porttest.Frame(i, 1514)) {
			t.Fatalf("frame %d: %d bytes, %v", i, n, err)
		}
	}
	if err := await(t, "the last frame", wrote); err != nil {
		t.Fatal(err)
	}
	// The writer of one that never reads ends with the port.
	go func() {
		for {
			if _, err := a.port.WriteFrames([]vnet.Frame{{Data: porttest.Frame(1, 1514)}}); err != nil {
				wrote <- err
				return
			}
		}
	}()
	l.Close()
	if err := await(t, "the end of a write", wrote); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestCloseWhileGreeting: Close does not wait for those who say nothing.
func TestCloseWhileGreeting(t *testing.T) {
	g := newGate()
	o := g.options()
	o.Hello = time.Hour
	l := serveVDE(t, g, o)
	c := rawClient(t, l.Path()+"/ctl")
	_, _ = c.Write([]byte{0xce})
	l.Close()
	hungUp(t, c)
	if _, err := os.Stat(l.Path()); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// TestDialVDEHostile: a switch can't have us write to whatever socket it names.
func TestDialVDEHostile(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(dir string) []byte
		want   string
	}{
		"silence":     {func(string) []byte { return nil }, "gives no port"},
		"half":        {func(string) []byte { return make([]byte, 50) }, "ask for a port"},
		"nowhere":     {func(string) []byte { return request(0, "/none", "")[12:] }, "no such file"},
		"relative":    {func(string) []byte { return request(0, "none", "")[12:] }, "not absolute"},
		"a file":      {func(string) []byte { return request(0, "/etc/passwd", "")[12:] }, "is not a socket"},
		"its ctl":     {func(dir string) []byte { return request(0, dir+"/ctl", "")[12:] }, "wrong type"},
		"no end":      {func(string) []byte { return request(0, "/"+strings.Repeat("x", 107), "")[12:] }, "no end"},
		"family zero": {func(string) []byte { return make([]byte, 110) }, "address family"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ln, err := net.Listen("unix", dir+"/ctl")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 300))
				_, _ = conn.Write(c.answer(dir))
			}()
			if v, err := wire.DialVDE(t.Context(), dir, wire.VDEOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, %v, want %q", v, err, c.want)
			}
			if got := ls(t, dir); got != "ctl" {
				t.Errorf("in the folder lie %s", got)
			}
		})
	}
	t.Run("waits", func(t *testing.T) {
		dir := t.TempDir()
		ln, err := net.Listen("unix", dir+"/ctl") // nobody accepts
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if v, err := wire.DialVDE(ctx, dir, wire.VDEOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %v", v, err)
		}
		if got := ls(t, dir); got != "ctl" {
			t.Errorf("in the folder lie %s", got)
		}
	})
}

// TestOtherUsers: strangers are kept out; a group is let in, and its members
// can't have us write to sockets that are not theirs. Only root can try.
func TestOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		tooltest.Missing(t, "not root: there is only one user to be")
	}
	const other = 54321
	setpriv, socat := tooltest.Require(t, "setpriv", "util-linux"), tooltest.Require(t, "socat", "socat")
	plug := tooltest.Require(t, "vde_plug", "vdeplug")
	as := func(argv ...string) *exec.Cmd {
		id := strconv.Itoa(other)
		return exec.Command(setpriv, append([]string{"--reuid=" + id, "--regid=" + id, "--clear-groups"}, argv...)...)
	}
	parent := t.TempDir()
	for _, dir := range []string{filepath.Dir(parent), parent} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}

	// Where the modes do not keep strangers out, their names do.
	g := newGate()
	alone, err := wire.ListenStream(parent+"/alone", g.options(), g.accept)
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	if err := as(socat, "-u", "/dev/null", "UNIX-CONNECT:"+alone.Path()).Run(); err == nil {
		t.Error("a stranger may connect")
	}
	if err := os.Chmod(alone.Path(), 0o666); err != nil {
		t.Fatal(err)
	}
	_ = as(socat, "-u", "/dev/null", "UNIX-CONNECT:"+alone.Path()).Run()
	if err := await(t, "a refusal", g.refused); !strings.Contains(err.Error(), "another user (uid 54321)") {
		t.Error(err)
	}

	o := g.options()
	o.Group = strconv.Itoa(other)
	l, err := wire.ServeVDE(parent+"/sw", o, g.accept)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	checkMode(t, l.Path(), 0o770|os.ModeDir|os.ModeSetgid|os.ModeSticky)
	checkMode(t, l.Path()+"/ctl", 0o660|os.ModeSocket)
	member := start(t, as(plug, l.Path()))
	a := g.next(t)
	if a.peer.UID != other {
		t.Errorf("the peer is %+v", a.peer)
	}
	member.crosses(t, a.port, 60, 1514)
	checkMode(t, l.Path()+"/001.1", 0o660|os.ModeSocket)
	if err := as("rm", "-f", l.Path()+"/ctl").Run(); err == nil {
		t.Error("a member of the group removed the control socket")
	}

	mine, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: parent + "/mine"})
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	if err := os.Chmod(parent+"/mine", 0o666); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{parent + "/mine": "belongs to another user", "\x00abstract": "abstract"} {
		c := as(socat, "-u", "STDIN", "UNIX-CONNECT:"+l.Path()+"/ctl")
		c.Stdin = bytes.NewReader(request(0, path, ""))
		_ = c.Run()
		if err := await(t, "a refusal", g.refused); !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	theirs := parent + "/theirs"
	if err := os.Mkdir(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, other, other); err != nil {
		t.Fatal(err)
	}
	badPlace(t, listeners["VDE"], theirs, "belongs to another user")
	badPlace(t, listeners["bess"], theirs+"/s", "belongs to another user")
}
