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

	"github.com/klauspost/compress/gzip"

	"wolffia/internal/image/compress"
	"wolffia/internal/tree"
)

func TestGolden(t *testing.T) {
	tr := tree.New()
	tr.Put("/init", tree.File(0o755, tree.Bytes("#!/bin/sh\n")))
	tr.Link("/init", "/sbin")
	tr.Put("/null", tree.Device(tree.TypeChar, 0o666, 1, 3))
	tr.Put("/x", tree.Symlink("init"))
	tr.Get("/init").ModTime = time.Unix(0x12345678, 0)
	tr.Get("/init").UID = 0xabcdef
	want := "" +
		//  ino     mode    uid     gid     nlink   mtime   size    maj     min     rmaj    rmin    namesize
		"070701" + "00000001000041ED00000000000000000000000200000000000000000000000000000000000000000000000000000002" + "00000000" + ".\x00" +
		"070701" + "00000002000081ED00ABCDEF00000000000000021234567800000000000000000000000000000000000000000000000500000000" + "init\x00\x00" +
		"070701" + "00000003000021B600000000000000000000000100000000000000000000000000000000000000010000000300000005" + "00000000" + "null\x00\x00" +
		"070701" + "00000002000081ED00ABCDEF0000000000000002123456780000000A000000000000000000000000000000000000000500000000" + "sbin\x00\x00" +
		"#!/bin/sh\n\x00\x00" +
		"070701" + "000000040000A1FF00000000000000000000000100000000000000040000000000000000000000000000000000000002" + "00000000" + "x\x00" +
		"init" +
		"070701" + "0000000000000000000000000000000000000001000000000000000000000000000000000000000000000000" + "0000000B" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"
	if got := string(write(t, tr, Options{BlockSize: 4})); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if n := len(write(t, tr, Options{})); n != 1024 {
		t.Errorf("padded to %d bytes, want 1024", n)
	}
}

// record is one hostile or harmless entry.
func record(h header, name, data string) string {
	if h.NameSize == 0 {
		h.NameSize = uint32(len(name) + 1)
	}
	if h.Size == 0 {
		h.Size = uint32(len(data))
	}
	b := h.encode(nil)
	b = append(append(b, name...), 0)
	b = append(b, make([]byte, pad4(int64(len(b))))...)
	b = append(b, data...)
	return string(append(b, make([]byte, pad4(int64(len(b))))...))
}

func file(name, data string) string {
	return record(header{Mode: tree.TypeRegular | 0o644, Nlink: 1}, name, data)
}
func dir(name string) string { return record(header{Mode: tree.TypeDir | 0o755, Nlink: 2}, name, "") }
func symlink(name, target string) string {
	return record(header{Mode: tree.TypeSymlink | 0o777, Nlink: 1}, name, target)
}

var trailer = record(header{Nlink: 1}, trailerName, "")

func crc(r string, sum uint32) string {
	return magicCRC + r[6:102] + fmt.Sprintf("%08x", sum) + r[110:]
}

