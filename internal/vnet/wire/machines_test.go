package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/host"
	"wolffia/internal/host/hosttest"
	"wolffia/internal/kernel"
	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/machine/uml"
	"wolffia/internal/tooltest"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
	"wolffia/internal/vnet/wire"
)

func TestMain(m *testing.M) {
	syscall.Umask(0o022) // the tests' folders are ones that sockets may lie in
	machinetest.Main(m, uml.Backend{})
}

// umlSuite has the last User-Mode Linux with the transports daemon and vde.
const umlSuite = "bookworm"

// TestUML boots a User-Mode Linux whose cards it plugs in itself, by every
// transport that there is for it, and that pings what is behind each with
// packets as long as the MTU.
func TestUML(t *testing.T) {
	switch {
	case os.Getenv(withoutXStateEnv) != "":
		if err := hosttest.HideXState(); err != nil {
			t.Fatal(err)
		}
	case !slices.Contains(kernel.UMLSuites(host.New().XState()), umlSuite):
		runWithoutXState(t)
		return
	}
	linux := linuxOf(t, umlSuite)

	vde, bess := newGate(), newGate()
	sw := serveVDE(t, vde, vde.options())
	sock := filepath.Join(t.TempDir(), "bess")
	l, err := wire.ListenBess(sock, bess.options(), bess.accept)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	checkMode(t, sock, 0o600|os.ModeSocket)
	pings(t, linux, []card{
		{"eth0", "eth0=daemon,02:00:00:00:00:01,unix," + sw.Path() + "/ctl", 1500, vde, "vde/1"},
		{"eth1", "eth1=vde," + sw.Path() + ",02:00:00:00:00:02,4", 1500, vde, "vde/4"},
		{"vec0", "vec0:transport=bess,dst=" + sock + ",mac=02:00:00:00:00:03,mtu=65000", 65000, bess, "uml/1"},
	})
}

const withoutXStateEnv = "WOLFFIA_WIRE_TEST_XSTATE"

// runWithoutXState runs the test in a child that makes its processor look older:
// kernels as old as this one can't take the state of one with AMX.
func runWithoutXState(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), withoutXStateEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// card is a network card that plugs itself in.
type card struct {
	name  string // in the guest
	param string // of the kernel
	mtu   int
	gate  *gate
	peer  string // the name it gets
}

// either is whoever comes next to a gate of the cards'.
func either(t *testing.T, cards []card) arrival {
	t.Helper()
	select {
	case a := <-cards[0].gate.in:
		return a
	case a := <-cards[len(cards)-1].gate.in:
		return a
	case err := <-cards[0].gate.refused:
		t.Fatal(err)
	case err := <-cards[len(cards)-1].gate.refused:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("nobody came")
	}
	panic("unreachable")
}

