package disk_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/compress"
	"wolffia/internal/image/cpio"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/image/tarball"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, tool, pkg string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, tool, pkg), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", tool, args, err, out)
	}
	return string(out)
}

// create writes an image into a new file.
func create(t testing.TB, write func(w io.WriterAt) error) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.img"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, write(f))
	return f
}

func open(t testing.TB, f *os.File) *disk.Image {
	t.Helper()
	st, err := f.Stat()
	must(t, err)
	i, err := disk.Open(f, st.Size())
	must(t, err)
	return i
}

func files(t testing.TB) *tree.Tree {
	tr := tree.New()
	must(t, tr.MkdirAll("/dir", 0o755))
	must(t, tr.Put("/dir/file", tree.File(0o644, tree.Bytes("hello\n"))))
	must(t, tr.Walk(func(name string, n *tree.Node) error {
		n.ModTime = time.Unix(1_700_000_000, 0)
		return nil
	}))
	return tr
}

func layouts(t testing.TB) map[disk.Table]disk.Layout {
	tr := files(t)
	parts := []disk.Partition{
		{Type: "esp", Name: "boot", Size: 4 << 20, Write: func(w io.WriterAt) error {
			return fat.Write(w, tr, fat.Options{Size: 4 << 20, Label: "boot"})
		}},
		{Type: "swap", Name: "swap", Size: 1<<20 + 512},
		{Type: "linux", Name: "root", Bootable: true, Write: func(w io.WriterAt) error {
			return ext4.Write(w, tr, ext4.Options{Size: 16 << 20, Label: "root", NoJournal: true})
		}},
	}
	return map[disk.Table]disk.Layout{
		disk.GPT: {Size: 32 << 20, Seed: []byte("seed"), BootCode: []byte("boot code"), Partitions: parts},
		disk.MBR: {Table: disk.MBR, Size: 32 << 20, Seed: []byte("seed"), BootCode: []byte("boot code"), Gap: []byte("gap"), Partitions: parts},
	}
}

func TestWriteAndOpen(t *testing.T) {
	for table, l := range layouts(t) {
		t.Run(string(table), func(t *testing.T) {
			f := create(t, func(w io.WriterAt) error { return disk.Write(w, l) })
			i := open(t, f)
			plan, err := l.Plan()
			must(t, err)
			if i.Format != disk.Format(table) || i.Size != 32<<20 || i.UUID != plan.UUID || i.Damage != nil || len(i.Parts) != 3 {
				t.Fatalf("opened %+v", i)
			}
			for k, want := range []struct {
				format disk.Format
				offset int64
			}{{disk.FAT, 1 << 20}, {disk.Empty, 5 << 20}, {disk.Ext, 7 << 20}} {
				p := i.Parts[k]
				if p.Number != k+1 || p.Format != want.format || p.Offset != want.offset || p.UUID != plan.Partitions[k].UUID || p.Bootable != (k == 2) {
					t.Errorf("partition %d is %+v", k+1, p)
				}
			}
			for _, number := range []int{0, 1, 3} {
				p, err := i.Part(number)
				must(t, err)
				fs, err := p.FileSystem()
				must(t, err)
				got, err := fs.Tree(tree.Limits{})
				must(t, err)
				if number == 1 {
					got.Root().ModTime = time.Unix(1_700_000_000, 0) // a FAT's has none
				}
				treetest.Equal(t, got, files(t))
				if !fs.Clean || fs.Size <= 0 || fs.UUID == "" || !strings.EqualFold(fs.Label, map[int]string{0: "root", 1: "boot", 3: "root"}[number]) {
					t.Errorf("file system %+v", fs)
				}
			}
			swap, err := i.Part(2)
			must(t, err)
			if _, err := swap.FileSystem(); !errors.Is(err, disk.ErrNoFileSystem) {
				t.Errorf("the empty partition: %v", err)
			}
			if _, err := i.Part(4); err == nil {
				t.Error("there is a partition 4")
			}
			out := run(t, "sfdisk", "fdisk", "--verify", f.Name())
			if !strings.Contains(out, "No errors detected.") {
				t.Errorf("sfdisk says %s", out)
			}
			if table == disk.GPT {
				if out := run(t, "sgdisk", "gdisk", "-v", f.Name()); !strings.Contains(out, "No problems found") {
					t.Errorf("sgdisk says %s", out)
				}
			}
			head := make([]byte, 515)
			_, err = f.ReadAt(head, 0)
			must(t, err)
			if !bytes.HasPrefix(head, []byte("boot code\x00")) || (table == disk.MBR) != (string(head[512:]) == "gap") {
				t.Errorf("it begins with %q", head)
			}
		})
	}
}

func TestReproducible(t *testing.T) {
	for table, want := range map[disk.Table]string{disk.GPT: "a7851a5ba6897589", disk.MBR: "ae1e4d311b7b588e"} {
		b, err := os.ReadFile(create(t, func(w io.WriterAt) error { return disk.Write(w, layouts(t)[table]) }).Name())
		must(t, err)
		if got := fmt.Sprintf("%x", sha256.Sum256(b))[:16]; got != want {
			t.Errorf("%s: the digest is %s", table, got)
		}
	}
}

