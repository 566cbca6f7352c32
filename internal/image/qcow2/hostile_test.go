package qcow2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// memory is a file that only needs to be small.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

// small gives an image of a few sectors.
func small(t testing.TB, o Options) []byte {
	t.Helper()
	var m memory
	o.ClusterSize = 512
	if o.Backing != "" {
		must(t, Create(&m, 20_000, o))
		return m.b
	}
	in := bytes.Repeat([]byte("duckweed "), 200)
	in = append(in, make([]byte, 5000)...)
	in = append(in, "last"...)
	must(t, Write(&m, bytes.NewReader(in), int64(len(in)), o))
	return m.b
}

func source(b []byte) Source { return Source{R: bytes.NewReader(b), Size: int64(len(b))} }

// TestDamaged changes one field at a time.
func TestDamaged(t *testing.T) {
	u32 := func(off int, v uint32) func([]byte) { return func(b []byte) { be.PutUint32(b[off:], v) } }
	u64 := func(off int, v uint64) func([]byte) { return func(b []byte) { be.PutUint64(b[off:], v) } }
	entry := func(v uint64) func([]byte) { // of the first cluster
		return func(b []byte) { be.PutUint64(b[be.Uint64(b[512:])&entryOffset:], v) }
	}
	for _, c := range []struct {
		name   string
		damage func([]byte)
		want   string
	}{
		{"magic", u32(0, 1), "no qcow2 image"},
		{"version 1", u32(4, 1), "version 1 of the format"},
		{"version 4", u32(4, 4), "version 4 of the format"},
		{"header length", u32(100, 96), "header of 96 bytes"},
		{"header longer than a cluster", u32(100, 1024), "doesn't fit a cluster"},
		{"cluster bits", u32(20, 8), "clusters of 2^8 bytes"},
		{"large cluster bits", u32(20, 22), "clusters of 2^22 bytes"},
		{"size", u64(24, 1<<63), "not possible"},
		{"size beyond any L1 table", u64(24, 1<<60), "L1 table of more than"},
		{"size beyond this L1 table", u64(24, 1<<30), "too few for a disk"},
		{"AES", u32(32, 1), "encryption (AES), which is not supported"},
		{"LUKS", u32(32, 2), "encryption (LUKS), which is not supported"},
		{"L1 table outside", u64(40, 1<<40), "reaches past the file's end"},
		{"L1 table askew", u64(40, 520), "not at a cluster's start"},
		{"external data", u64(72, incompatExternal), "an external data file, which is not supported"},
		{"unknown feature", u64(72, 1<<9), "incompatible feature 9"},
		{"compression without its bit", func(b []byte) { b[104] = 1 }, "contradict"},
		{"compression bit alone", u64(72, incompatCompression), "contradict"},
		{"unknown compression", func(b []byte) { u64(72, incompatCompression)(b); b[104] = 7 }, "compression type 7"},
		{"subclusters too small", u64(72, incompatExtendedL2), "can't have subclusters"},
		{"extension", u32(112+4, 1<<20), ""},
		{"backing name outside", func(b []byte) { u64(8, 500)(b); u32(16, 40)(b) }, "outside of the first cluster"},
		{"L2 table outside", u64(512, 1<<40), "L2 table 0"},
		{"L2 table askew", u64(512, 1<<63|512), ""},
		{"cluster outside", entry(1 << 40), "past the file's end"},
		{"compressed cluster outside", entry(1<<62 | 1<<40), "past the file's end"},
		{"compressed cluster of nothing", entry(1<<62 | 512), "compressed cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := small(t, Options{})
			c.damage(b)
			m, err := Open(source(b))
			if err == nil {
				_, err = io.Copy(io.Discard, io.NewSectionReader(m, 0, m.Size()))
				m.Close()
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

// TestFeatureNames has an image name a feature that we don't know.
func TestFeatureNames(t *testing.T) {
	b := small(t, Options{})
	be.PutUint64(b[72:], 1<<9)
	be.PutUint32(b[112:], extFeatureNames)
	be.PutUint32(b[116:], 48)
	copy(b[120:], "\x00\x09time travel")
	_, err := Open(source(b))
	if u := (*UnsupportedError)(nil); !errors.As(err, &u) || u.Feature != `incompatible feature 9 ("time travel")` {
		t.Errorf("%v", err)
	}
}

// TestSharedTables has every entry of a large L1 table lead to the same L2 table.
func TestSharedTables(t *testing.T) {
	b := small(t, Options{})
	l2 := be.Uint64(b[512:])
	table := make([]byte, 2<<20)
	for i := 0; i < len(table); i += 8 {
		be.PutUint64(table[i:], l2)
	}
	be.PutUint64(b[40:], uint64(len(b)))
	be.PutUint32(b[36:], uint32(len(table)/8))
	be.PutUint64(b[24:], uint64(len(table)/8)<<15)
	if _, err := Open(source(append(b, table...))); err == nil || !strings.Contains(err.Error(), "can't hold") {
		t.Errorf("%v", err)
	}
}

// TestCircle opens an image that lies upon itself.
func TestCircle(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "circle")
	must(t, os.WriteFile(name, small(t, Options{Backing: "circle", BackingFormat: "qcow2"}), 0o600))
	if _, err := OpenFile(name, FileOptions{}); err == nil || !strings.Contains(err.Error(), "may go in a circle") {
		t.Errorf("%v", err)
	}
}

// TestEscape names backing files that are none of ours.
func TestEscape(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	must(t, os.MkdirAll(filepath.Join(in, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "secret"), make([]byte, 512), 0o600))
	must(t, os.WriteFile(filepath.Join(in, "fine"), make([]byte, 512), 0o600))
	must(t, os.Symlink("../secret", filepath.Join(in, "link")))
	must(t, syscall.Mkfifo(filepath.Join(in, "fifo"), 0o600))
	for backing, want := range map[string]string{
		"fine":                     "",
		"./sub/../fine":            "",
		filepath.Join(in, "fine"):  "",
		"../in/fine":               "",
		"../secret":                "lies outside of",
		filepath.Join(dir, "none"): "lies outside of",
		"/etc/passwd":              "lies outside of",
		"link":                     "escapes",
		"fifo":                     "not a regular file",
		"sub":                      "not a regular file",
		"none":                     "no such file",
		"nbd://localhost:1/x":      `by way of "nbd"`,
		"json:{}":                  `by way of "json"`,
	} {
		name := filepath.Join(in, "top")
		must(t, os.WriteFile(name, small(t, Options{Backing: backing, BackingFormat: "raw"}), 0o600))
		m, err := OpenFile(name, FileOptions{})
		if err == nil {
			must(t, m.Close())
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %q", backing, err, want)
		}
	}
	if _, err := Open(source(small(t, Options{Backing: "fine", BackingFormat: "raw"}))); err == nil || !strings.Contains(err.Error(), "not wanted here") {
		t.Errorf("%v", err)
	}
}

// TestRefused asks for images that can't be.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		o    Options
		size int64
		want string
	}{
		{Options{ClusterSize: 1000}, 1, "no power of two"},
		{Options{ClusterSize: 4 << 20}, 1, "no power of two"},
		{Options{Compression: "xz"}, 1, "not known"},
		{Options{Backing: "x"}, 1, "none of raw, qcow2"},
		{Options{BackingFormat: "raw"}, 1, "no backing file"},
		{Options{Backing: strings.Repeat("x", 1024), BackingFormat: "raw"}, 1, "1024 bytes, more than"},
		{Options{Backing: strings.Repeat("x", 600), BackingFormat: "raw", ClusterSize: 512}, 1, "doesn't fit a cluster"},
		{Options{ClusterSize: 512}, 1 << 50, "too large for clusters"},
		{Options{}, -1, "not possible"},
	} {
		if err := Create(&memory{}, c.size, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, not %q", c.o, err, c.want)
		}
	}
	if err := Write(&memory{}, bytes.NewReader(nil), 0, Options{Backing: "x", BackingFormat: "raw"}); err == nil {
		t.Error("a disk was written over a backing file")
	}
}

// broken fails when it has written so many bytes.
type broken struct {
	memory
	left int
}

func (b *broken) WriteAt(p []byte, off int64) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, syscall.ENOSPC
	}
	return b.memory.WriteAt(p, off)
}

