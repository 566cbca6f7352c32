package uml

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wolffia/internal/image/ext4"
	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/tree"
)

// A machine whose root is on a disk has no initramfs to lie in the last page of
// memory, behind which reading is fatal: that page is kept from everybody all
// the same.
func TestRootOnDisk(t *testing.T) {
	f := machinetest.UML(t)
	r := f.Root(t)
	script := `#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
echo "root $(busybox stat -f -c %T /) $(cat /etc/word)"
dd if=/proc/kpageflags of=/flags bs=8 skip=PFN count=PAGES 2>/dev/null
od -An -v -tx8 -w8 /flags
poweroff -f
`
	const memory, pages = 64 << 20, 4
	first := memory/os.Getpagesize() - pages
	script = strings.NewReplacer("PFN", strconv.Itoa(first), "PAGES", strconv.Itoa(pages)).Replace(script)
	for name, n := range map[string]*tree.Node{
		"/sbin":     tree.Dir(0o755),
		"/etc/word": tree.File(0o644, tree.Bytes("hello")),
	} {
		if err := r.Put(name, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Put("/sbin/init", tree.File(0o755, tree.Bytes(script))); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "root.ext4")
	out, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := ext4.Write(out, r, ext4.Options{Free: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := Backend{}.Start(t.Context(), machine.Spec{
		Name: "rooted", Kernel: f.Kernel, Dir: t.TempDir(), Memory: memory,
		Disks: []machine.Disk{{Path: image}}, Cmdline: []string{"root=/dev/ubda", "rw"},
	})
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(m.Console())
	if err != nil {
		t.Fatal(err)
	}
	if exit := m.Wait(); !exit.Clean {
		t.Fatalf("%+v", exit)
	}
	// KPF_RESERVED of linux/kernel-page-flags.h: no packet, nor anything else, is
	// ever put there.
	words := strings.Fields(string(said))
	if len(words) < 3+pages || strings.Join(words[:3], " ") != "root ext2/ext3 hello" {
		t.Fatalf("console %q", said)
	}
	last, err := strconv.ParseUint(words[3+pages-1], 16, 64)
	if err != nil || last&(1<<32) == 0 {
		t.Errorf("the flags of the last page of memory are %#x (%v): it can be allocated\n%s", last, err, said)
	}
}
