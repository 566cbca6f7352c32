package gateway_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/vnet/gateway"
	"wolffia/internal/vnet/link"
)

var both = map[string]struct{ gw, loop, any, host string }{
	"IPv4": {"10.0.2.2", "127.0.0.1:0", "0.0.0.0:0", "192.0.2.1"},
	"IPv6": {"fd00:77:6f6c:66::2", "[::1]:0", "[::]:0", "2001:db8:1::1"},
}

// udhcpcScript does what Debian's default script does, as far as a test cares.
const udhcpcScript = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip link set $interface mtu $mtu
ip route add default via $router
env | grep -E '^(ip|mask|router|dns|domain|mtu|hostname|lease|serverid|broadcast)=' | sort
`

func TestDHCPClient(t *testing.T) {
	n := newNetwork(t, gateway.Config{
		MTU:          1400,
		Reservations: []gateway.Reservation{{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 5}, Addr: netip.MustParseAddr("10.0.2.77"), Name: "alice"}},
	})
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(udhcpcScript), 0o755); err != nil {
		t.Fatal(err)
	}
	n.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:05", "up")
	out := n.run("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-s", script)
	for _, want := range []string{"ip=10.0.2.77", "mask=24", "router=10.0.2.2", "dns=10.0.2.3", "domain=lan", "mtu=1400", "hostname=alice", "serverid=10.0.2.2", "broadcast=10.0.2.255"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("udhcpc did not get %s:\n%s", want, out)
		}
	}
	n.run("ping", "-c", "1", "-W", "5", "10.0.2.2")
	if got := strings.TrimSpace(n.run("dig", "+short", "@10.0.2.3", "alice.lan")); got != "10.0.2.77" {
		t.Errorf("alice.lan is %q", got)
	}
}

func TestSLAAC(t *testing.T) {
	n := newNetwork(t, gateway.Config{MTU: 1400})
	n.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:05", "up")
	want := n.gw.Config().Address6(net.HardwareAddr{2, 0, 0, 0, 0, 5}).String()
	eventually(t, "the guest forms "+want, func() bool {
		out := n.run("ip", "-6", "addr", "show", "dev", "eth0", "-tentative")
		return strings.Contains(out, want+"/64")
	})
	if out := n.run("ip", "-6", "route"); !strings.Contains(out, "default via fe80::") {
		t.Errorf("no default route:\n%s", out)
	}
	if out := n.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu"); strings.TrimSpace(out) != "1400" {
		t.Errorf("IPv6 MTU is %s", out)
	}
	n.run("ping", "-c", "1", "-W", "5", "fd00:77:6f6c:66::2")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 300 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("never came true: %s", what)
}

// TestPing: the gateway answers for itself, real hosts answer for themselves,
// and for addresses where nobody is nobody answers; with raw sockets, as root,
// and with ping sockets, as anybody.
func TestPing(t *testing.T) {
	for _, kind := range []string{"raw", "ping"} { // a namespace begins with ping sockets closed
		t.Run(kind+" sockets", func(t *testing.T) {
			if kind == "ping" {
				if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err != nil {
					t.Fatal(err)
				}
			}
			n := newStatic(t, gateway.Config{})
			for _, a := range []string{"10.0.2.2", "10.0.2.3", "192.0.2.1", "fd00:77:6f6c:66::2", "fd00:77:6f6c:66::3", "2001:db8:1::1"} {
				for _, size := range []string{"56", "5000"} {
					out := n.run("ping", "-c", "3", "-i", "0.05", "-w", "30", "-s", size, a)
					if !strings.Contains(out, " 3 received") || strings.Contains(out, "DUP") {
						t.Errorf("ping %s:\n%s", a, out)
					}
				}
			}
			var wg sync.WaitGroup
			for _, a := range []string{"192.0.2.99", "10.0.2.99", "10.0.2.255", "2001:db8:1::99", "fd00:77:6f6c:66::99", "127.0.0.1", "203.0.113.1", "2001:db8:2::1"} {
				wg.Go(func() {
					out, err := n.try("ping", "-I", "eth0", "-c", "2", "-i", "0.2", "-W", "1", a)
					if err == nil || strings.Contains(out, "bytes from") {
						t.Errorf("ping %s was answered:\n%s", a, out)
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestPingErrors: what routers report comes through, and this router reports,
// too.
func TestPingErrors(t *testing.T) {
	n := newStatic(t, gateway.Config{})
	for to, want := range map[string]string{
		"203.0.113.1":   "From 10.0.2.2 icmp_seq=1 Destination Net Unreachable", // the host has no route
		"2001:db8:2::1": "From fd00:77:6f6c:66::2 icmp_seq=1 Destination unreachable: No route",
	} {
		if out, err := n.try("ping", "-n", "-c", "1", "-W", "2", to); err == nil || !strings.Contains(fmt.Sprint(out, err), want) {
			t.Errorf("ping %s: want %q:\n%v", to, want, err)
		}
	}
	for to, want := range map[string]string{
		"192.0.2.1":     "From 10.0.2.2 icmp_seq=1 Time to live exceeded",
		"2001:db8:1::1": "From fd00:77:6f6c:66::2 icmp_seq=1 Time exceeded: Hop limit",
	} {
		if out, err := n.try("ping", "-n", "-t", "1", "-c", "1", "-W", "2", to); err == nil || !strings.Contains(fmt.Sprint(out, err), want) {
			t.Errorf("ping -t 1 %s: want %q:\n%v", to, want, err)
		}
	}
}

func TestHTTPFromHost(t *testing.T) {
	for version, a := range both {
		t.Run(version, func(t *testing.T) {
			l, err := net.Listen("tcp", a.loop)
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.URL.Path) })}
			go srv.Serve(l)
			defer srv.Close()
			port := l.Addr().(*net.TCPAddr).Port
			n := newStatic(t, gateway.Config{})
			url := fmt.Sprintf("http://%s/world", net.JoinHostPort(a.gw, fmt.Sprint(port)))
			if out := n.run("curl", "-sS", "-g", "-m", "20", url); out != "hello /world" {
				t.Errorf("got %q", out)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	n := newStatic(t, gateway.Config{})
	for _, url := range []string{"http://10.0.2.2:9/", "http://[fd00:77:6f6c:66::2]:9/", "http://192.0.2.1:9/", "http://10.0.2.3:80/"} {
		_, err := n.try("curl", "-sS", "-v", "-g", "-m", "20", url)
		if err == nil || !strings.Contains(err.Error(), "Connection refused") {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"http://203.0.113.1/", "http://[2001:db8:2::1]/"} {
		_, err := n.try("curl", "-sS", "-v", "-g", "-m", "20", url)
		if err == nil || !strings.Contains(err.Error(), "unreachable") && !strings.Contains(err.Error(), "No route to host") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestParallelConnections(t *testing.T) {
	const count = 200
	var served sync.WaitGroup
	served.Add(count)
	all := make(chan struct{})
	addr := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		served.Done()
		<-all // every connection is open at once
		_, _ = io.Copy(c, c)
	})
	n := newStatic(t, gateway.Config{})
	script := fmt.Sprintf(`for i in $(seq %d); do (echo "line $i" | nc -N -w 60 10.0.2.2 %d) & done; wait`, count, addr.Port())
	go func() { served.Wait(); close(all) }()
	out := n.run("sh", "-c", script)
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		seen[line] = true
	}
	if len(seen) != count {
		t.Fatalf("%d of %d connections echoed:\n%s", len(seen), count, out)
	}
}

// blocks is an endless stream that never repeats.
type blocks struct {
	block [1 << 20]byte
	n     uint64
	rest  []byte
}

func newBlocks() *blocks {
	b := &blocks{}
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b.block[:])
	return b
}

func (b *blocks) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		b.n++
		binary.LittleEndian.PutUint64(b.block[:], b.n)
		b.rest = b.block[:]
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// TestBulk moves 1 GiB each way with checksums.
func TestBulk(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() || raceEnabled {
		size = 64 << 20
	}
	for version, a := range both {
		t.Run(version, func(t *testing.T) {
			sums := make(chan string, 1)
			l, err := net.Listen("tcp", a.loop)
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h := sha256.New()
				src, dst := io.Reader(r.Body), io.Writer(h)
				if r.Method == http.MethodGet {
					w.Header().Set("Content-Length", fmt.Sprint(size))
					src, dst = io.LimitReader(newBlocks(), size), io.MultiWriter(w, h)
				}
				if n, err := io.CopyBuffer(dst, src, make([]byte, 1<<20)); err != nil || n != size {
					t.Errorf("%s: moved %d of %d bytes: %v", r.Method, n, size, err)
				}
				sums <- fmt.Sprintf("%x  -\n", h.Sum(nil))
			})}
			go srv.Serve(l)
			defer srv.Close()
			n := newStatic(t, gateway.Config{})
			url := "http://" + net.JoinHostPort(a.gw, fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
			out := n.run("sh", "-c", "curl -sS -g "+url+" | sha256sum")
			want := <-sums
			if out != want {
				t.Errorf("down: got %s, want %s", out, want)
			}
			up := n.command(t.Context(), "curl", "-sS", "-g", "-T", "-", url)
			up.Stdin = io.LimitReader(newBlocks(), size)
			if out, err := up.CombinedOutput(); err != nil {
				t.Errorf("up: %v: %s", err, out)
			}
			if got := <-sums; got != want {
				t.Errorf("up: got %s, want %s", got, want)
			}
		})
	}
}

// TestCorruptLink moves data over a cable that flips bits: what is broken is sent
// again, and nothing of it is taken for right. Of so many frames some hundred are
// broken.
func TestCorruptLink(t *testing.T) {
	const size = 2 << 20
	for name, offloads := range map[string]bool{"checksums of the guest": false, "checksums left to the cable": true} {
		t.Run(name, func(t *testing.T) {
			server := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
				h := sha256.New()
				if _, err := io.CopyN(h, c, size); err != nil {
					t.Error(err)
				}
				fmt.Fprintf(c, "%x\n", h.Sum(nil))
				_, _ = io.CopyN(c, newBlocks(), size)
			})
			g := newGuest(t, offloads)
			cable := link.New(g.port, link.Options{})
			g.port = cable
			n := networkOf(t, g, gateway.Config{})
			n.static()
			if err := cable.SetImpairment(link.Out, link.Impairment{Corrupt: 0.05, Seed: 1}); err != nil {
				t.Fatal(err)
			}
			if err := cable.SetImpairment(link.In, link.Impairment{Corrupt: 0.05, Seed: 2}); err != nil {
				t.Fatal(err)
			}
			sum := func(n int64) string {
				h := sha256.New()
				_, _ = io.CopyN(h, newBlocks(), n)
				return fmt.Sprintf("%x", h.Sum(nil))
			}
			cmd := n.command(t.Context(), "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/10.0.2.2/%d; cat >&3; read -r sum <&3; echo $sum; sha256sum <&3", server.Port()))
			cmd.Stdin = io.LimitReader(newBlocks(), size)
			out, err := cmd.CombinedOutput()
			if want := sum(size) + "\n" + sum(size) + "  -\n"; string(out) != want || err != nil {
				t.Errorf("got %s, %v, want %s", out, err, want)
			}
			if up, down := cable.Stats(link.Out).Corrupted, cable.Stats(link.In).Corrupted; up == 0 || down == 0 {
				t.Errorf("%d and %d frames were corrupted", up, down)
			}
		})
	}
}

// TestHalfClose: each side may end its direction and go on with the other.
func TestHalfClose(t *testing.T) {
	addr := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c) // until the guest has ended
		fmt.Fprintf(c, "got %d bytes", len(b))
	})
	n := newStatic(t, gateway.Config{})
	out := n.run("sh", "-c", fmt.Sprintf("head -c 100000 /dev/zero | nc -N -w 20 10.0.2.2 %d", addr.Port()))
	if out != "got 100000 bytes" {
		t.Errorf("got %q", out)
	}
}

// TestReset: a connection that the host resets is reset for the guest.
func TestReset(t *testing.T) {
	addr := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		var b [1]byte
		_, _ = c.Read(b[:])
		_ = c.SetLinger(0)
	})
	n := newStatic(t, gateway.Config{})
	_, err := n.try("curl", "-sS", "-m", "20", fmt.Sprintf("http://10.0.2.2:%d/", addr.Port()))
	if err == nil || !strings.Contains(err.Error(), "reset by peer") {
		t.Errorf("got %v", err)
	}
}

func TestUDP(t *testing.T) {
	for version, a := range both {
		t.Run(version, func(t *testing.T) {
			c, err := net.ListenPacket("udp", a.loop)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				b := make([]byte, 65535)
				for {
					n, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = c.WriteTo(bytes.ToUpper(b[:n]), from)
				}
			}()
			port := fmt.Sprint(c.LocalAddr().(*net.UDPAddr).Port)
			n := newStatic(t, gateway.Config{})
			if out := n.run("sh", "-c", "echo exchange | nc -u -w 3 "+a.gw+" "+port); out != "EXCHANGE\n" {
				t.Errorf("got %q", out)
			}
			c.Close()
			// Nobody listens any more: dig says so at once, as the kernel tells it.
			out, err := n.try("dig", "+tries=1", "+time=20", "@"+a.gw, "-p", port, "name.example")
			if err == nil || !strings.Contains(fmt.Sprint(out, err), "refused") {
				t.Errorf("want port unreachable: %v", err)
			}
		})
	}
}

func TestForwards(t *testing.T) {
	n := newStatic(t, gateway.Config{
		Forwards: []gateway.Forward{
			{Guest: netip.MustParseAddrPort("10.0.2.15:80")},
			{Guest: netip.MustParseAddrPort("[fd00:77:6f6c:66::15]:80")},
			{Network: "udp", Guest: netip.MustParseAddrPort("10.0.2.15:81")},
		},
	})
	ctx := t.Context()
	www := t.TempDir()
	if err := os.WriteFile(filepath.Join(www, "index.html"), []byte("from the guest"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"busybox", "httpd", "-f", "-p", "[::]:80", "-h", www},
		{"socat", "UDP4-LISTEN:81,fork", "EXEC:cat"},
	} {
		cmd := n.command(ctx, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	}
	for _, f := range n.gw.Forwards() {
		if !f.Bind.Addr().IsLoopback() || f.Bind.Port() == 0 {
			t.Errorf("bound to %v", f.Bind)
		}
		if f.Network == "udp" {
			c, err := net.Dial("udp", f.Bind.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			eventually(t, "an answer over UDP", func() bool {
				fmt.Fprint(c, "hello")
				b := make([]byte, 100)
				_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				k, err := c.Read(b)
				return err == nil && string(b[:k]) == "hello"
			})
			continue
		}
		eventually(t, "an answer through "+f.String(), func() bool {
			resp, err := http.Get("http://" + f.Bind.String() + "/")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			return string(b) == "from the guest"
		})
		if err := n.gw.RemoveForward(f); err != nil {
			t.Error(err)
		}
		if _, err := net.Dial("tcp", f.Bind.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a removed forward still answers: %v", err)
		}
	}
}

func TestForwardTaken(t *testing.T) {
	addr := listenTCP(t, "127.0.0.1:0", func(*net.TCPConn) {})
	n := newStatic(t, gateway.Config{})
	_, err := n.gw.AddForward(gateway.Forward{Bind: addr, Guest: netip.MustParseAddrPort("10.0.2.15:22")})
	var fe *gateway.ForwardError
	if !errors.As(err, &fe) || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr.String()) {
		t.Errorf("got %v", err)
	}
}

func TestDialContext(t *testing.T) {
	n := newStatic(t, gateway.Config{Names: map[string][]netip.Addr{"bob": {netip.MustParseAddr("10.0.2.15")}}})
	cmd := n.command(t.Context(), "sh", "-c", "nc -l 10.0.2.15 99 | wc -c")
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	var c net.Conn
	eventually(t, "nc listens", func() (ok bool) {
		var err error
		c, err = n.gw.DialContext(t.Context(), "tcp", "bob:99")
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("want connection refused: %v", err)
		}
		return err == nil
	})
	fmt.Fprint(c, strings.Repeat("x", 12345))
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(out)
	if strings.TrimSpace(string(b)) != "12345" {
		t.Errorf("the guest counted %s", b)
	}
	c.Close()
}

// TestIsolation: what must not be reached is not, from a guest that tries.
func TestIsolation(t *testing.T) {
	loop := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) { fmt.Fprint(c, "inside") })
	every := listenTCP(t, "[::]:0", func(c *net.TCPConn) { fmt.Fprint(c, "outside") })
	outer := []string{"192.0.2.1", "2001:db8:1::1", "198.51.100.7", "2001:db8:77::7"}
	for name, c := range map[string]struct {
		cfg  gateway.Config
		open map[string]bool
	}{
		"default":  {gateway.Config{}, map[string]bool{"10.0.2.2": true, "fd00:77:6f6c:66::2": true, "192.0.2.1": true, "2001:db8:1::1": true, "198.51.100.7": true, "2001:db8:77::7": true}},
		"NoHost":   {gateway.Config{NoHost: true}, nil},
		"Restrict": {gateway.Config{Restrict: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newStatic(t, c.cfg)
			// The guest sends even what its own kernel would keep to itself.
			n.run("ip", "link", "set", "lo", "down")
			n.run("ip", "addr", "flush", "dev", "lo")
			var wg sync.WaitGroup
			for _, a := range []string{"10.0.2.2", "fd00:77:6f6c:66::2", "192.0.2.1", "2001:db8:1::1", "10.0.2.3", "::ffff:127.0.0.1", "169.254.1.1", "192.0.2.255", "0.0.0.0", "198.51.100.7", "2001:db8:77::7"} {
				for _, p := range []uint16{loop.Port(), every.Port()} {
					if p == loop.Port() && slices.Contains(outer, a) {
						continue // bound to loopback: nobody is there
					}
					wg.Go(func() {
						out, err := n.try("nc", "-d", "-w", "3", a, fmt.Sprint(p))
						if got := err == nil && out != ""; got != c.open[a] {
							t.Errorf("%s port %d: reached %v, want %v: %q %v", a, p, got, c.open[a], out, err)
						}
					})
				}
			}
			wg.Wait()
			n.run("ping", "-c", "1", "-W", "5", "10.0.2.2")
			if name != "default" {
				if out, err := n.try("ping", "-c", "1", "-W", "2", "192.0.2.1"); err == nil {
					t.Errorf("the host answered a ping:\n%s", out)
				}
			}
		})
	}
}

func TestCloseWithOpenConnections(t *testing.T) {
	opened := make(chan struct{}, 10)
	addr := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		opened <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	})
	n := newStatic(t, gateway.Config{})
	for range 5 {
		cmd := n.command(t.Context(), "nc", "-w", "60", "10.0.2.2", fmt.Sprint(addr.Port()))
		in, _ := cmd.StdinPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		<-opened
	}
	n.run("sh", "-c", "echo x | nc -u -w 1 10.0.2.2 9; ping -c 1 192.0.2.1")
	n.gw.Close() // returns only when every goroutine has ended
}

// TestSetForwards: a list replaces another, and what is in both is not touched.
func TestSetForwards(t *testing.T) {
	n := newStatic(t, gateway.Config{Forwards: []gateway.Forward{{Guest: netip.MustParseAddrPort("10.0.2.15:80")}}})
	taken := listenTCP(t, "127.0.0.1:0", func(*net.TCPConn) {})
	open := func() (list []string) {
		for _, f := range n.gw.Forwards() {
			list = append(list, fmt.Sprint(f.Network, " ", f.Guest.Port()))
		}
		slices.Sort(list)
		return list
	}
	bound := func(port uint16) netip.AddrPort {
		for _, f := range n.gw.Forwards() {
			if f.Guest.Port() == port {
				return f.Bind
			}
		}
		return netip.AddrPort{}
	}
	www := gateway.Forward{Guest: netip.MustParseAddrPort("10.0.2.15:80")}
	ssh := gateway.Forward{Guest: netip.MustParseAddrPort("10.0.2.15:22")}
	was := bound(80)
	// A connection through a forward that goes away goes on.
	cmd := n.command(t.Context(), "sh", "-c", "echo ready; nc -l 10.0.2.15 80")
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	var c net.Conn
	eventually(t, "a connection to the guest", func() bool {
		var err error
		if c, err = net.Dial("tcp", was.String()); err != nil {
			return false
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = c.Read(make([]byte, 1))
		return errors.Is(err, os.ErrDeadlineExceeded) // else nc did not listen yet
	})
	if err := n.gw.SetForwards([]gateway.Forward{www, ssh, {Network: "udp", Guest: www.Guest}}); err != nil {
		t.Fatal(err)
	}
	if got := open(); !slices.Equal(got, []string{"tcp 22", "tcp 80", "udp 80"}) {
		t.Errorf("open: %v", got)
	}
	if f := n.gw.Forwards(); bound(22) == was || !slices.ContainsFunc(f, func(f gateway.Forward) bool { return f.Network == "tcp" && f.Bind == was }) {
		t.Errorf("the forward that stays was opened anew: %v, was at %v", f, was)
	}
	// What can't be opened leaves the others.
	err := n.gw.SetForwards([]gateway.Forward{{Bind: taken, Guest: www.Guest}, ssh})
	var fe *gateway.ForwardError
	if !errors.As(err, &fe) || fe.Forward.Bind != taken || !slices.Equal(open(), []string{"tcp 22"}) {
		t.Errorf("%v; open: %v", err, open())
	}
	// One that was given with the port chosen before is the same.
	chosen := gateway.Forward{Network: "tcp", Bind: bound(22), Guest: ssh.Guest}
	if err := n.gw.SetForwards([]gateway.Forward{chosen}); err != nil {
		t.Error(err)
	}
	// The same port of the host leads elsewhere.
	chosen.Guest = www.Guest
	if err := n.gw.SetForwards([]gateway.Forward{chosen}); err != nil || bound(80) != chosen.Bind {
		t.Errorf("%v; at %v", err, bound(80))
	}
	fmt.Fprint(c, "still here")
	c.Close()
	if b, _ := io.ReadAll(out); string(b) != "ready\nstill here" {
		t.Errorf("through the forward that went away came %q", b)
	}
	if err := n.gw.SetForwards(nil); err != nil || len(open()) != 0 {
		t.Errorf("%v; open: %v", err, open())
	}
}