var hostile = []struct{ name, archive, say string }{
	{"empty", "", "no TRAILER!!!"},
	{"zeros", strings.Repeat("\x00", 1024), "no TRAILER!!!"},
	{"no trailer", file("a", "x"), "no TRAILER!!!"},
	{"no trailer after another", trailer + file("a", "x"), "no TRAILER!!!"},
	{"junk", "hello, world", "68656c6c6f2c"},
	{"junk after an archive", trailer + "junk", "6a756e6b"},
	{"cut in the header", file("a", "x")[:50], "cut off at byte 50"},
	{"cut in the name", file("aaaaaaaaaaa", "x")[:115], "cut off at byte 115"},
	{"cut in the data", file("a", "0123456789")[:115], "cut off after 3 of the entry's 10 bytes"},
	{"cut in the padding", file("a", "x")[:114], "cut off"},
	{"odc", "070707" + trailer[6:], "odc"},
	{"other magic", "070703" + trailer[6:], "no cpio magic"},
	{"not hex", "070701zzzzzzzz" + trailer[14:], "hexadecimal"},
	{"signed hex", "070701+0000001" + trailer[14:], "hexadecimal"},
	{"no name", record(header{Mode: tree.TypeDir}, "", ""), "name is empty"},
	{"name of no length", file("a", "")[:94] + "00000000" + file("a", "")[102:], "length of 0"},
	{"name too long", record(header{NameSize: 4097}, "a", ""), "length of 4097"},
	{"name of 4 GiB", record(header{NameSize: 1<<32 - 1}, "a", ""), "length of 4294967295"},
	{"NUL in the name", file("a\x00b", ""), "NUL"},
	{"name without NUL", record(header{NameSize: 3}, "abc", ""), "NUL"},
	{"component too long", file(strings.Repeat("n", 256), ""), "longer than 255"},
	{"parent", file("../x", "") + trailer, `holds ".."`},
	{"parent within", dir("a") + file("a/../../x", "") + trailer, `holds ".."`},
	{"below a link", symlink("a", "/etc") + file("a/passwd", "x") + trailer, "not followed"},
	{"below a link of another archive", symlink("a", "/etc") + trailer + file("a/passwd", "x") + trailer, "not followed"},
	{"below a file", file("a", "") + file("a/b", "x") + trailer, "not a directory"},
	{"link over a directory", dir("a") + symlink("a", "/etc") + trailer, "already exists"},
	{"file over a directory", dir("a") + file("a", "") + trailer, "already exists"},
	{"directory over a link", symlink("a", "/etc") + dir("a") + trailer, "already exists"},
	{"size of 4 GiB", record(header{Mode: tree.TypeRegular, Size: 1<<32 - 1}, "a", "x"), "past the limit"},
	{"size of 1 GiB less a bit", record(header{Mode: tree.TypeRegular, Size: 1<<30 - 1<<20}, "a", "x"), "cut off after 4 of"},
	{"directory with data", record(header{Mode: tree.TypeDir}, "a", "data") + trailer, "no regular file"},
	{"device with data", record(header{Mode: tree.TypeChar}, "a", "data") + trailer, "no regular file"},
	{"no type", record(header{Mode: 0o644}, "a", "") + trailer, "no known file type"},
	{"unknown type", record(header{Mode: 0o170644}, "a", "") + trailer, "no known file type"},
	{"mode out of range", record(header{Mode: 1<<16 | tree.TypeRegular}, "a", "") + trailer, "out of range"},
	{"empty link", symlink("a", "") + trailer, "target is empty"},
	{"NUL in a link", symlink("a", "x\x00y") + trailer, "NUL"},
	{"link too long", symlink("a", strings.Repeat("x", 4096)) + trailer, "longer than 4095"},
	{"hard link of another type", record(header{Mode: tree.TypeFIFO, Nlink: 2, Ino: 7}, "a", "") + record(header{Mode: tree.TypeRegular, Nlink: 2, Ino: 7}, "b", "") + trailer, "another type"},
	{"trailer with data", record(header{}, trailerName, "data"), "trailer"},
	{"wrong checksum", crc(file("a", "abc"), 0x125) + trailer, "checksum is 0x126"},
	{"misaligned", trailer + "\x00" + trailer, "multiple of 4"},
	{"xz", "\xfd7zXZ\x00\x00", "compressed with xz"},
	{"bzip2", "BZh91AY", "compressed with bzip2"},
	{"lz4", "\x02!L\x18aaaa", "compressed with lz4"},
	{"bad gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff", "decompress"},
	{"short gzip", "\x1f\x8b\x08", "gzip"},
	{"bad zstd", "\x28\xb5\x2f\xfd\x00\x00\xff\xff\xff\xff", "zstd"},
	{"zstd of a huge window", "\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00", "window"},
}

func TestHostile(t *testing.T) {
	for _, c := range hostile {
		_, err := Read(strings.NewReader(c.archive), ReadOptions{})
		var e *EntryError
		if err == nil || !strings.Contains(err.Error(), c.say) || !errors.As(err, &e) {
			t.Errorf("%s: got %v, want an EntryError that says %q", c.name, err, c.say)
		}
	}
}

