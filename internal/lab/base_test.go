package lab

import (
	"reflect"
	"strings"
	"testing"

	"wolffia/internal/rootfs"
)

func TestParseBase(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]Base{
		"base": {Image: "base"}, "debian": {Image: "debian"}, "docker://debian": {Reference: "debian"},
		"./root": {Path: "./root"}, "../x.tar.gz": {Path: "../x.tar.gz"}, "/srv/disk.img": {Path: "/srv/disk.img"}, "~/x": {Path: "~/x"}, ".": {Path: "."},
		"debian:trixie": {Reference: "debian:trixie"}, "a/b": {Reference: "a/b"}, "localhost:5000/a/b:c" + digest: {Reference: "localhost:5000/a/b:c" + digest},
		"127.0.0.1:5000/x": {Reference: "127.0.0.1:5000/x"}, "debian" + digest: {Reference: "debian" + digest},
	} {
		got, err := ParseBase(text)
		if err != nil || got != want {
			t.Errorf("ParseBase(%q) = %+v, %v", text, got, err)
		}
		if again, err := ParseBase(got.String()); text != "docker://debian" && (again != got || err != nil) {
			t.Errorf("%q is written %q", text, got.String())
		}
	}
	for _, text := range []string{"", "Base", "root.tar", "a b", "debian:", "x:y:z", "a@sha256:00", "docker://", "docker://A/B", "http://x/y", "a\x00:b", "-a:b"} {
		if got, err := ParseBase(text); err == nil {
			t.Errorf("ParseBase(%q) = %+v", text, got)
		}
	}
}

func TestImagesFromImages(t *testing.T) {
	s, err := Parse("f", []byte(`
images:
  top:
    from: middle
    packages: [gdb, strace=6]
    services: [crond]
    files: [{path: /b, content: b}]
    hostname: top
  middle:
    from: base
    arch: arm64
    packages: [strace]
    users: [{name: joe}]
    init: script
  base:
    from: ./root.tar
    release: bookworm
    packages: [busybox-static]
    services: [dropbear, crond]
    files: [{path: /a, content: a}]
    deps: elf
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Image{
		Name: "top", From: Base{Path: "./root.tar"}, Release: "bookworm", Arch: "arm64", Deps: rootfs.DepsELF, Init: rootfs.InitScript, Hostname: "top",
		Packages: []string{"gdb", "strace=6", "busybox-static"}, Services: []string{"dropbear", "crond"},
		Users: []rootfs.User{{Name: "joe"}},
		Files: []rootfs.File{{Path: "/a", Content: "a"}, {Path: "/b", Content: "b"}},
	}
	if got := s.Images["top"]; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if i := s.Images["base"]; len(i.Packages) != 1 || len(i.Files) != 1 || i.Arch != "" {
		t.Errorf("the base became %+v", i)
	}
	plain, err := Parse("f", []byte("images: {a: , b: {from: a}, c: {from: \"x:y\", release: sid}, d: {from: c}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if b, d := plain.Images["b"], plain.Images["d"]; !b.From.IsZero() || !b.Guess || d.From.Reference != "x:y" || d.Guess || d.Release != "sid" {
		t.Errorf("b is %+v, d is %+v", b, d)
	}
}

func TestImagesFromNothing(t *testing.T) {
	for text, want := range map[string]string{
		"images: {a: {from: b}, b: {from: c}, c: {from: b}}\n": `f:1:48: image "b" starts from itself: b, from c, from b`,
		"images: {a: {from: a}}\n":                             `f:1:20: image "a" starts from itself: a, from a`,
		"images: {base: , a: {from: bsae}}\n":                  `f:1:28: unknown image "bsae"; did you mean "base"?; an image of a registry has a tag, such as bsae:latest, and a path begins with ./`,
		"images: {a: {from: root.tar}}\n":                      `f:1:20: from: "root.tar" is no image of this file, no path such as ./root.tar, and no image of a registry such as debian:trixie`,
		"images: {a: {from: [x]}}\n":                           `f:1:20: from must be text, and is a list`,
	} {
		_, err := Parse("f", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s gives\n%v\nnot\n%s", text, err, want)
		}
	}
}
