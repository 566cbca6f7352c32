package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
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
		l.give(name)
	}
}

// give has the person own a file.
func (l *lab) give(name string) {
	l.t.Helper()
	if err := os.Chown(name, l.uid, l.uid); err != nil && os.Getuid() == 0 {
		l.t.Fatal(err)
	}
}

// fileSum is a digest of a file of the lab's folder.
func (l *lab) fileSum(name string) [sha256.Size]byte { return sha256.Sum256([]byte(l.hostFile(name))) }

// TestLabDisks has disks that last until they are dropped.
func TestLabDisks(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), small+`
networks: {lan: }
machines:
  anna: {networks: [lan], root: disk}
  carl: {networks: [lan], root: disk, backend: qemu}
`)
	l.do("up")
	// What a User-Mode Linux keeps is what it wrote, and not its image once more.
	kept, _ := filepath.Glob(filepath.Join(l.home, ".local/state/wolffia/labs/*/disks/anna-0"))
	if len(kept) != 1 {
		t.Fatal(kept)
	}
	var over struct{ Path string }
	record, err := os.ReadFile(kept[0] + ".base")
	if err == nil {
		err = json.Unmarshal(record, &over)
	}
	if err != nil {
		t.Fatal(err)
	}
	var own, image syscall.Stat_t
	if err := errors.Join(syscall.Stat(kept[0], &own), syscall.Stat(over.Path, &image)); err != nil || own.Blocks > image.Blocks/4 {
		t.Errorf("it takes %d blocks, and its image %d; %v", own.Blocks, image.Blocks, err)
	}
	both := func(script, want string) {
		t.Helper()
		for _, m := range []string{"anna", "carl"} {
			if got := l.in(m, script); got != want {
				t.Errorf("%s: %q, want %q", m, got, want)
			}
		}
	}
	both("echo kept >/root/mine; sync", "")
	l.do("restart")
	both("cat /root/mine", "kept\n")
	macs := func() string {
		return l.in("anna", "cat /sys/class/net/eth0/address") + l.in("carl", "cat /sys/class/net/eth0/address")
	}
	before := macs()
	l.do("down")
	l.do("up")
	if now := macs(); now != before {
		t.Errorf("hardware addresses after down and up: %q, before: %q", now, before)
	}
	both("cat /root/mine; grep -c '[.]lan' /etc/hosts || true", "kept\n0\n")
	l.do("down")
	// What up would refuse is foreseen, and nothing else is.
	if plan := l.do("up", "--dry-run"); !strings.Contains(plan, "start machine anna\n") {
		t.Error(plan)
	}
	text := l.hostFile("wolffia.yaml")
	for _, c := range []struct{ was, is, want string }{
		{", backend: qemu", "", "up would refuse machine carl: the volume "},
		{"root: disk}", "root: disk, backend: qemu}", "was written by another backend, as a file of format cow, not qcow2; use that backend again"},
		{"packages: [", "packages: [hello, ", "was made over another image ("},
		{", deps: elf", ", deps: elf, hostname: other", "than the machine has now (image base); go back to the image"},
	} {
		l.file(strings.Replace(text, c.was, c.is, 1))
		o := l.try(t, call{dir: l.dir}, "up", "--dry-run")
		if o.status != 1 || !strings.Contains(o.err, c.want) || !strings.Contains(o.out, "start machine anna\n") {
			t.Error(c, o)
		}
	}
	l.file(text)
	l.do("down", "--volumes")
	l.do("up")
	both("ls /root", "")
}

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
	both("cat /data/image/word /fixed/word; echo kept | tee /data/mine /data/image/mine /fat/Mine.text; if touch /fixed/x 2>/dev/null; then exit 1; fi; cd /sys/class/block; cat ubda/size vda/size ubde/size vde/size 2>/dev/null || true",
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

// TestLabDiskMistakes has disks that can't be, each told at its place in the file
// before anything starts, in particular images that a machine may have written.
func TestLabDiskMistakes(t *testing.T) {
	parallel(t)
	qemuImg := tooltest.Require(t, "qemu-img", "qemu-utils")
	l := newLab(t, newPerson(t), small)
	l.diskImages()
	l.folder(t, "lab/folder")
	for name, text := range map[string]string{"empty": "", "packed": "\x1f\x8b\x08 and so on", "archive": strings.Repeat("x", 257) + "ustar" + strings.Repeat("x", 4096), "noise": strings.Repeat("x", 1<<20)} {
		l.write(t, filepath.Join(l.dir, name), text)
	}
	for name, backing := range map[string]string{"over.qcow2": "data.img", "thief.qcow2": "/etc/passwd"} {
		if out, err := exec.Command(qemuImg, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, filepath.Join(l.dir, name), "16M").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		l.give(filepath.Join(l.dir, name))
	}
	if err := syscall.Mkfifo(filepath.Join(l.dir, "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("data.img", filepath.Join(l.dir, "link")); err != nil {
		t.Fatal(err)
	}
	for disks, want := range map[string]string{
		"{from: nowhere}":                                  "there is no disk image " + filepath.Join(l.dir, "nowhere"),
		"{from: folder}":                                   "is a folder, and no disk image; a machine sees folders as shares",
		"{from: pipe}":                                     "is neither a file nor a block device",
		"{from: empty}":                                    "is of no size; truncate -s 1G",
		"{from: packed}":                                   "is compressed (gzip); unpack it first, or add format: raw",
		"{from: archive}":                                  "is of format tar, and no disk image; add format: raw",
		"{from: data.img, format: qcow2}":                  "is no qcow2; what it holds is: ext",
		"{from: noise, mount: /a}":                         "can't be mounted on /a: there is no ext, FAT, squashfs or ISO 9660 file system on it",
		"{from: data.qcow2, format: raw, mount: /a}":       "what it holds is: qcow2",
		"{from: thief.qcow2}":                              `"/etc/passwd" lies outside of`,
		"{from: over.qcow2, in-place: true}":               "lies over another image, \"data.img\", and can't be written in place; leave in-place out",
		"{from: data.img}, {from: ./link, in-place: true}": "./link is the disk disk1 of this machine, too, and is written to in place",
	} {
		l.file(small + "machines:\n  anna:\n    disks: [" + disks + "]\n")
		at := fmt.Sprintf("wolffia.yaml:%d:", strings.Count(small, "\n")+3)
		for _, argv := range [][]string{{"up"}, {"up", "--dry-run"}, {"run", "--", "true"}} {
			if e := l.fails(2, argv...); !strings.Contains(e, at) || !strings.Contains(e, want) {
				t.Errorf("%s, %s: %q does not say %q", argv, disks, e, want)
			}
		}
	}
	l.file(small)
	for flag, want := range map[string]string{
		"nowhere":          "there is no disk image " + filepath.Join(l.dir, "nowhere"),
		"1G:/data":         "there is nothing to mount on an empty disk; give it a format",
		"1K":               "size 1K is not within 1M and 16T",
		"1G:ext4:ro":       "in-place and read-only are about an image",
		"data.img:/":       "the machine's root",
		"thief.qcow2:/mnt": "lies outside of",
		":/mnt":            "there is neither a size nor an image",
	} {
		if e := l.fails(2, "run", "--disk", flag, "--", "true"); !strings.Contains(e, want) {
			t.Errorf("--disk %s: %q does not say %q", flag, e, want)
		}
	}
	if e := l.fails(2, "run", "--disk", "1G:ext4:/mnt", "--share", "folder:/mnt", "--", "true"); !strings.Contains(e, "something else is at /mnt already") {
		t.Error(e)
	}
}

// TestRunDisk gives a throwaway machine disks.
func TestRunDisk(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), small)
	l.diskImages()
	qcow2 := l.fileSum("data.qcow2")
	l.write(t, filepath.Join(l.dir, "archive"), strings.Repeat("x", 257)+"ustar"+strings.Repeat("x", 4096))
	o := l.run(t, call{dir: l.dir, limit: cold}, "run", "--disk", "8M:ext2:/mnt/new", "--disk", "data.qcow2:/mnt/a", "--disk", "data.img:/mnt/b:in-place", "--disk", "archive:raw", "--",
		"sh", "-ec", "ls -A /mnt/new; cat /mnt/a/word /mnt/b/word; echo kept | tee /mnt/a/word >/mnt/b/word; head -c 262 /dev/ubdd | tail -c 5")
	if o.out != "lost+found\nof an image\nof an image\nustar" {
		t.Error(o)
	}
	if o := l.run(t, call{dir: l.dir}, "run", "--disk", "data.img:/mnt:ro", "--", "sh", "-ec", "cat /mnt/word; ! touch /mnt/x"); o.out != "kept\n" {
		t.Error(o)
	}
	if l.fileSum("data.qcow2") != qcow2 {
		t.Error("an image was written to")
	}
	said := l.run(t, call{dir: l.dir}, "explain", "run", "--disk", "8M", "--disk", "data.qcow2", "--disk", "data.img", "--disk", "archive:raw:ro").out
	for _, want := range []string{".disk1.img, a new one\n", ".disk2.img, a copy of " + filepath.Join(l.dir, "data.qcow2") + "\n", "data.img, of which it writes to a copy\n", "archive, to read\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
}

// TestLabDiskChanges changes what the file says of disks, and has a machine's
// plug pulled.
func TestLabDiskChanges(t *testing.T) {
	parallel(t)
	const head = small + "machines:\n  bert: {image: base}\n  anna:\n    disks:\n"
	const data, image = "    - {name: data, size: 8M, format: ext4, mount: /data}\n", "    - {name: image, from: data.img, mount: /image"
	l := newLab(t, newPerson(t), head+data+image+", in-place: true}\n")
	l.diskImages()
	l.do("up")
	if plan := l.do("up", "--dry-run"); !strings.Contains(plan, "nothing") { // while the image is written to
		t.Errorf("still to do: %s", plan)
	}
	l.in("anna", "echo kept >/data/mine; echo kept >/image/word; sync; echo lost >/image/lost")
	l.do("stop", "--kill", "anna")
	if e := l.fails(2, "run", "base", "--disk", "data.img:/mnt:ro", "--", "true"); !strings.Contains(e, "data.img can't be mounted read-only: it was not unmounted") || !strings.Contains(e, "leave read-only out") {
		t.Error(e)
	}
	l.do("up") // the journals of both are played back
	if got := l.in("anna", "cat /data/mine /image/word"); got != "kept\nkept\n" {
		t.Errorf("%q", got)
	}
	// What is kept can't become larger, and nothing happens.
	const boot = "cat /proc/sys/kernel/random/boot_id"
	before := l.in("anna", boot)
	larger := strings.Replace(data, "8M", "16M", 1)
	l.file(head + larger + image + ", in-place: true}\n")
	dry := l.try(t, call{dir: l.dir}, "up", "--dry-run")
	if dry.out != "restart machine anna: disks\n" || dry.status != 2 {
		t.Errorf("to do is: %s", dry)
	}
	for _, want := range []string{"wolffia.yaml:7:26: ", "what is kept of this disk is a new one of 8M with ext4, and the file says a new one of 16M with ext4 now", "wolffia down --volumes"} {
		if e := l.fails(2, "up"); !strings.Contains(e, want) || !strings.Contains(dry.err, want) {
			t.Errorf("%q or %q does not say %q", e, dry.err, want)
		}
	}
	if l.in("anna", boot) != before {
		t.Error("the machine was started anew")
	}
	// Another name is another disk; one that the file no longer has is kept.
	l.file(head + strings.Replace(larger, "data,", "large,", 1) + image + "}\n")
	l.do("up")
	if got := l.in("anna", "ls -A /data; cat /image/word; echo over >/image/word; sync"); got != "lost+found\nkept\n" {
		t.Errorf("%q", got)
	}
	l.file(head + data + image + "}\n")
	l.do("up")
	if got := l.in("anna", "cat /data/mine /image/word"); got != "kept\nover\n" {
		t.Errorf("%q", got)
	}
	// The image below what was written is another one.
	l.do("down")
	l.write(t, filepath.Join(l.dir, "data.img"), l.hostFile("data.img")+strings.Repeat("x", 4096))
	if e := l.fails(1, "up", "--dry-run"); !strings.Contains(e, "up would refuse machine anna: the volume ") || !strings.Contains(e, "data.img, which has changed since") {
		t.Error(e)
	}
	if e := l.fails(125, "up"); !strings.Contains(e, "data.img, which has changed since") || !strings.Contains(e, "wolffia down --volumes") {
		t.Error(e)
	}
	l.do("down", "--volumes")
	l.do("up")
	if got := l.in("anna", "ls -A /data; cat /image/word"); got != "lost+found\nkept\n" {
		t.Errorf("%q", got)
	}
}