// TestCutOff has writing fail at every step: what is left is no image.
func TestCutOff(t *testing.T) {
	in := make([]byte, 3<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range in {
		in[i] = byte(r.Uint32())
	}
	for left := 0; ; left += 400_000 {
		b := broken{left: left}
		err := Write(&b, bytes.NewReader(in), int64(len(in)), Options{})
		if err == nil {
			break
		}
		if _, e := Open(source(b.b)); e == nil || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("after %d bytes: %v, and then %v", left, err, e)
		}
	}
	err := Write(&memory{}, bytes.NewReader(in[:1000]), int64(len(in)), Options{})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a disk that is cut off: %v", err)
	}
}

// FuzzOpen reads anything as an image, over itself where it wants a backing file.
func FuzzOpen(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		s := source(b)
		s.Open = func(string) (Source, error) {
			if len(b) < 64 {
				return Source{}, errors.New("too deep")
			}
			return source(b[:len(b)/2]), nil
		}
		m, err := Open(s)
		if err != nil {
			return
		}
		defer m.Close()
		all, err := m.Data()
		last := int64(0)
		for _, e := range all {
			if e.Off < last || e.Len <= 0 || e.Off+e.Len > m.Size() {
				t.Fatalf("data at %v of %d bytes", all, m.Size())
			}
			last = e.Off + e.Len
		}
		p := make([]byte, 8<<10)
		for _, off := range []int64{0, 1000, m.Size() / 2, m.Size() - 5} {
			n, e := m.ReadAt(p, max(off, 0))
			if e == nil && n != len(p) {
				t.Fatalf("%d bytes at %d without an error", n, off)
			}
			for _, c := range p[:n] {
				if err == nil && len(all) == 0 && c != 0 {
					t.Fatal("bytes where no data is")
				}
			}
		}
	})
}

// TestSeeds keeps the fuzzer's corpus what it is said to be.
func TestSeeds(t *testing.T) {
	for name, o := range map[string]Options{"plain": {}, "deflate": {Compression: Deflate}, "zstd": {Compression: Zstd}, "overlay": {Backing: "below", BackingFormat: "qcow2"}} {
		file := filepath.Join("testdata", "fuzz", "FuzzOpen", name)
		want := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", small(t, o))
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			if os.Getenv("UPDATE_SEEDS") == "" {
				t.Errorf("%s is not what we write (%v): set UPDATE_SEEDS", file, err)
				continue
			}
			must(t, os.MkdirAll(filepath.Dir(file), 0o755))
			must(t, os.WriteFile(file, []byte(want), 0o644))
		}
	}
}
