package gateway_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/forge"
	"wolffia/internal/vnet/gateway"
)

// TestHostileGuest: whatever one guest floods the gateway with, another gets its
// address, names, connections and pings, and the tables keep to their bounds.
func TestHostileGuest(t *testing.T) {
	open := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) { fmt.Fprint(c, "hello") })
	dead := netip.MustParseAddrPort("192.0.2.99:80")
	n := newNetwork(t, gateway.Config{
		Reservations: []gateway.Reservation{{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 5}, Addr: netip.MustParseAddr("10.0.2.20"), Name: "alice"}},
		Nameservers:  []netip.AddrPort{netip.AddrPortFrom(dead.Addr(), 53)},
	})
	bad, cable := vnet.Pipe(vnet.PipeOptions{})
	if _, err := n.sw.Attach(cable, vnet.PortOptions{Name: "mallory"}); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && echo ip=$ip\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
	n.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:05", "up")
	n.run("ip", "addr", "add", "10.0.2.20/24", "dev", "eth0")
	n.run("ip", "route", "add", "default", "via", "10.0.2.2")
	cfg := n.gw.Config()
	target := forge.Target{MAC: [6]byte(cfg.MAC), Addr: cfg.Gateway(), Addr6: cfg.Gateway6(), DNS: cfg.DNS(), Open: open.Port(), Dead: dead}
	pings := 5 // of ten
	if raceEnabled {
		pings = 1 // a gateway that can't keep up drops more
	}
	for name, make := range forge.Floods() {
		t.Run(name, func(t *testing.T) {
			stop := flood(t, bad, n, target, make)
			defer stop()
			var wg sync.WaitGroup
			for _, c := range []struct {
				command, want string
				times         int
			}{
				// Without -n, which gives up after three requests: a client goes on.
				{"timeout 20 busybox udhcpc -i eth0 -f -q -t 10 -T 1 -A 1 -s " + script, "ip=10.0.2.20", 1},
				{"dig +short +tries=5 +time=2 @10.0.2.3 alice.lan", "10.0.2.20", 1},
				{"dig +tcp +short +tries=5 +time=5 @10.0.2.3 alice.lan", "10.0.2.20", 1},
				{fmt.Sprintf("nc -d -w 20 10.0.2.2 %d", open.Port()), "hello", 1},
				{"ping -c 10 -i 0.1 -W 2 10.0.2.2", "bytes from", pings},
				{"ping -c 10 -i 0.1 -W 2 192.0.2.1", "bytes from", pings},
				{"ping -c 10 -i 0.1 -W 2 -s 4000 10.0.2.2", "bytes from", pings}, // in fragments
			} {
				wg.Go(func() {
					if out, err := n.try(strings.Fields(c.command)...); strings.Count(out, c.want) < c.times {
						t.Errorf("%s: %q %v", c.command, out, err)
					}
				})
			}
			wg.Wait()
			full, over := n.gw.Tables()
			if over != nil {
				t.Error(over)
			}
			t.Log(full)
		})
	}
}

// flood sends frames, some 250,000 a second, until stop is called: several times
// what a real machine can, so the gateway's queue is full all the time. With the
// race detector in it the gateway is so slow that one full queue would outlast
// several floods; there the flood keeps a thousand frames ahead of it, or of long
// ones a quarter of a queue, which still leaves it no moment without work. What is left is gone when stop returns.
func flood(t *testing.T, port vnet.Port, n *network, to forge.Target, next func(*forge.Forge) []byte) (stop func()) {
	r := forge.New(to)
	frames := make([]vnet.Frame, 8192)
	size := 0
	for i := range frames {
		frames[i].Data = next(r)
		size += len(frames[i].Data)
	}
	ahead := min(1024, gateway.PortQueue/4*len(frames)/size)
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for i := 0; ; {
			if !raceEnabled || n.waiting() < ahead {
				if _, err := port.WriteFrames(frames[i : i+128]); err != nil {
					t.Error(err)
				}
				i = (i + 128) % len(frames)
			}
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(end)
		<-done
		for n.waiting() > 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// waiting says how many frames there are in the gateway's queue.
func (n *network) waiting() int {
	taken := int(n.taken.Load())
	for _, s := range n.sw.Stats() {
		if s.Name == "gateway" {
			// A frame may be taken before the switch has counted it.
			return max(int(s.TxFrames)-taken, 0)
		}
	}
	return 0
}

// counted is the gateway's port of the switch, and counts the frames that are
// read from it.
type counted struct {
	plugged
	n *atomic.Uint64
}

// plugged is what a port is that [vnet.Switch.Plug] gives.
type plugged interface {
	vnet.Port
	vnet.Offloader
	vnet.Direct
}

func (c counted) ReadFrames(bufs []vnet.Frame) (int, error) {
	n, err := c.plugged.ReadFrames(bufs)
	c.n.Add(uint64(n))
	return n, err
}
