package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tree"
)

// TestCheck finds nothing in what we write, and each kind of damage to it.
func TestCheck(t *testing.T) {
	say := func(dir string) string {
		t.Helper()
		l, err := Check(t.Context(), dir, ReadOptions{Scratch: t.TempDir()})
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, f := range l.All {
			out = append(out, f.String())
		}
		return strings.Join(out, "\n")
	}
	layoutOf := func() string {
		tr := tree.New()
		if err := tr.Put("/file", tree.File(0o644, tree.Bytes("hello"))); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "layout")
		if _, err := WriteLayout(dir, []Image{{Tree: tr, Arch: "arm64"}}, WriteOptions{Ref: "latest"}); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if got := say(layoutOf()); got != "" {
		t.Errorf("a whole layout: %s", got)
	}
	all, err := List(layoutOf(), ReadOptions{})
	if err != nil || len(all) != 1 || all[0].Ref != "latest" || all[0].Arch != "arm64" || len(all[0].Layers) != 1 {
		t.Fatalf("List: %+v, %v", all, err)
	}
	blob := func(dir, digest string) string { return filepath.Join(dir, blobName(digest)) }
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		say    string
	}{
		{"layer", func(dir string) error { return flip(blob(dir, all[0].Layers[0].Name)) }, "it is damaged"},
		{"manifest", func(dir string) error { return flip(blob(dir, all[0].Digest)) }, "it is damaged"},
		{"no layer", func(dir string) error { return os.Remove(blob(dir, all[0].Layers[0].Name)) }, `image 1 ("latest"): layer 1`},
		{"no index", func(dir string) error { return os.Remove(filepath.Join(dir, "index.json")) }, "index: "},
		{"another blob", func(dir string) error {
			return os.WriteFile(blob(dir, "sha256:"+strings.Repeat("0", 64)), []byte("x"), 0o600)
		}, "blob 0000"},
	} {
		dir := layoutOf()
		if err := c.damage(dir); err != nil {
			t.Fatal(err)
		}
		if got := say(dir); !strings.Contains(got, c.say) {
			t.Errorf("%s: Check says %q, not %q", c.name, got, c.say)
		}
	}
}

// flip changes a bit in the middle of a file.
func flip(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(name, b, 0o600)
}