func pings(t *testing.T, f machinetest.Fixtures, cards []card) {
	var init strings.Builder
	cmdline := []string{hosttest.WithoutAVX}
	for i, c := range cards {
		cmdline = append(cmdline, c.param)
		fmt.Fprintf(&init, "ip addr add 10.%d.0.9/24 dev %s; ip link set %s up mtu %d; ping -c 1 -W 60 -s %d 10.%d.0.2 && echo %s answers\n",
			i, c.name, c.name, c.mtu, c.mtu-28, i, c.name)
	}
	m, err := uml.Backend{}.Start(t.Context(), machine.Spec{
		Name: "elsewhere", Arch: "amd64", Kernel: f.Kernel, Memory: 64 << 20, Dir: t.TempDir(),
		Initramfs: []string{f.Initramfs(t, init.String()+"poweroff -f")}, Cmdline: cmdline,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		m.Kill()
		if exit := m.Wait(); t.Failed() {
			t.Logf("exit %+v\n%s", exit, strings.Join(exit.Tail, "\n"))
		}
	}()
	stop := time.AfterFunc(2*patience, m.Kill)
	defer stop.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for range cards { // in any order; some come only when they are switched on
		a := either(t, cards)
		t.Logf("%+v", a.peer)
		i := slices.IndexFunc(cards, func(c card) bool { return c.peer == a.peer.Name })
		if i < 0 {
			t.Fatalf("who is %s?", a.peer.Name)
		}
		wg.Go(func() { answer(a.port, [4]byte{10, byte(i), 0, 2}) })
	}
	exit := m.Wait()
	said := strings.Join(exit.Tail, "\n")
	if !exit.Clean {
		t.Errorf("exit %+v\n%s", exit, said)
	}
	for _, c := range cards {
		if !strings.Contains(said, c.name+" answers") || !strings.Contains(said, "1 packets transmitted, 1 packets received") {
			t.Errorf("%s: no answers of %d bytes\n%s", c.name, c.mtu, said)
		}
		await(t, c.peer+" goes", c.gate.gone)
	}
}

// answer answers ARP (RFC 826) and pings (RFC 792) for an address behind a port,
// until that ends.
func answer(port vnet.Port, ip [4]byte) {
	mac := []byte{2, 0, 0, 0, 0, 0xff}
	bufs := vnet.NewBatch(1, vnet.MaxFrame)
	for {
		if _, err := port.ReadFrames(bufs); err != nil {
			return
		}
		f := bufs[0].Data
		switch {
		case len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 && [4]byte(f[38:]) == ip:
			f[21] = 2
			copy(f[32:42], f[22:32])
			copy(f[22:], mac)
			copy(f[28:], ip[:])
		case len(f) >= 42 && f[12] == 8 && f[13] == 0 && f[14] == 0x45 && f[23] == 1 && f[34] == 8 && [4]byte(f[30:]) == ip:
			copy(f[30:], f[26:30])
			copy(f[26:], ip[:])
			f[34] = 0
			sum := uint32(binary.BigEndian.Uint16(f[36:])) + 0x0800 // the type went from 8 to 0
			binary.BigEndian.PutUint16(f[36:], uint16(sum+sum>>16))
		default:
			continue
		}
		copy(f, f[6:12])
		copy(f[6:], mac)
		if _, err := port.WriteFrames(bufs); err != nil {
			return
		}
	}
}

// linuxOf is the User-Mode Linux of a suite, and busybox.
func linuxOf(t *testing.T, suite string) machinetest.Fixtures {
	t.Helper()
	c, st := machinetest.Archive(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	lock, err := c.Resolve(ctx, kernel.UMLRequest(suite, "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.InstallLockedUML(ctx, c, st, lock)
	if err != nil {
		t.Fatal(err)
	}
	f := machinetest.UML(t)
	f.Kernel = k.Path
	return f
}

// TestQEMU joins three network backends in a QEMU without a machine: frames
// that come in by one go out by the others.
func TestQEMU(t *testing.T) {
	program := tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	help, err := exec.Command(program, "-machine", "none", "-netdev", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	streams := newGate()
	l, err := wire.ListenStream(filepath.Join(dir, "listening"), streams.options(), streams.accept)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	args := []string{
		"-machine", "none", "-nodefaults", "-nographic", "-serial", "none", "-monitor", "none", "-no-reboot",
		"-netdev", "stream,id=a,server=off,addr.type=unix,addr.path=" + l.Path(), "-netdev", "hubport,id=ha,hubid=0,netdev=a",
		"-netdev", "stream,id=b,server=on,addr.type=unix,addr.path=" + dir + "/server", "-netdev", "hubport,id=hb,hubid=0,netdev=b",
	}
	vde := newGate()
	if !slices.Contains(strings.Fields(string(help)), "vde") {
		tooltest.Missing(t, "this QEMU is built without -netdev vde")
	}
	sw := serveVDE(t, vde, vde.options())
	args = append(args, "-netdev", "vde,id=c,sock="+sw.Path()+",port=3", "-netdev", "hubport,id=hc,hubid=0,netdev=c")
	var said bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("QEMU says: %s", said.String())
		}
	}()
	first := streams.next(t)
	if first.peer.Name != "qemu/1" || first.peer.PID != cmd.Process.Pid {
		t.Errorf("the peer is %+v", first.peer)
	}
	ports := []vnet.Port{first.port}
	var dialled *wire.Stream
	eventually(t, "QEMU listens", func() bool {
		dialled, err = wire.DialStream(t.Context(), filepath.Join(dir, "server"))
		return err == nil
	})
	defer dialled.Close()
	ports = append(ports, dialled)
	sizes := []int{60, 1514, 9014, 65014}
	a := vde.next(t)
	if a.peer.Name != "vde/3" {
		t.Errorf("the peer is %+v", a.peer)
	}
	ports = append(ports, a.port)
	crossHub(t, ports, sizes)
	_ = cmd.Process.Kill()
	await(t, "the end of qemu/1", streams.gone)
	await(t, "the end of vde/3", vde.gone)
}

// crossHub checks that what one of the ports sends all others get.
func crossHub(t *testing.T, ports []vnet.Port, sizes []int) {
	t.Helper()
	got := make([]chan []byte, len(ports))
	for i, p := range ports {
		got[i] = make(chan []byte, 1000)
		go func() { // until the port is closed, at the latest by the test's end
			bufs := vnet.NewBatch(1, vnet.MaxFrame)
			for {
				if _, err := p.ReadFrames(bufs); err != nil {
					close(got[i])
					return
				}
				got[i] <- bytes.Clone(bufs[0].Data)
			}
		}()
	}
	// What QEMU sends before it has seen that a socket is connected is lost.
	const warmUp = 9999
	for i, from := range ports {
		for k := range ports {
			for n := 0; k != i && len(got[k]) == 0; n++ {
				if n == 1000 {
					t.Fatalf("nothing of port %d comes to %d", i, k)
				}
				writeFrame(t, from, porttest.Frame(warmUp, 60))
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	for i, from := range ports {
		for j, size := range sizes {
			want := porttest.Frame(uint32(10*i+j), size)
			writeFrame(t, from, want)
			for k := range ports {
				if k == i {
					continue
				}
				f := await(t, "a frame", got[k])
				for bytes.Equal(f, porttest.Frame(warmUp, 60)) {
					f = await(t, "a frame", got[k])
				}
				if !bytes.Equal(f, want) {
					t.Errorf("from port %d to %d: %d bytes became %d", i, k, size, len(f))
				}
			}
		}
	}
}
