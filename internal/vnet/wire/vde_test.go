package wire_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
	"wolffia/internal/vnet/wire"
)

// arrival is a port that was accepted.
type arrival struct {
	peer wire.Peer
	port vnet.Port
}

// gate collects what a listener tells.
type gate struct {
	in      chan arrival
	gone    chan wire.Peer
	refused chan error
}

func newGate() *gate {
	return &gate{in: make(chan arrival, 100), gone: make(chan wire.Peer, 100), refused: make(chan error, 1000)}
}

func (g *gate) options() wire.ListenOptions {
	return wire.ListenOptions{Gone: func(p wire.Peer) { g.gone <- p }, Refused: func(err error) { g.refused <- err }}
}

func (g *gate) accept(p wire.Peer, port vnet.Port) error {
	g.in <- arrival{p, port}
	return nil
}

// patience is how long a test waits for what must come.
const patience = time.Minute

// eventually waits for what another program does, and tells nobody.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v not: %s", patience, what)
		}
	}
}

func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come within %v", what, patience)
		panic("unreachable")
	}
}

// next is the next that is let in; who is turned away fails the test.
func (g *gate) next(t *testing.T) arrival {
	t.Helper()
	select {
	case a := <-g.in:
		return a
	case err := <-g.refused:
		t.Fatalf("turned away: %v", err)
	case <-time.After(patience):
		t.Fatal("nobody came")
	}
	panic("unreachable")
}

// serveVDE answers as a switch in a folder of the test's own.
func serveVDE(t *testing.T, g *gate, o wire.ListenOptions) *wire.Listener {
	t.Helper()
	l, err := wire.ServeVDE(filepath.Join(t.TempDir(), "sw"), o, g.accept)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// vdePlug is a running vde_plug, whose standard streams carry each frame behind
// its length, two bytes in network order.
type vdePlug struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startPlug(t *testing.T, args ...string) *vdePlug {
	t.Helper()
	return start(t, exec.Command(tooltest.Require(t, "vde_plug", "vdeplug"), args...))
}

func start(t *testing.T, cmd *exec.Cmd) *vdePlug {
	t.Helper()
	p := &vdePlug{cmd: cmd}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func (p *vdePlug) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *vdePlug) write(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := p.in.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
}

func (p *vdePlug) read(t *testing.T) []byte {
	t.Helper()
	var size [2]byte
	if _, err := io.ReadFull(p.out, size[:]); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(p.out, frame); err != nil {
		t.Fatal(err)
	}
	return frame
}

func writeFrame(t *testing.T, p vnet.Port, frame []byte) {
	t.Helper()
	if n, err := p.WriteFrames([]vnet.Frame{{Data: frame}}); n != 1 || err != nil {
		t.Fatalf("wrote %d frames: %v", n, err)
	}
}

func readFrame(t *testing.T, p vnet.Port) []byte {
	t.Helper()
	bufs := vnet.NewBatch(1, vnet.MaxFrame)
	if _, err := p.ReadFrames(bufs); err != nil {
		t.Fatal(err)
	}
	return bufs[0].Data
}

// crosses checks that frames of some sizes cross a cable both ways.
func (p *vdePlug) crosses(t *testing.T, port vnet.Port, sizes ...int) {
	t.Helper()
	for i, size := range sizes {
		want := porttest.Frame(uint32(i), size)
		p.write(t, want)
		if got := readFrame(t, port); !bytes.Equal(got, want) {
			t.Errorf("from the plug: %d bytes became %d", size, len(got))
		}
		writeFrame(t, port, want)
		if got := p.read(t); !bytes.Equal(got, want) {
			t.Errorf("to the plug: %d bytes became %d", size, len(got))
		}
	}
}

// libvdeplugMax is the longest frame of libvdeplug 4: an MTU of 9216, a header,
// a tag.
const libvdeplugMax = 9216 + 14 + 4

func TestServeVDEPlug(t *testing.T) {
	g := newGate()
	l := serveVDE(t, g, g.options())
	checkMode(t, l.Path(), 0o700|os.ModeDir)
	checkMode(t, filepath.Join(l.Path(), "ctl"), 0o600|os.ModeSocket)

	plug := startPlug(t, "-D", "a test", l.Path())
	a := g.next(t)
	if a.peer.Name != "vde/1" || a.peer.Number != 1 || a.peer.PID != plug.cmd.Process.Pid || int(a.peer.UID) != os.Getuid() || !strings.HasPrefix(a.peer.Description, "a test") {
		t.Errorf("the peer is %+v", a.peer)
	}
	plug.crosses(t, a.port, 18, 60, 1514, 1518, 9000, libvdeplugMax)

	five, fifth := startPlug(t, l.Path()+"[5]"), g.next(t)
	again, sixth := startPlug(t, l.Path()+"[5]"), g.next(t)
	zero, zeroth := startPlug(t, l.Path()+"[0]"), g.next(t)
	if fifth.peer.Name != "vde/5" || sixth.peer.Name != "vde/5.2" || sixth.peer.Number != 5 || zeroth.peer.Name != "vde/0" {
		t.Errorf("the peers are %+v %+v %+v", fifth.peer, sixth.peer, zeroth.peer)
	}
	five.crosses(t, fifth.port, 60)
	again.crosses(t, sixth.port, 60)
	zero.crosses(t, zeroth.port, 60)
	var names []string
	for _, p := range l.Peers() {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "vde/0 vde/1 vde/5 vde/5.2" {
		t.Errorf("plugged in are %s", got)
	}
	if got := ls(t, l.Path()); got != "000.1 001.1 005.1 005.2 ctl" {
		t.Errorf("in the folder lie %s", got)
	}

	// One is killed, one is hung up on.
	plug.kill()
	if p := await(t, "the end of a peer", g.gone); p.Name != "vde/1" {
		t.Errorf("%s is gone", p.Name)
	}
	if _, err := a.port.ReadFrames(vnet.NewBatch(1, 100)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading from one who is gone: %v", err)
	}
	fifth.port.Close()
	if p := await(t, "the end of a peer", g.gone); p.Name != "vde/5" {
		t.Errorf("%s is gone", p.Name)
	}
	if _, err := five.out.ReadByte(); err != io.EOF {
		t.Errorf("vde_plug did not end: %v", err)
	}
	if got := ls(t, l.Path()); got != "000.1 005.2 ctl" {
		t.Errorf("in the folder lie %s", got)
	}
	again.crosses(t, sixth.port, 1514)

	l.Close()
	if _, err := os.Lstat(l.Path()); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
	if _, err := sixth.port.ReadFrames(vnet.NewBatch(1, 100)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading after Close: %v", err)
	}
}

func checkMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s has mode %v, not %v", path, info.Mode(), want)
	}
}

