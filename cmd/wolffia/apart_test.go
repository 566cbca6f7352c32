package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// apart is a host of a person's own, as far as networks and processes go: they
// are root of it, which nobody else notices. It has an uplink, eth0, to the
// namespace out, where there is a router for it, and an address far beyond that.
type apart struct {
	*person
	pid int // of its first process, as seen from outside
}

// worldScript makes the network of a host.
const worldScript = `
mount -t tmpfs run /run
mkdir /run/netns
ip link set lo up
ip netns add out
out="ip netns exec out"
ip link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 netns out address 02:00:00:00:00:02
$out ip link set lo up
$out ip addr add 10.9.0.1/24 dev eth0
$out ip addr add fd09::1/64 dev eth0 nodad
$out ip link set eth0 up
$out ip addr add 203.0.113.7/32 dev lo
$out ip addr add 2001:db8::7/128 dev lo
ip addr add 10.9.0.2/24 dev eth0
ip addr add fd09::2/64 dev eth0 nodad
ip link set eth0 up
ip route add default via 10.9.0.1 proto static metric 100
ip -6 route add default via fd09::1
until ip -6 addr show dev eth0 scope link | grep -q . && ! ip -6 addr show tentative | grep -q .; do sleep 0.05; done
echo there
cat
`

// tunScript runs a program where everybody may make taps.
const tunScript = `
mount -t tmpfs tun /mnt
mknod -m 0666 /mnt/tun c 10 200
mount --bind /mnt/tun /dev/net/tun
exec "$0" "$@"
`

// newHost makes a host for the person, which all that they run from then on runs
// on. It ends with the test, and everything on it.
func newHost(t *testing.T, p *person) *apart {
	t.Helper()
	for tool, pkg := range map[string]string{
		"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2", "nft": "nftables",
		"ping": "iputils-ping", "dumpcap": "wireshark-common", "busybox": "busybox",
	} {
		tooltest.Require(t, tool, pkg)
	}
	argv := []string{"unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--", "sh", "-ec", worldScript}
	who := *p
	if os.Getuid() == 0 { // /dev/net/tun may be root's alone
		uid := fmt.Sprint(p.uid)
		argv = append([]string{"unshare", "--mount", "sh", "-ec", tunScript, "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"}, argv...)
		who.uid = 0
	}
	cmd := who.command(context.Background(), call{program: argv[0]}, argv[1:]...)
	cmd.Env = append(cmd.Env, sbin())
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := &transcript{}
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = said, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the host: %v: %s", err, &errs)
		}
	})
	said.expect(t, "there\n")
	first, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	a := &apart{person: p}
	if _, err := fmt.Sscan(string(first), &a.pid); err != nil {
		t.Fatalf("the host's first process: %q: %v", first, err)
	}
	p.at = a
	return a
}

// sbin is PATH with the folders that an ordinary user's may lack.
func sbin() string { return "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin" }

// enter is the beginning of a command line that runs there.
func (a *apart) enter(dir string) []string {
	return []string{"nsenter", fmt.Sprintf("--target=%d", a.pid), "--user", "--net", "--mount", "--pid", "--preserve-credentials", "--",
		"sh", "-c", `cd "$0" && exec "$@"`, dir}
}

// sh runs a script on the host, which has to succeed.
func (a *apart) sh(t testing.TB, script string) string {
	t.Helper()
	return a.run(t, call{program: "sh", env: []string{sbin()}}, "-ec", script).out
}

// out runs a script on the other end of the uplink.
func (a *apart) out(t testing.TB, script string) string {
	t.Helper()
	return a.run(t, call{program: "ip", env: []string{sbin()}}, "netns", "exec", "out", "sh", "-ec", script).out
}

// serve starts a program on the other end of the uplink, which runs until the
// host ends. What it says goes to a file of that name.
func (a *apart) serve(t testing.TB, log, command string) string {
	t.Helper()
	file := filepath.Join(a.home, log)
	a.out(t, fmt.Sprintf("exec setsid %s >%s 2>&1 </dev/null &", command, file))
	return file
}

// snapshotScript prints all that no lab may change for good.
const snapshotScript = `
for c in "-d link" addr "route show table all" "-6 route show table all" rule "-6 rule" "neigh show proxy" "-6 neigh show proxy" "neigh show nud permanent"; do
	echo "== ip $c"
	ip $c
done
echo "== bridge vlan"
bridge vlan
echo "== bridge fdb"
bridge fdb | sed -n '/permanent/p' | sort
echo "== tc qdisc"
tc qdisc
echo "== nft"
nft list ruleset
echo "== sysctl"
cd /proc/sys/net
find ipv4 ipv6 bridge -type f -readable 2>/dev/null | sort | while read f; do echo "$f = $(cat $f 2>/dev/null)"; done
`

// volatile are values of ip's that change by themselves.
var volatile = regexp.MustCompile(`(\w*_timer|expires|valid_lft|preferred_lft) +[\d.]+ *`)

// snapshot is all that no lab may change for good.
func (a *apart) snapshot(t testing.TB) string {
	t.Helper()
	return volatile.ReplaceAllString(a.sh(t, snapshotScript), "$1 ")
}

// same waits until the host is as it was; IPv6 takes its time.
func (a *apart) same(t testing.TB, before string) {
	t.Helper()
	var now string
	defer func() {
		if t.Failed() {
			t.Logf("the host is not as it was:\n%s", difference(before, now))
		}
	}()
	eventually(t, patience, "the host is as it was", func() bool {
		now = a.snapshot(t)
		return now == before
	})
}

// difference gives the lines that only one of two texts has.
func difference(a, b string) string {
	var out strings.Builder
	for _, side := range []struct{ sign, of, not string }{{"-", a, b}, {"+", b, a}} {
		not := map[string]bool{}
		for line := range strings.Lines(side.not) {
			not[line] = true
		}
		for line := range strings.Lines(side.of) {
			if !not[line] {
				io.WriteString(&out, side.sign+line)
			}
		}
	}
	return out.String()
}

// reaches waits until an address answers; the first packets may get lost while
// bridges and neighbours learn. from is the beginning of a command.
func (a *apart) reaches(t testing.TB, from, to string) {
	t.Helper()
	a.sh(t, fmt.Sprintf("i=0; until %s ping -n -c 1 -W 1 %s; do i=$((i+1)); test $i -lt 20; done", from, to))
}
