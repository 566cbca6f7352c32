package oci

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/compress"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func random(seed uint64) *tree.Tree {
	return treetest.Random(seed, treetest.Options{Entries: 400, Xattrs: true})
}

// layoutOf writes images as a layout into a new folder.
func layoutOf(t testing.TB, ref string, images ...Image) (dir, digest string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "layout")
	digest, err := WriteLayout(dir, images, WriteOptions{Ref: ref})
	must(t, err)
	return dir, digest
}

// archiveOf writes images as an archive into a new file.
func archiveOf(t testing.TB, ref string, images ...Image) (name, digest string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.tar"))
	must(t, err)
	digest, err = WriteArchive(f, images, WriteOptions{Ref: ref, Scratch: t.TempDir()})
	must(t, err)
	must(t, f.Close())
	return f.Name(), digest
}

// read reads an image that must be there.
func read(t testing.TB, name string, o ReadOptions) (*tree.Tree, Info) {
	t.Helper()
	tr, info, err := ReadTree(name, o)
	must(t, err)
	return tr, info
}

// TestRoundTrip reads what is written, in all its forms.
func TestRoundTrip(t *testing.T) {
	want := random(1)
	config := Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh", "-l"}, Labels: map[string]string{"a": "<b>"}}
	date := time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []compress.Kind{compress.None, compress.Gzip, compress.Zstd} {
		t.Run(string(c), func(t *testing.T) {
			image := Image{Tree: want, Arch: "armhf", Config: config, Compression: c, Time: date}
			dir, digest := layoutOf(t, "test", image)
			archive, same := archiveOf(t, "test", image)
			if digest != same {
				t.Errorf("the layout has the digest %s, the archive %s", digest, same)
			}
			for _, name := range []string{dir, archive} {
				for _, scratch := range []string{"", t.TempDir()} {
					got, info := read(t, name, ReadOptions{Arch: "armhf", Ref: "test", Digest: digest, Scratch: scratch})
					treetest.Equal(t, got, want)
					if info.Digest != digest || info.Arch != "armhf" || info.Layers != 1 || !info.Created.Equal(date) || strings.Join(info.Config.Cmd, " ") != "/bin/sh -l" {
						t.Errorf("%+v", info)
					}
				}
			}
		})
	}
}

// TestGolden holds the digests of a small image still.
func TestGolden(t *testing.T) {
	tr := tree.New()
	must(t, tr.Put("/hello", tree.File(0o755, tree.Bytes("hello\n"))))
	for c, want := range map[compress.Kind]string{
		compress.Gzip: "sha256:887c4459adcac4c2a4a8e5fdb23b15e51bda6252ed4b4cb26245781dec36bf55",
		compress.Zstd: "sha256:b6c76f09d38868bca8a1f072b6a6a9e738eca6242b9d932f4bce6a872156e4d2",
	} {
		image := Image{Tree: tr, Arch: "amd64", Compression: c, Time: time.Unix(1e9, 0)}
		_, first := layoutOf(t, "", image)
		_, again := archiveOf(t, "other", image)
		if first != want || again != want {
			t.Errorf("%s: %s and %s", c, first, again)
		}
	}
}

// TestArchitectures writes an index of several images and picks from it.
func TestArchitectures(t *testing.T) {
	var images []Image
	for _, p := range platforms {
		tr := tree.New()
		must(t, tr.Put("/arch", tree.File(0o644, tree.Bytes(p.arch))))
		images = append(images, Image{Tree: tr, Arch: p.arch})
	}
	dir, digest := layoutOf(t, "all", images...)
	archive, _ := archiveOf(t, "all", images...)
	for _, p := range platforms {
		for _, name := range []string{dir, archive} {
			tr, info := read(t, name, ReadOptions{Arch: p.arch, Digest: digest})
			if b, err := tr.ReadFile("/arch", 100); string(b) != p.arch || err != nil || info.Arch != p.arch {
				t.Errorf("%s: %q, %+v, %v", p.arch, b, info, err)
			}
		}
	}
	_, _, err := ReadTree(dir, ReadOptions{})
	if err == nil || !strings.Contains(err.Error(), "holds several images: all, all") {
		t.Errorf("without an architecture: %v", err)
	}
	two, _ := layoutOf(t, "", images[:2]...)
	_, _, err = ReadTree(two, ReadOptions{Arch: "riscv64"})
	if err == nil || !strings.Contains(err.Error(), "has no image for riscv64, only for amd64, i386") {
		t.Errorf("of another architecture: %v", err)
	}
	if _, _, err = ReadTree(two, ReadOptions{Arch: "vax"}); err == nil {
		t.Error("vax was found")
	}
	if _, err := WriteLayout(two, images, WriteOptions{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("over another layout: %v", err)
	}
}

// skopeo runs skopeo, which must end well and says what it prints.
func skopeo(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, "skopeo", "skopeo"), append([]string{"--insecure-policy", "--tmpdir", t.TempDir()}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return string(out)
}

// TestSkopeo has skopeo read, describe and copy what we write, and reads its
// copies.
func TestSkopeo(t *testing.T) {
	want := random(2)
	for _, c := range []compress.Kind{compress.Gzip, compress.Zstd} {
		image := Image{Tree: want, Arch: "arm64", Compression: c, Config: Config{Cmd: []string{"/bin/sh"}}, Time: time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)}
		dir, digest := layoutOf(t, "wolffia/test:1", image)
		archive, _ := archiveOf(t, "wolffia/test:1", image)
		oci := "oci:" + dir + ":wolffia/test:1"
		var said struct {
			Digest, Architecture, Os string
			Layers                   []string
		}
		must(t, json.Unmarshal([]byte(skopeo(t, "inspect", oci)), &said))
		if said.Digest != digest || said.Architecture != "arm64" || said.Os != "linux" || len(said.Layers) != 1 {
			t.Errorf("skopeo inspect says %+v", said)
		}
		out := t.TempDir()
		for i, from := range []string{oci, "oci-archive:" + archive + ":wolffia/test:1", "docker-archive:" + archive} {
			for _, to := range []string{"oci:" + out + "/layout" + string(c) + string('0'+rune(i)), "oci-archive:" + out + "/oci.tar", "docker-archive:" + out + "/docker.tar:some/name:tag"} {
				if c == compress.Zstd && strings.HasPrefix(to, "docker") {
					continue // skopeo's manifest of it has no name for zstd
				}
				_, name, _ := strings.Cut(to, ":")
				name, _, _ = strings.Cut(name, ":")
				os.Remove(name)
				skopeo(t, "copy", from, to)
				got, info := read(t, name, ReadOptions{Arch: "arm64"})
				treetest.Equal(t, got, want)
				if info.Config.Cmd[0] != "/bin/sh" {
					t.Errorf("%s: %+v", to, info)
				}
			}
		}
	}
}
