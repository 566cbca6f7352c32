package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// tarOf makes a layer of lines: "name/" is a directory, "name -> target" a
// symbolic link, "name = target" a hard link, "name: text" a file, and anything
// else an empty one.
func tarOf(t testing.TB, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, line := range lines {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: line, Mode: 0o644, ModTime: time.Unix(1e9, 0)}
		text := ""
		if name, target, ok := strings.Cut(line, " -> "); ok {
			h.Typeflag, h.Name, h.Linkname, h.Mode = tar.TypeSymlink, name, target, 0o777
		} else if name, target, ok := strings.Cut(line, " = "); ok {
			h.Typeflag, h.Name, h.Linkname = tar.TypeLink, name, target
		} else if strings.HasSuffix(line, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o750
		} else if h.Name, text, ok = strings.Cut(line, ": "); ok {
			h.Size = int64(len(text))
		}
		must(t, w.WriteHeader(h))
		_, err := io.WriteString(w, text)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// layered writes a layout of plain layers, called "test".
func layered(t testing.TB, layers ...[]byte) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layered")
	f, err := newFolder(dir)
	must(t, err)
	c := configuration{platform: platform{"amd64", "linux", ""}}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest}
	c.RootFS.Type = "layers"
	for _, b := range layers {
		d, err := f.blob(func(w io.Writer) error {
			_, err := w.Write(b)
			return err
		})
		must(t, err)
		d.MediaType = typeLayer
		m.Layers = append(m.Layers, d)
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digestOf(b))
	}
	m.Config, err = f.document(c, typeConfig)
	must(t, err)
	top, err := f.document(m, typeManifest)
	must(t, err)
	must(t, f.finish(top, "test"))
	return dir
}

// listing is what a tree holds, one line each.
func listing(tr *tree.Tree) string {
	var out []string
	first := map[*tree.Node]string{}
	tr.Walk(func(name string, n *tree.Node) error {
		switch {
		case name == "/":
		case n.IsDir():
			out = append(out, fmt.Sprintf("%s/ %o", name[1:], n.Mode&0o777))
		case n.Type() == tree.TypeSymlink:
			out = append(out, name[1:]+" -> "+n.Target)
		case first[n] != "":
			out = append(out, name[1:]+" = "+first[n])
		default:
			first[n] = name[1:]
			b, err := tr.ReadFile(name, 1000)
			if err != nil {
				b = []byte(err.Error())
			}
			out = append(out, name[1:]+": "+string(b))
		}
		return nil
	})
	return strings.Join(out, "\n")
}

