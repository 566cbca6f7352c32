package ext4

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"wolffia/internal/image/cpio"
	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/machine/uml"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

func TestMain(m *testing.M) {
	keeper.Main() // a machine's process tree is kept by a second run of this program
	os.Exit(m.Run())
}

// inKernel boots a kernel with the image as /dev/ubdb and gives what init, a
// shell script, says on the console and writes to /dev/ubdc.
func inKernel(t *testing.T, image, init string) (said string, written []byte) {
	t.Helper()
	f := machinetest.UML(t)
	r := f.Root(t)
	for _, name := range []string{"cpio", "find", "umount", "touch", "rm", "mkdir", "mv", "ln", "sync"} {
		must(t, r.Put("/bin/"+name, tree.Symlink("busybox")))
	}
	must(t, r.Put("/mnt", tree.Dir(0o755)))
	script := "#!/bin/busybox sh\nexport PATH=/bin\nmount -t devtmpfs dev /dev\nmount -t proc proc /proc\n" + init + "\npoweroff -f\n"
	must(t, r.Put("/init", tree.File(0o755, tree.Bytes(script))))
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	must(t, os.WriteFile(out, nil, 0o600))
	must(t, os.Truncate(out, 64<<20))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m, err := uml.Backend{}.Start(ctx, machine.Spec{
		Name: "ext", Arch: "amd64", Kernel: f.Kernel, Dir: dir, Memory: 256 << 20,
		Initramfs: []string{machinetest.WriteInitramfs(t, r)}, Cmdline: []string{"ubd1=" + image, "ubd2=" + out},
	})
	must(t, err)
	console, err := io.ReadAll(m.Console())
	must(t, err)
	if exit := m.Wait(); !exit.Clean {
		t.Fatalf("the machine ended with %+v:\n%s", exit, console)
	}
	written, err = os.ReadFile(out)
	must(t, err)
	return strings.ReplaceAll(string(console), "\r", ""), written
}

// TestKernel lets a real kernel list what was written, and then change it.
func TestKernel(t *testing.T) {
	sizes(t, func(t *testing.T, o Options) {
		o.Free, o.Inodes = 24<<20, 20_000
		tr := treetest.Random(11, treetest.Options{Entries: 10_000, MaxSize: 8000})
		must(t, tr.Put("/crowd", tree.Dir(0o755)))
		for i := range 3000 {
			must(t, tr.Put(fmt.Sprintf("/crowd/%s%d", strings.Repeat("x", i%60), i), tree.File(0o644, nil)))
		}
		h := reaches(int64(o.BlockSize), min(1<<40, int64((&collector{o: &o}).maxFile())))
		must(t, tr.Put("/big", tree.Dir(0o755)))
		must(t, tr.Put("/big/reaches", tree.File(0o644, h)))
		name := image(t, tr, o)

		said, written := inKernel(t, name, kernelScript(o, h))
		for _, p := range h.pieces {
			if want := fmt.Sprintf("PIECE %d %s\n", p.off, p.data); !strings.Contains(said, want) {
				t.Errorf("the kernel does not read %q", want)
			}
		}
		if !strings.Contains(said, "CHANGED 0\n") || strings.Contains(said, "FAILED") || strings.Contains(said, "EXT4-fs error") || strings.Contains(said, "EXT4-fs warning") {
			t.Errorf("the kernel could not use the file system:\n%s", said)
		}
		got, err := cpio.Read(bytes.NewReader(written), cpio.ReadOptions{})
		must(t, err)
		tr.Remove("/big")
		got.Remove("/lost+found")
		treetest.Equal(t, got, tr)
		fsck(t, name)
		if n := len(read(t, name).Get("/crowd").Names()); n != 3000-300+2000 {
			t.Errorf("after the kernel's changes the directory has %d entries", n)
		}
	})
}

// kernelScript lists everything, then fills and thins out a directory with an
// index.
func kernelScript(o Options, h *holey) string {
	var s strings.Builder
	fmt.Fprintf(&s, "mount -t %s -o ro /dev/ubdb /mnt || echo FAILED\n", o.Type)
	for _, p := range h.pieces {
		fmt.Fprintf(&s, "echo PIECE %d $(dd if=/mnt/big/reaches bs=1 skip=%d count=%d 2>/dev/null)\n", p.off, p.off, len(p.data))
	}
	fmt.Fprintf(&s, `
cd /mnt && find . -path ./big -prune -o -print0 | cpio -o -0 -H newc >/dev/ubdc; cd /
umount /mnt
mount -t %s /dev/ubdb /mnt || echo FAILED
cd /mnt/crowd
rm *7
touch $(seq 10001 12000) || echo FAILED
mkdir d && mv 10005 d && ln d/10005 . && rm -r d
cd /
umount /mnt
echo CHANGED $?
dmesg | grep EXT
`, o.Type)
	return s.String()
}

