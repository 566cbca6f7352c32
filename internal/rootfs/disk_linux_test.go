package rootfs_test

import (
	"bytes"
	"crypto/ed25519"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/ext4"
	. "wolffia/internal/rootfs"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// disk writes an image as an ext4 of its own.
func disk(t testing.TB, image *tree.Tree, label string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "root.img"))
	must(t, err)
	must(t, ext4.Write(f, image, ext4.Options{Free: 8 << 20, Label: label, Time: released}))
	must(t, f.Close())
	return f.Name()
}

// onDisk reads a disk back, after the machine has stopped.
func onDisk(t testing.TB, name string) *tree.Tree {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	must(t, err)
	fs, err := ext4.Open(f, info.Size())
	must(t, err)
	if !fs.Info().Clean {
		t.Error("the file system was not unmounted")
	}
	got, err := fs.Tree(ext4.TreeOptions{})
	must(t, err)
	return got
}

// TestBootRoot boots a machine of wolffia's whose root is a disk: the host
// gets in as it does elsewhere, and nothing of the identity is on the disk
// afterwards.
func TestBootRoot(t *testing.T) {
	base := packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin")
	image := build(t, base, Recipe{
		Files: []File{
			{Path: "/etc/test.key", Content: string(DropbearKey(testKey(1))), Mode: 0o600},
			service("check", `
echo "CHECK host $(hostname) $(grep -c alice /etc/hosts) $(cat /etc/hostname)"
echo "CHECK root $(readlink /dev/root) $(grep ' / ' /proc/mounts | cut -d' ' -f3,4 | cut -d, -f1)"
echo "CHECK mounts $(cut -d' ' -f2 /proc/mounts | tr '\n' ' ')"
echo "CHECK hidden $(ls -ld /run/wolffia/identity | cut -c1-10)"
while ! p=$(pidof nc); do usleep 10000; done
nsenter -t $p -n ip link set lo up
export HOME=/tmp
until nsenter -t $p -n dbclient -y -y -i /etc/test.key root@169.254.77.2 'echo "CHECK ssh $(id -un) $(tty)"; exit 7' 2>/tmp/said; [ $? = 7 ]; do usleep 100000; done
echo "CHECK status 7"
touch /root/lasting /tmp/passing /run/passing
`)},
		Services: []string{"check"},
	})
	initrd, err := Initrd(base, InitrdOptions{Root: "LABEL=pond", Time: released})
	must(t, err)
	name := disk(t, image, "pond")
	id := identity(t)
	id.NICs = []NIC{{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DHCP: true}}
	g := bootWith(t, initrd, id, []string{"ubd1=" + name, "root=LABEL=pond"}, []step{{"# ", "echo CHECK shell $USER $HOME $(tty)\nexit\n"}}, router{ip: "10.0.2.15"})
	t.Log(g)
	g.saw(t, "CHECK host alice 1 wolffia", "CHECK root /dev/ubdb ext4 rw",
		"CHECK mounts /dev /proc /sys / /run /dev/pts /tmp /dev/shm", "CHECK hidden drwx------", "CHECK ssh root not a tty", "CHECK status 7", "CHECK shell root /root /dev/tty0")
	for _, want := range []string{"stage root", "access", "stage services", "ready"} {
		if !slices.Contains(g.status, want) {
			t.Errorf("no status line %q", want)
		}
	}
	got := onDisk(t, name)
	if got.Get("/root/lasting") == nil || got.Get("/tmp/passing") != nil || got.Get("/run/passing") != nil || got.Get("/run/wolffia/up") != nil {
		t.Error("what should last does not, or the other way round")
	}
	for _, secret := range [][]byte{testKey(2).Public().(ed25519.PublicKey), []byte(strings.Fields(id.AuthorizedKeys[0])[1])} {
		b, err := os.ReadFile(name)
		must(t, err)
		if bytes.Contains(b, secret) {
			t.Error("a key of the identity is on the disk")
		}
	}
	if r := text(t, got, "/etc/resolv.conf"); r != "" && !strings.Contains(r, "10.0.2.3") {
		t.Errorf("resolv.conf %q", r)
	}
}

