package deb

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"wolffia/internal/tooltest"

	"github.com/mikelolasagasti/xz"
)

// xzOf compresses with the reference tool.
func xzOf(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, "xz", "xz-utils"), append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// memory is an io.WriterAt.
type memory struct {
	mu   sync.Mutex
	data []byte
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(off) + len(p); end > len(m.data) {
		m.data = append(m.data, make([]byte, end-len(m.data))...)
	}
	return copy(m.data[off:], p), nil
}

func decodeXZ(data []byte, opts XZOptions) ([]byte, error) {
	var m memory
	n, err := DecodeXZ(context.Background(), bytes.NewReader(data), int64(len(data)), &m, opts)
	if err == nil && n != int64(len(m.data)) {
		err = errors.New("the length is not that of the data")
	}
	return m.data, err
}

func someText(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString([]string{"frame ", "port ", "inode ", "lease ", "tap ", "socket\n"}[rnd.IntN(6)])
	}
	return b.Bytes()[:n]
}

func TestDecodeXZ(t *testing.T) {
	text := someText(300_000)
	blocks := xzOf(t, text, "--block-size=50000")
	for name, test := range map[string]struct{ file, want []byte }{
		"one block":        {xzOf(t, text, "-T1"), text},
		"seven blocks":     {blocks, text},
		"block sizes told": {xzOf(t, text, "-T2", "--block-size=40001"), text},
		"empty":            {xzOf(t, nil), nil},
		"one byte":         {xzOf(t, []byte("x")), []byte("x")},
		"no check":         {xzOf(t, text, "--check=none", "--block-size=100000"), text},
		"crc32":            {xzOf(t, text, "--check=crc32", "--block-size=100000"), text},
		"sha256":           {xzOf(t, text, "--check=sha256", "--block-size=100000"), text},
		"filter":           {xzOf(t, text, "--x86", "--lzma2=preset=1", "--block-size=100000"), text},
		"streams":          {bytes.Join([][]byte{blocks, xzOf(t, []byte("and more")), xzOf(t, nil)}, nil), append(bytes.Clone(text), "and more"...)},
		"streams, padded":  {bytes.Join([][]byte{blocks, xzOf(t, []byte("and more")), nil}, make([]byte, 5000)), append(bytes.Clone(text), "and more"...)},
	} {
		for _, workers := range []int{0, 1, 3} {
			got, err := decodeXZ(test.file, XZOptions{Workers: workers})
			if err != nil || !bytes.Equal(got, test.want) {
				t.Errorf("%s, %d workers: %d bytes, %v", name, workers, len(got), err)
			}
		}
	}
	if list, err := readXZIndex(bytes.NewReader(blocks), int64(len(blocks))); err != nil || len(list) != 6 {
		t.Errorf("%d blocks, %v", len(list), err)
	}
}

