package rootfs_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"wolffia/internal/image/cpio"
	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/machine/uml"
	. "wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// guest is one booted machine.
type guest struct {
	console string
	status  []string        // its lines
	at      []time.Duration // when each came, since the kernel's start
	end     time.Duration
	exit    machine.Exit
}

func (g *guest) String() string {
	var s strings.Builder
	for i, l := range g.status {
		fmt.Fprintf(&s, "%7.1f ms %s\n", float64(g.at[i].Microseconds())/1000, l)
	}
	fmt.Fprintf(&s, "%7.1f ms end, %+v\n", float64(g.end.Microseconds())/1000, g.exit)
	return s.String() + "console:\n" + g.console
}

// saw fails the test for each line that the console doesn't have.
func (g *guest) saw(t *testing.T, want ...string) {
	t.Helper()
	lines := strings.Split(strings.ReplaceAll(g.console, "\r", ""), "\n")
	for _, w := range want {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.TrimSpace(l) == w }) {
			t.Errorf("the console does not show %q", w)
		}
	}
}

// boot runs an image with an identity until it powers off, at most a minute.
// Every card is a router's.
func boot(t testing.TB, image *tree.Tree, id IdentityConfig, steps []step, cards ...router) *guest {
	t.Helper()
	return bootWith(t, image, id, nil, steps, cards...)
}

