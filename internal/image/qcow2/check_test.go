package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/image/finding"
	"wolffia/internal/tooltest"
)

// worked is an image that QEMU made, wrote to, and took a snapshot and a bitmap of.
func worked(t testing.TB, options string) []byte {
	t.Helper()
	raw := disk(t, 11, 3_000_320)
	name := filepath.Join(t.TempDir(), "disk.qcow2")
	qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, strings.Fields(options)...), raw, name)...)
	qemuImg(t, "snapshot", "-c", "first", name)
	io := exec.Command(tooltest.Require(t, "qemu-io", "qemu-utils"), "-f", "qcow2", "-c", "write -P 7 100k 300k", "-c", "write -z 1M 128k", name)
	if out, err := io.CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	qemuImg(t, "snapshot", "-c", "second", name)
	if !strings.Contains(options, "compat=0.10") {
		qemuImg(t, "bitmap", "--add", name, "dirty")
	}
	check(t, name)
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// TestCheckWorked finds nothing in images with all that QEMU can put into them.
func TestCheckWorked(t *testing.T) {
	for _, options := range []string{"-o compat=0.10", "-c", "-o cluster_size=4k", "-o extended_l2=on", "-o refcount_bits=64", "-o refcount_bits=8,cluster_size=4k -c"} {
		t.Run(options, func(t *testing.T) { worked(t, options) })
	}
}

// qemuFinds tells whether qemu-img check finds anything, and what it says.
func qemuFinds(t testing.TB, b []byte) (bad bool, said string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.qcow2")
	must(t, os.WriteFile(name, b, 0o600))
	cmd := exec.Command(tooltest.Require(t, "qemu-img", "qemu-utils"), "check", "-f", "qcow2", name)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return err != nil || !strings.Contains(string(out), "No errors were found"), string(out)
}

// TestCheckBroken damages an image of ours in each way that Check claims to find.
// qemu-img check must find each, too: else it is no damage.
func TestCheckBroken(t *testing.T) {
	whole := small(t, Options{})
	l1 := func(b []byte) []byte { return b[be.Uint64(b[40:]):] }
	l2 := func(b []byte) []byte { return b[be.Uint64(l1(b))&entryOffset:] }
	table := func(b []byte) []byte { return b[be.Uint64(b[48:]):] }
	counts := func(b []byte) []byte { return b[be.Uint64(table(b)):] }
	for _, c := range []struct {
		name   string
		damage func(b []byte)
		say    string
	}{
		{"lost", func(b []byte) { be.PutUint64(l2(b), 0) }, "have a reference count of 1 and are used 0 times: they are lost"},
		{"twice", func(b []byte) { copy(l2(b)[8:16], l2(b)[:8]) }, "have a reference count of 1 and are used 2 times: they may be overwritten"},
		{"count", func(b []byte) { be.PutUint16(counts(b)[4:], 0) }, "byte 1024: 1 clusters have a reference count of 0 and are used 1 times"},
		{"flag", func(b []byte) { l2(b)[0] &^= 0x80 }, "L1 table, entry 0, cluster 0: its flag of being used once is false"},
		{"beyond", func(b []byte) { be.PutUint64(l2(b), entryCopied|1<<40) }, "lie past the file's end"},
		{"reserved bits of L1", func(b []byte) { l1(b)[0] |= 1 }, "L1 table, entry 0: the entry 0x81"},
		{"reserved bits of L2", func(b []byte) { l2(b)[7] |= 2 }, "has bits that have to be 0"},
		{"block of counts gone", func(b []byte) { be.PutUint64(table(b), 0) }, "have a reference count of 0"},
		{"table over data", func(b []byte) { be.PutUint64(l2(b), entryCopied|be.Uint64(b[48:])) }, "are used 2 times"},
		{"corrupt", func(b []byte) { b[79] |= incompatCorrupt }, "marked the image as corrupt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(whole)
			c.damage(b)
			l, err := Check(t.Context(), bytes.NewReader(b), int64(len(b)))
			must(t, err)
			if !strings.Contains(fmt.Sprint(l.All), c.say) || l.Problems == 0 {
				t.Errorf("Check says %v, not %q", l.All, c.say)
			}
			// It looks at the image's mark only when it is to write.
			if bad, said := qemuFinds(t, b); !bad && c.name != "corrupt" {
				t.Errorf("qemu-img check finds nothing:\n%s", said)
			}
		})
	}
}

// TestCheckRandom flips bits of tables at random. Check and qemu-img check must
// agree on whether that is damage.
func TestCheckRandom(t *testing.T) {
	const rounds = 80
	for _, options := range []string{"-o cluster_size=4k", "-o cluster_size=4k -c", "-o extended_l2=on,cluster_size=16k"} {
		whole := worked(t, options)
		l1, table := be.Uint64(whole[40:]), be.Uint64(whole[48:])
		var places []uint64 // of words that mean something
		for i := range uint64(be.Uint32(whole[36:])) {
			places = append(places, l1+8*i)
			if l2 := be.Uint64(whole[l1+8*i:]) & entryOffset; l2 != 0 {
				for k := range uint64(32) {
					places = append(places, l2+16*k)
				}
			}
		}
		places = append(places, table, be.Uint64(whole[table:]), be.Uint64(whole[table:])+8, be.Uint64(whole[64:]), be.Uint64(whole[64:])+8)
		t.Run(options, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 6))
			for range rounds {
				at, bit := places[r.IntN(len(places))]+r.Uint64N(8), byte(1)<<r.IntN(8)
				b := bytes.Clone(whole)
				b[at] ^= bit
				bad, said := qemuFinds(t, b)
				l, err := Check(t.Context(), bytes.NewReader(b), int64(len(b)))
				if found := err != nil || l.Problems > 0; found != bad {
					t.Errorf("byte %d, bit %#x: Check: %v %v; qemu-img check:\n%s", at, bit, err, l, said)
				}
			}
		})
	}
}

// FuzzCheck must come to an end, whatever it gets.
func FuzzCheck(f *testing.F) {
	whole := small(f, Options{Compression: Deflate})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		if l, err := Check(t.Context(), bytes.NewReader(b), int64(len(b))); err == nil && len(l.All) > finding.Max {
			t.Errorf("%d findings", len(l.All))
		}
	})
}
