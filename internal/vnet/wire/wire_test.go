package wire_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"wolffia/internal/tooltest"

	"golang.org/x/sys/unix"

	"wolffia/internal/host"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
	"wolffia/internal/vnet/wire"
)

func TestFD(t *testing.T) {
	for name, kind := range map[string]wire.Kind{"seqpacket": wire.Seqpacket, "datagram": wire.Datagram} {
		t.Run(name, func(t *testing.T) {
			pair := func(t *testing.T) (a, b vnet.Port) {
				port, guest, err := wire.Socketpair(kind)
				if err != nil {
					t.Fatal(err)
				}
				other, err := wire.NewFD(guest)
				if err != nil {
					t.Fatal(err)
				}
				return port, other
			}
			porttest.Run(t, pair)
			t.Run("prompt", func(t *testing.T) { porttest.RunPrompt(t, pair) })
			t.Run("driven", func(t *testing.T) { porttest.RunDriven(t, pair, kind == wire.Seqpacket) })
		})
	}
}

func TestStream(t *testing.T) {
	pair := func(t *testing.T) (a, b vnet.Port) {
		port, guest, err := wire.StreamPair()
		if err != nil {
			t.Fatal(err)
		}
		other, err := wire.NewStream(guest)
		if err != nil {
			t.Fatal(err)
		}
		return port, other
	}
	porttest.Run(t, pair)
	t.Run("driven", func(t *testing.T) { porttest.RunDriven(t, pair, true) })
}

// TestStreamFraming writes the stream by hand, as QEMU may: in pieces, with
// lengths that no frame has, and without its end.
func TestStreamFraming(t *testing.T) {
	frame := append([]byte{0, 0, 0, 20}, porttest.Frame(1, 20)...)
	for name, c := range map[string]struct {
		write  []byte
		frames int
	}{
		"pieces":   {append(append([]byte{}, frame...), frame...), 2},
		"cut":      {append(append([]byte{}, frame...), frame[:9]...), 1},
		"too long": {append(append([]byte{}, frame...), 0xff, 0xff, 0xff, 0xff, 1, 2, 3), 1},
		"empty":    {append(append([]byte{}, frame...), 0, 0, 0, 0), 1},
		"none":     {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			port, guest, err := wire.StreamPair()
			if err != nil {
				t.Fatal(err)
			}
			defer port.Close()
			go func() {
				defer guest.Close()
				for i := range c.write {
					guest.Write(c.write[i : i+1])
				}
			}()
			got := 0
			for {
				n, err := port.ReadFrames(vnet.NewBatch(4, 2000))
				got += n
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					break
				}
			}
			if got != c.frames {
				t.Errorf("%d frames, want %d", got, c.frames)
			}
		})
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.NewStream(null); err == nil {
		t.Error("a file was taken for a socket")
	}
}

func TestFDEndsWithItsPeer(t *testing.T) {
	port, guest, err := wire.Socketpair(wire.Seqpacket)
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	guest.Close()
	if _, err := port.ReadFrames(vnet.NewBatch(4, 2000)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := port.WriteFrames([]vnet.Frame{{Data: make([]byte, 60)}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
}

func TestFDNeedsFrameBoundaries(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	if _, err := wire.NewFD(os.NewFile(uintptr(fds[0]), "stream")); err == nil {
		t.Fatal("a stream socket was taken")
	}
}

// TestTap joins two taps by a kernel bridge, in a namespace of its own. Where
// /dev/net/tun is closed to us, the error must say how to open it.
func TestTap(t *testing.T) {
	tooltest.Require(t, "ip", "iproute2")
	if os.Getenv(inNamespaceEnv) == "" {
		runInNamespace(t)
		return
	}
	// A kernel that says nothing by itself.
	for _, which := range []string{"all", "default"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0)
	}
	probe, err := wire.OpenTap(wire.TapOptions{})
	var unsupported *host.UnsupportedError
	if errors.As(err, &unsupported) && unsupported.Fix != "" {
		tooltest.Missing(t, "no taps here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if probe.Name() == "" {
		t.Error("the kernel's name for the tap is not told")
	}
	probe.Close()
	for i, vnetHdr := range []bool{false, true} {
		t.Run(fmt.Sprintf("vnet header %v", vnetHdr), func(t *testing.T) {
			n := 0
			pair := func(t *testing.T) (a, b vnet.Port) {
				n++
				br := fmt.Sprintf("br%d.%d", i, n)
				ip(t, "link add "+br+" type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
				var ports []vnet.Port
				for _, end := range []string{"a", "b"} {
					name := fmt.Sprintf("tap%d.%d%s", i, n, end)
					tap, err := wire.OpenTap(wire.TapOptions{Name: name, VNetHdr: vnetHdr})
					if err != nil {
						t.Fatal(err)
					}
					ports = append(ports, tap)
					ip(t, "link set "+name+" master "+br+" up")
				}
				ip(t, "link set "+br+" up")
				return ports[0], ports[1]
			}
			porttest.Run(t, pair)
			t.Run("driven", func(t *testing.T) { porttest.RunDriven(t, pair, false) })
		})
	}
}

const inNamespaceEnv = "WOLFFIA_WIRE_TEST_NAMESPACE"

// runInNamespace runs the test in a child that is root in a user and a network
// namespace of its own, or as root in a network namespace alone.
func runInNamespace(t *testing.T) {
	t.Helper()
	var out []byte
	var err error
	for _, flags := range []uintptr{syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, syscall.CLONE_NEWNET} {
		cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), inNamespaceEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		if flags&syscall.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		out, err = cmd.CombinedOutput()
		if ee := (*exec.ExitError)(nil); err == nil || errors.As(err, &ee) {
			break
		}
	}
	if err != nil {
		t.Errorf("in a namespace of its own: %v\n%s", err, out)
		return
	}
	t.Logf("%s", out)
}

func ip(t *testing.T, args string) {
	t.Helper()
	out, err := exec.Command("sh", "-c", "ip "+args).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v\n%s", args, err, out)
	}
}

// BenchmarkFD moves 1514-byte frames over a socket pair.
func BenchmarkFD(b *testing.B) {
	port, guest, err := wire.Socketpair(wire.Seqpacket)
	if err != nil {
		b.Fatal(err)
	}
	other, err := wire.NewFD(guest)
	if err != nil {
		b.Fatal(err)
	}
	defer port.Close()
	defer other.Close()
	batch := make([]vnet.Frame, 64)
	for i := range batch {
		batch[i].Data = porttest.Frame(uint32(i), 1514)
	}
	done := make(chan error, 1)
	go func() {
		bufs := vnet.NewBatch(64, vnet.MaxFrame)
		for got := 0; got < b.N; {
			n, err := other.ReadFrames(bufs)
			if err != nil {
				done <- err
				return
			}
			got += n
		}
		done <- nil
	}()
	b.SetBytes(1514)
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; {
		n, err := port.WriteFrames(batch[:min(len(batch), b.N-sent)])
		if err != nil {
			b.Fatal(err)
		}
		sent += n
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}