// alone boots a disk by itself, as a computer would: with the initrd but no
// identity, and busybox's init.
func alone(t *testing.T, base *tree.Tree, name string, o InitrdOptions, steps []step, cards ...router) *guest {
	t.Helper()
	initrd, err := Initrd(base, o)
	must(t, err)
	id := IdentityConfig{}
	for i := range cards {
		id.NICs = append(id.NICs, NIC{MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}})
	}
	return bootWith(t, initrd, id, []string{"ubd1=" + name, "root=" + o.Root, "init=/sbin/init", "console=tty0"}, steps, cards...)
}

// TestBootDisk boots a disk by itself, twice: the password counts, a lease's
// name servers go with the lease, whatever becomes of the machine, devices get
// their owners, and what is written lasts.
func TestBootDisk(t *testing.T) {
	base := packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin")
	image := build(t, base, Recipe{
		Arch: "amd64", Hostname: "pond", Services: []string{"dropbear"},
		Users: []User{{Name: "root", Password: "secret"}},
		Files: []File{{Path: "/etc/resolv.conf", Content: "nameserver 192.0.2.53\n"}},
	})
	name := disk(t, image, "pond")
	login := func(typed string) []step {
		return []step{{"login: ", "root\n"}, {"assword: ", "secret\n"}, {"# ", typed}}
	}
	o := InitrdOptions{Root: "LABEL=pond", Write: true, Time: released}
	g := alone(t, base, name, o, login(`
tries=0; until [ -s /run/wolffia/dns.vec0 ] || [ $tries = 100 ]; do usleep 50000; tries=$((tries + 1)); done
echo CHECK $(hostname) $(tty) $(ip -4 -o addr show dev vec0 | tr -s ' ' | cut -d' ' -f4) $(tr '\n' ' ' </etc/resolv.conf)
chmod 600 /dev/full; echo add >/sys/class/mem/full/uevent
tries=0; until [ "$(stat -c %a /dev/full)" = 666 ] || [ $tries = 100 ]; do usleep 50000; tries=$((tries + 1)); done
echo CHECK full $(stat -c %a /dev/full) $(stat -c %G%a /dev/ubdb) $(pidof mdev | wc -w)
echo CHECK keys $(ls /etc/dropbear | wc -l) $(cat /etc/hostname)
echo lasting >/root/here; sync; reboot -f
`), router{ip: "10.0.2.15"})
	t.Log(g)
	g.saw(t, "CHECK pond /dev/tty0 10.0.2.15/24 search lab.test nameserver 10.0.2.3 nameserver 10.0.2.4", "CHECK full 666 disk660 1", "CHECK keys 0 pond")
	if !g.exit.Reboot {
		t.Errorf("the restart is none: %+v", g.exit)
	}

	// This time nobody answers, and the end is a clean one.
	g = alone(t, base, name, o, login(`
echo CHECK $(cat /root/here) $(tr '\n' ' ' </etc/resolv.conf) $(grep -c pond /etc/hosts)
poweroff
`), router{mute: true})
	t.Log(g)
	g.saw(t, "CHECK lasting nameserver 192.0.2.53 1")
	onDisk(t, name)
}

