package oci

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"wolffia/internal/image/tarball"
	"wolffia/internal/tree"
)

// FuzzRead reads anything as an archive of an image, within limits.
func FuzzRead(f *testing.F) {
	o := ReadOptions{MaxSize: 1 << 20, Limits: tree.Limits{Entries: 1000, Metadata: 1 << 20}}
	f.Fuzz(func(t *testing.T, b []byte) {
		archive, err := tarball.Read(bytes.NewReader(b), tarball.ReadOptions{MaxSize: 1 << 20, Limits: o.Limits})
		if err != nil {
			return
		}
		l := &layout{t: archive, name: "fuzz"}
		for _, arch := range []string{"", "amd64"} {
			o := o
			o.Arch = arch
			found, err := l.find(&o)
			if err != nil {
				continue
			}
			tr, err := found.flatten(&o)
			if err != nil {
				continue
			}
			if err := tree.Manifest(&bytes.Buffer{}, tr); err != nil {
				t.Fatalf("the tree can't be read: %v", err)
			}
		}
	})
}

// FuzzCollect reads anything as an index of images.
func FuzzCollect(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, arch string) {
		all, err := collect(b, "", "", func(descriptor) ([]byte, error) { return b, nil })
		if err != nil {
			return
		}
		c, err := choose("fuzz", arch, all, func(descriptor) (platform, error) { return platform{"amd64", "linux", ""}, nil })
		if err == nil {
			if _, err := digestHex(c.Digest); err != nil {
				t.Fatalf("chose %+v", c)
			}
		}
	})
}

// seed checks that a fuzzer's seed is what it is said to be.
func seed(t *testing.T, fuzzer, name string, values ...any) {
	t.Helper()
	want := "go test fuzz v1\n"
	for _, v := range values {
		if b, ok := v.([]byte); ok {
			want += fmt.Sprintf("[]byte(%q)\n", b)
		} else {
			want += fmt.Sprintf("string(%q)\n", v)
		}
	}
	file := filepath.Join("testdata", "fuzz", fuzzer, name)
	if got, err := os.ReadFile(file); err == nil && string(got) == want {
		return
	}
	if os.Getenv("UPDATE_SEEDS") == "" {
		t.Errorf("%s is not what we write: set UPDATE_SEEDS", file)
		return
	}
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(want), 0o644))
}

// TestSeeds keeps the fuzzers' corpora what they are said to be.
func TestSeeds(t *testing.T) {
	tr := tree.New()
	must(t, tr.Put("/hello", tree.File(0o644, tree.Bytes("hello"))))
	name, _ := archiveOf(t, "a/b:c", Image{Tree: tr, Arch: "amd64"})
	archive, err := os.ReadFile(name)
	must(t, err)
	seed(t, "FuzzRead", "oci", archive)
	docker := tree.New()
	for name, b := range map[string][]byte{
		"/manifest.json": []byte(`[{"Config":"c.json","RepoTags":["a:b"],"Layers":["1.tar","2.tar"]}]`),
		"/c.json":        []byte(`{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers"}}`),
		"/1.tar":         tarOf(t, "usr/", "usr/x: 1", "lib -> usr", "d/", "d/y: 1"),
		"/2.tar":         tarOf(t, "lib/z = usr/x", "d/.wh.y", "usr/.wh..wh..opq"),
	} {
		must(t, docker.Put(name, tree.File(0o644, tree.Bytes(b))))
	}
	var b bytes.Buffer
	must(t, tarball.Write(&b, docker, tarball.WriteOptions{}))
	seed(t, "FuzzRead", "docker", b.Bytes())
	m := func(kind, p string) descriptor {
		return descriptor{MediaType: kind, Digest: digestOf([]byte(kind + p)), Size: 5, Platform: &platform{Architecture: p, OS: "linux"}}
	}
	for name, all := range map[string][]descriptor{
		"two":    {m(typeManifest, "amd64"), m(dockerManifest, "arm64")},
		"nested": {m(typeIndex, ""), m(dockerIndex, ""), {Digest: digestOf(nil)}},
	} {
		b, err := encode(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: all})
		must(t, err)
		seed(t, "FuzzCollect", name, b, "amd64")
	}
}