func TestSizes(t *testing.T) {
	l := layouts(t)[disk.GPT]
	l.Partitions[2].Size = 16 << 20
	l.Size = 0
	p, err := l.Plan()
	must(t, err)
	if p.Size != 24<<20 {
		t.Errorf("the smallest disk has %d bytes", p.Size)
	}
	l.Size = 23 << 20
	_, err = l.Plan()
	var small *disk.TooSmallError
	if !errors.As(err, &small) || small.Fix() != "give it a size of at least 24 MiB" {
		t.Errorf("got %v", err)
	}
	l.Table = disk.MBR
	_, err = l.Plan()
	must(t, err) // which needs no room at the end
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		table  disk.Table
		change func(l *disk.Layout)
		say    string
	}{
		{"table", disk.GPT, func(l *disk.Layout) { l.Table = "bsd" }, "neither gpt nor mbr"},
		{"half sectors", disk.GPT, func(l *disk.Layout) { l.Size++ }, "whole sectors"},
		{"type", disk.GPT, func(l *disk.Layout) { l.Partitions[0].Type = "beos" }, "neither a known name nor a GUID"},
		{"number", disk.GPT, func(l *disk.Layout) { l.Partitions[0].Type = "0x83" }, "neither a known name nor a GUID"},
		{"bios-boot", disk.MBR, func(l *disk.Layout) { l.Partitions[0].Type = "bios-boot" }, "an MBR needs no bios-boot"},
		{"no size", disk.GPT, func(l *disk.Layout) { l.Partitions[0].Size = 0 }, "partition 1 has no size"},
		{"boot code", disk.GPT, func(l *disk.Layout) { l.BootCode = make([]byte, 441) }, "longer than 440"},
		{"gap", disk.GPT, func(l *disk.Layout) { l.Gap = []byte{1} }, "have no place"},
		{"five", disk.MBR, func(l *disk.Layout) {
			l.Partitions = append(l.Partitions[:2:2], l.Partitions[:2]...)
			l.Partitions = append(l.Partitions, l.Partitions[0])
		}, "more than an MBR's 4"},
		{"too much", disk.GPT, func(l *disk.Layout) {
			l.Partitions[1].Write = func(w io.WriterAt) error { _, err := w.WriteAt(make([]byte, 513), 1<<20); return err }
		}, "partition 2: 513 bytes at 1048576 are beyond the partition's end"},
	} {
		l := layouts(t)[c.table]
		c.change(&l)
		f := create(t, func(w io.WriterAt) error { return nil })
		if err := disk.Write(f, l); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.say)
		}
	}
}

