package xz

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os/exec"
	"runtime"
	"testing"

	"wolffia/internal/tooltest"
)

func TestRefuses(t *testing.T) {
	text := someText(300_000)
	good := xzOf(t, text, "--block-size=50000")
	for name, file := range map[string][]byte{
		"nothing": {}, "zeros": make([]byte, 10000), "text": text[:5000], "padding of 3": append(bytes.Clone(good), 0, 0, 0),
		"cut off at the end": good[:len(good)-1], "cut off": good[:len(good)-4000], "cut off at the start": good[4:], "without a header": good[12:],
		"longer": append(bytes.Clone(good), 'x'), "two, the first cut off": append(bytes.Clone(good[100:]), good...),
		"padding at the start": append(make([]byte, 4), good...),
	} {
		for way, decode := range ways {
			if _, err := decode(file, Options{}); err == nil {
				t.Errorf("%s: %s: decoded", name, way)
			}
		}
	}
	for way, decode := range ways {
		if _, err := decode(good, Options{MaxSize: int64(len(text)), MaxDict: 8 << 20}); err != nil {
			t.Errorf("%s: just the limits: %v", way, err)
		}
		_, err := decode(good, Options{MaxSize: int64(len(text)) - 1})
		if large, ok := errors.AsType[*SizeError](err); !ok || large.Limit != int64(len(text))-1 {
			t.Errorf("%s: over the limit: %v", way, err)
		}
		_, err = decode(good, Options{MaxDict: 8<<20 - 1})
		if dict, ok := errors.AsType[*DictError](err); !ok || dict.Size != 8<<20 {
			t.Errorf("%s: a dictionary of 8 MiB: %v", way, err)
		}
	}
}

// TestEveryByte changes each byte of a small file, and cuts it off there.
func TestEveryByte(t *testing.T) {
	text := someText(3000)
	for _, args := range [][]string{{"--block-size=1000"}, {"--check=sha256", "--block-size=2000", "-T2"}} {
		good := xzOf(t, text, args...)
		for i := range good {
			for way, decode := range ways {
				for _, flip := range []byte{0x10, 0xff} {
					bad := bytes.Clone(good)
					bad[i] ^= flip
					if got, err := decode(bad, Options{}); err == nil {
						t.Errorf("%v: %s: byte %d of %d changed: %d bytes", args, way, i, len(good), len(got))
					}
				}
				if got, err := decode(good[:i], Options{}); err == nil {
					t.Errorf("%v: %s: %d of %d bytes: decoded to %d", args, way, i, len(good), len(got))
				} else if way == "Reader" && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%v: %d of %d bytes: %v", args, i, len(good), err)
				}
			}
		}
	}
}

// boundedWriter fails the test when something is written beyond the limit.
type boundedWriter struct {
	t     *testing.T
	limit int64
}

func (w *boundedWriter) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > w.limit {
		w.t.Errorf("%d bytes at %d", len(p), off)
	}
	return len(p), nil
}

// withIndex replaces the index of a file of one stream and one block.
func withIndex(t *testing.T, file []byte, r record) []byte {
	t.Helper()
	blocks, err := readIndexes(bytes.NewReader(file), int64(len(file)))
	if err != nil || len(blocks) != 1 {
		t.Fatal(blocks, err)
	}
	b := blocks[0]
	return append(bytes.Clone(file[:b.offset+b.padded()]), indexAndFooter(b.flags, r)...)
}

func indexAndFooter(f streamFlags, records ...record) []byte {
	index := binary.AppendUvarint([]byte{0}, uint64(len(records)))
	for _, r := range records {
		index = r.append(index)
	}
	return sealed(index, f)
}

// sealed completes an index by padding and checksum, and adds the footer.
func sealed(index []byte, f streamFlags) []byte {
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
	return append(index, f.footer(int64(len(index)))...)
}

