package gateway

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"wolffia/internal/host"
	"wolffia/internal/vnet"
)

// TestEchoClosed: where the host grants neither kind of socket, the error names
// the setting that opens one.
func TestEchoClosed(t *testing.T) {
	for _, dst := range []string{"192.0.2.1", "2001:db8:1::1"} {
		var err error
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with what it has lost
			uerr := unix.Unshare(unix.CLONE_NEWNET)
			if uerr == nil {
				hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var none [2]unix.CapUserData
				uerr = unix.Capset(&hdr, &none[0])
			}
			if uerr == nil {
				_, err = openEcho(netip.MustParseAddr(dst))
			}
			done <- uerr
			runtime.Goexit()
		}()
		if uerr := <-done; uerr != nil {
			t.Fatal(uerr)
		}
		var u *host.UnsupportedError
		if !errors.As(err, &u) || !strings.Contains(u.Fix, "ping_group_range") {
			t.Errorf("%s: got %v", dst, err)
		}
	}
}

// BenchmarkNewLink: a control link must cost next to nothing.
func BenchmarkNewLink(b *testing.B) {
	for b.Loop() {
		in, _ := vnet.Pipe(vnet.PipeOptions{})
		l, err := NewLink(in, LinkConfig{
			Local: netip.MustParsePrefix("169.254.77.1/30"), Peer: netip.MustParseAddr("169.254.77.2"), PeerMAC: guestMAC[:],
		})
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}
