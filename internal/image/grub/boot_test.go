package grub_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"wolffia/internal/image/boottest"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/grub"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cmdline has what GRUB could spoil.
const cmdline = `console=tty0 console=ttyS0 quiet wolffia.a="two words" wolffia.b=$x;{y}|&<>#* "wolffia.c=more words" panic=-1`

// root is a file system with a menu, a kernel and an initial RAM disk.
func root(t *testing.T, sys boottest.System, o ext4.Options) string {
	t.Helper()
	r := tree.New()
	must(t, r.MkdirAll("/boot/grub", 0o755))
	must(t, r.Put("/boot/it's a kernel", tree.File(0o644, sys.Kernel)))
	must(t, r.Put("/boot/initrd", tree.File(0o644, sys.Initrd)))
	menu, err := grub.Menu{Entries: []grub.Entry{{
		Title: "Kernel's $title", Kernel: "/boot/it's a kernel", Initrd: []string{"/boot/initrd"}, Cmdline: cmdline,
	}}}.Text()
	must(t, err)
	must(t, r.Put(grub.MenuPath, tree.File(0o644, tree.Bytes(menu))))
	name := t.TempDir() + "/root.img"
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	must(t, ext4.Write(f, r, o))
	return name
}

// disk puts a file system into a disk with room for GRUB before it.
func disk(t *testing.T, table, fs string, boot *grub.Loader) string {
	t.Helper()
	sfdisk := tooltest.Require(t, "sfdisk", "fdisk")
	content, err := os.ReadFile(fs)
	must(t, err)
	// The file system begins at 2 MiB; GRUB lies in the gap, or in a partition
	// that is not the first.
	const start = 4096
	layout, core := "label: dos\n4096,,L,*\n", uint64(1)
	if table == "gpt" {
		layout, core = fmt.Sprintf("label: gpt\nstart=4096,size=%d,type=linux\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\n", len(content)/512), 2048
	}
	name := t.TempDir() + "/disk.img"
	must(t, os.WriteFile(name, nil, 0o644))
	must(t, os.Truncate(name, start*512+int64(len(content))+1<<20))
	cmd := exec.Command(sfdisk, "--quiet", name)
	cmd.Stdin = strings.NewReader(layout)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for off, b := range map[int64][]byte{0: boot.BootCode(core), int64(core) * 512: boot.Core(core), start * 512: content} {
		_, err := f.WriteAt(b, off)
		must(t, err)
	}
	return name
}

// run boots a disk in a plain QEMU with SeaBIOS.
func run(t *testing.T, mark, image string) string {
	t.Helper()
	return boottest.Run(t, mark, tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86"), "-m", "512", "-display", "none",
		"-serial", "stdio", "-monitor", "none", "-net", "none", "-no-reboot", "-drive", "format=raw,file="+image)
}

// QEMU boots from all file systems of ours, through both
// partition tables, with GRUB 2.06 and 2.12, and finds the menu in each way.
func TestBoot(t *testing.T) {
	uuid := [16]byte{0x0b, 0x5a, 0x0f, 0x1c, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	hexed := hex.EncodeToString(uuid[:])
	byUUID := grub.Options{UUID: strings.Join([]string{hexed[:8], hexed[8:12], hexed[12:16], hexed[16:20], hexed[20:]}, "-")}
	for _, c := range []struct {
		suite, table string
		grub         grub.Options
		fs           ext4.Options
	}{
		{"bookworm", "dos", grub.Options{Partition: "msdos1"}, ext4.Options{Type: ext4.Ext4}},
		{"bookworm", "gpt", byUUID, ext4.Options{Type: ext4.Ext3, UUID: uuid}},
		{"trixie", "dos", byUUID, ext4.Options{Type: ext4.Ext2, BlockSize: 1024, UUID: uuid}},
		{"trixie", "gpt", grub.Options{Partition: "gpt1"}, ext4.Options{Type: ext4.Ext4, Checksums: true}},
		{"trixie", "gpt", grub.Options{Label: "a root"}, ext4.Options{Type: ext4.Ext4, Label: "a root"}},
	} {
		t.Run(fmt.Sprintf("%s/%s/%s", c.suite, c.table, c.fs.Type), func(t *testing.T) {
			boot, err := grub.New(pkg(t, c.suite), c.grub)
			must(t, err)
			t.Logf("core image of %d bytes", boot.Size())
			image := disk(t, c.table, root(t, boottest.NewSystem(t, c.suite, "amd64"), c.fs), boot)
			got := run(t, boottest.Marker, image)
			want := `x86_64 BOOT_IMAGE="/boot/it\'s a kernel" console=tty0 console=ttyS0 quiet "wolffia.a=two words" wolffia.b=$x;{y}|&<>#* "wolffia.c=more words" panic=-1`
			if got != want {
				t.Errorf("it says\n%s, not\n%s", got, want)
			}
		})
	}
}

// A disk without the menu says on the serial port why it does not boot.
func TestNothingToBoot(t *testing.T) {
	boot, err := grub.New(pkg(t, "bookworm"), grub.Options{UUID: "1234-ABCD"})
	must(t, err)
	name := t.TempDir() + "/root.img"
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	must(t, ext4.Write(f, tree.New(), ext4.Options{}))
	run(t, "error: no such device: 1234-ABCD.", disk(t, "dos", name, boot))
}
