package deb

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"github.com/klauspost/compress/gzip"
)

// extract gives the decompressed data.tar.
func extract(t testing.TB, a *Archive) ([]byte, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "data.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := a.ExtractData(context.Background(), f)
	if err != nil {
		return nil, err
	}
	data, readErr := os.ReadFile(f.Name())
	if readErr != nil || int64(len(data)) != n {
		t.Fatalf("ExtractData says %d bytes, the file has %d, %v", n, len(data), readErr)
	}
	return data, nil
}

// sameAsDpkg compares everything that dpkg-deb tells about a package.
func sameAsDpkg(t *testing.T, file string) *Control {
	t.Helper()
	a := openFile(t, file, Options{})
	data, err := extract(t, a)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, run(t, ".", "dpkg-deb", "--fsys-tarfile", file)) {
		t.Errorf("%s: data.tar differs from dpkg-deb's", a.DataName())
	}
	c, err := a.Control()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run(t, ".", "dpkg-deb", "--control", file, dir)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		want, err := os.ReadFile(path)
		if d.Name() == "control" {
			if got := strings.TrimSpace(string(want)); got != strings.TrimSpace(c.Paragraph.String()) {
				t.Errorf("control:\ngot  %s\nwant %s", c.Paragraph, got)
			}
		} else if !bytes.Equal(c.Files[d.Name()], want) {
			t.Errorf("%s differs", d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files := len(c.Files) + 1; files != len(run(t, dir, "find", ".", "-type", "f", "-printf", "x")) {
		t.Errorf("%d control files: %v", files, c.Names())
	}
	return c
}

func TestRealPackages(t *testing.T) {
	tooltest.Require(t, "dpkg-deb", "dpkg")
	scripts := map[string][]string{}
	for _, file := range download(t, "base-files", "busybox-static", "dropbear-bin", "libc-bin") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c := sameAsDpkg(t, file)
			scripts[c.Paragraph.Get("Package")] = c.Scripts()
		})
	}
	if got := strings.Join(scripts["busybox-static"], " "); got != "triggers" {
		t.Errorf("busybox-static has scripts %s", got)
	}
	if got := scripts["libc-bin"]; !slices.Contains(got, "postinst") || !slices.Contains(got, "triggers") {
		t.Errorf("libc-bin has scripts %s", got)
	}
}

// stage makes the folder of a package, with files of some megabytes.
func stage(t testing.TB, megabytes int) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"DEBIAN/control":   "Package: made\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: made by a test\n It has a second line.\n",
		"DEBIAN/conffiles": "/etc/made.conf\n",
		"DEBIAN/triggers":  "activate-noawait ldconfig\n",
		"DEBIAN/postinst":  "#!/bin/sh\nexit 0\n",
		"etc/made.conf":    "key = value\n",
		"usr/bin/made":     strings.Repeat("not quite the same line as before, number "+fmt.Sprint(megabytes)+"\n", 20000*megabytes),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMadePackages(t *testing.T) {
	tooltest.Require(t, "dpkg-deb", "dpkg")
	dir := stage(t, 1)
	for _, args := range [][]string{
		{"-Zgzip"}, {"-Zxz"}, {"-Zzstd"}, {"-Znone"},
		{"-Zxz", "-z9", "-Sextreme"}, {"-Zgzip", "-z1", "--uniform-compression"}, {"-Zzstd", "-z19"}, {"-Znone", "--uniform-compression"},
	} {
		t.Run(strings.Join(args, ""), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "made.deb")
			run(t, ".", "dpkg-deb", append(append([]string{"--root-owner-group"}, args...), "-b", dir, file)...)
			c := sameAsDpkg(t, file)
			if got := strings.Join(c.Scripts(), " "); got != "postinst triggers" {
				t.Errorf("scripts: %s", got)
			}
			if got := c.Conffiles(); len(got) != 1 || got[0] != "/etc/made.conf" {
				t.Errorf("conffiles: %s", got)
			}
		})
	}
}

// entry is a member of an ar archive made by hand.
type entry struct {
	name    string
	content []byte
	size    string // what the header claims; "" for the truth
}

