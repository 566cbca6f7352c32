package rootfs_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "wolffia/internal/rootfs"
)

func route(to, via string) Route {
	r := Route{Via: netip.MustParseAddr(via)}
	if to != "" {
		r.To = netip.MustParsePrefix(to)
	}
	return r
}

func host(addr string, names ...string) Host { return Host{netip.MustParseAddr(addr), names} }

// TestBootRouter boots a machine between three networks: on one it has leases, on
// one its addresses are given, and on one it has none although a router
// advertises there. It forwards, knows ways and names besides, and has folders of
// the host, one of which does not exist.
func TestBootRouter(t *testing.T) {
	image := build(t, packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin"), Recipe{
		Files: []File{service("check", `
for c in eth0 eth1 eth2; do echo "CHECK $c $(ip -o addr show dev $c scope global | tr -s ' ' | cut -d' ' -f4 | tr '\n' ' ')"; done
echo "CHECK up $(cat /sys/class/net/eth2/carrier)"
ip route | while read l; do echo CHECK 4 $l; done
ip -6 route | grep -v ^fe80 | cut -d' ' -f1-5 | while read l; do echo CHECK 6 $l; done
cd /proc/sys/net
echo "CHECK forwarding $(cat ipv4/ip_forward ipv4/conf/eth1/forwarding ipv4/conf/all/rp_filter ipv6/conf/eth1/forwarding | tr '\n' ' ')"
grep -h . ipv6/conf/eth?/accept_ra | tr '\n' ' ' | sed 's/^/CHECK ra /'; echo
sed 's/^/CHECK hosts /' /etc/hosts
echo "CHECK shared $(cat /mnt/a/b/word)"; echo written >/mnt/a/b/back
kill -USR2 $(cat /run/udhcpc.eth0.pid); sleep 1; echo "CHECK released $(ip route | grep -c 10.1)"
kill -USR1 $(cat /run/udhcpc.eth0.pid); sleep 1; echo "CHECK renewed $(ip route | grep 10.1)"
`)},
		Services: []string{"check"},
	})
	folder := t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, "word"), []byte("hello\n"), 0o644))
	id := identity(t)
	id.V6, id.Forwarding = true, true
	id.Hosts = []Host{host("10.9.0.6", "bob.lan", "bob"), host("fd09::6", "bob.lan", "bob")}
	id.Mounts = []Mount{{What: "src", Type: "hostfs", To: "/mnt/a/b"}, {What: "gone", Type: "9p", To: "/mnt/c", Options: "trans=virtio", ReadOnly: true}}
	id.NICs = []NIC{
		{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DHCP: true,
			Routes: []Route{route("10.1.0.0/16", "10.0.2.9"), route("fd01::/64", "fd00:2::9"), route("10.3.0.0/16", "10.99.0.1")}},
		{Name: "eth1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
			Addrs:  []netip.Prefix{netip.MustParsePrefix("10.9.0.5/24"), netip.MustParsePrefix("fd09::5/64")},
			Routes: []Route{route("10.2.0.0/16", "10.9.0.1"), route("fd02::/64", "fd09::1"), route("10.4.0.0/16", "10.98.0.1")}},
		{Name: "eth2", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}},
	}
	advertising := router{ip: "10.0.2.15", prefix6: "fd00:2::"}
	g := bootWith(t, image, id, []string{"hostfs=" + folder}, []step{{"# ", "exit\n"}}, advertising, router{mute: true}, advertising)
	t.Log(g)
	g.saw(t, "CHECK eth0 10.0.2.15/24 fd00:2::ff:fe00:1/64", "CHECK eth1 10.9.0.5/24 fd09::5/64", "CHECK eth2", "CHECK up 1",
		"CHECK 4 default via 10.0.2.2 dev eth0", "CHECK 4 10.1.0.0/16 via 10.0.2.9 dev eth0", "CHECK 4 10.2.0.0/16 via 10.9.0.1 dev eth1",
		"CHECK 6 fd01::/64 via fd00:2::9 dev eth0", "CHECK 6 fd02::/64 via fd09::1 dev eth1",
		"CHECK forwarding 1 1 2 1", "CHECK ra 2 1 0",
		"CHECK hosts 127.0.1.1 alice", "CHECK hosts 10.9.0.6 bob.lan bob", "CHECK hosts fd09::6 bob.lan bob",
		"CHECK shared hello", "CHECK released 0", "CHECK renewed 10.1.0.0/16 via 10.0.2.9 dev eth0")
	for _, want := range []string{
		"error network no way to 10.3.0.0/16 by 10.99.0.1 over eth0", "error network no way to 10.4.0.0/16 by 10.98.0.1 over eth1",
		"error mounts can't mount gone on /mnt/c: mounting gone on /mnt/c failed: No such device", "ready",
	} {
		if !slices.Contains(g.status, want) {
			t.Errorf("no status line %q", want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(folder, "back")); string(b) != "written\n" {
		t.Errorf("the host sees %q, %v", b, err)
	}
}

// TestBootHosts boots the same disk in one lab after the other: each time
// /etc/hosts has the names of the present one, and what the person has written.
func TestBootHosts(t *testing.T) {
	base := packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin")
	image := build(t, base, Recipe{
		Files: []File{service("check", `
ip route | sed 's/^/CHECK /'; ip -6 route | cut -d' ' -f1-5 | sed 's/^/CHECK /'
sed 's/^/CHECK /' /etc/hosts; echo "CHECK lines $(wc -l </etc/hosts)"
echo "192.0.2.1 mine" >>/etc/hosts
`)},
		Services: []string{"check"},
	})
	initrd, err := Initrd(base, InitrdOptions{Root: "LABEL=pond", Time: released})
	must(t, err)
	name := disk(t, image, "pond")
	id := identity(t)
	id.NICs = []NIC{{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		Addrs:  []netip.Prefix{netip.MustParsePrefix("10.9.0.5/24"), netip.MustParsePrefix("fd09::5/64")},
		Routes: []Route{route("", "10.9.0.1"), route("", "fd09::1")}}}
	for _, c := range []struct {
		hosts []Host
		want  []string
	}{
		{[]Host{host("10.9.0.6", "bob"), host("10.9.0.7", "carol")}, []string{"10.9.0.6 bob", "10.9.0.7 carol", "lines 9"}},
		{[]Host{host("10.8.0.6", "bob")}, []string{"192.0.2.1 mine", "10.8.0.6 bob", "lines 9"}},
		{nil, []string{"192.0.2.1 mine", "127.0.1.1 alice", "lines 7"}},
	} {
		id.Hosts = c.hosts
		g := bootWith(t, initrd, id, []string{"ubd1=" + name, "root=LABEL=pond"}, []step{{"~# ", "exit\n"}}, router{mute: true})
		g.saw(t, "CHECK default via 10.9.0.1 dev eth0", "CHECK default via fd09::1 dev eth0")
		for _, want := range c.want {
			g.saw(t, "CHECK "+want)
		}
		if t.Failed() {
			t.Fatal(g)
		}
		if strings.Count(text(t, onDisk(t, name), "/etc/hosts"), "mine") == 0 {
			t.Error("what the person wrote is lost")
		}
	}
}