// TestBootInterfaces has static addresses of both kinds in
// /etc/network/interfaces, on a disk whose init is a single script.
func TestBootInterfaces(t *testing.T) {
	base := packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin")
	image := build(t, base, Recipe{
		Init: InitScript, Users: []User{{Name: "root", Password: "secret"}},
		Files: []File{{Path: "/etc/network/interfaces", Content: `auto lo vec0 vec1
iface lo inet loopback
iface vec0 inet static
	address 10.9.0.5
	netmask 255.255.255.0
	gateway 10.9.0.1
iface vec0 inet6 static
	address fd09::5
	netmask 64
iface vec1 inet dhcp
`}},
	})
	name := disk(t, image, "pond")
	steps := []step{{"login: ", "root\n"}, {"assword: ", "secret\n"}, {"# ", `
echo CHECK v4 $(ip -4 -o addr show dev vec0 | tr -s ' ' | cut -d' ' -f4) $(ip route | grep -m1 ^default)
echo CHECK v6 $(ip -6 -o addr show dev vec0 scope global | tr -s ' ' | cut -d' ' -f4)
echo CHECK dhcp $(ip -4 -o addr show dev vec1 | tr -s ' ' | cut -d' ' -f4) $(tr '\n' ' ' </etc/resolv.conf)
ifdown vec1; echo CHECK down $(ip -4 -o addr show dev vec1 | wc -l) $(wc -c </etc/resolv.conf)
grep SigIgn /proc/self/status
echo CHECK first $(cat /proc/1/cmdline | tr '\0' ' ')
exit
`}, {"login: ", "root\n"}, {"assword: ", "secret\n"}, {"# ", "poweroff\n"}}
	g := alone(t, base, name, InitrdOptions{Root: "LABEL=pond", Time: released}, steps, router{mute: true}, router{ip: "10.0.2.15"})
	t.Log(g)
	for _, bad := range []string{"Terminated", "Killed", "File exists", "wolffia:  "} {
		if strings.Contains(g.console, bad) {
			t.Errorf("the console shows %q", bad)
		}
	}
	g.saw(t, "CHECK v4 10.9.0.5/24 default via 10.9.0.1 dev vec0", "CHECK v6 fd09::5/64",
		"CHECK dhcp 10.0.2.15/24 search lab.test nameserver 10.0.2.3 nameserver 10.0.2.4", "CHECK down 0 0", "SigIgn:\t0000000000000000", "CHECK first /bin/sh /sbin/init")
	onDisk(t, name)
}

