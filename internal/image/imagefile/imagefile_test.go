package imagefile

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/image/compress"
	"wolffia/internal/image/cpio"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/oci"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/image/tarball"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func specimen(t testing.TB) *tree.Tree {
	tr := tree.New()
	must(t, tr.MkdirAll("/dir", 0o755))
	must(t, tr.Put("/dir/file", tree.File(0o644, tree.Bytes(strings.Repeat("word ", 10_000)))))
	must(t, tr.Put("/empty", tree.File(0o644, nil)))
	return tr
}

// create makes a file of what write writes.
func create(t testing.TB, name string, write func(f *os.File) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	must(t, err)
	must(t, write(f))
	must(t, f.Close())
	return path
}

// images makes one of each kind; none of their names says what they are.
func images(t testing.TB) map[disk.Format]string {
	tr := specimen(t)
	out := map[disk.Format]string{
		disk.CPIO: create(t, "x.img", func(f *os.File) error { return cpio.Write(f, tr, cpio.Options{}) }),
		disk.Tar:  create(t, "x.cpio", func(f *os.File) error { return tarball.Write(f, tr, tarball.WriteOptions{}) }),
		disk.Ext:  create(t, "x.tar", func(f *os.File) error { return ext4.Write(f, tr, ext4.Options{}) }),
		disk.FAT:  create(t, "x", func(f *os.File) error { return fat.Write(f, tr, fat.Options{Size: 2 << 20}) }),
		OCI: create(t, "x.ext4", func(f *os.File) error {
			_, err := oci.WriteArchive(f, []oci.Image{{Tree: tr, Arch: "amd64"}}, oci.WriteOptions{})
			return err
		}),
	}
	for _, table := range []disk.Table{disk.GPT, disk.MBR} {
		out[disk.Format(table)] = create(t, "y", func(f *os.File) error {
			return disk.Write(f, disk.Layout{Table: table, Partitions: []disk.Partition{
				{Type: "esp", Size: 2 << 20, Write: func(w io.WriterAt) error { return fat.Write(w, tree.New(), fat.Options{Size: 2 << 20}) }},
				{Type: "linux", Size: 8 << 20, Write: func(w io.WriterAt) error { return ext4.Write(w, tr, ext4.Options{Size: 8 << 20}) }},
			}})
		})
	}
	return out
}

// whole opens an image, looks for damage and reads all of it.
func whole(t *testing.T, path string, format disk.Format, packed int) {
	t.Helper()
	scratch := filepath.Join(t.TempDir(), "scratch")
	f, err := Open(t.Context(), path, Options{Scratch: scratch})
	must(t, err)
	if f.Format != format || len(f.Packed) != packed || f.Damage != nil {
		t.Errorf("format %s, packed %v, damage %v", f.Format, f.Packed, f.Damage)
	}
	tr, err := f.Tree(0)
	must(t, err)
	if b, err := tr.ReadFile("/dir/file", 1<<20); err != nil || len(b) != 50_000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	l, err := f.Check(t.Context())
	must(t, err)
	if l.Problems > 0 {
		t.Errorf("%v", l.All)
	}
	must(t, f.Close())
	if left, _ := os.ReadDir(scratch); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestFormats opens images of all kinds, plain, compressed, and in a qcow2.
func TestFormats(t *testing.T) {
	xz := tooltest.Require(t, "xz", "xz-utils")
	for format, path := range images(t) {
		data, err := os.ReadFile(path)
		must(t, err)
		t.Run(string(format), func(t *testing.T) { whole(t, path, format, 0) })
		for _, kind := range []compress.Kind{compress.Gzip, compress.Zstd} {
			t.Run(fmt.Sprintf("%s %s", format, kind), func(t *testing.T) {
				whole(t, create(t, "z", func(f *os.File) error {
					w, end, err := compress.Writer(f, kind)
					if err == nil {
						_, err = w.Write(data)
					}
					return errors.Join(err, end())
				}), format, 1)
			})
		}
		t.Run(string(format)+" xz", func(t *testing.T) {
			whole(t, create(t, "z", func(f *os.File) error {
				cmd := exec.Command(xz, "-c", path)
				cmd.Stdout = f
				return cmd.Run()
			}), format, 1)
		})
		if format == disk.CPIO || format == disk.Tar || format == OCI {
			continue
		}
		t.Run(string(format)+" qcow2", func(t *testing.T) {
			whole(t, create(t, "q", func(f *os.File) error {
				return qcow2.Write(f, bytes.NewReader(data), int64(len(data)), qcow2.Options{Compression: qcow2.Zstd})
			}), format, 0)
		})
	}
}

// TestParts opens partitions by their numbers.
func TestParts(t *testing.T) {
	f, err := Open(t.Context(), images(t)[disk.DiskGPT], Options{})
	must(t, err)
	defer f.Close()
	if tr, err := f.Tree(1); err != nil || len(tr.Root().Names()) != 0 {
		t.Errorf("the first: %v", err)
	}
	if _, err := f.Tree(7); err == nil || !strings.Contains(err.Error(), "no partition 7") {
		t.Errorf("got %v", err)
	}
}

// TestRefused holds what is said of what can't be opened.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{filepath.Join(dir, "none"): "no such file", dir: "no OCI layout", "/dev/null": "no regular file"} {
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	packed := create(t, "p", func(f *os.File) error { return gz(f, make([]byte, 1<<20)) })
	if _, err := Open(ctx, packed, Options{Scratch: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := Open(t.Context(), packed, Options{Scratch: filepath.Join(packed, "sub")}); !errors.Is(err, fs.ErrExist) && err == nil {
		t.Error("no scratch folder could be made, and that was no error")
	}
}

func gz(w io.Writer, b []byte) error {
	z := gzip.NewWriter(w)
	_, err := z.Write(b)
	return errors.Join(err, z.Close())
}

// TestDamaged opens what is damaged, and says so.
func TestDamaged(t *testing.T) {
	bomb := create(t, "bomb", func(f *os.File) error { return gz(f, make([]byte, 4<<20)) })
	cut := create(t, "cut", func(f *os.File) error {
		var b bytes.Buffer
		err := gz(&b, bytes.Repeat([]byte("some text "), 100_000))
		_, err2 := f.Write(b.Bytes()[:b.Len()/2])
		return errors.Join(err, err2)
	})
	nested := create(t, "nested", func(f *os.File) error {
		b := []byte("core")
		for range 5 {
			var z bytes.Buffer
			must(t, gz(&z, b))
			b = z.Bytes()
		}
		_, err := f.Write(b)
		return err
	})
	over := create(t, "over", func(f *os.File) error {
		return qcow2.Create(f, 1<<20, qcow2.Options{Backing: "/etc/passwd", BackingFormat: "raw"})
	})
	for path, want := range map[string]string{
		bomb: "more than 1048576 bytes", cut: "unexpected EOF", nested: "more than 3 times over", over: "lies outside of",
	} {
		f, err := Open(t.Context(), path, Options{Scratch: filepath.Join(t.TempDir(), "s"), MaxSize: 1 << 20})
		must(t, err)
		if f.Damage == nil || !strings.Contains(f.Damage.Error(), want) {
			t.Errorf("%s: %v", filepath.Base(path), f.Damage)
		}
		if l, err := f.Check(t.Context()); err != nil || l.Problems == 0 {
			t.Errorf("%s: Check: %v, %v", filepath.Base(path), l, err)
		}
		if _, err := f.Tree(0); err == nil {
			t.Errorf("%s has a tree", filepath.Base(path))
		}
		must(t, f.Close())
	}
}
