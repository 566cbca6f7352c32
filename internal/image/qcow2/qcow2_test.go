package qcow2

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// disk makes a raw disk of random parts: holes, zeros, text, and noise, which
// begin and end anywhere.
func disk(t testing.TB, seed uint64, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	r := rand.New(rand.NewPCG(seed, 1))
	for off := int64(0); off < size; {
		n := min(size-off, 1+int64(r.ExpFloat64()*200_000))
		b := make([]byte, n)
		switch r.IntN(5) {
		case 0, 1:
			off += n * 4
			continue
		case 2: // zeros that are there
		case 3:
			copy(b, strings.Repeat(fmt.Sprintf("line %d of some text\n", r.Int()), int(n/20)))
		case 4:
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		}
		_, err := f.WriteAt(b, off)
		must(t, err)
		off += n
	}
	return name
}

// pack writes the raw disk called name as an image of ours.
func pack(t testing.TB, name string, o Options) string {
	t.Helper()
	in, err := os.Open(name)
	must(t, err)
	defer in.Close()
	fi, err := in.Stat()
	must(t, err)
	out, err := os.Create(filepath.Join(t.TempDir(), "disk.qcow2"))
	must(t, err)
	must(t, Write(out, in, fi.Size(), o))
	must(t, out.Close())
	return out.Name()
}

// qemuImg runs qemu-img, which must end well and says what it gives.
func qemuImg(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, "qemu-img", "qemu-utils"), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%.2000s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// check has QEMU, and [Check], count the references of an image.
func check(t testing.TB, name string) {
	t.Helper()
	out := qemuImg(t, "check", "-f", "qcow2", name)
	if !strings.Contains(out, "No errors were found on the image.") || strings.Contains(out, "leaked") {
		t.Fatalf("qemu-img check: %s", out)
	}
	b, err := os.ReadFile(name)
	must(t, err)
	l, err := Check(t.Context(), bytes.NewReader(b), int64(len(b)))
	must(t, err)
	for _, f := range l.All {
		t.Errorf("Check: %v", f)
	}
}

// content reads an image with our reader, in pieces of odd sizes.
func content(t testing.TB, name string) []byte {
	t.Helper()
	m, err := OpenFile(name, FileOptions{})
	must(t, err)
	defer m.Close()
	var out bytes.Buffer
	n, err := io.CopyBuffer(struct{ io.Writer }{&out}, io.NewSectionReader(struct{ io.ReaderAt }{m}, 0, m.Size()+1000), make([]byte, 77_777))
	must(t, err)
	if n != m.Size() {
		t.Fatalf("%d bytes of %d", n, m.Size())
	}
	return out.Bytes()
}

// same compares an image with the raw disk that it was made of, whose last
// sector it fills up.
func same(t testing.TB, name, raw string) {
	t.Helper()
	want, err := os.ReadFile(raw)
	must(t, err)
	want = append(want, make([]byte, -len(want)&511)...)
	if got := content(t, name); !bytes.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("%s: byte %d differs from %s", name, i, raw)
			}
		}
		t.Fatalf("%s: %d bytes, not %d", name, len(got), len(want))
	}
}

// variants are the ways to write an image.
func variants(t *testing.T, fn func(t *testing.T, o Options)) {
	for _, size := range []int{512, 4 << 10, 64 << 10, 2 << 20} {
		for _, c := range []Compression{None, Deflate, Zstd} {
			t.Run(fmt.Sprintf("%d %s", size, c), func(t *testing.T) { fn(t, Options{ClusterSize: size, Compression: c}) })
		}
	}
}

// TestWrite has QEMU check, read, describe and convert what we write, and reads
// it with our own reader.
func TestWrite(t *testing.T) {
	const size = 9_000_001
	raw := disk(t, 7, size)
	variants(t, func(t *testing.T, o Options) {
		name := pack(t, raw, o)
		check(t, name)
		qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, name)
		same(t, name, raw)
		info := qemuImg(t, "info", name)
		want := []string{"virtual size: 8.58 MiB (9000448 bytes)", fmt.Sprintf("cluster_size: %d", o.ClusterSize), "compat: 1.1", "compression type: zlib", "refcount bits: 16", "corrupt: false"}
		if o.Compression == Zstd {
			want[3] = "compression type: zstd"
		}
		for _, w := range want {
			if !strings.Contains(info, w) {
				t.Errorf("qemu-img info says\n%s\nwithout %q", info, w)
			}
		}
		back := filepath.Join(t.TempDir(), "back.raw")
		qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", name, back)
		same(t, name, back)
	})
}

// TestSame writes twice, from a file and from a reader that knows no holes.
func TestSame(t *testing.T) {
	raw := disk(t, 8, 5_000_000)
	b, err := os.ReadFile(raw)
	must(t, err)
	variants(t, func(t *testing.T, o Options) {
		first, err := os.ReadFile(pack(t, raw, o))
		must(t, err)
		out, err := os.Create(filepath.Join(t.TempDir(), "again"))
		must(t, err)
		defer out.Close()
		must(t, Write(out, bytes.NewReader(b), int64(len(b)), o))
		again, err := os.ReadFile(out.Name())
		must(t, err)
		if !bytes.Equal(first, again) {
			t.Error("the same disk gives other bytes")
		}
	})
}

