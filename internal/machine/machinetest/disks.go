package machinetest

import (
	"bytes"
	"crypto/sha256"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/machine"
	"wolffia/internal/tooltest"
)

// diskImage is a raw image of a mebibyte that begins with text, at a path that
// holds what separates names elsewhere.
func diskImage(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk, with: odd=name.img")
	b := make([]byte, 1<<20)
	copy(b, text)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func sum(t *testing.T, name string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// disks: a disk is what its image says; what a guest writes stays out of the
// image, or gets into it, or is refused.
func (s suite) disks(t *testing.T) {
	spec := s.spec(t, `for d in a b c; do head -c 5 $DISK$d; echo; done
for d in a b c; do echo "new on $d" | dd of=$DISK$d bs=512 seek=1 conv=fsync 2>/dev/null && echo wrote $d; done
for d in a b c; do dd if=$DISK$d bs=512 skip=1 count=1 2>/dev/null | head -c 8; echo '' $(cat /sys/block/${DISK##*/}$d/ro /sys/block/${DISK##*/}$d/size); done
poweroff -f`)
	spec.Disks = []machine.Disk{
		{Path: diskImage(t, "first")},
		{Path: diskImage(t, "secnd"), Format: machine.Raw, Persistent: true},
		{Path: diskImage(t, "third"), ReadOnly: true, Persistent: true},
	}
	before := []any{sum(t, spec.Disks[0].Path), sum(t, spec.Disks[1].Path), sum(t, spec.Disks[2].Path)}
	m := s.start(t, spec)
	out := strings.ReplaceAll(output(t, m), "\r", "")
	clean(t, m)
	zeros := strings.Repeat("\x00", 8)
	want := "first\nsecnd\nthird\nwrote a\nwrote b\nnew on a 0 2048\nnew on b 0 2048\n" + zeros + " 1 2048\n"
	if !strings.HasPrefix(out, want) {
		t.Errorf("console %q, want %q", out, want)
	}
	if sum(t, spec.Disks[0].Path) != before[0] || sum(t, spec.Disks[2].Path) != before[2] {
		t.Error("an image was written to that must not be")
	}
	b, err := os.ReadFile(spec.Disks[1].Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b[512:], []byte("new on b\n")) || len(b) != 1<<20 {
		t.Errorf("the persistent image holds %q", b[512:530])
	}
}

// restart: a machine that restarts ends, and the same Spec starts it again, with
// what it wrote on a persistent disk.
func (s suite) restart(t *testing.T) {
	spec := s.spec(t, `read -r word <${DISK}a; echo "word $word"
[ "$word" = again ] && poweroff -f
echo again | dd of=${DISK}a conv=notrunc,fsync 2>/dev/null; reboot -f`)
	spec.Disks = []machine.Disk{{Path: diskImage(t, "once\n"), Persistent: true}}
	for _, word := range []string{"once", "again"} {
		m := s.start(t, spec)
		if out := output(t, m); !strings.HasPrefix(out, "word "+word+"\r\n") {
			t.Errorf("console %q, want word %s", out, word)
		}
		if exit := clean(t, m); exit.Reboot != (word == "once") {
			t.Errorf("after %s: %+v", word, exit)
		}
	}
}

// diskFull: a guest whose file system is full hears so, and goes on.
func (s suite) diskFull(t *testing.T) {
	spec := s.spec(t, `mount -t ext4 ${DISK}a /tmp && dd if=/dev/zero of=/tmp/big bs=64k; echo "status $?"
rm /tmp/big; echo enough >/tmp/small && cat /tmp/small; poweroff -f`)
	spec.Disks = []machine.Disk{{Path: fileSystem(t, "8M")}}
	m := s.start(t, spec)
	out := output(t, m)
	clean(t, m)
	if !strings.Contains(out, "No space left on device") || !strings.Contains(out, "status 1\r\nenough\r\n") {
		t.Errorf("console %q", out)
	}
}

// fileSystem is an image with an empty ext4.
func fileSystem(t *testing.T, size string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk, with: odd=name.ext4")
	mke2fs := tooltest.Require(t, "mke2fs", "e2fsprogs") // package image/ext4 is itself tested with machines
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", name, size).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

// overlay: what a guest writes over its image lasts, in a file of its own that
// one machine has at a time, however the guest ends.
func (s suite) overlay(t *testing.T) {
	spec := s.spec(t, `mount -t ext4 ${DISK}a /tmp && cat /tmp/first /tmp/second 2>/dev/null
[ -e /tmp/second ] && { echo third >/tmp/third; poweroff -f; }
[ -e /tmp/first ] && { echo second >/tmp/second; sync; echo ready >$STATUS; sleep 1000; }
echo first >/tmp/first; sync; umount /tmp; echo ready >$STATUS; poweroff -f`)
	spec.Disks = []machine.Disk{{Path: fileSystem(t, "8M"), Overlay: filepath.Join(t.TempDir(), "volume, with: odd=name")}}
	before := sum(t, spec.Disks[0].Path)
	for i, want := range []string{"", "first\r\n", "first\r\nsecond\r\n"} {
		m := s.start(t, spec)
		if i == 1 {
			until(t, m.Status(), "ready\n")
			other := spec
			other.Name, other.Dir = spec.Name+"-too", t.TempDir()
			if e := s.fails(t, other); e.Stage != "start" || !strings.Contains(e.Cause, "in use by another machine") || e.Fix == "" {
				t.Errorf("two machines with the same overlay: %+v", e)
			}
			if err := machine.RemoveOverlay(spec.Disks[0].Overlay); err == nil {
				t.Error("an overlay that is in use can be removed")
			}
			m.Kill()
			m.Wait()
		}
		if out := output(t, m); !strings.HasPrefix(out, want) {
			t.Errorf("boot %d: console %q, want %q", i+1, out, want)
		}
	}
	if sum(t, spec.Disks[0].Path) != before {
		t.Error("the image was written to")
	}
	if err := machine.RemoveOverlay(spec.Disks[0].Overlay); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Dir(spec.Disks[0].Overlay) + "/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// overlayBase: an overlay is refused over anything but the image that it was made
// over.
func (s suite) overlayBase(t *testing.T) {
	spec := s.spec(t, `read -r word <${DISK}a; echo "word $word"; echo over | dd of=${DISK}a conv=notrunc,fsync 2>/dev/null; poweroff -f`)
	image := diskImage(t, "base\n")
	spec.Disks = []machine.Disk{{Path: image, Overlay: filepath.Join(t.TempDir(), "volume")}}
	boot := func(d machine.Disk, want string) {
		t.Helper()
		spec.Disks[0] = d
		m := s.start(t, spec)
		if out := output(t, m); !strings.HasPrefix(out, "word "+want+"\r\n") {
			t.Errorf("console %q, want word %s", out, want)
		}
		clean(t, m)
	}
	refused := func(d machine.Disk, cause string) {
		t.Helper()
		spec.Disks[0] = d
		if e := s.fails(t, spec); e.Stage != "start" || !strings.Contains(e.Cause, cause) || !strings.Contains(e.Fix, "wolffia down --volumes") {
			t.Errorf("%+v, want %s", e, cause)
		}
	}
	plain := spec.Disks[0]
	boot(plain, "base")
	boot(plain, "over")

	moved := plain
	moved.Path = diskImage(t, "base\n")
	refused(moved, "was made over another image")
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(image, later, later); err != nil {
		t.Fatal(err)
	}
	refused(plain, "which has changed since")

	// With a name for its content, an image may be touched and moved.
	named := machine.Disk{Path: image, Overlay: plain.Overlay + "2", Base: "one"}
	boot(named, "base")
	if err := os.Chtimes(image, time.Now(), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	named.Path = filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(image, named.Path); err != nil {
		t.Fatal(err)
	}
	boot(named, "over")
	other := named
	other.Base = "two"
	refused(other, "was made over another image")

	if err := os.Truncate(named.Overlay, 1000); err != nil {
		t.Fatal(err)
	}
	refused(named, "is damaged")
	if err := os.Remove(named.Overlay + ".base"); err != nil {
		t.Fatal(err)
	}
	refused(named, "it can't be told")
	if err := os.Remove(named.Overlay); err != nil { // by hand
		t.Fatal(err)
	}
	boot(named, "base")
}

// noRoot: a kernel that finds no root file system says which one it looked for.
func (s suite) noRoot(t *testing.T) {
	spec := s.spec(t, "")
	spec.Cmdline = []string{"root=/dev/nothing"}
	spec.Disks = []machine.Disk{{Path: diskImage(t, "no file system")}}
	if e := s.fails(t, spec); e.Stage != "kernel" || !strings.Contains(e.Cause, "/dev/nothing") {
		t.Errorf("%s: %s", e.Stage, e.Cause)
	}
}

// link: the guest sees its network cable pulled out and put in again, and gets
// no frame meanwhile.
func (s suite) link(t *testing.T) {
	spec := s.spec(t, `ip link set eth0 up; echo ready >$STATUS
while read -r line; do [ "$line" = end ] && poweroff -f; echo "carrier $(cat /sys/class/net/eth0/carrier)."; done`)
	spec.NICs = []machine.NIC{{MAC: net.HardwareAddr{2, 0, 0, 0, 7, 1}}}
	m := s.start(t, spec)
	setter, ok := m.(machine.LinkSetter)
	if ok == s.f.NoCarrier {
		m.Kill()
		t.Fatalf("a machine that can pull cables out: %v; the fixtures say that none can: %v", ok, s.f.NoCarrier)
	}
	if !ok {
		m.Kill()
		return
	}
	until(t, m.Status(), "ready\n")
	for _, up := range []bool{false, true, false, true} {
		if err := setter.SetLink(0, up); err != nil {
			t.Fatal(err)
		}
		// The guest hears of it some time later: ask until it has.
		want := map[bool]string{true: "carrier 1.", false: "carrier 0."}[up]
		for seen := ""; !strings.Contains(seen, want); {
			write(t, m, "\r")
			seen = until(t, m.Console(), ".\r\n")
		}
	}
	if err := setter.SetLink(1, true); err == nil {
		t.Error("a network interface that is not there has a link")
	}
	write(t, m, "end\r")
	clean(t, m)
	if err := setter.SetLink(0, true); err == nil {
		t.Error("a machine that has ended has a link")
	}
}
