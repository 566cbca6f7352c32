package hostnet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/tooltest"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// inside names the test that a process was started for in namespaces of its
// own; owner is what a process does that is killed.
const (
	inside = "WOLFFIA_TEST_INSIDE"
	owner  = "WOLFFIA_TEST_OWNER"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(owner); what != "" {
		if err := ownAndDie(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// apart runs the rest of the test as root of a user namespace, with a network
// of its own, a /proc to match and an empty /run. It reports whether this is
// that process; the other one has nothing left to do.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		must(t, unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
		must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		run(t, "ip link set lo up")
		return true
	}
	tooltest.Require(t, "ip", "iproute2")
	tooltest.Require(t, "nft", "nftables")
	tooltest.Require(t, "nsenter", "util-linux")
	tooltest.Require(t, "ping", "iputils-ping")
	tooltest.Require(t, "sysctl", "procps")
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"="+t.Name(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		tooltest.Missing(t, "%s", out)
	case testing.Verbose():
		t.Logf("%s", out)
	}
	return false
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run has a shell do something in the network namespace of the thread.
func run(t testing.TB, command string, args ...any) string {
	t.Helper()
	out, err := try(command, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(command string, args ...any) (string, error) {
	if len(args) > 0 {
		command = fmt.Sprintf(command, args...)
	}
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return string(out), nil
}

// in is the beginning of a command that runs in a namespace made by [netns].
func in(name string) string { return "nsenter --net=/run/netns/" + name + " " }

func netns(t testing.TB, name string) {
	t.Helper()
	run(t, "ip netns add %s && %s ip link set lo up", name, in(name))
}

// enter has fn run in another network namespace.
func enter(t testing.TB, name string, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(back)
	there, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(there)
	must(t, unix.Setns(there, unix.CLONE_NEWNET))
	defer func() { must(t, unix.Setns(back, unix.CLONE_NEWNET)) }()
	fn()
}

// uplinkMAC is that of the host's uplink, so that two worlds are the same.
const uplinkMAC = "02:00:00:00:00:01"

// world gives the namespace of the thread an uplink, eth0, to the namespace
// out, where there is a router for it and a host beyond that.
func world(t testing.TB, out string) {
	t.Helper()
	netns(t, out)
	run(t, "ip link add eth0 address "+uplinkMAC+" type veth peer name eth0 netns "+out+" address 02:00:00:00:00:02")
	run(t, in(out)+"ip addr add 10.9.0.1/24 dev eth0; "+in(out)+"ip addr add fd09::1/64 dev eth0 nodad; "+in(out)+"ip link set eth0 up")
	// Far away, and reached by the default route only.
	run(t, in(out)+"ip addr add 203.0.113.7/32 dev lo; "+in(out)+"ip addr add 2001:db8::7/128 dev lo")
	run(t, "ip addr add 10.9.0.2/24 brd + dev eth0; ip addr add 10.9.0.22/24 brd + dev eth0; ip addr add fd09::2/64 dev eth0 nodad; ip link set eth0 up")
	run(t, "ip route add default via 10.9.0.1 proto static metric 100 mtu 1480; ip -6 route add default via fd09::1")
	run(t, "ip route add 198.51.100.0/24 via 10.9.0.1 dev eth0 table 77 onlink; ip route add blackhole 192.0.2.0/24")
	settled(t)
}

// settled waits until no IPv6 address is tentative, and the uplink and others have
// their own.
func settled(t testing.TB, others ...string) {
	t.Helper()
	eventually(t, func() error {
		if s := run(t, "ip -6 addr show tentative"); s != "" {
			return fmt.Errorf("tentative addresses:\n%s", s)
		}
		for _, link := range append([]string{"eth0"}, others...) {
			if s := run(t, "ip -6 addr show dev %s scope link", link); s == "" {
				return fmt.Errorf("%s has no link-local address yet", link)
			}
		}
		return nil
	})
}

// eventually tries until fn has no error, for a bounded time.
func eventually(t testing.TB, fn func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = fn(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// snapshot is all that may not change, as the tools and /proc show it.
func snapshot(t testing.TB) string {
	t.Helper()
	var out strings.Builder
	for _, c := range []string{
		"ip -j -d link", "ip -j addr", "ip -j route show table all", "ip -j -6 route show table all",
		"ip -j rule", "ip -j -6 rule", "ip -j neigh show proxy", "ip -6 -j neigh show proxy", "ip -j neigh show nud permanent",
	} {
		fmt.Fprintf(&out, "%s:\n%s\n", c, pretty(t, run(t, c)))
	}
	fmt.Fprintf(&out, "nft:\n%s\n", run(t, "nft list ruleset"))
	for _, dir := range []string{"ipv4", "ipv6", "bridge"} {
		_ = filepath.WalkDir("/proc/sys/net/"+dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				v, err := os.ReadFile(path)
				if err == nil {
					fmt.Fprintf(&out, "%s = %s\n", path, bytes.TrimSpace(v))
				}
			}
			return nil
		})
	}
	return out.String()
}

// volatile are values of ip's that change by themselves.
var volatile = regexp.MustCompile(`"(\w*_timer|expires|valid_life_time|preferred_life_time|last_used)":[^,}]*`)

// pretty writes JSON a value to a line, so that a difference is small.
func pretty(t testing.TB, s string) string {
	t.Helper()
	if !strings.HasPrefix(s, "[") {
		return s
	}
	var b bytes.Buffer
	must(t, json.Indent(&b, []byte(volatile.ReplaceAllString(s, `"$1":0`)), "", " "))
	return b.String()
}

// same waits until the host is as it was; IPv6 takes its time.
func same(t testing.TB, before string) {
	t.Helper()
	eventually(t, func() error {
		if now := snapshot(t); now != before {
			return fmt.Errorf("the host is not as it was:\n%s", difference(before, now))
		}
		return nil
	})
}

// difference gives the lines that only one of two texts has.
func difference(a, b string) string {
	dir, err := os.MkdirTemp("", "difference")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	os.WriteFile(dir+"/a", []byte(a), 0o600)
	os.WriteFile(dir+"/b", []byte(b), 0o600)
	out, _ := exec.Command("diff", "-U6", dir+"/a", dir+"/b").CombinedOutput()
	return string(out)
}

// guest is a namespace whose eth0 is on the same switch as a tap of the host.
func guest(t testing.TB, name string, sw *vnet.Switch, addr, via string) {
	t.Helper()
	guestOn(t, name, sw, vnet.VLAN{}, addr, via)
}

// guestOn is guest with a port of the switch that is on a VLAN.
func guestOn(t testing.TB, name string, sw *vnet.Switch, vlan vnet.VLAN, addr, via string) {
	t.Helper()
	netns(t, name)
	var tap *wire.Tap
	enter(t, name, func() {
		var err error
		tap, err = wire.OpenTap(wire.TapOptions{Name: "eth0", VNetHdr: true})
		must(t, err)
	})
	_, err := sw.Attach(tap, vnet.PortOptions{Name: name, VLAN: vlan})
	must(t, err)
	if addr != "" {
		run(t, "%s ip addr add %s dev eth0 nodad", in(name), addr)
	}
	run(t, "%s ip link set eth0 up", in(name))
	if via != "" {
		run(t, "%s ip route add default via %s dev eth0 onlink", in(name), via)
	}
}

// network is a switch with the host's tap on it.
func network(t testing.TB, l *Live, tap string) *vnet.Switch {
	t.Helper()
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	t.Cleanup(func() { sw.Close() })
	_, err := sw.Attach(l.Tap(tap), vnet.PortOptions{Name: "host"})
	must(t, err)
	return sw
}

// reaches waits until an address answers. The first packets may get lost while
// bridges and neighbours learn.
func reaches(t testing.TB, from, to string) {
	t.Helper()
	eventually(t, func() error {
		_, err := try("%s ping -n -c 1 -W 1 %s", from, to)
		return err
	})
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func options(t testing.TB) Options {
	return Options{Journal: filepath.Join(t.TempDir(), "hostnet.journal")}
}
