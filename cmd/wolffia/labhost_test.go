package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// beyond has the other end of the uplink answer on a port.
func (a *apart) beyond(t testing.TB) {
	t.Helper()
	a.serve(t, "beyond.log", "busybox nc -ll -p 80 -e echo from beyond")
	a.sh(t, "ip netns exec out sh -c 'until busybox netstat -ltn | grep -q :80; do sleep 0.05; done'")
}

// kill ends the lab's supervisor as nobody can be asked.
func (a *apart) kill(t testing.TB, l *lab) {
	t.Helper()
	pid, _ := l.ps()
	a.killed = true
	a.sh(t, fmt.Sprintf("kill -KILL %d; while test -d /proc/%[1]d && ! grep -q '^State:.Z' /proc/%[1]d/status; do sleep 0.02; done", pid))
}

// TestLabTaps has two machines, each on a tap of its own in the subnet of the
// host's uplink, and one on a subnet of its own: they reach each other, the host
// and beyond, and in the end the host is as it was.
func TestLabTaps(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	host := newHost(t, p)
	host.beyond(t)
	before := host.snapshot(t)
	text := "name: pair\n" + small + `
networks:
  left: {subnet: 10.9.0.0/24, uplink: {tap: tap0, address: 10.9.0.254, proxy-arp: true, masquerade: true}}
  right: {subnet: 10.9.0.0/24, uplink: {tap: tap1, address: 10.9.0.252, proxy-arp: true, masquerade: true}}
  own: {subnet: 192.168.7.0/24, subnet6: "fd07::/64", uplink: {address: 192.168.7.1, address6: "fd07::1", masquerade: true, dns: [10.9.0.1]}}
machines:
  alice: {networks: [{network: left, address: 10.9.0.253}]}
  bob: {networks: [{network: right, address: 10.9.0.251}]}
  carl: {networks: [own]}
`
	l := newLab(t, p, text)

	plan := l.do("up", "--offline", "--dry-run")
	for _, want := range []string{
		"\nstart the lab's part of the host's network, as these commands would:\n",
		"\n  ip tuntap add dev tap0 mode tap", "\n  sysctl -qw net/ipv4/conf/tap0/proxy_arp=1\n", "\n  ip neigh add proxy 10.9.0.253 dev eth0\n",
		"\n  nft add rule inet wolffia-pair-", `iifname "tap0" masquerade'`,
	} {
		if !strings.Contains(plan, want) {
			t.Errorf("%q is not in the plan:\n%s", want, plan)
		}
	}
	host.same(t, before)

	l.do("up", "--offline")
	for from, to := range map[string][]string{
		"alice": {"bob", "10.9.0.254", "10.9.0.2", "10.9.0.1", "203.0.113.7"},
		"bob":   {"alice", "10.9.0.252", "203.0.113.7"},
		"carl":  {"alice", "bob", "192.168.7.1", "203.0.113.7", "fd07::1", "2001:db8::7"},
	} {
		var script strings.Builder
		for _, a := range to {
			fmt.Fprintf(&script, "ping -c 3 -W 5 %s | grep ' 0%% packet loss'\n", a)
		}
		script.WriteString("nc 203.0.113.7 80 </dev/null")
		if out := l.in(from, script.String()); !strings.HasSuffix(out, "from beyond\n") {
			t.Errorf("%s: %s", from, out)
		}
	}
	if conf := l.in("carl", "cat /etc/resolv.conf"); !strings.Contains(conf, "nameserver 10.9.0.1\n") {
		t.Error(conf)
	}
	// The host, and its neighbours, reach them.
	host.reaches(t, "", "10.9.0.253")
	host.reaches(t, "", "192.168.7.2")
	host.reaches(t, "ip netns exec out", "10.9.0.251")
	if out := l.do("net"); !regexp.MustCompile(`own +host +up`).MatchString(out) {
		t.Error(out)
	}

	// A change that is not about the host leaves its taps alone.
	tap0 := func() string { return strings.Split(host.sh(t, "ip -o link show tap0"), ":")[0] }
	index := tap0()
	l.file(strings.Replace(text, "left: {", "left: {ring: 1M, ", 1))
	if plan := l.do("up", "--offline", "--dry-run"); plan != "change network left: ring\n" {
		t.Error(plan)
	}
	l.do("up", "--offline")
	if now := tap0(); now != index {
		t.Errorf("tap0 was interface %s and is %s", index, now)
	}
	l.in("alice", "ping -c 1 -W 5 203.0.113.7")

	// A change takes place while they run.
	l.in("alice", "echo 1 >/root/life")
	l.file(strings.NewReplacer("tap: tap0", "tap: tapx", "  carl: {networks: [own]}\n", "").Replace(text))
	if plan := l.do("up", "--offline", "--dry-run"); !strings.Contains(plan, "change network left: uplink, ring\n") || !strings.Contains(plan, "ip tuntap add dev tapx") {
		t.Error(plan)
	}
	l.do("up", "--offline")
	l.in("alice", "test -e /root/life; until ping -c 1 -W 1 203.0.113.7; do sleep 0.1; done; until ping -c 1 -W 1 bob; do sleep 0.1; done")
	if links := host.sh(t, "ip link"); !strings.Contains(links, "tapx") || strings.Contains(links, "tap0") {
		t.Error(links)
	}
	// One that can't be leaves all as it was.
	l.file(strings.Replace(text, "tap: tap0", "tap: eth0", 1))
	if e := l.fails(1, "up", "--offline"); !strings.Contains(e, "interface eth0 exists already") {
		t.Error(e)
	}
	l.in("alice", "test -e /root/life; until ping -c 1 -W 1 203.0.113.7; do sleep 0.1; done")
	l.do("down")
	host.same(t, before)

	// Killed, and whatever command comes next undoes what is left, even one that
	// fails; where that can't be done, it is said.
	l.file(text)
	for _, next := range []struct {
		args   []string
		status int
	}{
		{[]string{"ps"}, 0}, {[]string{"down"}, 0}, {[]string{"up", "--offline"}, 0},
		{[]string{"logs", "alice"}, 0}, {[]string{"exec", "alice", "true"}, 125}, {[]string{"net"}, 1},
	} {
		l.do("up", "--offline")
		host.kill(t, l)
		if now := host.snapshot(t); !strings.Contains(now, "wolffia-pair-") {
			t.Error("no rules are left, so that nothing is shown")
		}
		elsewhere := call{dir: l.dir, env: []string{sbin()}, wrap: []string{"ip", "netns", "exec", "out"}}
		if o := l.try(t, elsewhere, "net"); o.status != 1 || !strings.Contains(o.err, "lab pair is dead: ") || !strings.Contains(o.err, "another network namespace") {
			t.Errorf("from another namespace: %v", o)
		}
		o := l.try(t, call{dir: l.dir, limit: cold}, next.args...)
		if o.status != next.status || next.status != 0 && !strings.Contains(o.err, "lab pair is dead: ") {
			t.Errorf("%s: %v", next.args, o)
		}
		if next.args[0] != "up" {
			host.same(t, before)
		}
		l.try(t, call{dir: l.dir}, "down")
		host.same(t, before)
	}
}

