package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"wolffia/internal/vnet"
)

// newStackGuest is a gateway whose guest is a TCP/IP stack.
func newStackGuest(t *testing.T, cfg Config) (*Gateway, *Link) {
	inside, outside := vnet.Pipe(vnet.PipeOptions{Offloads: true, Queue: PortQueue})
	g, err := New(inside, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	l, err := NewLink(outside, LinkConfig{Local: netip.MustParsePrefix("10.0.2.15/24"), Peer: g.cfg.Gateway(), PeerMAC: g.cfg.MAC})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return g, l
}

// echoes is a server of the host that says what it hears, as long as anybody wants
// it; the test's end ends it.
func echoes(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return listener
}

// A connection that both sides have closed counts as long as its guest has not
// taken everything: else a guest that reads nothing could fill the memory with
// connections that are over.
func TestClosedConnectionsCount(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000) // more than the guest's window
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			if _, err = c.Write(data); err == nil {
				_, err = io.ReadAll(c) // until the guest has ended
			}
			c.Close()
		}
		served <- err
	}()
	g, l := newStackGuest(t, Config{})
	c, err := l.DialContext(t.Context(), "tcp", fmt.Sprintf("10.0.2.2:%d", listener.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if n := g.tcp.conns.holds(nobody); n != 1 {
		t.Errorf("%d connections are counted", n)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("the guest got %d of %d bytes: %v", len(got), len(data), err)
	}
	for end := time.Now().Add(20 * time.Second); g.tcp.conns.holds(nobody) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection is counted for ever")
		}
	}
}

// TestSettleEnds: a guest that never takes what is left is reset in the end.
func TestSettleEnds(t *testing.T) {
	_, l := newStackGuest(t, Config{})
	from, to := netip.MustParseAddrPort("10.0.2.15:0"), netip.MustParseAddrPort("10.0.2.2:53")
	ep, _, err := connect(t.Context(), l.stack, from, to)
	if err != nil {
		t.Fatal(err)
	}
	l.link.port.Close() // nothing arrives any more
	if _, terr := ep.Write(bytes.NewReader([]byte("lost")), tcpip.WriteOptions{}); terr != nil {
		t.Fatal(terr)
	}
	ep.Close()
	settle(t.Context(), ep, 50*time.Millisecond)
	if s := tcp.EndpointState(ep.State()); s != tcp.StateError && s != tcp.StateClose {
		t.Errorf("the connection is in state %v", s)
	}
}

// A guest's connections beyond the first ones have short buffers, and carry
// everything all the same.
func TestNarrow(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	listener := echoes(t)
	_, l := newStackGuest(t, Config{})
	var last net.Conn
	for range wideConns + 2 {
		c, err := l.DialContext(t.Context(), "tcp", fmt.Sprintf("10.0.2.2:%d", listener.Addr().(*net.TCPAddr).Port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		last = c
	}
	go func() {
		_, _ = last.Write(data)
		_ = last.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(last); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d of %d bytes: %v", len(got), len(data), err)
	}
}