// ls lists a folder.
func ls(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// vdeSwitch runs a vde_switch and gives its folder.
func vdeSwitch(t *testing.T) (dir string, stop func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "stock")
	cmd := exec.Command(tooltest.Require(t, "vde_switch", "vde-switch"), "-s", dir, "-f", os.DevNull)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		in.Close() // ends it, and it cleans up
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	eventually(t, "vde_switch answers", func() bool {
		c, err := net.Dial("unix", filepath.Join(dir, "ctl"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return dir, stop
}

func dialVDE(t *testing.T, dir string, o wire.VDEOptions) *wire.VDE {
	t.Helper()
	v, err := wire.DialVDE(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestDialVDESwitch(t *testing.T) {
	dir, stop := vdeSwitch(t)
	before := ls(t, dir)
	v := dialVDE(t, dir, wire.VDEOptions{Port: 7})
	if got := ls(t, dir); !strings.HasPrefix(got, "007.") || len(strings.Fields(got)) != len(strings.Fields(before))+1 {
		t.Errorf("in the folder lie %s", got)
	}
	plug := startPlug(t, dir)
	plug.crosses(t, v, 60, 1514, 1518)
	if n, err := v.WriteFrames([]vnet.Frame{{Data: porttest.Frame(1, 1519)}, {Data: porttest.Frame(2, 100)}, {Data: porttest.Frame(3, 9000)}}); n != 1 || err != nil {
		t.Errorf("wrote %d frames: %v", n, err)
	}
	if got := plug.read(t); !bytes.Equal(got, porttest.Frame(2, 100)) {
		t.Errorf("read %d bytes", len(got))
	}
	if n := v.TooLong(); n != 2 {
		t.Errorf("%d frames were too long", n)
	}
	stop()
	if _, err := v.ReadFrames(vnet.NewBatch(1, 2000)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading from a switch that is gone: %v", err)
	}
	if _, err := wire.DialVDE(t.Context(), dir, wire.VDEOptions{}); err == nil {
		t.Error("plugged into a switch that is gone")
	}
}

func TestDialVDESwitchPort(t *testing.T) {
	dir, _ := vdeSwitch(t)
	porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
		return dialVDE(t, dir, wire.VDEOptions{}), dialVDE(t, dir, wire.VDEOptions{})
	})
}

func TestVDEPort(t *testing.T) {
	pair := func(t *testing.T) (a, b vnet.Port) {
		g := newGate()
		l := serveVDE(t, g, g.options())
		v := dialVDE(t, l.Path(), wire.VDEOptions{MaxFrame: vnet.MaxFrame})
		return v, g.next(t).port
	}
	porttest.Run(t, pair)
	t.Run("driven", func(t *testing.T) { porttest.RunDriven(t, pair, true) })
	t.Run("driven, their side", func(t *testing.T) {
		porttest.RunDriven(t, func(t *testing.T) (a, b vnet.Port) {
			b, a = pair(t)
			return a, b
		}, true)
	})
	t.Run("prompt", func(t *testing.T) { porttest.RunPrompt(t, pair) })
	t.Run("prompt, our side", func(t *testing.T) {
		porttest.RunPrompt(t, func(t *testing.T) (a, b vnet.Port) {
			b, a = pair(t)
			return a, b
		})
	})
	t.Run("too long for the switch", func(t *testing.T) {
		g := newGate()
		v := dialVDE(t, serveVDE(t, g, g.options()).Path(), wire.VDEOptions{})
		long := []vnet.Frame{{Data: porttest.Frame(1, 60)}, {Data: porttest.Frame(2, 9000)}, {Data: porttest.Frame(3, 60)}}
		if n := v.TryWriteFrames(long); n != 1 || v.TooLong() != 0 {
			t.Errorf("%d frames were sent without waiting, %d counted as too long", n, v.TooLong())
		}
	})
}