// TestReplay reads a file system whose kernel stopped while it was in use, and
// compares with what e2fsck makes of it.
func TestReplay(t *testing.T) {
	for _, o := range []Options{{Type: Ext3, BlockSize: 1024}, {Type: Ext4}, {Type: Ext4, Checksums: true, BlockSize: 2048}, {Type: Ext4, Checksums: true, wide: true}} {
		t.Run(fmt.Sprintf("%s %d %t", o.Type, o.BlockSize, o.Checksums), func(t *testing.T) {
			o.Free, o.Inodes = 24<<20, 5000
			name := image(t, treetest.Random(13, treetest.Options{Entries: 300}), o)
			said, _ := inKernel(t, name, fmt.Sprintf(`
mount -t %s -o data=journal /dev/ubdb /mnt || echo FAILED
cd /mnt
mkdir crowd gone
for i in $(seq 500); do echo $i >crowd/$i; echo $i >gone/$i; done
exec 3>orphan
echo held open >&3
rm orphan
sync
rm -r gone
for i in $(seq 20); do dd if=/bin/busybox of=big-$i bs=4k count=20 2>/dev/null; done
echo wxyz | tr wxyz '\300\073\071\230' >journal-magic
sync
touch crowd/late
`, o.Type))
			if strings.Contains(said, "FAILED") {
				t.Fatal(said)
			}
			fs := open(t, name)
			if i := fs.Info(); i.Clean || i.Replayed == 0 {
				t.Fatalf("there was nothing to play back: %+v", i)
			}
			if l, err := fs.Check(t.Context()); err != nil || l.Problems > 0 || !strings.Contains(fmt.Sprint(l.All), "1 files that were open") {
				t.Errorf("Check says %v, %v", l, err)
			}
			got, err := fs.Tree(TreeOptions{})
			must(t, err)
			if b, err := got.ReadFile("/journal-magic", 9); err != nil || string(b) != "\xC0\x3B\x39\x98\n" {
				t.Errorf("a file that looks like the journal's own blocks has %q, %v", b, err)
			}
			if got.Get("/gone") != nil || len(got.Get("/crowd").Names()) < 500 || got.Get("/big-20") == nil {
				t.Error("the journal's last transactions are missing")
			}
			var before strings.Builder
			must(t, tree.Manifest(&before, got))
			out, _ := exec.Command(tooltest.Require(t, "e2fsck", "e2fsprogs"), "-fy", name).CombinedOutput()
			fsck(t, name)
			var after strings.Builder
			must(t, tree.Manifest(&after, read(t, name)))
			if before.String() != after.String() {
				t.Errorf("e2fsck makes another tree of it:\n%s", out)
			}
		})
	}
}

// TestKernelCrowd adds to directories that are as full as they can be.
func TestKernelCrowd(t *testing.T) {
	for _, o := range []Options{{Type: Ext3, BlockSize: 4096}, {Type: Ext4, BlockSize: 1024, Checksums: true}} {
		t.Run(fmt.Sprintf("%s %d", o.Type, o.BlockSize), func(t *testing.T) {
			o.Free = 8 << 20
			name := image(t, crowd(t), o)
			said, _ := inKernel(t, name, `
mount -t ext4 /dev/ubdb /mnt || echo FAILED
echo COUNT $(ls /mnt/dirs | wc -l) $(ls /mnt/files | wc -l) $(ls /mnt/links | wc -l)
mkdir /mnt/dirs/more || echo FAILED
rm -r /mnt/dirs/d1 /mnt/files/file-*7 || echo FAILED
touch /mnt/files/more || echo FAILED
umount /mnt || echo FAILED
`)
			if strings.Contains(said, "FAILED") || !strings.Contains(said, "COUNT 65001 100000 65000\n") {
				t.Errorf("the kernel says\n%s", said)
			}
			fsck(t, name)
		})
	}
}
