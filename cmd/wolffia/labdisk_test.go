package main

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wolffia/internal/tooltest"
)

// diskImages makes, in the lab's folder, data.img with an ext4 of one file, and
// data.qcow2 with the same.
func (l *lab) diskImages() {
	l.t.Helper()
	mke2fs, qemuImg := tooltest.Require(l.t, "mke2fs", "e2fsprogs"), tooltest.Require(l.t, "qemu-img", "qemu-utils")
	content := l.t.TempDir()
	l.write(l.t, filepath.Join(content, "word"), "of an image\n")
	raw, qcow2 := filepath.Join(l.dir, "data.img"), filepath.Join(l.dir, "data.qcow2")
	for _, argv := range [][]string{{mke2fs, "-q", "-t", "ext4", "-d", content, raw, "16M"}, {qemuImg, "convert", "-O", "qcow2", raw, qcow2}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			l.t.Fatalf("%v: %s", err, out)
		}
	}
	for _, name := range []string{raw, qcow2} {
		if err := os.Chown(name, l.uid, l.uid); err != nil && os.Getuid() == 0 {
			l.t.Fatal(err)
		}
	}
}

// fileSum is a digest of a file of the lab's folder.
func (l *lab) fileSum(name string) [sha256.Size]byte { return sha256.Sum256([]byte(l.hostFile(name))) }

// TestLabMoreDisks has machines of both kinds with disks besides that of their
// roots: new ones and images, which stay as they are, or are written to in place.
func TestLabMoreDisks(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	const disks = `disks:
    - {name: data, size: 2G, format: ext4, mount: /data}
    - {from: ./data.qcow2, mount: /data/image}
    - {from: ./data.img, read-only: true, mount: /fixed}
    - {size: 32M, format: fat, mount: /fat}
    - {size: 8M}
`
	l := newLab(t, newPerson(t), small+"machines:\n  anna:\n    "+disks+"  bert:\n    backend: qemu\n    "+disks)
	l.diskImages()
	raw, qcow2 := l.fileSum("data.img"), l.fileSum("data.qcow2")
	l.do("up")
	both := func(script, want string) {
		t.Helper()
		for _, m := range []string{"anna", "bert"} {
			if got := l.in(m, script); got != want {
				t.Errorf("%s: %q, want %q", m, got, want)
			}
		}
	}
	both("cat /data/image/word /fixed/word; echo kept | tee /data/mine /data/image/mine /fat/Mine.text; ! touch /fixed/x 2>/dev/null; cd /sys/class/block; cat ubda/size vda/size ubde/size vde/size 2>/dev/null || true",
		"of an image\nof an image\nkept\n4194304\n16384\n")
	if got := l.in("anna", "grep -c '^/dev/ubd[abcd] ' /proc/mounts"); got != "4\n" {
		t.Errorf("%q", got)
	}
	if got := l.in("bert", "cat /sys/class/block/vda/serial; echo; cat /sys/class/block/vdd/serial"); got != "data\ndisk4" {
		t.Errorf("%q", got)
	}
	again := "cat /data/mine /data/image/mine /fat/Mine.text"
	l.do("restart")
	both(again, "kept\nkept\nkept\n")
	l.do("down")
	l.do("up")
	both(again, "kept\nkept\nkept\n")
	if l.fileSum("data.img") != raw || l.fileSum("data.qcow2") != qcow2 {
		t.Error("an image was written to")
	}
	kept := filepath.Join(l.home, ".local/state/wolffia/labs/*/disks")
	for _, m := range []string{"anna", "bert"} {
		names, _ := filepath.Glob(filepath.Join(kept, m+".data.img"))
		if len(names) != 1 {
			t.Fatalf("%s keeps %q", m, names)
		}
		info, err := os.Stat(names[0])
		if err != nil || info.Size() != 2<<30 || info.Sys().(*syscall.Stat_t).Blocks*512 > 16<<20 {
			t.Errorf("%v, %+v", err, info)
		}
	}
	// Nothing is to do, and then a disk is no longer what it was made as.
	if plan := l.do("up", "--dry-run"); !strings.Contains(plan, "nothing") {
		t.Errorf("still to do: %s", plan)
	}
	l.do("down", "--volumes")
	if left, _ := filepath.Glob(filepath.Join(kept, "*")); left != nil {
		t.Errorf("there still is %q", left)
	}
	l.do("up")
	both("ls -A /data /fat; ls /data/image", "/data:\nimage\nlost+found\n\n/fat:\nlost+found\nword\n")
}
