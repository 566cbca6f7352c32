package rootfs_test

import (
	"bytes"
	"crypto/ed25519"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/image/ext4"
	. "wolffia/internal/rootfs"
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
