package wire_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
	"wolffia/internal/vnet/wire"
)

func TestFD(t *testing.T) {
	for name, kind := range map[string]wire.Kind{"seqpacket": wire.Seqpacket, "datagram": wire.Datagram} {
		t.Run(name, func(t *testing.T) {
			porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
				port, guest, err := wire.Socketpair(kind)
				if err != nil {
					t.Fatal(err)
				}
				other, err := wire.NewFD(guest)
				if err != nil {
					t.Fatal(err)
				}
				return port, other
			})
		})
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

// TestTap joins two taps by a kernel bridge, in a namespace of its own.
func TestTap(t *testing.T) {
	requireTool(t, "ip", "iproute2")
	for _, vnetHdr := range []bool{false, true} {
		t.Run(fmt.Sprintf("vnet header %v", vnetHdr), func(t *testing.T) {
			porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
				inNamespace(t, func() {
					ip(t, "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
					var ports []vnet.Port
					for _, name := range []string{"tap0", "tap1"} {
						tap, err := wire.OpenTap(wire.TapOptions{Name: name, VNetHdr: vnetHdr})
						if err != nil {
							t.Fatal(err)
						}
						ports = append(ports, tap)
						ip(t, "link set "+name+" master br0 up")
					}
					ip(t, "link set br0 up")
					a, b = ports[0], ports[1]
				})
				return a, b
			})
		})
	}
}

// inNamespace runs f in a fresh network namespace, which lasts as long as what
// f opens in it. As an ordinary user the whole test must be in a user namespace.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			for _, which := range []string{"all", "default"} { // a kernel that says nothing by itself
				_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0)
			}
			f()
		}
		done <- err
		runtime.Goexit()
	}()
	if err := <-done; err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
}

func ip(t *testing.T, args string) {
	t.Helper()
	out, err := exec.Command("sh", "-c", "ip "+args).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v\n%s", args, err, out)
	}
}

func requireTool(t *testing.T, tool, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is needed: apt install %s", tool, pkg)
		}
		t.Skipf("%s is needed: apt install %s", tool, pkg)
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
