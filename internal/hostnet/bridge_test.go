package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/host"
	"wolffia/internal/tooltest"
)

// TestUplink puts the host's uplink into a bridge with a guest, which gets a
// lease from a server on the uplink, while the host goes on as it was.
func TestUplink(t *testing.T) {
	tooltest.Require(t, "dnsmasq", "dnsmasq-base")
	tooltest.Require(t, "busybox", "busybox")
	if !apart(t) {
		return
	}
	world(t, "out")
	// A lease, and addresses that a router gave.
	run(t, "ip addr change 10.9.0.2/24 brd + dev eth0 valid_lft 3600 preferred_lft 3000")
	run(t, "ip addr add fd09::5/64 dev eth0 valid_lft 7200 preferred_lft 7000; ip -6 route add default via fe80::1 dev eth0 metric 2048 proto ra expires 900")
	settled(t)
	before := snapshot(t)
	dnsmasq(t, "--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,1h", "--dhcp-option=3,10.9.0.1")
	goesOn := connection(t, "out", "10.9.0.1:0")

	live, err := Apply(Plan{Name: "up", Bridges: []Bridge{{Name: "br0", Uplink: "eth0"}}, Taps: []Tap{{Name: "tap0", Bridge: "br0"}}}, options(t))
	must(t, err)
	defer live.Close()
	if w := live.Warnings(); len(w) != 2 || !strings.Contains(w[0].What, "10.9.0.2/24") || !strings.Contains(w[1].What, "fd09::5/64") {
		t.Errorf("warnings: %v", w)
	}
	if s := run(t, "ip -4 addr show eth0"); s != "" {
		t.Errorf("the uplink still has %s", s)
	}
	goesOn()
	guest(t, "alice", network(t, live, "tap0"), "", "")
	run(t, "%s busybox udhcpc -i eth0 -f -q -n -t 20 -T 1 -s /bin/true", in("alice"))
	leased := strings.Fields(run(t, "cat /run/leases"))
	if len(leased) < 3 {
		t.Fatalf("leases: %q", leased)
	}
	run(t, "%s ip addr add %s/24 dev eth0", in("alice"), leased[2])
	reaches(t, in("out"), "10.9.0.2")
	reaches(t, in("out"), "fd09::2")
	reaches(t, "", "203.0.113.7")
	reaches(t, "", "2001:db8::7")
	reaches(t, in("alice"), "10.9.0.1")
	reaches(t, in("alice"), "10.9.0.2")

	must(t, live.Close())
	same(t, before)
	goesOn()
	reaches(t, "", "203.0.113.7")
	var got address
	f, err := readFacts()
	must(t, err)
	for _, a := range f.link("eth0").addrs {
		if a.Local == prefix("10.9.0.2/24") {
			got = a
		}
	}
	if got.Valid < 3000 || got.Valid > 3600 || got.Preferred < 2400 || got.Preferred > 3000 {
		t.Errorf("the lease came back with %d and %d s", got.Valid, got.Preferred)
	}
}

// connection opens a TCP connection to a namespace. What it gives sends something
// there and waits until it is back.
func connection(t *testing.T, name, address string) func() {
	t.Helper()
	var l net.Listener
	enter(t, name, func() {
		var err error
		l, err = net.Listen("tcp", address)
		must(t, err)
	})
	var echo sync.WaitGroup
	echo.Go(func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c) // whoever waits for it says what is missing
	})
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	t.Cleanup(func() {
		c.Close()
		l.Close()
		echo.Wait()
	})
	return func() {
		t.Helper()
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		said, heard := []byte("still there?"), make([]byte, 12)
		_, err := c.Write(said)
		if err == nil {
			_, err = io.ReadFull(c, heard)
		}
		if err != nil || !bytes.Equal(said, heard) {
			t.Errorf("a connection that was there before: %q, %v", heard, err)
		}
	}
}

// dnsmasq runs a DHCP server in the namespace out until the test ends.
func dnsmasq(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"--net=/run/netns/out", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root", "--group=",
		"--interface=eth0", "--bind-interfaces", "--dhcp-leasefile=/run/leases", "--pid-file", "--no-ping", "--log-facility=-"}, args...)
	cmd := exec.Command("nsenter", args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq: %s", &log)
		}
	})
}