func arOf(entries ...entry) []byte {
	b := bytes.NewBufferString(arMagic)
	for _, e := range entries {
		size := e.size
		if size == "" {
			size = fmt.Sprint(len(e.content))
		}
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8o%-10s`\n", e.name, 0, 0, 0, 0o100644, size)
		b.Write(e.content)
		if len(e.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// tarOf makes an archive of name, content pairs.
func tarOf(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), ModTime: time.Unix(0, 0)}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const goodControl = "Package: a\nVersion: 1\nArchitecture: all\n"

func openBytes(data []byte, opts Options) (*Archive, error) {
	return Open(bytes.NewReader(data), int64(len(data)), opts)
}

func TestOpenRefuses(t *testing.T) {
	format := entry{name: "debian-binary", content: []byte("2.0\n")}
	controlTar := entry{name: "control.tar", content: tarOf(t, "./control", goodControl)}
	data := entry{name: "data.tar", content: tarOf(t)}
	for name, test := range map[string]struct {
		file []byte
		want string // "" if it opens
	}{
		"good":                   {arOf(format, controlTar, data), ""},
		"slashes":                {arOf(entry{name: "debian-binary/", content: []byte("2.0\n")}, entry{name: "control.tar/", content: controlTar.content}, data), ""},
		"format 2.1":             {arOf(entry{name: "debian-binary", content: []byte("2.1\nmore\n")}, controlTar, data), ""},
		"signature":              {arOf(format, entry{name: "_gpgbuilder"}, controlTar, data, entry{name: "_gpgorigin", content: []byte("x")}), ""},
		"no padding at the end":  {bytes.TrimSuffix(arOf(format, controlTar, data, entry{name: "_x", content: []byte("x")}), []byte("\n")), ""},
		"empty":                  {nil, "read ar magic: unexpected EOF"},
		"no ar":                  {[]byte("PK\x03\x04 this is a zip file"), "not an ar archive"},
		"no members":             {arOf(), "first member is not debian-binary"},
		"format 3":               {arOf(entry{name: "debian-binary", content: []byte("3.0\n")}, controlTar, data), "format \"3.0\" is unknown"},
		"format without an end":  {arOf(entry{name: "debian-binary", content: []byte("2.0")}, controlTar, data), "is unknown"},
		"no control":             {arOf(format, data), "data.tar stands twice or out of order"},
		"no data":                {arOf(format, controlTar), "data.tar is missing"},
		"two data":               {arOf(format, controlTar, data, data), "stands twice"},
		"two kinds of data":      {arOf(format, controlTar, data, entry{name: "data.tar.gz"}), "stands twice"},
		"two control":            {arOf(format, controlTar, controlTar, data), "stands twice"},
		"two formats":            {arOf(format, format, controlTar, data), "stands twice"},
		"unknown member":         {arOf(format, entry{name: "evil"}, controlTar, data), "\"evil\" is unknown"},
		"lzma":                   {arOf(format, controlTar, entry{name: "data.tar.lzma"}), "compressed in an unknown way"},
		"size beyond the end":    {arOf(format, controlTar, entry{name: "data.tar", size: "9999999999"}), "claims 9999999999 bytes"},
		"size that is negative":  {arOf(format, entry{name: "control.tar", size: "-60"}, data), "has size"},
		"size that is no number": {arOf(format, entry{name: "control.tar", size: "0x10"}, data), "has size"},
		"cut off in a header":    {arOf(format, controlTar, data)[:8+60+4+30], "unexpected EOF"},
		"cut off in contents":    {arOf(format, controlTar, data)[:8+60+4+60+100], "claims"},
		"header magic":           {bytes.Replace(arOf(format, controlTar, data), []byte("`\n"), []byte("xx"), 1), "malformed"},
		"many members":           {arOf(append([]entry{format, controlTar, data}, make([]entry, maxMembers)...)...), "more than"},
	} {
		_, err := openBytes(test.file, Options{})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

func TestControlRefuses(t *testing.T) {
	link := func() []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "control", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		return b.Bytes()
	}
	many := make([]string, 0, 2*maxControlFiles+2)
	for i := range maxControlFiles + 1 {
		many = append(many, fmt.Sprintf("f%d", i), "")
	}
	good := tarOf(t, "./", "", "./control", goodControl, "postinst", "#!/bin/sh\n")
	for name, test := range map[string]struct {
		member entry
		want   string
	}{
		"good":           {entry{name: "control.tar", content: good}, ""},
		"good, gzip":     {entry{name: "control.tar.gz", content: gzipOf(t, good)}, ""},
		"not gzip":       {entry{name: "control.tar.gz", content: good}, "invalid header"},
		"not xz":         {entry{name: "control.tar.xz", content: good}, "no xz file"},
		"not zstd":       {entry{name: "control.tar.zst", content: good}, "magic"},
		"cut off":        {entry{name: "control.tar", content: good[:700]}, "unexpected EOF"},
		"gzip cut off":   {entry{name: "control.tar.gz", content: gzipOf(t, good)[:60]}, "unexpected EOF"},
		"no control":     {entry{name: "control.tar", content: tarOf(t, "md5sums", "")}, "file control is missing"},
		"empty control":  {entry{name: "control.tar", content: tarOf(t, "control", "")}, "parse control"},
		"two paragraphs": {entry{name: "control.tar", content: tarOf(t, "control", goodControl+"\n"+goodControl)}, "more than one paragraph"},
		"twice":          {entry{name: "control.tar", content: tarOf(t, "control", goodControl, "./control", goodControl)}, "stands twice"},
		"a folder":       {entry{name: "control.tar", content: tarOf(t, "control", goodControl, "dir/", "")}, "not a plain file"},
		"deep":           {entry{name: "control.tar", content: tarOf(t, "control", goodControl, "a/b", "")}, "not a plain file"},
		"outside":        {entry{name: "control.tar", content: tarOf(t, "control", goodControl, "../../etc/passwd", "")}, "not a plain file"},
		"link":           {entry{name: "control.tar", content: link()}, "not a plain file"},
		"too many":       {entry{name: "control.tar", content: tarOf(t, many...)}, "more than 1024 entries"},
		"too large":      {entry{name: "control.tar.gz", content: gzipOf(t, tarOf(t, "control", goodControl, "big", strings.Repeat("x", 1<<20)))}, "control.tar.gz unpacks to more than the limit of 100000 bytes"},
	} {
		a, err := openBytes(arOf(entry{name: "debian-binary", content: []byte("2.0\n")}, test.member, entry{name: "data.tar"}), Options{MaxControl: 100000})
		if name == "too many" {
			a, err = openBytes(arOf(entry{name: "debian-binary", content: []byte("2.0\n")}, test.member, entry{name: "data.tar"}), Options{})
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, err = a.Control()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

// TestSparseControl has a file of a few bytes that claims to be 1 TiB of holes.
func TestSparseControl(t *testing.T) {
	record := func(key, value string) string {
		line := " " + key + "=" + value + "\n"
		n := len(line)
		for len(fmt.Sprint(n))+len(line) != n {
			n++
		}
		return fmt.Sprint(n) + line
	}
	records := record("GNU.sparse.major", "0") + record("GNU.sparse.minor", "1") + record("GNU.sparse.numblocks", "2") + record("GNU.sparse.size", "1099511627776") + record("GNU.sparse.map", "0,0,1099511627776,0")
	header := func(name string, kind byte, size int) []byte {
		b := make([]byte, 512)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00"+fmt.Sprintf("%011o\x00%011o\x00", size, 0))
		copy(b[148:], "        ")
		b[156] = kind
		copy(b[257:], "ustar\x0000")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	file := append(header("x", 'x', len(records)), records...)
	file = append(file, make([]byte, 512-len(records)%512)...)
	file = append(file, header("postinst", '0', 0)...)
	file = append(file, make([]byte, 1024)...)
	a, err := openBytes(arOf(entry{name: "debian-binary", content: []byte("2.0\n")}, entry{name: "control.tar", content: file}, entry{name: "data.tar"}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Control()
	var limit *LimitError
	if !errors.As(err, &limit) {
		t.Errorf("a terabyte of holes: %v", err)
	}
}

func TestDataLimits(t *testing.T) {
	content := tarOf(t, "f", strings.Repeat("x", 1<<20))
	for _, test := range []struct {
		member entry
		max    int64
		ok     bool
	}{
		{entry{name: "data.tar", content: content}, int64(len(content)), true},
		{entry{name: "data.tar", content: content}, int64(len(content)) - 1, false},
		{entry{name: "data.tar.gz", content: gzipOf(t, content)}, int64(len(content)), true},
		{entry{name: "data.tar.gz", content: gzipOf(t, content)}, int64(len(content)) - 1, false},
	} {
		a, err := openBytes(arOf(entry{name: "debian-binary", content: []byte("2.0\n")}, entry{name: "control.tar"}, test.member), Options{MaxData: test.max})
		if err != nil {
			t.Fatal(err)
		}
		data, err := extract(t, a)
		var limit *LimitError
		if test.ok && (err != nil || !bytes.Equal(data, content)) || !test.ok && (!errors.As(err, &limit) || limit.Limit != test.max) {
			t.Errorf("%s, at most %d bytes: %v", test.member.name, test.max, err)
		}
	}
	a, err := openBytes(arOf(entry{name: "debian-binary", content: []byte("2.0\n")}, entry{name: "control.tar"}, entry{name: "data.tar", content: content}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.ExtractData(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	format := entry{name: "debian-binary", content: []byte("2.0\n")}
	f.Add(arOf(format, entry{name: "control.tar", content: tarOf(f, "./control", goodControl, "postinst", "#!/bin/sh\n")}, entry{name: "data.tar", content: tarOf(f, "./etc/motd", "hello\n")}))
	f.Add(arOf(format, entry{name: "control.tar.gz", content: gzipOf(f, tarOf(f, "control", goodControl))}, entry{name: "data.tar.gz", content: gzipOf(f, tarOf(f, "a", "b"))}))
	f.Add(arOf(format, entry{name: "control.tar.zst", content: []byte("\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x99\xe9\xd8\x51")}, entry{name: "data.tar.bz2", content: []byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := openBytes(data, Options{MaxControl: 1 << 20, MaxData: 1 << 20, MaxDict: 1 << 20})
		if err != nil {
			return
		}
		if c, err := a.Control(); err == nil {
			c.Scripts()
			c.Conffiles()
		}
		w := &boundedWriter{t: t, limit: 1 << 20}
		if n, err := a.ExtractData(context.Background(), w); err == nil && n > w.limit {
			t.Fatalf("%d bytes came out", n)
		}
	})
}

// boundedWriter fails the test when something is written beyond the limit.
type boundedWriter struct {
	t     *testing.T
	limit int64
}

func (w *boundedWriter) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > w.limit {
		w.t.Errorf("%d bytes written at %d, the limit is %d", len(p), off, w.limit)
	}
	return len(p), nil
}