func TestDecodeXZRefuses(t *testing.T) {
	text := someText(300_000)
	good := xzOf(t, text, "--block-size=50000")
	if _, err := decodeXZ(good, XZOptions{MaxSize: int64(len(text))}); err != nil {
		t.Errorf("just the limit: %v", err)
	}
	_, err := decodeXZ(good, XZOptions{MaxSize: int64(len(text)) - 1})
	var limit *LimitError
	if !errors.As(err, &limit) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := decodeXZ(good, XZOptions{MaxDict: 1 << 20}); !errors.Is(err, xz.ErrMemlimit) {
		t.Errorf("a dictionary of 8 MiB: %v", err)
	}
	for name, file := range map[string][]byte{
		"nothing": {}, "zeros": make([]byte, 10000), "text": text[:5000], "padding of 3": append(bytes.Clone(good), 0, 0, 0),
		"cut off at the end": good[:len(good)-1], "cut off": good[:len(good)-4000], "cut off at the start": good[4:], "without a header": good[12:],
		"longer": append(bytes.Clone(good), 'x'), "two, the first cut off": append(bytes.Clone(good[100:]), good...),
	} {
		if _, err := decodeXZ(file, XZOptions{}); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
	// A changed byte anywhere is an error, or does no harm: the first byte of
	// a range coder's data is 0 and not looked at.
	small := xzOf(t, text[:3000], "--block-size=1000")
	for i := range small {
		bad := bytes.Clone(small)
		bad[i] ^= 0x10
		if got, err := decodeXZ(bad, XZOptions{}); err == nil && !bytes.Equal(got, text[:3000]) {
			t.Errorf("byte %d of %d changed: decoded to something else", i, len(small))
		}
	}
}

// TestXZBomb: what the index tells is compared with the limit before anything
// is decoded, and a block that grows beyond what its index tells is stopped.
func TestXZBomb(t *testing.T) {
	zeros := xzOf(t, make([]byte, 64<<20), "-T1")
	w := &boundedWriter{t: t, limit: 0}
	_, err := DecodeXZ(context.Background(), bytes.NewReader(zeros), int64(len(zeros)), w, XZOptions{MaxSize: 32 << 20})
	var limit *LimitError
	if !errors.As(err, &limit) {
		t.Errorf("%v", err)
	}
	// The same with an index that says 1000 bytes.
	list, err := readXZIndex(bytes.NewReader(zeros), int64(len(zeros)))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	b := list[0]
	b.size = 1000
	w.limit = 1000
	err = b.decode(context.Background(), bytes.NewReader(zeros), offsetZero{w}, 64<<20)
	if err == nil || !strings.Contains(err.Error(), "longer than the index says") {
		t.Errorf("%v", err)
	}
}

type offsetZero struct{ w *boundedWriter }

func (o offsetZero) Write(p []byte) (int, error) { return o.w.WriteAt(p, 0) }

func FuzzDecodeXZ(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x00\x00\x00\x00\x1c\xdfD!\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ"))
	if _, err := exec.LookPath("xz"); err == nil {
		f.Add(xzOf(f, []byte("hello")))
		f.Add(xzOf(f, someText(300), "--block-size=100", "--check=crc32"))
		f.Add(append(xzOf(f, []byte("a")), append(make([]byte, 8), xzOf(f, []byte("b"), "--check=sha256")...)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w := &boundedWriter{t: t, limit: 1 << 20}
		n, err := DecodeXZ(context.Background(), bytes.NewReader(data), int64(len(data)), w, XZOptions{MaxSize: w.limit, MaxDict: 1 << 20, Workers: 1})
		if err != nil {
			return
		}
		// What is decoded by the index is what a plain reader decodes.
		r, err := xz.NewReader(bytes.NewReader(data), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(r); err != nil || int64(b.Len()) != n {
			t.Fatalf("decoded %d bytes, a plain reader %d, %v", n, b.Len(), err)
		}
	})
}

// FuzzXZIndex reads what stands after the blocks, with correct checksums, so
// that the numbers get any value.
func FuzzXZIndex(f *testing.F) {
	f.Add([]byte{0, 2, 20, 5, 24, 100})
	f.Add([]byte{0, 0})
	f.Add([]byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1})
	f.Fuzz(func(t *testing.T, index []byte) {
		for len(index)%4 != 0 {
			index = append(index, 0)
		}
		file := xzStreamHeader([2]byte{0, 4})
		file = append(file, make([]byte, 200)...)
		full := sealIndex(index)
		file = append(append(file, full...), xzStreamFooter([2]byte{0, 4}, len(full))...)
		list, err := readXZIndex(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		at := int64(xzHeaderSize)
		for _, b := range list {
			if b.offset != at || b.size < 0 || b.unpadded < 0 {
				t.Fatalf("%+v", b)
			}
			at += padXZ(b.unpadded)
		}
		if at != xzHeaderSize+200 {
			t.Fatalf("blocks end at %d", at)
		}
	})
}

// kernelPackage is a package of many xz blocks, for benchmarks.
func kernelPackage(b *testing.B) string {
	dir := stage(b, 60)
	noise := make([]byte, 40<<20)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range noise {
		noise[i] = byte(rnd.IntN(40))
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/bin/noise"), noise, 0o644); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "kernel.deb")
	run(b, ".", "dpkg-deb", "--root-owner-group", "-Zxz", "-b", dir, file)
	return file
}

func BenchmarkExtractXZ(b *testing.B) {
	tooltest.Require(b, "dpkg-deb", "dpkg")
	file := kernelPackage(b)
	b.Run("wolffia", func(b *testing.B) {
		out, err := os.Create(filepath.Join(b.TempDir(), "data.tar"))
		if err != nil {
			b.Fatal(err)
		}
		defer out.Close()
		for b.Loop() {
			n, err := openFile(b, file, Options{}).ExtractData(context.Background(), out)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n)
		}
	})
	b.Run("dpkg-deb", func(b *testing.B) {
		for b.Loop() {
			out, err := os.Create(filepath.Join(b.TempDir(), "data.tar"))
			if err != nil {
				b.Fatal(err)
			}
			cmd := exec.Command("dpkg-deb", "--fsys-tarfile", file)
			cmd.Stdout = out
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
			info, err := out.Stat()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(info.Size())
			out.Close()
		}
	})
}