// bootWith is boot with further parameters of the kernel.
func bootWith(t testing.TB, image *tree.Tree, id IdentityConfig, cmdline []string, steps []step, cards ...router) *guest {
	t.Helper()
	f := machinetest.UML(t)
	dir := t.TempDir()
	parts := []*tree.Tree{image}
	if id.Hostname != "" { // else the image is started bare
		identity, err := Identity(id)
		must(t, err)
		parts = append(parts, identity)
	}
	spec := machine.Spec{Name: "alice", Arch: "amd64", Kernel: f.Kernel, Dir: dir, Cmdline: cmdline}
	for i, part := range parts {
		var b bytes.Buffer
		must(t, cpio.Write(&b, part, cpio.Options{}))
		name := filepath.Join(dir, fmt.Sprintf("part%d", i))
		must(t, os.WriteFile(name, b.Bytes(), 0o600))
		spec.Initramfs = append(spec.Initramfs, name)
	}
	for _, n := range id.NICs {
		spec.NICs = append(spec.NICs, machine.NIC{MAC: n.MAC})
	}
	if id.ControlMAC != nil {
		spec.NICs = append(spec.NICs, machine.NIC{MAC: id.ControlMAC})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	m, err := uml.Backend{}.Start(ctx, spec)
	must(t, err)
	g := &guest{}
	var all sync.WaitGroup
	for i, c := range cards {
		all.Go(func() { c.serve(m.Ports()[i]) })
	}
	all.Go(func() {
		for sc := bufio.NewScanner(m.Status()); sc.Scan(); {
			g.status = append(g.status, strings.TrimSpace(sc.Text()))
			g.at = append(g.at, time.Since(start))
		}
	})
	all.Go(func() { g.console = converse(m.Console(), steps) })
	g.exit = m.Wait()
	g.end = time.Since(start)
	all.Wait()
	if ctx.Err() != nil {
		t.Fatalf("the machine did not end\n%v", g)
	}
	if !g.exit.Clean {
		t.Errorf("the machine did not end cleanly: %+v", g.exit)
	}
	return g
}

// step is something to type once the console shows a text.
type step struct{ see, typed string }

// converse reads the console and takes the steps in turn.
func converse(c machine.Console, steps []step) string {
	var seen bytes.Buffer
	buf, from := make([]byte, 4096), 0
	for {
		n, err := c.Read(buf)
		seen.Write(buf[:n])
		for len(steps) > 0 {
			i := bytes.Index(seen.Bytes()[from:], []byte(steps[0].see))
			if i < 0 {
				break
			}
			from += i + len(steps[0].see)
			_, _ = io.WriteString(c, steps[0].typed)
			steps = steps[1:]
		}
		if err != nil {
			return seen.String()
		}
	}
}

func testKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func authorized(t testing.TB, k ed25519.PrivateKey) string {
	t.Helper()
	pub, err := ssh.NewPublicKey(k.Public())
	must(t, err)
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
}

// service is a script of the image that is run at boot.
func service(name, script string) File {
	return File{Path: "/etc/wolffia/services/" + name, Content: "#!/bin/sh\n" + script, Mode: 0o755}
}

var (
	controlMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	controlAddr = netip.MustParsePrefix("169.254.77.2/30")
)

// identity is that of a machine with a control link and a shell.
func identity(t testing.TB) IdentityConfig {
	g := uml.Backend{}.Guest("")
	return IdentityConfig{
		Hostname: "alice", Status: g.Status, Console: ConsoleSession, ConsoleDevice: g.Console,
		ControlMAC: controlMAC, ControlAddr: controlAddr, HostKey: testKey(2),
		AuthorizedKeys: []string{authorized(t, testKey(1))},
	}
}

func build(t testing.TB, base *tree.Tree, r Recipe) *tree.Tree {
	t.Helper()
	r.Time, r.Release = released, "trixie"
	if r.Packages == nil {
		r.Packages = []string{"busybox-static", "dropbear-bin"}
	}
	r.Deps = DepsELF
	image, rep, err := Build(r, base)
	must(t, err)
	if len(rep.Missing) > 0 {
		t.Errorf("missing: %v", rep.Missing)
	}
	return image
}

// TestBootControl boots without a network: the host gets in all the same, each
// session in the main namespace, and what it runs gives its status.
func TestBootControl(t *testing.T) {
	image := build(t, packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin"), Recipe{
		Files: []File{
			{Path: "/etc/test.key", Content: string(DropbearKey(testKey(1))), Mode: 0o600},
			service("check", `
echo "CHECK host $(hostname) $(grep -c alice /etc/hosts)"
echo "CHECK pub $(dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key | grep ^ssh- | cut -d' ' -f1,2)"
echo "CHECK mounts $(cut -d' ' -f2 /proc/mounts | tr '\n' ' ')"
echo "CHECK keys $(ls -ldL /root/.ssh /root/.ssh/authorized_keys | cut -c1-10 | tr '\n' ' ')"
while ! p=$(pidof nc); do usleep 10000; done
nsenter -t $p -n ip link set lo up
export HOME=/tmp
sleep 1
nsenter -t $p -n dbclient -y -y -i /etc/test.key root@169.254.77.2 \
	'echo "CHECK ssh $(id -un) $(cd /sys/class/net; echo *) $(grep -c : /proc/net/dev) fds $(ls /proc/self/fd | tr "\n" " ")"; grep SigIgn /proc/self/status; exit 7'
echo "CHECK status $?"
`)},
		Users:    []User{{Name: "bob", Password: "secret", Groups: []string{"dialout"}}},
		Services: []string{"check"},
	})
	g := boot(t, image, identity(t), []step{{"# ", "echo CHECK shell $USER $HOME $(tty)\nid bob\nexit\n"}})
	t.Log(g)
	g.saw(t, "CHECK host alice 1", "CHECK pub "+authorized(t, testKey(2)), "CHECK mounts / /dev /proc /sys /dev/pts", "CHECK keys drwx------ -rw-------",
		"CHECK ssh root lo 1 fds 0 1 2 3", "SigIgn:\t0000000000000000", "CHECK status 7", "CHECK shell root /root /dev/tty0",
		"uid=1000(bob) gid=1000(bob) groups=1000(bob),20(dialout)")
	for _, want := range []string{"stage mounts", "access", "stage network", "stage services", "ready"} {
		if !slices.Contains(g.status, want) {
			t.Errorf("no status line %q", want)
		}
	}
}