// TestUplinkRefused has uplinks that can't be put into a bridge, and nothing
// done to them.
func TestUplinkRefused(t *testing.T) {
	if !apart(t) {
		return
	}
	world(t, "out")
	run(t, "ip link add other type bridge; ip link add p type veth peer name q; ip link set p master other; ip link add link eth0 mv type macvlan")
	run(t, "ip route add 198.18.0.0/15 nexthop via 10.9.0.1 dev eth0 nexthop via 10.9.0.5 dev eth0")
	settled(t)
	before := snapshot(t)
	for up, want := range map[string]string{
		"nosuch": "has no interface", "lo": "no Ethernet", "other": "is a bridge itself", "p": "it is in other",
		"eth0": "several next hops",
	} {
		_, err := Apply(Plan{Name: "x", Bridges: []Bridge{{Name: "br0", Uplink: up}}}, options(t))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", up, err)
		}
	}
	same(t, before)
	// The kernel itself refuses, halfway.
	run(t, "ip route del 198.18.0.0/15")
	before = snapshot(t)
	_, err := Apply(Plan{Name: "x", Bridges: []Bridge{{Name: "br0", Uplink: "eth0"}}}, options(t))
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("an uplink with a macvlan: %v", err)
	}
	same(t, before)
}

// TestHostBridge joins bridges of the host, which keep their hardware address
// and MTU.
func TestHostBridge(t *testing.T) {
	if !apart(t) {
		return
	}
	world(t, "out")
	run(t, "ip link add busy type bridge; ip link set eth0 mtu 1400; ip link set eth0 master busy; ip link set busy up; ip addr add 10.9.0.3/24 dev busy")
	settled(t, "busy")
	before := snapshot(t)
	run(t, "ip link add empty type bridge; ip link set empty up; ip addr add 10.8.0.1/24 dev empty")
	settled(t)
	links := func() string { return run(t, "ip -o link show busy; ip -o link show empty | grep -o 'ether .*'") }
	had := links()
	live, err := Apply(Plan{Name: "join", Taps: []Tap{{Name: "tap0", Bridge: "busy"}, {Name: "tap1", Bridge: "empty"}}}, options(t))
	must(t, err)
	defer live.Close()
	if has := links(); has != had {
		t.Errorf("the bridges were\n%sand are\n%s", had, has)
	}
	guest(t, "alice", network(t, live, "tap0"), "10.9.0.50/24", "")
	guest(t, "bob", network(t, live, "tap1"), "10.8.0.50/24", "")
	reaches(t, in("alice"), "10.9.0.1")
	reaches(t, in("bob"), "10.8.0.1")
	must(t, live.Close())
	if has := links(); has != had {
		t.Errorf("the bridges were\n%sand are\n%s", had, has)
	}
	// A bridge that never had a port is the one thing that remembers one: it
	// has no carrier any more. So it is left out of the comparison.
	run(t, "ip link del empty")
	same(t, before)

	_, err = Apply(Plan{Name: "join", Taps: []Tap{{Name: "tap0", Bridge: "eth0"}, {Name: "tap1", Bridge: "nosuch"}, {Name: "eth0"}}}, options(t))
	for _, want := range []string{"eth0 of the host is no bridge", "no bridge nosuch", "eth0 exists already"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	_, err = Apply(Plan{Name: "join", Taps: []Tap{{Name: "tap0", Bridge: "busy", MTU: 1300}}}, options(t))
	if err == nil || !strings.Contains(err.Error(), "would lower") {
		t.Errorf("%v", err)
	}
}

// unprivilegedly has fn run on a thread without CAP_NET_ADMIN. Programs that it
// starts get it back, as if they were setuid: they are root's.
func unprivilegedly(t *testing.T, fn func()) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	must(t, unix.Capget(&h, &d[0]))
	full := d
	d[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	must(t, unix.Capset(&h, &d[0]))
	fn()
	must(t, unix.Capset(&h, &full[0]))
	runtime.UnlockOSThread()
}

// TestBridgeHelper joins a bridge of the host without a privilege.
func TestBridgeHelper(t *testing.T) {
	helper := "/usr/lib/qemu/qemu-bridge-helper"
	if _, err := os.Stat(helper); err != nil {
		tooltest.Require(t, helper, "qemu-system-common")
	}
	if !apart(t) {
		return
	}
	etc := filepath.Join(t.TempDir(), "etc")
	must(t, os.MkdirAll(etc+"/qemu", 0o755))
	must(t, unix.Mount(etc, "/etc", "", unix.MS_BIND, ""))
	world(t, "out")
	run(t, "ip link add br0 type bridge; ip link set eth0 master br0; ip link set br0 up")
	settled(t, "br0")
	before := snapshot(t)
	plan := Plan{Name: "help", Taps: []Tap{{Name: "tap0", Bridge: "br0"}}}

	unprivilegedly(t, func() {
		_, err := Apply(plan, options(t))
		var u *host.UnsupportedError
		if !errors.As(err, &u) || !strings.Contains(u.Fix, `echo "allow br0"`) {
			t.Errorf("without a bridge.conf: %v", err)
		}
		must(t, os.WriteFile("/etc/qemu/bridge.conf", []byte("allow other\n"), 0o644))
		_, err = Apply(plan, options(t))
		if !errors.As(err, &u) || !strings.Contains(u.Fix, `echo "allow br0"`) {
			t.Errorf("without a line in bridge.conf: %v", err)
		}
		_, err = Apply(plan, Options{Journal: t.TempDir() + "/j", BridgeHelper: "/nosuch"})
		if !errors.As(err, &u) || !strings.Contains(u.Fix, "apt-get install") {
			t.Errorf("without a helper: %v", err)
		}
		if err := Probe(plan, Options{}); !errors.As(err, &u) || !strings.Contains(u.Fix, `echo "allow br0"`) {
			t.Errorf("asked beforehand, without a line in bridge.conf: %v", err)
		}
		if err := Probe(pair(), Options{}); !errors.As(err, &u) || !strings.Contains(u.Why, "CAP_NET_ADMIN") {
			t.Errorf("asked beforehand, a plan that needs more: %v", err)
		}
		_, err = Apply(pair(), options(t))
		if !errors.As(err, &u) || !strings.Contains(u.Why, "CAP_NET_ADMIN") {
			t.Errorf("a plan that needs more: %v", err)
		}
	})
	same(t, before)
	must(t, os.WriteFile("/etc/qemu/bridge.conf", []byte("allow br0\nallow empty\n"), 0o644))
	// A bridge without ports keeps the hardware address that it was given.
	run(t, "ip link add empty address 02:00:00:00:00:0e type bridge; ip link set empty up")
	plan.Taps = append(plan.Taps, Tap{Name: "tap1", Bridge: "empty"})
	keeps := func() {
		t.Helper()
		if s := run(t, "ip -o link show empty"); !strings.Contains(s, " 02:00:00:00:00:0e ") {
			t.Errorf("the bridge is %s", s)
		}
	}
	var live *Live
	unprivilegedly(t, func() {
		must(t, Probe(plan, Options{}))
		var err error
		live, err = Apply(plan, options(t))
		must(t, err)
	})
	defer live.Close()
	guest(t, "alice", network(t, live, "tap0"), "10.9.0.50/24", "")
	reaches(t, in("alice"), "10.9.0.1")
	keeps()
	must(t, live.Close())
	keeps()
	run(t, "ip link del empty") // it has no carrier any more
	same(t, before)
}

// TestGivenTap takes a tap that the administrator made.
func TestGivenTap(t *testing.T) {
	if !apart(t) {
		return
	}
	plan := Plan{Name: "given", Taps: []Tap{{Name: "mytap", Given: true}}}
	if _, err := Apply(plan, options(t)); err == nil || !strings.Contains(err.Error(), "ip tuntap add dev mytap") {
		t.Errorf("without the tap: %v", err)
	}
	run(t, "ip tuntap add dev mytap mode tap user 0; ip addr add 10.7.0.1/24 dev mytap; ip link set mytap up")
	for i, how := range []func(*testing.T, func()){unprivilegedly, func(_ *testing.T, fn func()) { fn() }} {
		var live *Live
		how(t, func() {
			var err error
			live, err = Apply(plan, options(t))
			must(t, err)
		})
		guest(t, fmt.Sprint("alice", i), network(t, live, "mytap"), "10.7.0.2/24", "")
		reaches(t, in(fmt.Sprint("alice", i)), "10.7.0.1")
		must(t, live.Close())
	}
	if now := run(t, "ip -o addr show mytap"); !strings.Contains(now, "10.7.0.1/24") {
		t.Errorf("the tap has %s", now)
	}
}