// stacks are images of several layers, and what they come to.
var stacks = []struct {
	name   string
	layers [][]string
	want   []string
	differ bool // umoci has it otherwise, as the comment says
}{
	{name: "replaced", layers: [][]string{{"a: 1", "d/", "d/x: 1"}, {"a: 2", "d/y: 2"}}, want: []string{"a: 2", "d/ 750", "d/x: 1", "d/y: 2"}},
	{name: "whiteout", layers: [][]string{{"a: 1", "d/", "d/x: 1", "d/s/", "d/s/t: 1"}, {".wh.a", "d/", "d/.wh.x", "d/.wh.s"}}, want: []string{"d/ 750"}},
	{name: "whiteout and again", layers: [][]string{{"d/", "d/x: 1"}, {".wh.d", "d/", "d/y: 2"}}, want: []string{"d/ 750", "d/y: 2"}},
	{name: "opaque", layers: [][]string{{"d/", "d/x: 1", "d/s/", "d/s/t: 1"}, {"d/", "d/y: 2", "d/.wh..wh..opq"}}, want: []string{"d/ 750", "d/y: 2"}},
	{name: "whiteout of nothing that is there", layers: [][]string{{"a: 1"}, {".wh.b", "c/.wh.d"}}, want: []string{"a: 1", "c/ 755"}, differ: true}, // it makes no c
	{name: "file over directory", layers: [][]string{{"d/", "d/x: 1"}, {"d: 2"}}, want: []string{"d: 2"}},
	{name: "directory over file", layers: [][]string{{"d: 1"}, {"d/", "d/x: 2"}}, want: []string{"d/ 750", "d/x: 2"}},
	{name: "link over directory", layers: [][]string{{"lib/", "lib/x: 1"}, {"usr/", "usr/lib/", "usr/lib/x: 2", "lib -> usr/lib"}}, want: []string{"lib -> usr/lib", "usr/ 750", "usr/lib/ 750", "usr/lib/x: 2"}},
	{name: "through a link", layers: [][]string{{"usr/", "usr/lib/", "usr/lib/x: 1", "lib -> usr/lib"}, {"lib/y: 2", "lib/.wh.x"}}, want: []string{"lib -> usr/lib", "usr/ 750", "usr/lib/ 750", "usr/lib/y: 2"}},
	{name: "directory over link", layers: [][]string{{"usr/", "usr/x: 1", "lib -> usr"}, {"lib/", "lib/y: 2"}}, want: []string{"lib/ 750", "lib/y: 2", "usr/ 750", "usr/x: 1"}},
	{name: "link that leads out", layers: [][]string{{"out -> /../../etc"}, {"out/x: 2"}}, want: []string{"out/ 755", "out/x: 2"}, differ: true}, // it makes /etc in the image
	{name: "hard links", layers: [][]string{{"a: 1", "b = a"}, {"c: 2"}}, want: []string{"a: 1", "b = a", "c: 2"}},
	{name: "hard link to a layer below", layers: [][]string{{"a: 1"}, {"b = a"}}, want: []string{"a: 1", "b = a"}},
	{name: "hard link of which one is replaced", layers: [][]string{{"a: 1", "b = a"}, {"b: 2"}}, want: []string{"a: 1", "b: 2"}},
	{name: "aufs", layers: [][]string{{"a: 1"}, {".wh..wh.plnk", ".wh..wh.aufs"}}, want: []string{"a: 1"}, differ: true}, // it takes them for whiteouts
}