func TestErrorsNameTheEntry(t *testing.T) {
	_, err := Read(strings.NewReader(file("first", "x")+file("a/../b", "")+trailer), ReadOptions{})
	want := `cpio entry "a/../b" at byte 120: path "a/../b" holds ".."`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestHarmless(t *testing.T) {
	for _, c := range []struct{ name, archive, want string }{
		{"nothing", trailer, "/"},
		{"leading zeros", strings.Repeat("\x00", 512) + file("a", "x") + trailer, "/ /a"},
		{"absolute names", file("/a", "x") + trailer, "/ /a"},
		{"left-out parents", file("a/b/c", "x") + trailer, "/ /a /a/b /a/b/c"},
		{"duplicates", file("a", "x") + symlink("a", "y") + file("./a", "z") + trailer, "/ /a"},
		{"directory twice", dir("a") + file("a/b", "") + dir("a/") + trailer, "/ /a /a/b"},
		{"checksum", crc(file("a", "abc"), 0x126) + trailer, "/ /a"},
		{"lower-case hex", strings.ToLower(file("a", strings.Repeat("x", 255))) + trailer, "/ /a"},
	} {
		tr, err := Read(strings.NewReader(c.archive), ReadOptions{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var names []string
		tr.Walk(func(name string, _ *tree.Node) error { names = append(names, name); return nil })
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// The content may come with any of the names, and inode numbers mean something
// in one archive only, as in the kernel.
func TestHardLinks(t *testing.T) {
	link := func(ino uint32, name, data string) string {
		return record(header{Mode: tree.TypeRegular | 0o644, Nlink: 3, Ino: ino}, name, data)
	}
	tr := read(t, []byte(link(1, "a", "first")+link(1, "b", "")+link(2, "x", "")+link(2, "y", "last")+trailer+link(1, "c", "")+trailer), ReadOptions{})
	if tr.Get("/a") != tr.Get("/b") || tr.Get("/x") != tr.Get("/y") || tr.Get("/a") == tr.Get("/x") {
		t.Error("links")
	}
	if tr.Get("/c") == tr.Get("/a") {
		t.Error("a link reached into another archive")
	}
	for name, want := range map[string]string{"/a": "first", "/x": "last", "/c": ""} {
		if b, err := tr.ReadFile(name, 10); string(b) != want || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestLimits(t *testing.T) {
	many := strings.Repeat(file("a", ""), 20) + trailer
	for _, c := range []struct {
		archive string
		o       ReadOptions
		say     string
	}{
		{many, ReadOptions{Limits: tree.Limits{Entries: 19}}, "19 entries"},
		{file("a/b/c/d", "") + trailer, ReadOptions{Limits: tree.Limits{Entries: 3}}, "3 entries"},
		{many, ReadOptions{Limits: tree.Limits{Metadata: 30}}, "30 bytes"},
		{file("a", strings.Repeat("x", 200)) + trailer, ReadOptions{MaxSize: 300}, "300 bytes"},
		{strings.Repeat("\x00", 500) + trailer, ReadOptions{MaxSize: 300}, "300 bytes"},
	} {
		if _, err := Read(strings.NewReader(c.archive), c.o); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("got %v, want an error that says %q", err, c.say)
		}
	}
	for _, o := range []ReadOptions{{Limits: tree.Limits{Entries: 20, Metadata: 40}}, {MaxSize: int64(len(many))}} {
		if _, err := Read(strings.NewReader(many), o); err != nil {
			t.Errorf("at the limit: %v", err)
		}
	}
}

// A small file that unpacks to much, or says so, must not take memory.
func TestBombsTakeNoMemory(t *testing.T) {
	var zeros bytes.Buffer
	z, _ := gzip.NewWriterLevel(&zeros, 1)
	io.WriteString(z, trailer)
	io.CopyN(z, zero{}, 30<<20)
	z.Close()
	for name, archive := range map[string]string{
		"size that lies": record(header{Mode: tree.TypeRegular, Size: 1<<30 - 1<<20}, "a", "x"),
		"padding":        zeros.String(),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Read(strings.NewReader(archive), ReadOptions{MaxSize: 1 << 30})
		runtime.ReadMemStats(&after)
		if (err == nil) != (name == "padding") {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSpoolErrors(t *testing.T) {
	if _, err := Read(strings.NewReader(trailer), ReadOptions{SpoolFile: filepath.Join(t.TempDir(), "no/spool")}); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := Read(strings.NewReader(file("a", "x")+trailer), ReadOptions{SpoolFile: "/dev/full"}); err == nil {
		t.Error("a full disk was not seen")
	}
}

func FuzzRead(f *testing.F) {
	for _, c := range hostile {
		f.Add([]byte(c.archive))
	}
	f.Add(write(f, sample(), Options{BlockSize: 4}))
	f.Add(write(f, sample(), Options{Compression: compress.Gzip}))
	f.Add(write(f, sample(), Options{Compression: compress.Zstd}))
	o := ReadOptions{Limits: tree.Limits{Entries: 1000, Metadata: 1 << 20}, MaxSize: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := Read(bytes.NewReader(b), o)
		if err != nil {
			return
		}
		// What was read can be written, unless a device is beyond Linux, and
		// comes back the same.
		var out bytes.Buffer
		if err := Write(&out, tr, Options{}); err != nil {
			if !strings.Contains(err.Error(), "device") {
				t.Fatal(err)
			}
			return
		}
		again, err := Read(&out, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a, _ := tree.Digest(tr)
		if b, _ := tree.Digest(again); a != b {
			t.Error("it comes back otherwise")
		}
	})
}
