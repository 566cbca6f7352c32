package hostnet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// simple is a plan that needs forwarding of both families.
func simple(n int) Plan {
	return Plan{Name: fmt.Sprint("lab", n), Taps: []Tap{{Name: fmt.Sprint("tap", n), Side: Side{
		Addr: prefix(fmt.Sprintf("192.168.%d.1/24", n)), Addr6: prefix(fmt.Sprintf("fd0%d::1/64", n)), Masquerade: true,
	}}}}
}

// TestSharedForwarding has several labs need what the host has only once. The
// last one alive puts it back, whoever was first, and whatever happens to the
// others.
func TestSharedForwarding(t *testing.T) {
	if !apart(t) {
		return
	}
	world(t, "out")
	before := snapshot(t)
	dir := t.TempDir()
	o := func(n int) Options { return Options{Journal: fmt.Sprintf("%s/%d", dir, n)} }
	open := func(n int) *Live {
		t.Helper()
		l, err := Apply(simple(n), o(n))
		must(t, err)
		guest(t, fmt.Sprint("guest", n), network(t, l, fmt.Sprint("tap", n)), fmt.Sprintf("192.168.%d.2/24", n), fmt.Sprintf("192.168.%d.1", n))
		run(t, "%s ip addr add fd0%d::2/64 dev eth0 nodad; %[1]s ip -6 route add default via fd0%[2]d::1", in(fmt.Sprint("guest", n)), n)
		return l
	}
	works := func(n int) {
		t.Helper()
		reaches(t, in(fmt.Sprint("guest", n)), "203.0.113.7")
		reaches(t, in(fmt.Sprint("guest", n)), "2001:db8::7")
	}
	one := open(1)
	two := open(2)
	must(t, one.Close())
	works(2)
	killed(t, simple(3), o(3), 0)
	works(2)
	four := open(4)
	must(t, two.Close())
	works(4)
	must(t, Recover(o(3)))
	works(4)
	killed(t, simple(3), o(3), 0)
	must(t, four.Close())
	// Nobody lives, so all is back but for what lab 3 has left of its own.
	if v, err := readSysctl("net/ipv6/conf/all/forwarding"); err != nil || v != "0" {
		t.Errorf("IPv6 forwarding: %s, %v", v, err)
	}
	must(t, Recover(o(3)))
	same(t, before)
	if left, _ := filepath.Glob("/run/wolffia/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestSomebodyElseForwards has another program want forwarding while a lab has
// it, and in the end have it.
func TestSomebodyElseForwards(t *testing.T) {
	if !apart(t) {
		return
	}
	world(t, "out")
	l, err := Apply(simple(1), options(t))
	must(t, err)
	run(t, "sysctl -qw net.ipv4.ip_forward=1")
	must(t, l.Close())
	for _, name := range []string{"all", "default", "eth0"} {
		if v, err := readSysctl("net/ipv4/conf/" + name + "/forwarding"); err != nil || v != "1" {
			t.Errorf("forwarding of %s: %q, %v", name, v, err)
		}
	}
	// And a host that forwards goes on, with everything as it is.
	run(t, "sysctl -qw net.ipv6.conf.all.forwarding=1")
	before := snapshot(t)
	l, err = Apply(simple(1), options(t))
	must(t, err)
	must(t, l.Close())
	same(t, before)
}

// TestRouterAdvertisement has the host keep what its router told it while it
// forwards IPv6, and a guest not become its router.
func TestRouterAdvertisement(t *testing.T) {
	tooltest.Require(t, "dnsmasq", "dnsmasq-base")
	if !apart(t) {
		return
	}
	world(t, "out")
	run(t, "ip -6 route del default")
	run(t, "%s sysctl -qw net.ipv6.conf.all.forwarding=1", in("out"))
	dnsmasq(t, "--dhcp-range=fd09::,ra-only", "--enable-ra", "--ra-param=eth0,4,60")
	fromRouter := func() error {
		if s := run(t, "ip -6 route show default"); !strings.Contains(s, "dev eth0 proto ra") || strings.Contains(s, "tap") {
			return fmt.Errorf("default routes: %q", s)
		}
		return nil
	}
	eventually(t, fromRouter)
	settled(t)
	l, err := Apply(simple(1), options(t))
	must(t, err)
	must(t, fromRouter())
	// The router says so again, and is still heard.
	run(t, "ip -6 route del default")
	eventually(t, fromRouter)
	must(t, l.Close())
	must(t, fromRouter())
	run(t, "ip -6 route del default")
	eventually(t, fromRouter)
}

// TestForwardDropped has other tables drop what is forwarded; the warning's fix
// mends it.
func TestForwardDropped(t *testing.T) {
	tooltest.Require(t, "iptables", "iptables")
	if !apart(t) {
		return
	}
	world(t, "out")
	const flush = "nft flush ruleset"
	for _, c := range []struct{ name, drop, undo string }{
		{"iptables", "iptables-nft -P FORWARD DROP", flush},
		{"policy", "nft add table inet mine; nft add chain inet mine passing '{ type filter hook forward priority 0; policy drop; }'; nft add rule inet mine passing tcp dport 22 accept", flush},
		{"reject", "nft add table ip mine; nft add chain ip mine passing '{ type filter hook forward priority -10; policy accept; }'; nft add rule ip mine passing counter reject", flush},
		{"legacy", "iptables-legacy -P FORWARD DROP", "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F FORWARD"},
	} {
		name := c.name
		_, err := try("%s", c.drop)
		if name == "legacy" && err != nil {
			continue // the kernel no longer has them
		}
		must(t, err)
		l, err := Apply(simple(1), options(t))
		must(t, err)
		guest(t, name, network(t, l, "tap1"), "192.168.1.2/24", "192.168.1.1")
		w := l.Warnings()
		if len(w) != 1 || !strings.Contains(w[0].What, "tap1") {
			t.Fatalf("%s: warnings: %v", name, w)
		}
		if _, err := try("%s ping -n -c 1 -W 1 203.0.113.7", in(name)); err == nil {
			t.Errorf("%s: nothing is dropped", name)
		}
		run(t, "%s", w[0].Fix)
		reaches(t, in(name), "203.0.113.7")
		must(t, l.Close())
		run(t, "%s", c.undo)
	}
	// Other chains are nobody's business.
	run(t, "nft add table ip mine; nft add chain ip mine in '{ type filter hook input priority 0; policy drop; }'")
	run(t, "nft add chain ip mine passing '{ type filter hook forward priority 0; policy accept; }'; nft add rule ip mine passing tcp dport 22 drop")
	l, err := Apply(simple(1), options(t))
	must(t, err)
	defer l.Close()
	if w := l.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %v", w)
	}
}

// TestNoTun has no /dev/net/tun.
func TestNoTun(t *testing.T) {
	if !apart(t) {
		return
	}
	must(t, os.MkdirAll("/run/empty", 0o755))
	run(t, "mount --bind /run/empty /dev/net")
	before := snapshot(t)
	_, err := Apply(simple(1), options(t))
	if err == nil || !strings.Contains(err.Error(), "modprobe tun") {
		t.Error(err)
	}
	same(t, before)
}