// TestBomb: what the index tells is compared with the limit before anything is
// decoded, and a block that grows beyond what it tells is stopped.
func TestBomb(t *testing.T) {
	zeros := xzOf(t, make([]byte, 16<<20), "-T1")
	blocks, err := readIndexes(bytes.NewReader(zeros), int64(len(zeros)))
	if err != nil {
		t.Fatal(err)
	}
	w := &boundedWriter{t: t}
	_, err = Decode(context.Background(), bytes.NewReader(zeros), int64(len(zeros)), w, Options{MaxSize: 8 << 20})
	if _, ok := errors.AsType[*SizeError](err); !ok {
		t.Error(err)
	}
	w.limit = 1000
	lie := withIndex(t, zeros, record{blocks[0].unpadded, 1000})
	_, err = Decode(context.Background(), bytes.NewReader(lie), int64(len(lie)), w, Options{})
	if !errors.Is(err, errIndexSize) {
		t.Error(err)
	}
	n, err := io.Copy(io.Discard, NewReader(bytes.NewReader(zeros), Options{MaxSize: 3 << 20}))
	if _, ok := errors.AsType[*SizeError](err); !ok || n > 3<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestMemory: a dictionary that a file asks for isn't taken before there is
// data to fill it.
func TestMemory(t *testing.T) {
	file := xzOf(t, []byte("few bytes"), "--lzma2=preset=0,dict=96MiB")
	lie := withIndex(t, file, record{56, 1 << 31})
	for name, f := range map[string]func(){
		"Reader": func() { read(file, Options{}) },
		"Decode": func() { decode(lie, Options{}) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
			t.Errorf("%s: %d bytes", name, n)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	file := xzOf(t, []byte("data"))
	if _, err := Decode(ctx, bytes.NewReader(file), int64(len(file)), &memory{}, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestReaderErrors: an error of what is read, or of what is written, comes back.
func TestReaderErrors(t *testing.T) {
	file := xzOf(t, noise(300_000))
	broken := errors.New("broken")
	r := io.MultiReader(bytes.NewReader(file[:200_000]), errReader{broken})
	if _, err := io.Copy(io.Discard, NewReader(r, Options{})); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := Decode(context.Background(), bytes.NewReader(file), int64(len(file)), errWriterAt{broken}, Options{}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

type errWriterAt struct{ err error }

func (e errWriterAt) WriteAt([]byte, int64) (int, error) { return 0, e.err }

// bounds are those of the fuzz tests.
var bounds = Options{MaxSize: 1 << 20, MaxDict: 1 << 20, Workers: 1}

// leftOut tells whether a file may be one that the reference tool takes.
func leftOut(err error) bool {
	_, size := errors.AsType[*SizeError](err)
	_, dict := errors.AsType[*DictError](err)
	_, unsupported := errors.AsType[*UnsupportedError](err)
	return size || dict || unsupported
}

// reference is what xz makes of a file.
func reference(t testing.TB, file []byte, args ...string) ([]byte, error) {
	cmd := exec.Command(tooltest.Require(t, "xz", "xz-utils"), append([]string{"-dcqq"}, args...)...)
	cmd.Stdin = bytes.NewReader(file)
	return cmd.Output()
}

// FuzzDecode: both ways decode the same, and what xz decodes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x00\x00\x00\x00\x1c\xdfD!\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ"))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := read(file, bounds)
		w := &boundedWriter{t: t, limit: bounds.MaxSize}
		n, err2 := Decode(context.Background(), bytes.NewReader(file), int64(len(file)), w, bounds)
		if (err == nil) != (err2 == nil) && !leftOut(err) && !leftOut(err2) || err == nil && err2 == nil && n != int64(len(got)) {
			t.Fatalf("Reader: %d bytes, %v; Decode: %d bytes, %v", len(got), err, n, err2)
		}
		if leftOut(err) {
			return
		}
		want, refused := reference(t, file)
		if (err == nil) != (refused == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v; xz: %d bytes, %v", len(got), err, len(want), refused)
		}
	})
}

// FuzzLZMA2 decodes what no checksum protects: data that xz can be given raw.
func FuzzLZMA2(f *testing.F) {
	f.Add([]byte("\x01\x00\x02abc\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const dict, limit = 1 << 16, 1 << 20
		src := newSource(bytes.NewReader(data), 16)
		tooLong := errors.New("too long")
		var d lzma2
		d.reset(src, dict, limit, tooLong)
		var got []byte
		var err error
		for err == nil {
			var part []byte
			part, err = d.next()
			got = append(got, part...)
		}
		if errors.Is(err, tooLong) {
			return
		}
		if err == io.EOF {
			data, err = data[:src.n], nil
		}
		want, refused := reference(t, data, "--format=raw", "--lzma2=dict=64KiB")
		if (err == nil) != (refused == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v; xz: %d bytes, %v", len(got), err, len(want), refused)
		}
	})
}

// FuzzIndex reads what stands after the blocks, with correct checksums, so that
// the numbers get any value.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{0, 2, 20, 5, 24, 100})
	f.Add([]byte{0, 0})
	f.Add([]byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1})
	f.Fuzz(func(t *testing.T, index []byte) {
		flags := streamFlags{0, 4}
		file := append(flags.header(), make([]byte, 200)...)
		file = append(file, sealed(index, flags)...)
		list, err := readIndexes(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		at := int64(headerSize)
		for _, b := range list {
			if b.offset != at || b.size < 0 || b.unpadded < 0 {
				t.Fatalf("%+v", b)
			}
			at += b.padded()
		}
		if at != headerSize+200 {
			t.Fatalf("blocks end at %d", at)
		}
	})
}

// FuzzBlockHeader reads a block header with a correct checksum.
func FuzzBlockHeader(f *testing.F) {
	f.Add([]byte{0, 0x21, 1, 22})
	f.Add([]byte{0xc0, 5, 6, 0x21, 1, 40})
	f.Add([]byte{1, 4, 4, 0, 16, 0, 0, 0x21, 1, 41})
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 255*4-1 {
			return
		}
		head := append([]byte{0}, body...)
		for len(head)%4 != 0 {
			head = append(head, 0)
		}
		head[0] = byte(len(head) / 4)
		head = binary.LittleEndian.AppendUint32(head, crc32.ChecksumIEEE(head))
		src := newSource(bytes.NewReader(head), 16)
		h, err := readBlockHeader(src)
		if err != nil {
			return
		}
		if src.n != int64(len(head)) || h.packed < unknown || h.size < unknown || h.dict < 4096 || len(h.filters) > 3 {
			t.Fatalf("%+v", h)
		}
	})
}

// BenchmarkReader decodes a program.
func BenchmarkReader(b *testing.B) {
	data := program(b)
	file := xzOf(b, data)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := io.Copy(io.Discard, NewReader(bytes.NewReader(file), Options{})); err != nil {
			b.Fatal(err)
		}
	}
}