// TestLabBridge puts the host's uplink into a bridge with machines, which get
// leases from a server on the other end, while others join a bridge of the host.
func TestLabBridge(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "dnsmasq", "dnsmasq-base")
	p := newPerson(t)
	host := newHost(t, p)
	host.sh(t, `ip link add br7 type bridge; ip addr add 10.7.0.1/24 dev br7; ip link set br7 up; ip link add p7 type veth peer name q7; ip link set p7 master br7; ip link set p7 up; ip link set q7 up
		until ! ip -6 addr show tentative | grep -q . && test $(ip -6 -o addr show scope link | grep -c 7) = 3; do sleep 0.05; done`)
	log := host.serve(t, "dnsmasq.log", "dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user=root --group= --interface=eth0 --bind-interfaces"+
		" --dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,1h --dhcp-leasefile=/run/leases --pid-file --no-ping --log-facility=-")
	before := host.snapshot(t)
	text := small + `
networks:
  wire: {uplink: {bridge: br0, interface: eth0}}
  seven: {subnet: 10.7.0.0/24, uplink: {bridge: br7}}
machines:
  alice: {networks: [wire]}
  bob: {networks: [{network: wire, vlan: 20, address: none}]}
  dora: {networks: [{network: seven, address: 10.7.0.9}]}
`
	l := newLab(t, p, strings.Replace(text, "br7", "br8", 1))
	if e := l.fails(1, "up", "--offline"); !strings.Contains(e, "the host has no bridge br8") {
		t.Error(e)
	}
	host.same(t, before)
	l.file(text)
	plan := l.do("up", "--offline", "--dry-run")
	l.do("up", "--offline")
	defer func() {
		if text, err := os.ReadFile(log); t.Failed() && err == nil {
			t.Logf("%s", text)
		}
	}()
	addr := strings.Fields(l.in("alice", "until ip -4 -o addr show eth0 | grep -q inet; do sleep 0.1; done; ip -4 -o addr show eth0"))
	if len(addr) < 4 || !strings.HasPrefix(addr[3], "10.9.0.1") {
		t.Errorf("alice has %q", addr)
	}
	l.in("alice", "until ping -c 1 -W 1 203.0.113.7; do sleep 0.1; done; ping -c 1 -W 5 10.9.0.2")
	host.reaches(t, "", "203.0.113.7")
	host.reaches(t, "", "10.7.0.9")
	// What bob says is tagged on the wire.
	wire := host.listen(t, "ip netns exec out", "eth0")
	l.in("bob", "ip addr add 10.20.0.2/24 dev eth0; ip link set eth0 up; ping -c 2 -W 1 10.20.0.1 || true")
	eventually(t, patience, "frames with the tag", func() bool {
		return regexp.MustCompile(`vlan 20, p 0, ethertype ARP.* who-has 10\.20\.0\.1 tell 10\.20\.0\.2,`).MatchString(frames(t, wire))
	})
	l.do("down")
	host.same(t, before)
	l.do("up", "--offline")
	host.kill(t, l)
	// A dry run undoes nothing, and knows what the host will be like.
	const addresses = "ip -4 -o addr; ip route"
	left := host.sh(t, addresses)
	if now, want := l.do("up", "--offline", "--dry-run"), "undo what the lab that was killed has left on the host's network\n"+plan; now != want {
		t.Errorf("%s", difference(want, now))
	}
	if now := host.sh(t, addresses); now != left || !strings.Contains(now, " br0 ") {
		t.Errorf("%s", difference(left, now))
	}
	l.do("ps")
	host.same(t, before)
}

