package cpio

import (
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

func write(t testing.TB, tr *tree.Tree, o Options) []byte {
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

var compressions = []compress.Kind{compress.None, compress.Gzip, compress.Zstd}

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(10) {
		want := treetest.Random(seed, treetest.Options{Entries: 200, Sockets: true})
		for _, c := range compressions {
			t.Run(fmt.Sprintf("%d%s", seed, c), func(t *testing.T) {
				b := write(t, want, Options{Compression: c})
				treetest.Equal(t, read(t, b, ReadOptions{}), want)
				treetest.Equal(t, read(t, b, ReadOptions{SpoolFile: filepath.Join(t.TempDir(), "spool")}), want)
			})
		}
	}
}

// big makes a tree whose archive takes several blocks of each compressor.
func big() *tree.Tree {
	return treetest.Random(99, treetest.Options{Entries: 100, MaxSize: 500_000})
}

func TestSameBytesOnAnyNumberOfProcessors(t *testing.T) {
	tr := big()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, c := range compressions {
		var want []byte
		for _, procs := range []int{1, 2, 8} {
			runtime.GOMAXPROCS(procs)
			got := write(t, tr, Options{Compression: c})
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%q: other bytes on %d processors than on 1", c, procs)
			}
		}
		runtime.GOMAXPROCS(2)
		treetest.Equal(t, read(t, want, ReadOptions{}), tr)
	}
}

// Archives follow each other as segments of an initramfs do, each compressed
// in its own way, and a member or frame may end anywhere.
func TestSegments(t *testing.T) {
	want := tree.New()
	var all []byte
	for i, c := range []compress.Kind{compress.None, compress.Gzip, compress.Gzip, compress.None, compress.Zstd, compress.Zstd, compress.None, compress.Gzip} {
		seg := tree.New()
		name := fmt.Sprintf("/f%d", i)
		for _, tr := range []*tree.Tree{seg, want} {
			tr.Put(name, tree.File(0o644, tree.Bytes(strings.Repeat(name, 1000*i+1))))
			tr.Put("/last", tree.Symlink(name))
		}
		all = append(all, write(t, seg, Options{Compression: c, BlockSize: 4, More: true})...)
		if len(all)%4 != 0 {
			t.Errorf("segment %d (%q) doesn't end at a multiple of 4", i, c)
		}
		all = append(all, make([]byte, 4*i)...)
	}
	treetest.Equal(t, read(t, all, ReadOptions{}), want)
	if _, err := Read(bytes.NewReader(append(make([]byte, 2), all...)), ReadOptions{}); err == nil || !strings.Contains(err.Error(), "multiple of 4") {
		t.Errorf("a misaligned archive: %v", err)
	}
}

func TestMembersThatEndMidRecord(t *testing.T) {
	want := big()
	plain := write(t, want, Options{})
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
	}
}

func TestTimesAreClamped(t *testing.T) {
	tr := tree.New()
	for name, sec := range map[string]int64{"/old": -5, "/before": 100, "/after": 2000, "/far": 1 << 40} {
		n := tree.File(0o644, nil)
		n.ModTime = time.Unix(sec, 999)
		tr.Put(name, n)
	}
	check := func(o Options, want map[string]int64) {
		t.Helper()
		got := read(t, write(t, tr, o), ReadOptions{})
		for name, sec := range want {
			if s := got.Get(name).ModTime.Unix(); s != sec {
				t.Errorf("%s: %d, want %d", name, s, sec)
			}
		}
	}
	check(Options{}, map[string]int64{"/": 0, "/old": 0, "/before": 100, "/after": 2000, "/far": 1<<32 - 1})
	check(Options{Time: time.Unix(1000, 0)}, map[string]int64{"/": 0, "/old": 0, "/before": 100, "/after": 1000, "/far": 1000})
}

func TestDroppedXattrs(t *testing.T) {
	tr := tree.New()
	n := tree.File(0o755, nil)
	n.Xattrs = map[string][]byte{"security.capability": []byte("x"), "user.y": nil}
	tr.Put("/ping", n)
	var told string
	write(t, tr, Options{Dropped: func(name string, xattrs int) { told += fmt.Sprintf("%s %d;", name, xattrs) }})
	if told != "/ping 2;" {
		t.Errorf("told %q", told)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		n   *tree.Node
		o   Options
		say string
	}{
		{tree.File(0o644, sized(4<<30)), Options{}, `"/the-file": 4294967296 bytes are more`},
		{tree.Device(tree.TypeChar, 0o600, 1<<12, 0), Options{}, `"/the-file": device 4096:0`},
		{tree.Device(tree.TypeChar, 0o600, 0, 1<<20), Options{}, `"/the-file": device 0:1048576`},
		{tree.File(0o644, sized(7)), Options{}, `"/the-file": content ends after 0 of 7 bytes`},
		{tree.File(0o644, nil), Options{BlockSize: 510}, "block size 510"},
		{tree.File(0o644, nil), Options{Compression: "lzma"}, `"lzma" is not supported`},
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
		for _, room := range []int{0, 5, 1000, 2_000_000} {
			if err := Write(&disk{room: room}, tr, Options{Compression: c}); !errors.Is(err, errFull) {
				t.Errorf("%q with room for %d bytes: %v", c, room, err)
			}
		}
	}
	broken := big()
	broken.Put("/zzz", tree.File(0o644, sized(7)))
	for _, c := range compressions {
		if err := Write(io.Discard, broken, Options{Compression: c}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", c, err)
		}
	}
	for range 1000 { // those that have ended may still be counted
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched()
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

// From file to file, without the content passing through here.
func TestWriteFromHostFiles(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef!"), 100_000)
	for name, b := range map[string][]byte{"a": content[:1001], "b": content, "c": content[:bufferSize]} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := tree.FromDir(dir, tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(f, tr, Options{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, write(t, tr, Options{})) {
		t.Error("the file has other bytes than the buffer")
	}
}
