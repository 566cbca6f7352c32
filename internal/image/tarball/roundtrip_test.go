package tarball

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/compress"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

func write(t testing.TB, tr *tree.Tree, o WriteOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, tr, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t testing.TB, b []byte, o ReadOptions) *tree.Tree {
	t.Helper()
	tr, err := Read(bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

var (
	compressions = []compress.Kind{compress.None, compress.Gzip, compress.Zstd}
	everything   = treetest.Options{Entries: 200, Xattrs: true, LinkedLinks: true}
)

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(20) {
		want := treetest.Random(seed, everything)
		for _, c := range compressions {
			t.Run(fmt.Sprintf("%d%s", seed, c), func(t *testing.T) {
				b := write(t, want, WriteOptions{Compression: c})
				treetest.Equal(t, read(t, b, ReadOptions{}), want)
				treetest.Equal(t, read(t, b, ReadOptions{SpoolFile: filepath.Join(t.TempDir(), "spool")}), want)
			})
		}
	}
}

func TestRoundTripExtremes(t *testing.T) {
	want := tree.New()
	long := strings.Repeat(strings.Repeat("d", 250)+"/", 15)
	put := func(name string, n *tree.Node) {
		t.Helper()
		if err := want.Put(name, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := want.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	put(long+"file", tree.File(0o644, tree.Bytes("deep")))
	put("/link", tree.Symlink(strings.Repeat("x", tree.MaxPath-1)))
	if err := want.Link(long+"file", "/hard"); err != nil {
		t.Fatal(err)
	}
	for name, sec := range map[string]int64{"/before": -1, "/earlier": -1 << 40, "/later": 1 << 40, "/octal": 1<<33 - 1, "/beyond": 1 << 33} {
		n := tree.File(0o644, nil)
		n.ModTime = time.Unix(sec, 0)
		put(name, n)
	}
	n := tree.File(0o644, nil)
	n.UID, n.GID = 1<<32-1, 1<<21
	n.Xattrs = map[string][]byte{"user.a=b%3Dc%": []byte("\x00\n="), "user.empty": {}, "user." + strings.Repeat("n", 250): bytes.Repeat([]byte{1}, 65536)}
	put("/attributes", n)
	treetest.Equal(t, read(t, write(t, want, WriteOptions{}), ReadOptions{}), want)
}

func big() *tree.Tree {
	return treetest.Random(99, treetest.Options{Entries: 100, MaxSize: 200_000})
}

func TestSameBytesOnAnyNumberOfProcessors(t *testing.T) {
	tr := big()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, c := range compressions {
		var want []byte
		for _, procs := range []int{1, 2, 8} {
			runtime.GOMAXPROCS(procs)
			got := write(t, tr, WriteOptions{Compression: c})
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%q: other bytes on %d processors than on 1", c, procs)
			}
		}
	}
}

func TestTimesAreClamped(t *testing.T) {
	tr := tree.New()
	for name, when := range map[string]time.Time{"/old": time.Unix(-5, 0), "/fine": time.Unix(100, 999), "/after": time.Unix(2000, 1), "/never": {}} {
		n := tree.File(0o644, nil)
		n.ModTime = when
		tr.Put(name, n)
	}
	got := read(t, write(t, tr, WriteOptions{Time: time.Unix(1000, 0)}), ReadOptions{})
	for name, sec := range map[string]int64{"/old": -5, "/fine": 100, "/after": 1000, "/never": 0, "/": 0} {
		if m := got.Get(name).ModTime; !m.Equal(time.Unix(sec, 0)) {
			t.Errorf("%s: %v, want %d", name, m, sec)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		n   *tree.Node
		o   WriteOptions
		say string
	}{
		{&tree.Node{Mode: tree.TypeSocket}, WriteOptions{}, `"/the-file": tar can't hold a socket`},
		{tree.Device(tree.TypeChar, 0o600, 1<<12, 0), WriteOptions{}, `"/the-file": device 4096:0`},
		{tree.File(0o644, sized(7)), WriteOptions{}, `"/the-file": content ends after 0 of 7 bytes`},
		{tree.File(0o644, nil), WriteOptions{Compression: "lzma"}, `"lzma" is not supported`},
	} {
		tr := tree.New()
		tr.Put("/the-file", c.n)
		err := Write(io.Discard, tr, c.o)
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("got %v, want an error that says %q", err, c.say)
		}
	}
}

type sized int64

func (s sized) Size() int64                { return int64(s) }
func (sized) Open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }

// A full disk ends with its error, and leaves no goroutine of a compressor.
func TestWriteErrors(t *testing.T) {
	tr := big()
	before := runtime.NumGoroutine()
	for _, c := range compressions {
		for _, room := range []int{0, 5, 1000, 600_000} {
			if err := Write(&disk{room: room}, tr, WriteOptions{Compression: c}); !errors.Is(err, errFull) {
				t.Errorf("%q with room for %d bytes: %v", c, room, err)
			}
		}
	}
	for range 1000 { // those that have ended may still be counted
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

var errFull = errors.New("disk is full")

type disk struct{ room int }

func (d *disk) Write(p []byte) (int, error) {
	if len(p) > d.room {
		return 0, errFull
	}
	d.room -= len(p)
	return len(p), nil
}

// countingReader says how much of an archive was read.
type countingReader struct {
	*os.File
	n *int64
}

func (c countingReader) ReadAt(p []byte, off int64) (int, error) {
	*c.n += int64(len(p))
	return c.File.ReadAt(p, off)
}

func TestReadAtLeavesContentsAlone(t *testing.T) {
	want := tree.New()
	for i := range 10 {
		want.Put(fmt.Sprint("/", i), tree.File(0o644, tree.Bytes(bytes.Repeat([]byte{byte(i)}, 1<<20))))
	}
	name := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(name, write(t, want, WriteOptions{}), 0o600); err != nil {
		t.Fatal(err)
	}
	var n int64
	open := func() (tree.ReaderAtCloser, error) {
		f, err := os.Open(name)
		return countingReader{f, &n}, err
	}
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadAt(open, fi.Size(), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n > 12*8192 {
		t.Errorf("read %d bytes for 11 entries", n)
	}
	treetest.Equal(t, got, want)
}

// What archive/tar writes in each of its formats is read alike.
func TestGoFormats(t *testing.T) {
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		long := strings.Repeat("l", 80) + "/" + strings.Repeat("m", 80)
		if format != tar.FormatUSTAR {
			long = strings.Repeat(long+"/", 3) + "x"
		}
		for _, h := range []*tar.Header{
			{Name: long, Typeflag: tar.TypeReg, Mode: 0o644, Size: 5, ModTime: time.Unix(1e9, 0)},
			{Name: "h", Typeflag: tar.TypeLink, Linkname: long, Format: format},
			{Name: "dev", Typeflag: tar.TypeBlock, Mode: 0o600, Devmajor: 8, Devminor: 1, Uid: 7},
		} {
			h.Format = format
			if format == tar.FormatUSTAR {
				h.Linkname = h.Linkname[:min(len(h.Linkname), 0)]
				if h.Typeflag == tar.TypeLink {
					continue
				}
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				io.WriteString(w, "hello")
			}
		}
		w.Close()
		got := read(t, b.Bytes(), ReadOptions{})
		if s, err := got.ReadFile(long, 10); string(s) != "hello" || err != nil {
			t.Errorf("%v: %q, %v", format, s, err)
		}
		if n := got.Get("/dev"); n == nil || n.Major != 8 || n.Minor != 1 || n.UID != 7 {
			t.Errorf("%v: device %+v", format, n)
		}
		if format != tar.FormatUSTAR && got.Get("/h") != got.Get(long) {
			t.Errorf("%v: hard link", format)
		}
	}
}

func BenchmarkReadAt(b *testing.B) {
	t := treetest.Random(5, treetest.Options{Entries: 5000, MaxSize: 20_000})
	data := write(b, t, WriteOptions{})
	open := func() (tree.ReaderAtCloser, error) { return memory{bytes.NewReader(data)}, nil }
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := ReadAt(open, int64(len(data)), ReadOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	t := treetest.Random(5, treetest.Options{Entries: 5000, MaxSize: 20_000})
	size := len(write(b, t, WriteOptions{}))
	for _, c := range compressions {
		b.Run("compression="+string(c), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := Write(io.Discard, t, WriteOptions{Compression: c}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Archives compressed in pieces (pigz, pzstd), and padded after that (bsdtar),
// are one archive.
func TestMembersAndPadding(t *testing.T) {
	want := big()
	plain := write(t, want, WriteOptions{})
	for _, c := range []compress.Kind{compress.Gzip, compress.Zstd} {
		var all bytes.Buffer
		for rest := plain; len(rest) > 0; {
			n := min(len(rest), 777_777)
			w, end, err := compress.Writer(&all, c)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(rest[:n])
			if err := end(); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		treetest.Equal(t, read(t, all.Bytes(), ReadOptions{}), want)
		if c == compress.Gzip {
			all.Write(make([]byte, 10_000))
			treetest.Equal(t, read(t, all.Bytes(), ReadOptions{}), want)
			all.WriteString("junk")
			if _, err := Read(&all, ReadOptions{}); err == nil {
				t.Error("junk after a gzip member was not seen")
			}
		}
	}
}

func TestGolden(t *testing.T) {
	tr := tree.New()
	f := tree.File(0o755, tree.Bytes("#!/bin/sh\n"))
	f.ModTime, f.UID, f.GID = time.Unix(0o1234, 0), 0o17, 0o23
	tr.Put("/init", f)
	tr.Link("/init", "/sbin")
	tr.Put("/null", tree.Device(tree.TypeChar, 0o666, 1, 3))
	tr.Put("/x", tree.Symlink("init"))
	entry := func(flag byte, name, mode, ids, size, mtime, sum, target, device string) string {
		var b block
		copy(b[:], name)
		copy(b[100:], mode+"\x00"+ids+size+"\x00"+mtime+"\x00"+sum+"\x00 "+string(flag)+target)
		copy(b[257:], "ustar\x0000")
		copy(b[329:], device)
		return string(b[:])
	}
	const root, none = "0000000\x000000000\x00", "0000000\x000000000\x00"
	want := entry('5', "./", "0000755", root, "00000000000", "00000000000", "007342", "", none) +
		entry('0', "init", "0000755", "0000017\x000000023\x00", "00000000012", "00000001234", "010116", "", none) +
		"#!/bin/sh\n" + strings.Repeat("\x00", 502) +
		entry('3', "null", "0000666", root, "00000000000", "00000000000", "010103", "", "0000001\x000000003\x00") +
		entry('1', "sbin", "0000755", "0000017\x000000023\x00", "00000000000", "00000001234", "010770", "init", none) +
		entry('2', "x", "0000777", root, "00000000000", "00000000000", "010262", "init", none) +
		strings.Repeat("\x00", 1024)
	if got := string(write(t, tr, WriteOptions{})); got != want {
		for i := range min(len(got), len(want)) / blockSize {
			if g, w := got[i*blockSize:][:blockSize], want[i*blockSize:][:blockSize]; g != w {
				t.Errorf("block %d:\n got %q\nwant %q", i, g, w)
			}
		}
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
}