// listen captures what passes an interface, until the host ends, and gives the
// file. Tcpdump itself can't be root of a namespace: it wants to become another.
func (a *apart) listen(t testing.TB, where, link string) string {
	t.Helper()
	file := filepath.Join(a.home, link+".pcapng")
	log := file + ".log"
	a.sh(t, fmt.Sprintf("%s setsid dumpcap -q -i %s -w %s >%s 2>&1 </dev/null & until grep -q File: %[4]s; do sleep 0.05; done", where, link, file, log))
	return file
}

// frames is what tcpdump shows of a capture that may go on.
func frames(t testing.TB, file string) string {
	t.Helper()
	out, _ := exec.Command(tooltest.Require(t, "tcpdump", "tcpdump"), "-n", "-e", "-r", file).Output()
	return string(out)
}

// TestLabTags has the host on a network with VLANs, where it sees their tags, and
// on the VLANs themselves.
func TestLabTags(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	host := newHost(t, p)
	kernel := strings.Contains(host.out(t, "ip link add link eth0 name eth0.30 type vlan id 30 2>/dev/null || true; ip link"), "eth0.30")
	if kernel {
		host.out(t, "ip addr add 10.30.0.1/24 dev eth0.30; ip link set eth0.30 up")
	}
	before := host.snapshot(t)
	l := newLab(t, p, small+`
networks:
  lan:
    subnet: 10.1.0.0/24
    uplink: {tap: tap0, address: 10.1.0.254}
    vlans:
      20: {subnet: 10.20.0.0/24, gateway: none}
machines:
  plain: {networks: [lan]}
  twenty: {networks: [{network: lan, vlan: 20}]}
`)
	l.do("up", "--offline")
	wire := host.listen(t, "", "tap0")
	l.in("plain", "ping -c 1 -W 5 10.1.0.254; ! ping -c 1 -W 1 203.0.113.7")
	l.in("twenty", "! ping -c 1 -W 1 10.20.0.99")
	eventually(t, patience, "frames with a tag and without one", func() bool {
		text := frames(t, wire)
		return regexp.MustCompile(`vlan 20, p 0, ethertype ARP.* who-has 10\.20\.0\.99 tell 10\.20\.0\.1,`).MatchString(text) &&
			regexp.MustCompile(`ethertype IPv4 \(0x0800\), length \d+: 10\.1\.0\.1 > 10\.1\.0\.254: ICMP echo request`).MatchString(text)
	})
	l.do("down")
	host.same(t, before)

	l.file(small + `
networks:
  lan: {gateway: none, vlans: {10: {subnet: 10.10.0.0/24, uplink: {address: 10.10.0.1, masquerade: true}}}}
  thirty: {uplink: {interface: eth0, tag: 30}}
machines:
  ten: {networks: [{network: lan, vlan: 10}]}
  carl: {networks: [thirty, {network: lan, vlan: 10, address: 10.10.0.9}]}
`)
	if !kernel { // one without 8021q, which has to be said
		if e := l.fails(1, "up", "--offline"); !strings.Contains(e, "sudo modprobe 8021q") {
			t.Error(e)
		}
		host.same(t, before)
		return
	}
	l.do("up", "--offline")
	l.in("ten", "ping -c 1 -W 5 10.10.0.1; ping -c 1 -W 5 203.0.113.7")
	l.in("carl", "ip addr add 10.30.0.9/24 dev eth0; ip link set eth0 up; until ping -c 1 -W 1 10.30.0.1; do sleep 0.1; done")
	host.reaches(t, "", "10.9.0.1")
	host.kill(t, l)
	l.do("ps")
	host.same(t, before)
}