// TestGolden holds the bytes of small images still.
func TestGolden(t *testing.T) {
	in := append(bytes.Repeat([]byte("wolffia\n"), 1000), make([]byte, 100_000)...)
	in = append(in, "the end"...)
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{ClusterSize: 4096}, "32768 32c995fd5a4d48442d2113497b9ada575c287584a9ab981bacbe258246c9470b"},
		{Options{ClusterSize: 4096, Compression: Deflate}, "24576 924942c3244ab29efa158f8f8ba2a8bf6cf0db89ab97f0299300e37f9f2d70a4"},
		{Options{ClusterSize: 4096, Compression: Zstd}, "24576 c48e5835f6f9b2c1a7dc3031998b8627f05642d183f5324607824b1e17a9d6a1"},
	} {
		out, err := os.Create(filepath.Join(t.TempDir(), "golden"))
		must(t, err)
		must(t, Write(out, bytes.NewReader(in), int64(len(in)), c.o))
		b, err := os.ReadFile(out.Name())
		must(t, err)
		must(t, out.Close())
		if got := fmt.Sprintf("%d %x", len(b), sha256.Sum256(b)); got != c.want {
			t.Errorf("%+v: %s", c.o, got)
		}
	}
}

// TestQEMUsOwn reads what QEMU writes, in all the ways that it has.
func TestQEMUsOwn(t *testing.T) {
	raw := disk(t, 9, 9_000_448)
	for _, options := range []string{
		"-o compat=0.10", "-o compat=0.10 -c", "-o compat=1.1", "-c", "-o compression_type=zstd -c",
		"-o cluster_size=512 -c", "-o cluster_size=2M,compression_type=zstd -c", "-o cluster_size=2M",
		"-o extended_l2=on", "-o extended_l2=on,compression_type=zstd -c", "-o preallocation=metadata",
		"-o refcount_bits=1", "-o lazy_refcounts=on", "-o preallocation=full -S 0",
	} {
		t.Run(options, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "disk.qcow2")
			qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, strings.Fields(options)...), raw, name)...)
			same(t, name, raw)
			check(t, name)
		})
	}
}

// TestChain reads overlays that QEMU wrote to, over ours and over raw disks.
func TestChain(t *testing.T) {
	qemuIO := tooltest.Require(t, "qemu-io", "qemu-utils")
	dir := t.TempDir()
	must(t, os.Rename(disk(t, 10, 3_000_320), filepath.Join(dir, "base.raw")))
	for i, options := range []string{"cluster_size=64k", "extended_l2=on", "cluster_size=4k"} {
		t.Run(options, func(t *testing.T) {
			at := func(name string) string { return filepath.Join(dir, fmt.Sprint(i, name)) }
			f, err := os.Create(at("middle"))
			must(t, err)
			must(t, Create(f, 4<<20, Options{Backing: "base.raw", BackingFormat: "raw"}))
			must(t, f.Close())
			check(t, at("middle"))
			qemuImg(t, "create", "-f", "qcow2", "-F", "qcow2", "-b", filepath.Base(at("middle")), "-o", options, at("top"), "5M")
			for _, name := range []string{"middle", "top"} {
				args := []string{"-f", "qcow2"}
				r := rand.New(rand.NewPCG(uint64(i), uint64(len(name))))
				for range 12 {
					off, n := r.IntN(4<<20-200_000)&^511, (r.IntN(150_000)+512)&^511
					op := fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off, n)
					if r.IntN(3) == 0 {
						op = fmt.Sprintf("write -z %d %d", off, n)
					}
					args = append(args, "-c", op)
				}
				if out, err := exec.Command(qemuIO, append(args, at(name))...).CombinedOutput(); err != nil {
					t.Fatalf("qemu-io: %v\n%s", err, out)
				}
				check(t, at(name))
				qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", at(name), at("raw"))
				same(t, at(name), at("raw"))
				m, err := OpenFile(at(name), FileOptions{})
				must(t, err)
				flat, err := os.Create(at("flat"))
				must(t, err)
				must(t, Write(flat, m, m.Size(), Options{Compression: Zstd}))
				must(t, errors.Join(flat.Close(), m.Close()))
				qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", at("flat"), at("raw"))
			}
		})
	}
}

// TestHuge writes a disk of 4 TiB with two bytes in it.
func TestHuge(t *testing.T) {
	name := filepath.Join(t.TempDir(), "huge.raw")
	f, err := os.Create(name)
	must(t, err)
	const size = 4 << 40
	must(t, f.Truncate(size))
	_, err = f.WriteAt([]byte{1}, size-1)
	must(t, err)
	_, err = f.WriteAt([]byte{2}, 1<<40)
	must(t, err)
	must(t, f.Close())
	image := pack(t, name, Options{})
	fi, err := os.Stat(image)
	must(t, err)
	if fi.Size() > 1<<20 {
		t.Errorf("two bytes take %d", fi.Size())
	}
	check(t, image)
	m, err := OpenFile(image, FileOptions{})
	must(t, err)
	defer m.Close()
	all, err := m.Data()
	must(t, err)
	if want := []extent{{Off: 1 << 40, Len: 64 << 10}, {Off: size - 64<<10, Len: 64 << 10}}; fmt.Sprint(all) != fmt.Sprint(want) {
		t.Errorf("data at %v, not %v", all, want)
	}
	var b [1]byte
	if n, err := m.ReadAt(b[:], size-1); n != 1 || err != nil || b[0] != 1 {
		t.Errorf("read %d bytes, %v: %v", n, b, err)
	}
}

// TestEmpty writes disks with nothing on them.
func TestEmpty(t *testing.T) {
	for _, size := range []int64{0, 1, 512, 1 << 30} {
		f, err := os.Create(filepath.Join(t.TempDir(), "empty"))
		must(t, err)
		must(t, Create(f, size, Options{}))
		must(t, f.Close())
		check(t, f.Name())
		m, err := OpenFile(f.Name(), FileOptions{})
		must(t, err)
		if all, err := m.Data(); len(all) > 0 || err != nil {
			t.Errorf("%d bytes: data at %v, %v", size, all, err)
		}
		must(t, m.Close())
	}
}
