package gateway_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
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
	"wolffia/internal/vnet/gateway"
)

// forge makes frames as a hostile guest does, of random numbers that are the
// same each time.
type forge struct {
	*rand.Rand
	gw [6]byte // the gateway's hardware address
}

// mac is one that a guest makes up.
func (r *forge) mac() [6]byte {
	var m [6]byte
	binary.BigEndian.PutUint32(m[2:], r.Uint32())
	m[0] = 6
	return m
}

// ip is an address that a guest makes up, but for those that the test's own
// guests have.
func (r *forge) ip() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + r.IntN(150))}) }

func (r *forge) ip6() netip.Addr {
	a := netip.MustParseAddr("fd00:77:6f6c:66::").As16()
	binary.BigEndian.PutUint64(a[8:], r.Uint64()|1<<63)
	return netip.AddrFrom16(a)
}

func (r *forge) port() uint16 { return uint16(1024 + r.IntN(64000)) }

func (r *forge) ether(dst [6]byte, kind uint16, payload []byte) []byte {
	m := r.mac()
	f := append(append(make([]byte, 0, 60), dst[:]...), m[:]...)
	f = append(binary.BigEndian.AppendUint16(f, kind), payload...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// ip4 makes a packet. flags is the word with the fragment's offset.
func (r *forge) ip4(src, dst netip.Addr, proto byte, flags uint16, options, body []byte) []byte {
	h := make([]byte, 20, 20+len(options)+len(body))
	h[0], h[8], h[9] = 0x40|byte(5+len(options)/4), 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(cap(h)))
	binary.BigEndian.PutUint16(h[4:], uint16(r.Uint32()))
	binary.BigEndian.PutUint16(h[6:], flags)
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	h = append(h, options...)
	binary.BigEndian.PutUint16(h[10:], ^vnet.Checksum(h, 0))
	return r.ether(r.gw, 0x0800, append(h, body...))
}

func (r *forge) packet6(src, dst netip.Addr, next, hops byte, body []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, hops
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	if next == 58 && len(body) >= 4 {
		sum := make([]byte, 0, 40)
		sum = append(append(sum, h[8:40]...), 0, 0, byte(len(body)>>8), byte(len(body)), 0, 0, 0, 58)
		binary.BigEndian.PutUint16(body[2:], ^vnet.Checksum(body, vnet.Checksum(sum, 0)))
	}
	return r.ether(r.gw, 0x86dd, append(h, body...))
}

func (r *forge) udp(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return r.ip4(src.Addr(), dst.Addr(), 17, 0, nil, append(b, payload...))
}

func (r *forge) tcp(src, dst netip.AddrPort, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], r.Uint32())
	b[12], b[13], b[14] = 5<<4, flags, 0xff
	sum := append(append(append([]byte{}, src.Addr().AsSlice()...), dst.Addr().AsSlice()...), 0, 6, 0, 20)
	binary.BigEndian.PutUint16(b[16:], ^vnet.Checksum(b, vnet.Checksum(sum, 0)))
	return r.ip4(src.Addr(), dst.Addr(), 6, 0, nil, b)
}

func (r *forge) echo(dst netip.Addr, flags uint16, options []byte, size int) []byte {
	b := make([]byte, 8+size)
	b[0] = 8
	binary.BigEndian.PutUint32(b[4:], r.Uint32())
	binary.BigEndian.PutUint16(b[2:], ^vnet.Checksum(b, 0))
	return r.ip4(r.ip(), dst, 1, flags, options, b)
}

func (r *forge) dns(name string) []byte {
	q := binary.BigEndian.AppendUint16(nil, uint16(r.Uint32()))
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 1, 0, 1)
}