// TestBootNetwork boots with three cards: a lease and router advertisements, a
// static address, and a network where nobody answers.
func TestBootNetwork(t *testing.T) {
	image := build(t, packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin"), Recipe{
		Files: []File{
			{Path: "/etc/resolv.conf", Content: "nameserver 192.0.2.53\n"},
			service("check", `
echo "CHECK v4 $(ip -4 -o addr show dev eth0 | tr -s ' ' | cut -d' ' -f4) $(cat /sys/class/net/eth0/mtu)"
echo "CHECK v6 $(ip -6 -o addr show dev eth0 scope global | tr -s ' ' | cut -d' ' -f4)"
echo "CHECK static $(ip -o addr show dev eth1 | tr -s ' ' | cut -d' ' -f4 | tr '\n' ' ')"
ip route | while read l; do echo CHECK route $l; done
echo "CHECK resolv $(tr '\n' ' ' </etc/resolv.conf)"
kill -USR2 $(cat /run/udhcpc.eth0.pid)
sleep 1
echo "CHECK released $(ip -4 -o addr show dev eth0 | wc -l) $(tr '\n' ' ' </etc/resolv.conf)"
`)},
		Services: []string{"check", "dropbear"},
	})
	id := identity(t)
	id.V6 = true
	id.NICs = []NIC{
		{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DHCP: true},
		{Name: "eth1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
			Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.5/24"), netip.MustParsePrefix("fd09::5/64")}},
		{Name: "eth2", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}, DHCP: true},
	}
	g := boot(t, image, id, []step{{"# ", "poweroff\n"}}, router{ip: "10.0.2.15", prefix6: "fd00:2::"}, router{mute: true}, router{mute: true})
	t.Log(g)
	g.saw(t, "CHECK v4 10.0.2.15/24 1400", "CHECK v6 fd00:2::ff:fe00:1/64",
		"CHECK static 10.9.0.5/24 fd09::5/64 fe80::ff:fe00:2/64",
		"CHECK route default via 10.0.2.2 dev eth0", "CHECK route 10.0.2.0/24 dev eth0 scope link src 10.0.2.15",
		"CHECK resolv search lab.test nameserver 10.0.2.3 nameserver 10.0.2.4",
		"CHECK released 0 nameserver 192.0.2.53")
	if !slices.Contains(g.status, "error network no lease on eth2 within 5 s; still asking") {
		t.Error("nothing is said about eth2")
	}
}

// TestBootBare boots an image as another tool would: with nothing but itself.
// It asks for leases on every card and shows a login prompt, where the
// password counts.
func TestBootBare(t *testing.T) {
	image := build(t, packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin"), Recipe{
		Hostname: "solo",
		Users:    []User{{Name: "root", Password: "secret"}},
		Files: []File{service("check", `
tries=0
until [ -e /run/wolffia/lease.vec0 ] || [ $tries -gt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
echo "CHECK $(hostname) $(ip -4 -o addr show dev vec0 | tr -s ' ' | cut -d' ' -f4)"
`)},
		Services: []string{"check", "dropbear"},
	})
	id := IdentityConfig{NICs: []NIC{{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}}
	g := boot(t, image, id, []step{{"login: ", "root\n"}, {"assword: ", "secret\n"}, {"# ", "poweroff\n"}}, router{ip: "10.0.2.15"})
	t.Log(g)
	g.saw(t, "CHECK solo 10.0.2.15/24")
	if len(g.status) > 0 {
		t.Errorf("status %q without a device for it", g.status)
	}
}

// TestBootWithoutServer says what is missing. It ends as by Ctrl-Alt-Del.
func TestBootWithoutServer(t *testing.T) {
	image := build(t, packages(t, "trixie", "amd64", "busybox-static"), Recipe{Packages: []string{"busybox-static"}})
	g := boot(t, image, identity(t), []step{{"# ", "kill -INT 1\n"}})
	if want := "error access /usr/sbin/dropbear is not in the image; add dropbear-bin to its packages"; !slices.Contains(g.status, want) {
		t.Errorf("no status line %q in\n%v", want, g)
	}
}

// BenchmarkBoot reports when the default machine reaches each stage at best, in
// milliseconds after init's first word, and the end.
func BenchmarkBoot(b *testing.B) {
	image, _, err := Build(Recipe{
		Time: released, Release: "trixie", Packages: []string{"busybox-static", "dropbear-bin"}, Deps: DepsELF,
	}, packages(b, "trixie", "amd64", "busybox-static", "dropbear-bin"))
	must(b, err)
	id := identity(b)
	id.V6 = true
	id.NICs = []NIC{{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DHCP: true}}
	best := map[string]time.Duration{}
	for b.Loop() {
		g := boot(b, image, id, []step{{"# ", "exit\n"}}, router{ip: "10.0.2.15", prefix6: "fd00:2::"})
		now := map[string]time.Duration{"kernel": g.at[0], "end": g.end - g.at[0]}
		for i, line := range g.status[1:] {
			now[line] = g.at[i+1] - g.at[0]
		}
		for line, d := range now {
			if have, ok := best[line]; !ok || d < have {
				best[line] = d
			}
		}
	}
	for line, d := range best {
		b.ReportMetric(float64(d.Microseconds())/1000, strings.ReplaceAll(line, " ", "-")+"-ms")
	}
}