// helperScript makes a bridge helper that may change networks, which its caller
// may not, and an /etc without a word of QEMU's. File capabilities take the place
// of setuid, which needs a second account on the host.
const helperScript = `
mount -t tmpfs tools /mnt
cp /usr/lib/qemu/qemu-bridge-helper /mnt/helper
setcap cap_net_admin+ep /mnt/helper
mount --bind /mnt/helper /usr/lib/qemu/qemu-bridge-helper
mkdir /run/etc
mount --bind /etc /run/etc
mount -t tmpfs etc /etc
for f in /run/etc/*; do test "$f" = /run/etc/qemu || ln -s "$f" /etc; done
`

// TestLabUnprivileged has no right to change the host's network: it is said what
// is missing, before anything starts. A tap that the administrator made does
// without, and so does a bridge that qemu-bridge-helper may join.
func TestLabUnprivileged(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "/usr/lib/qemu/qemu-bridge-helper", "qemu-system-common")
	tooltest.Require(t, "setcap", "libcap2-bin")
	tooltest.Require(t, "dnsmasq", "dnsmasq-base")
	p := newPerson(t)
	host := newHost(t, p)
	host.sh(t, helperScript+"ip tuntap add dev mine mode tap user 0; ip addr add 10.7.0.1/24 dev mine; ip link set mine addrgenmode none up"+`
		ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0
		until ! ip -6 addr show tentative | grep -q . && ip -6 -o addr show dev br0 scope link | grep -q .; do sleep 0.05; done`)
	host.serve(t, "dnsmasq.log", "dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user=root --group= --interface=eth0 --bind-interfaces"+
		" --dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,1h --dhcp-leasefile=/run/leases --pid-file --no-ping --log-facility=-")
	before := host.snapshot(t)
	l := newLab(t, p, small+"networks: {lan: {subnet: 10.8.0.0/24, uplink: {address: 10.8.0.1, masquerade: true}}}\nmachines: {anna: {networks: [lan]}}\n")
	// All that they are root of is lost, and what the helper has is not.
	c := call{dir: l.dir, limit: cold, wrap: []string{"setpriv", "--securebits=+noroot", "--inh-caps=-all"}}
	up := func(want ...string) {
		t.Helper()
		o := l.try(t, c, "up", "--offline")
		for _, w := range want {
			if o.status != 1 || !strings.Contains(o.err, w) {
				t.Errorf("%q is not in: %v", w, o)
			}
		}
		if len(want) == 0 && o.status != 0 {
			t.Fatal(o)
		}
	}
	up("CAP_NET_ADMIN", "setcap cap_net_admin", "qemu-bridge-helper", "ip tuntap add dev tap0 mode tap user")
	if out := l.do("ps"); !strings.Contains(out, "no lab is up") {
		t.Error(out)
	}
	host.same(t, before)
	l.file(small + "networks: {lan: {subnet: 10.7.0.0/24, uplink: {bridge: br0}}}\nmachines: {anna: {networks: [lan]}}\n")
	up("bridge br0", "bridge.conf")
	host.same(t, before)
	l.file(small + "networks: {lan: {subnet: 10.7.0.0/24, uplink: {tap: mien, given: true}}}\nmachines: {anna: {networks: [lan]}}\n")
	up("there is no tap mien")
	l.file(small + "networks: {lan: {subnet: 10.7.0.0/24, uplink: {tap: mine, given: true, address: 10.7.0.1}}}\nmachines: {anna: {networks: [lan]}}\n")
	up()
	if routes := l.in("anna", "ping -c 1 -W 5 10.7.0.1 >/dev/null; ip route"); !strings.Contains(routes, "default via 10.7.0.1") {
		t.Error(routes)
	}
	host.kill(t, l)
	l.do("down")
	if now := host.sh(t, "ip -o addr show mine"); !strings.Contains(now, "10.7.0.1/24") {
		t.Errorf("the tap has %s", now)
	}

	host.sh(t, "mkdir /etc/qemu; echo allow br0 >/etc/qemu/bridge.conf")
	before = host.snapshot(t)
	l.file(small + "networks: {lan: {uplink: {bridge: br0}}}\nmachines: {anna: {networks: [lan]}}\n")
	up()
	if addr := l.in("anna", "until ip -4 -o addr show eth0 | grep inet; do sleep 0.1; done; ping -c 1 -W 5 203.0.113.7 >/dev/null"); !strings.Contains(addr, " 10.9.0.1") {
		t.Errorf("anna has %s", addr)
	}
	if links := host.sh(t, "ip link show type tun"); !strings.Contains(links, "master br0") {
		t.Errorf("no tap is in the bridge: %s", links)
	}
	// The tap goes with whoever has it, whose end nobody has to undo.
	host.kill(t, l)
	if o := l.try(t, c, "down"); o.status != 0 {
		t.Error(o)
	}
	host.same(t, before)
}