// TestDetect has one of each.
func TestDetect(t *testing.T) {
	archive := func(c compress.Kind) []byte {
		var b bytes.Buffer
		must(t, cpio.Write(&b, files(t), cpio.Options{Compression: c}))
		return b.Bytes()
	}
	var tarred bytes.Buffer
	must(t, tarball.Write(&tarred, files(t), tarball.WriteOptions{}))
	image := func(write func(w io.WriterAt) error) []byte {
		b, err := os.ReadFile(create(t, write).Name())
		must(t, err)
		return b
	}
	for _, c := range []struct {
		want disk.Format
		b    []byte
	}{
		{disk.Ext, image(func(w io.WriterAt) error { return ext4.Write(w, files(t), ext4.Options{}) })},
		{disk.Ext, image(func(w io.WriterAt) error {
			return ext4.Write(w, files(t), ext4.Options{Type: ext4.Ext2, BlockSize: 1024})
		})},
		{disk.FAT, image(func(w io.WriterAt) error { return fat.Write(w, files(t), fat.Options{}) })},
		{disk.FAT, image(func(w io.WriterAt) error { return fat.Write(w, files(t), fat.Options{Type: fat.FAT32}) })},
		{disk.DiskGPT, image(func(w io.WriterAt) error { return disk.Write(w, layouts(t)[disk.GPT]) })},
		{disk.DiskMBR, image(func(w io.WriterAt) error { return disk.Write(w, layouts(t)[disk.MBR]) })},
		{disk.QCOW2, image(func(w io.WriterAt) error { return qcow2.Create(w, 1<<20, qcow2.Options{}) })},
		{disk.CPIO, archive(compress.None)},
		{disk.Gzip, archive(compress.Gzip)},
		{disk.Zstd, archive(compress.Zstd)},
		{disk.Tar, tarred.Bytes()},
		{disk.XZ, []byte("\xFD7zXZ\x00....")},
		{disk.Empty, make([]byte, 1<<20)},
		{disk.Empty, nil},
		{disk.Unknown, []byte("#!/bin/sh\n")},
	} {
		got, err := disk.Detect(bytes.NewReader(c.b), int64(len(c.b)))
		must(t, err)
		if got != c.want {
			t.Errorf("%s passes for %s", c.want, got)
		}
		i, err := disk.Open(bytes.NewReader(c.b), int64(len(c.b)))
		must(t, err)
		p, err := i.Part(0)
		must(t, err)
		if _, err := p.FileSystem(); (err == nil) != (p.Format == disk.Ext || p.Format == disk.FAT) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
}

// TestDamage opens what is left of disks.
func TestDamage(t *testing.T) {
	good, err := os.ReadFile(create(t, func(w io.WriterAt) error { return disk.Write(w, layouts(t)[disk.GPT]) }).Name())
	must(t, err)
	for _, c := range []struct {
		name   string
		damage func(b []byte) []byte
		say    string
	}{
		{"header", func(b []byte) []byte { b[512+40] ^= 1; return b }, "the first copy is damaged, the backup is used"},
		{"wiped", func(b []byte) []byte { clear(b[:1<<20]); return b }, "the backup is used"},
		{"cut off", func(b []byte) []byte { return b[:10<<20] }, "which the disk has room for"},
	} {
		b := c.damage(bytes.Clone(good))
		i, err := disk.Open(bytes.NewReader(b), int64(len(b)))
		must(t, err)
		if len(i.Parts) != 3 || !strings.Contains(fmt.Sprint(i.Damage), c.say) {
			t.Errorf("%s: damage is %v, want %q", c.name, i.Damage, c.say)
		}
		for k := range i.Parts {
			_, _ = i.Parts[k].FileSystem()
		}
	}
	b := bytes.Clone(good)
	b[512+40] ^= 1
	b[len(b)-512+40] ^= 1
	if _, err := disk.Open(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "both copies are damaged") {
		t.Errorf("got %v", err)
	}
	// A file system over what was a disk.
	b = bytes.Clone(good)
	clear(b[:1<<20])
	fs := create(t, func(w io.WriterAt) error { return ext4.Write(w, files(t), ext4.Options{Size: 8 << 20}) })
	_, err = fs.ReadAt(b[:8<<20], 0)
	must(t, err)
	if got, err := disk.Detect(bytes.NewReader(b), int64(len(b))); got != disk.Ext {
		t.Errorf("it passes for %s, %v", got, err)
	}
}

// FuzzOpen damages small disks: edits are rows of an offset of three bytes, a
// length of one, and as many bytes.
func FuzzOpen(f *testing.F) {
	small := func(table disk.Table) []byte {
		l := disk.Layout{Table: table, Partitions: []disk.Partition{
			{Type: "esp", Size: 1 << 20, Write: func(w io.WriterAt) error { return fat.Write(w, files(f), fat.Options{Size: 1 << 20}) }},
			{Type: "linux", Size: 1 << 20, Write: func(w io.WriterAt) error {
				return ext4.Write(w, files(f), ext4.Options{Size: 1 << 20, NoJournal: true, BlockSize: 1024})
			}},
		}}
		b, err := os.ReadFile(create(f, func(w io.WriterAt) error { return disk.Write(w, l) }).Name())
		must(f, err)
		return b
	}
	images := [][]byte{small(disk.GPT), small(disk.MBR), {}}
	f.Fuzz(func(t *testing.T, which uint8, edits []byte) {
		b := bytes.Clone(images[int(which)%len(images)])
		if len(b) == 0 {
			b, edits = edits, nil
		}
		for len(edits) > 4 {
			off := (int(edits[0]) | int(edits[1])<<8 | int(edits[2])<<16) % len(b)
			n := min(int(edits[3]), len(edits)-4)
			copy(b[off:], edits[4:4+n])
			edits = edits[4+n:]
		}
		i, err := disk.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_, _ = i.Part(0)
		for k := range i.Parts {
			if p := &i.Parts[k]; p.Offset < 0 || p.Size < 0 || p.Offset+p.Size > int64(len(b)) {
				t.Errorf("partition %+v is out of range", p)
			}
			if fs, err := i.Parts[k].FileSystem(); err == nil {
				_, _ = fs.Tree(tree.Limits{Entries: 1000, Metadata: 1 << 20})
			}
		}
	})
}

func Example() {
	root := tree.New()
	_ = root.Put("/motd", tree.File(0o644, tree.Bytes("hello")))
	f, err := os.CreateTemp("", "disk-*.img")
	if err != nil {
		panic(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	err = disk.Write(f, disk.Layout{Size: 16 << 20, Partitions: []disk.Partition{
		{Type: "swap", Name: "swap", Size: 4 << 20},
		{Type: "root-arm64", Name: "root", Write: func(w io.WriterAt) error {
			return ext4.Write(w, root, ext4.Options{Size: 10 << 20, NoJournal: true})
		}},
	}})
	if err != nil {
		panic(err)
	}

	image, err := disk.Open(f, 16<<20)
	if err != nil {
		panic(err)
	}
	for _, p := range image.Parts {
		fmt.Println(p.Number, p.Type, p.Size>>20, "MiB", p.Format)
	}
	part, err := image.Part(0)
	if err != nil {
		panic(err)
	}
	fs, err := part.FileSystem()
	if err != nil {
		panic(err)
	}
	files, err := fs.Tree(tree.Limits{})
	if err != nil {
		panic(err)
	}
	fmt.Println(fs.Type, files.Root().Names())
	// Output:
	// 1 swap 4 MiB empty
	// 2 root-arm64 10 MiB ext
	// ext4 [motd]
}