// partitioned puts a file system into the second partition of a disk, after
// a table that sfdisk writes.
func partitioned(t *testing.T, filesystem, table string) string {
	t.Helper()
	sfdisk := tooltest.Require(t, "sfdisk", "fdisk")
	content, err := os.ReadFile(filesystem)
	must(t, err)
	name := filepath.Join(t.TempDir(), "disk.img")
	must(t, os.WriteFile(name, nil, 0o600))
	const start = 4 << 20
	must(t, os.Truncate(name, start+int64(len(content))+(1<<20)))
	cmd := exec.Command(sfdisk, "-q", name)
	cmd.Stdin = strings.NewReader(table + "\nstart=2048,size=2048\n" + strings.Replace(second, "SIZE", strconv.Itoa(len(content)>>9), 1))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	if strings.Contains(table, "gpt") {
		out, err := exec.Command(sfdisk, "-q", "--part-uuid", name, "2", "1B2C3D4E-5F60-7182-93A4-B5C6D7E8F901").CombinedOutput()
		if err == nil {
			out, err = exec.Command(sfdisk, "-q", "--part-label", name, "2", "the root").CombinedOutput()
		}
		if err != nil {
			t.Fatalf("sfdisk: %v\n%s", err, out)
		}
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(content, start)
	must(t, err)
	return name
}

const second = "start=8192,size=SIZE\n"

// TestInitrdFinds the root by each of its names.
func TestInitrdFinds(t *testing.T) {
	base := packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin")
	image := tree.New()
	for _, dir := range []string{"/sbin", "/proc", "/sys", "/dev", "/run"} {
		must(t, image.MkdirAll(dir, 0o755))
	}
	where, _, err := Applets(base)
	must(t, err)
	must(t, image.Put("/busybox", tree.File(0o755, base.Get(where).Content)))
	must(t, image.Put("/sbin/init", tree.File(0o755, tree.Bytes("#!/busybox sh\n/busybox cat /run/wolffia/root /init\n/busybox poweroff -f\n"))))
	must(t, image.Put("/init", tree.File(0o644, tree.Bytes("CHECK over\n"))))
	f, err := os.Create(filepath.Join(t.TempDir(), "root.img"))
	must(t, err)
	must(t, ext4.Write(f, image, ext4.Options{Label: "pond", Time: released, UUID: [16]byte{1, 2, 3}}))
	must(t, f.Close())
	mbr := partitioned(t, f.Name(), "label: dos\nlabel-id: 0x0badcafe")
	gpt := partitioned(t, f.Name(), "label: gpt")
	for _, c := range []struct{ root, disk, want string }{
		{"UUID=01020300-0000-0000-0000-000000000000", f.Name(), "/dev/ubdb"},
		{"/dev/ubdb2", mbr, "/dev/ubdb2"},
		{"LABEL=pond", gpt, "/dev/ubdb2"},
		{"PARTUUID=0badcafe-02", mbr, "/dev/ubdb2"},
		{"PARTUUID=1b2c3d4e-5f60-7182-93a4-b5c6d7e8f901", gpt, "/dev/ubdb2"},
		{"PARTUUID=1B2C3D4E-5F60-7182-93A4-B5C6D7E8F901", gpt, "/dev/ubdb2"},
		{"98:18", mbr, "/dev/ubdb2"},
	} {
		t.Run(c.root, func(t *testing.T) {
			g := alone(t, base, c.disk, InitrdOptions{Root: c.root, Time: released}, nil)
			g.saw(t, c.want, "CHECK over")
			if t.Failed() {
				t.Log(g)
			}
		})
	}
}

// TestInitrdFails says what it waited for and which disks there are, and ends
// in each of the three ways.
func TestInitrdFails(t *testing.T) {
	base := packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin")
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, make([]byte, 1<<20), 0o600))
	o := InitrdOptions{Root: "LABEL=nowhere", Wait: time.Second, Time: released}
	const report = "wolffia: no root file system: root=LABEL=nowhere did not appear within 1 s; the disks that are there: ubdb (1024 KiB)"

	g := alone(t, base, empty, o, []step{{"leave it to try again", "exit\n"}, {"leave it to try again", "poweroff -f\n"}})
	g.saw(t, report)
	if strings.Count(g.console, report) != 2 {
		t.Errorf("it was not tried again:\n%v", g)
	}

	o.Panic = time.Second
	g = alone(t, base, empty, o, nil)
	g.saw(t, report, "wolffia: restarting in 1 s")
	if !g.exit.Reboot {
		t.Errorf("no restart:\n%v", g)
	}

	initrd, err := Initrd(base, o)
	must(t, err)
	for root, want := range map[string]string{
		"/dev/ubdb": "error root can't mount the root file system /dev/ubdb: mounting /dev/ubdb on /sysroot failed: Invalid argument",
		"LABEL=no":  "error root no root file system: root=LABEL=no did not appear within 1 s; the disks that are there: ubdb (1024 KiB)",
		"ubdb":      "error root root=ubdb is none of LABEL=, UUID=, PARTUUID=, PARTLABEL= and /dev/...",
	} {
		g = bootWith(t, initrd, identity(t), []string{"ubd1=" + empty, "root=" + root}, nil)
		if !slices.Contains(g.status, want) {
			t.Errorf("root=%s gave\n%v", root, g)
		}
	}
}

func TestInitrdRefuses(t *testing.T) {
	base := packages(t, "trixie", "amd64", "busybox-static", "dropbear-bin")
	if _, err := Initrd(packages(t, "trixie", "amd64", "busybox"), InitrdOptions{}); err == nil || !strings.Contains(err.Error(), "package busybox-static: is needed") {
		t.Errorf("a busybox with libraries gave %v", err)
	}
	for _, o := range []InitrdOptions{
		{Root: "LABEL="}, {Root: "sda1"}, {Root: "/dev/sda rw"}, {Flags: "a b"}, {Modules: []string{"a.ko"}}, {Modules: []string{"/a\n/b"}},
	} {
		if _, err := Initrd(base, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