// TestLayers lays layers over each other, and has umoci do the same.
func TestLayers(t *testing.T) {
	umoci := tooltest.Require(t, "umoci", "umoci")
	for _, c := range stacks {
		t.Run(c.name, func(t *testing.T) {
			var layers [][]byte
			for _, lines := range c.layers {
				layers = append(layers, tarOf(t, lines...))
			}
			dir := layered(t, layers...)
			tr, _ := read(t, dir, ReadOptions{})
			want := strings.Join(c.want, "\n")
			if got := listing(tr); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if c.differ {
				return
			}
			bundle := filepath.Join(t.TempDir(), "bundle")
			if out, err := exec.Command(umoci, "unpack", "--rootless", "--image", dir+":test", bundle).CombinedOutput(); err != nil {
				t.Fatalf("umoci: %v\n%s", err, out)
			}
			theirs, err := tree.FromDir(filepath.Join(bundle, "rootfs"), tree.DirOptions{})
			must(t, err)
			if got := listing(theirs); got != want {
				t.Errorf("umoci gives\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestManyLayers takes a tree apart into layers at random.
func TestManyLayers(t *testing.T) {
	want := random(6)
	var parts []*tree.Tree
	for range 10 {
		parts = append(parts, tree.New())
	}
	i := 0
	err := want.Walk(func(name string, n *tree.Node) error {
		if n.IsDir() {
			for _, p := range parts {
				must(t, p.Put(name, attributes(n)))
			}
			return nil
		}
		i++
		return parts[i%len(parts)].Put(name, n) // which makes copies of hard links
	})
	must(t, err)
	joined := tree.New()
	for _, p := range parts {
		must(t, stack{joined}.lay("/", p.Root()))
	}
	treetest.Equal(t, joined, want)
}

// TestDamaged reads images that are not what they should be.
func TestDamaged(t *testing.T) {
	good := tarOf(t, "a: 1")
	change := func(name, from, to string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				b, err := os.ReadFile(p)
				if err != nil || !strings.Contains(p, name) || !bytes.Contains(b, []byte(from)) {
					return err
				}
				return os.WriteFile(p, bytes.Replace(b, []byte(from), []byte(to), 1), 0o600)
			})
			must(t, err)
		}
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   string
	}{
		"no index":         {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "index.json"))) }, "this is no image"},
		"index is no JSON": {change("index.json", "{", "["), "index: parse"},
		"no images":        {change("index.json", `"manifests":`, `"elephants":`), "holds no image"},
		"other digest":     {change("index.json", `"digest":"sha256:`, `"digest":"sha256:../`), "is no SHA-256 digest"},
		"other kind":       {change("index.json", `"digest":"sha256:`, `"digest":"sha512:`), `digests of the kind "sha512"`},
		"no digest":        {change("index.json", `"digest":"sha256:`, `"digest":"/etc/`), "is no digest"},
		"other size":       {change("index.json", `"size":`, `"size":9`), "bytes, not 9"},
		"negative size":    {change("index.json", `"size":`, `"size":-`), "is not possible"},
		"no blob":          {change("index.json", `"digest":"sha256:`, `"digest":"sha256:`+strings.Repeat("0", 64)+`","x":"`), "file does not exist"},
		"damaged manifest": {change("blobs", `"schemaVersion":2`, `"schemaVersion":3`), "it is damaged"},
		"damaged layer":    {change("blobs", "ustar", "uster"), "it is damaged"},
		"blob is a folder": {func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "blobs"))) }, "file does not exist"},
		"blobs is a symlink": {func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, "blobs"), filepath.Join(dir, "..", "outside")))
			must(t, os.Symlink("../outside", filepath.Join(dir, "blobs")))
		}, "file does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := layered(t, good)
			c.change(t, dir)
			_, _, err := ReadTree(dir, ReadOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

// TestLimits reads images that are too large.
func TestLimits(t *testing.T) {
	dir := layered(t, tarOf(t, "a: 1"), tarOf(t, "b: 2"), tarOf(t, "c: "+strings.Repeat("x", 10000)))
	for o, want := range map[ReadOptions]string{
		{MaxSize: 5000}:                       "more than the limit of",
		{MaxSize: 1}:                          "more than the limit of 1 bytes",
		{Scratch: t.TempDir(), MaxSize: 5000}: "more than the limit of",
		{MaxSize: 20000, Limits: tree.Limits{Metadata: 1}}: "more than the limit of",
	} {
		if _, _, err := ReadTree(dir, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, not %q", o, err, want)
		}
	}
	for _, bad := range []string{".wh.", ".wh..", ".wh..."} {
		if _, _, err := ReadTree(layered(t, tarOf(t, "x", "d/"+bad)), ReadOptions{}); err == nil || !strings.Contains(err.Error(), "a whiteout of nothing") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	tr := tree.New()
	must(t, tr.Put("/.wh.x", tree.File(0o644, nil)))
	if _, err := WriteLayout(filepath.Join(t.TempDir(), "x"), []Image{{Tree: tr, Arch: "amd64"}}, WriteOptions{}); err == nil || !strings.Contains(err.Error(), ".wh.") {
		t.Errorf("a file that looks like a whiteout: %v", err)
	}
	broken := tree.New()
	must(t, broken.Put("/x", tree.File(0o644, short{})))
	to := filepath.Join(t.TempDir(), "x")
	if _, err := WriteLayout(to, []Image{{Tree: broken, Arch: "amd64"}}, WriteOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that is too short: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(to, "blobs", "*", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// short is a content that has less than it says.
type short struct{}

func (short) Size() int64                  { return 100 }
func (short) Open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }
