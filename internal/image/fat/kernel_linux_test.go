package fat

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/image/cpio"
	"wolffia/internal/kernel"
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

// modules are what the kernel needs to mount a FAT.
func modules(t *testing.T) *tree.Tree {
	t.Helper()
	c, _ := machinetest.Archive(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	lock, err := c.Resolve(ctx, kernel.UMLRequest(kernel.UMLSuites(0)[0], "amd64"))
	must(t, err)
	u, err := c.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true})
	must(t, err)
	defer u.Close()
	k, err := kernel.FromPackage(u.Tree)
	must(t, err)
	mods, err := k.Closure([]string{"vfat", "nls_cp437", "nls_ascii"})
	must(t, err)
	out, err := kernel.ModuleTree(k.Release, mods)
	must(t, err)
	return out
}

// script mounts the file system n, lists all of it, and then changes it.
func script(n int) string {
	return fmt.Sprintf(`
mount -t vfat -o ro,codepage=437,iocharset=ascii,utf8=1,tz=UTC,fmask=0133,dmask=022 /dev/ubd%[1]c /mnt || echo FAILED
cd /mnt && find . -print0 | cpio -o -0 -H newc >/dev/ubd%[2]c; cd /
umount /mnt
mount -t vfat -o codepage=437,iocharset=ascii,utf8=1,tz=UTC /dev/ubd%[1]c /mnt || echo FAILED
cd /mnt/many
rm *7 || echo FAILED
for i in $(seq 300); do echo "$i" >"a new name $i" || echo FAILED; done
mkdir "/mnt/A New Directory" && mv "a new name 5" "/mnt/A New Directory" || echo FAILED
cd /
umount /mnt || echo FAILED
`, 'b'+n, 'b'+n+3)
}

// TestKernel lets a real kernel list what was written, and then change it.
func TestKernel(t *testing.T) {
	want := specimen(t)
	f := machinetest.UML(t)
	root := f.Root(t)
	must(t, root.Merge(modules(t)))
	for _, name := range []string{"cpio", "find", "umount", "rm", "mkdir", "mv", "insmod"} {
		must(t, root.Put("/bin/"+name, tree.Symlink("busybox")))
	}
	must(t, root.Put("/mnt", tree.Dir(0o755)))
	var init strings.Builder
	init.WriteString("#!/bin/busybox sh\nexport PATH=/bin\nmount -t devtmpfs dev /dev\nmount -t proc proc /proc\nwhile read -r m; do insmod $m || echo FAILED; done </etc/wolffia/modules\n")

	dir := t.TempDir()
	var images, outs, cmdline []string
	for n, o := range []Options{{Type: FAT12, Size: 12 << 20}, {Type: FAT16, Free: 4 << 20}, {Type: FAT32, Label: "KERNEL"}} {
		images = append(images, image(t, want, o))
		out := filepath.Join(dir, fmt.Sprintf("out%d", n))
		must(t, os.WriteFile(out, nil, 0o600))
		must(t, os.Truncate(out, 16<<20))
		outs = append(outs, out)
		cmdline = append(cmdline, fmt.Sprintf("ubd%d=%s", n+1, images[n]), fmt.Sprintf("ubd%d=%s", n+4, out))
		init.WriteString(script(n))
	}
	init.WriteString("dmesg | grep FAT-fs\npoweroff -f\n")
	must(t, root.Put("/init", tree.File(0o755, tree.Bytes(init.String()))))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m, err := uml.Backend{}.Start(ctx, machine.Spec{
		Name: "fat", Arch: "amd64", Kernel: f.Kernel, Dir: dir, Memory: 128 << 20,
		Initramfs: []string{machinetest.WriteInitramfs(t, root)}, Cmdline: cmdline,
	})
	must(t, err)
	console, err := io.ReadAll(m.Console())
	must(t, err)
	if exit := m.Wait(); !exit.Clean || strings.Contains(string(console), "FAILED") || strings.Contains(string(console), "FAT-fs") {
		t.Fatalf("the machine ended with %+v:\n%s", exit, console)
	}
	for n, name := range images {
		b, err := os.ReadFile(outs[n])
		must(t, err)
		got, err := cpio.Read(bytes.NewReader(b), cpio.ReadOptions{})
		must(t, err)
		got.Root().ModTime, want.Root().ModTime = time.Time{}, time.Time{}
		treetest.Equal(t, got, want)
		fsck(t, name)
		changed, _ := load(t, name)
		if many := len(changed.Get("/many").Names()); many != 300-30+299 {
			t.Errorf("after the kernel's changes the directory has %d entries", many)
		}
		if b, err := changed.ReadFile("/A New Directory/a new name 5", 100); string(b) != "5\n" {
			t.Errorf("a moved file has %q, %v", b, err)
		}
	}
}
