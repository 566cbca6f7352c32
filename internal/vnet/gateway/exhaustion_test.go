package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/vnet"
)

// TestPortExhaustion has a guest open connections until it gets no more, and one
// more still gets its own: of the connections, the host's ports and this process's
// files there is something left.
func TestPortExhaustion(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 512
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	t.Cleanup(func() { sw.Close() })
	plug := func(name string) vnet.Port {
		t.Helper()
		p, err := sw.Plug(vnet.PortOptions{Name: name, Offloads: true, Queue: PortQueue})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	g, err := New(plug("gateway"), Config{})
	// The server's ends of the connections are files of this process, too.
	if rerr := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); rerr != nil {
		t.Fatal(rerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	guest := func(number uint32) *Link {
		t.Helper()
		l, err := NewLink(plug(fmt.Sprintf("guest%d", number)), LinkConfig{
			Local: netip.PrefixFrom(hostNumber(g.cfg.Subnet, number), 24), Peer: g.cfg.Gateway(), PeerMAC: g.cfg.MAC,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	listener := echoes(t)
	dial := func(l *Link) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c, err := l.DialContext(ctx, "tcp", fmt.Sprintf("10.0.2.2:%d", listener.Addr().(*net.TCPAddr).Port))
		if err != nil {
			return nil, err
		}
		buf := []byte("x")
		if _, err = c.Write(buf); err == nil {
			_, err = io.ReadFull(c, buf)
		}
		if err != nil {
			c.Close()
		}
		return c, err
	}
	greedy, other := guest(15), guest(16)
	places := g.tcp.conns.max
	if places != int(few.Cur)/2 {
		t.Errorf("%d connections are allowed where %d files are", places, few.Cur)
	}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for len(held) <= places {
		c, err := dial(greedy)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("connection %d hangs: %v", len(held), err)
			}
			break
		}
		held = append(held, c)
	}
	if len(held) != places/2 {
		t.Errorf("one guest has %d of %d connections", len(held), places)
	}
	c, err := dial(other)
	if err != nil {
		t.Fatalf("the other guest: %v", err)
	}
	c.Close()
	if full, err := g.Tables(); err != nil {
		t.Error(full, err)
	}
	for _, c := range held {
		c.Close()
	}
	held = nil
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		g.tcp.conns.mu.Lock()
		used := g.tcp.conns.used
		g.tcp.conns.mu.Unlock()
		if used == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are counted for ever", used)
		}
	}
	if c, err = dial(greedy); err != nil {
		t.Fatalf("when all was given back: %v", err)
	}
	c.Close()
}