func (r *forge) dhcp(kind byte) []byte {
	m := r.mac()
	b := make([]byte, 240, 300)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], r.Uint32())
	copy(b[28:], m[:])
	copy(b[236:], []byte{99, 130, 83, 99})
	b = append(b, 53, 1, kind, 255)
	f := r.udp(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), b)
	// To the gateway alone: broadcasts at this rate leave udhcpc, which looks at
	// all of them, no time for its own answer.
	copy(f[6:], m[:])
	return f
}

// floods are what a hostile guest sends, one frame after the other.
func floods(open, dead netip.AddrPort) map[string]func(*forge) []byte {
	gw, dns := netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("10.0.2.3")
	gw6, all6 := netip.MustParseAddr("fd00:77:6f6c:66::2"), netip.MustParseAddr("ff02::1")
	everybody := [6]byte{255, 255, 255, 255, 255, 255}
	long := map[int][]byte{} // by size: thousands of them would take a gigabyte
	from := func(r *forge) netip.AddrPort { return netip.AddrPortFrom(r.ip(), r.port()) }
	nd := func(kind byte, target netip.Addr) []byte {
		return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	}
	return map[string]func(*forge) []byte{
		"ARP": func(r *forge) []byte {
			m, a := r.mac(), r.ip()
			p := append([]byte{0, 1, 8, 0, 6, 4, 0, byte(1 + r.IntN(2))}, m[:]...)
			p = append(append(p, a.AsSlice()...), 0, 0, 0, 0, 0, 0)
			return r.ether(everybody, 0x0806, append(p, gw.AsSlice()...))
		},
		"hardware addresses": func(r *forge) []byte { return r.ether(everybody, 0x88b5, nil) },
		"unknown hardware":   func(r *forge) []byte { return r.ether(r.mac(), 0x88b5, make([]byte, 1486)) },
		"neighbours": func(r *forge) []byte {
			kind := byte(135 + r.IntN(2))
			return r.packet6(r.ip6(), gw6, 58, 255, append(nd(kind, gw6), 1, 1, 2, 0, 0, 0, 0, 9))
		},
		"routers": func(r *forge) []byte {
			if r.IntN(2) == 0 { // who wants to be one
				return r.packet6(netip.MustParseAddr("fe80::bad"), all6, 58, 255, append([]byte{134, 0, 0, 0, 64, 0, 7, 8}, make([]byte, 8)...))
			}
			return r.packet6(netip.IPv6Unspecified(), netip.MustParseAddr("ff02::2"), 58, 255, make([]byte, 8))
		},
		"DHCP discovers": func(r *forge) []byte { return r.dhcp(1) },
		"DHCP requests":  func(r *forge) []byte { return r.dhcp(3) },
		"DNS, own names": func(r *forge) []byte {
			return r.udp(from(r), netip.AddrPortFrom(dns, 53), r.dns("gateway.lan"))
		},
		"DNS, foreign names": func(r *forge) []byte {
			return r.udp(from(r), netip.AddrPortFrom(dns, 53), r.dns(fmt.Sprintf("n%d.example", r.Uint32())))
		},
		"SYN, closed port":  func(r *forge) []byte { return r.tcp(from(r), netip.AddrPortFrom(gw, r.port()), 2) },
		"SYN, open port":    func(r *forge) []byte { return r.tcp(from(r), netip.AddrPortFrom(gw, open.Port()), 2) },
		"SYN, nobody there": func(r *forge) []byte { return r.tcp(from(r), dead, 2) },
		"SYN, DNS":          func(r *forge) []byte { return r.tcp(from(r), netip.AddrPortFrom(dns, 53), 2) },
		"TCP of nothing":    func(r *forge) []byte { return r.tcp(from(r), netip.AddrPortFrom(gw, r.port()), byte(r.Uint32())&^2) },
		"UDP, every port":   func(r *forge) []byte { return r.udp(from(r), netip.AddrPortFrom(gw, r.port()), []byte("x")) },
		"UDP, one port": func(r *forge) []byte {
			return r.udp(netip.MustParseAddrPort("10.0.2.99:7"), netip.AddrPortFrom(gw, 7), make([]byte, 1000))
		},
		"ping, everybody": func(r *forge) []byte {
			return r.echo(netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + r.IntN(250))}), 0, nil, 56)
		},
		"ping, gateway": func(r *forge) []byte { return r.echo(gw, 0, nil, 1400) },
		"fragments":     func(r *forge) []byte { return r.echo(gw, 0x2000|uint16(r.IntN(100)), nil, 1384) },
		"fragments, overlap": func(r *forge) []byte {
			f := r.echo(gw, 0x2000|uint16(r.IntN(4)), nil, 56)
			copy(f[26:], []byte{10, 0, 2, 99})
			f[18], f[19] = 0, byte(r.IntN(3))
			f[24], f[25] = 0, 0
			binary.BigEndian.PutUint16(f[24:], ^vnet.Checksum(f[14:34], 0))
			return f
		},
		"IP options": func(r *forge) []byte {
			o := make([]byte, 4*(1+r.IntN(10)))
			for i := range o {
				o[i] = byte(r.Uint32())
			}
			o[0] = []byte{7, 68, 130, 131, 137, 148, 0}[r.IntN(7)] // record route, timestamp, source routes, alert
			return r.echo(gw, 0, o, 8)
		},
		"time to live": func(r *forge) []byte {
			f := r.echo(netip.MustParseAddr("192.0.2.1"), 0, nil, 56)
			f[22] = 1
			return f
		},
		"runts and giants": func(r *forge) []byte {
			size := []int{0, 9000, 60000}[r.IntN(3)]
			f := long[size]
			if f == nil {
				f = r.echo(gw, 0, nil, size)
				long[size] = f
			}
			if r.IntN(2) == 0 {
				f = f[:r.IntN(60)]
			}
			return f
		},
		"ICMP errors": func(r *forge) []byte {
			quoted := r.tcp(netip.AddrPortFrom(gw, open.Port()), from(r), 16)[14:]
			return r.ip4(r.ip(), gw, 1, 0, nil, append([]byte{[]byte{3, 5, 11, 4}[r.IntN(4)], byte(r.IntN(6)), 0, 0, 0, 0, 0, 68}, quoted...))
		},
	}
}

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
	for name, make := range floods(open, dead) {
		t.Run(name, func(t *testing.T) {
			stop := flood(t, bad, n, make)
			defer stop()
			var wg sync.WaitGroup
			for _, c := range []struct{ command, want string }{
				{"busybox udhcpc -i eth0 -f -q -n -t 10 -T 1 -s " + script, "ip=10.0.2.20"},
				{"dig +short +tries=5 +time=2 @10.0.2.3 alice.lan", "10.0.2.20"},
				{"dig +tcp +short +tries=5 +time=5 @10.0.2.3 alice.lan", "10.0.2.20"},
				{fmt.Sprintf("nc -d -w 20 10.0.2.2 %d", open.Port()), "hello"},
				{"ping -c 10 -i 0.1 -W 2 10.0.2.2", "bytes from"},
				{"ping -c 10 -i 0.1 -W 2 192.0.2.1", "bytes from"},
				{"ping -c 10 -i 0.1 -W 2 -s 4000 10.0.2.2", "bytes from"}, // in fragments
			} {
				wg.Go(func() {
					if out, err := n.try(strings.Fields(c.command)...); !strings.Contains(out, c.want) {
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
// several floods; there the flood keeps a thousand frames ahead of it, which still
// leaves it no moment without work. What is left is gone when stop returns.
func flood(t *testing.T, port vnet.Port, n *network, next func(*forge) []byte) (stop func()) {
	r := &forge{rand.New(rand.NewPCG(1, 2)), [6]byte(n.gw.Config().MAC)}
	frames := make([]vnet.Frame, 8192)
	for i := range frames {
		frames[i].Data = next(r)
	}
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for i := 0; ; {
			if !raceEnabled || n.waiting() < 1024 {
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
