package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/image/oci/ocitest"
)

// TestReproducible builds the same file four times, from empty caches, in
// different folders, with other umasks, time zones, locales, clocks of the
// files and users: the bytes are the same.
func TestReproducible(t *testing.T) {
	parallel(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	const file = `
images:
  base:
    packages: [busybox-static, dropbear-bin]
    files:
      - {from: ./overlay, to: /srv}
      - {path: /etc/motd, content: "hello\n"}
    users: [{name: alice}, {name: bob, groups: [audio]}]
    services: [dropbear]
    kernel: cloud
`
	var lock string
	digests := map[string]map[string]bool{}
	places := []struct {
		uid   int
		umask string
		when  time.Time
		env   []string
		dir   string
	}{
		{ordinaryUID(), "022", time.Unix(1e9, 0), []string{"TZ=UTC", "LC_ALL=C"}, "lab"},
		{ordinaryUID(), "077", time.Unix(2e9, 0), []string{"TZ=Asia/Tokyo", "LC_ALL=de_DE.UTF-8", "LANG=tr_TR.UTF-8"}, "another folder"},
		{os.Getuid(), "002", time.Unix(15e8, 0), []string{"TZ=America/New_York", "LC_ALL=tr_TR.UTF-8", "SOURCE_DATE_EPOCH="}, "x"},
	}
	for i, place := range places {
		p := stranger(t, place.uid)
		dir := p.folder(t, place.dir)
		p.write(t, filepath.Join(dir, "wolffia.yaml"), file)
		if lock != "" {
			p.write(t, filepath.Join(dir, "wolffia.lock"), lock)
		}
		if err := p.own(filepath.Join(dir, "overlay")); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"b", "a", "Z"} {
			path := filepath.Join(dir, "overlay", name)
			p.write(t, path, "content of "+name+"\n")
			if err := os.Chtimes(path, place.when, place.when); err != nil {
				t.Fatal(err)
			}
		}
		for _, out := range []string{
			"image.cpio", "image.cpio.gz", "image.cpio.zst", "image.tar", "image.tar.gz", "image.tar.zst", "image.oci",
			"image.ext2", "image.ext3", "image.ext4", "image.img", "image.img.gz", "image.qcow2", "image.ext4.qcow2",
		} {
			c := call{program: plain, dir: dir, env: place.env, limit: cold,
				wrap: []string{"sh", "-c", "umask " + place.umask + `; exec "$0" "$@"`}}
			o := p.run(t, c, "build", "-q", "-o", out)
			digest := p.checkBuilt(t, o, filepath.Join(dir, out))
			if digests[out] == nil {
				digests[out] = map[string]bool{}
			}
			digests[out][digest] = true
			if len(digests[out]) != 1 {
				t.Errorf("place %d: %s has another digest: %v", i, out, digests[out])
			}
		}
		if lock == "" {
			data, err := os.ReadFile(filepath.Join(dir, "wolffia.lock"))
			if err != nil {
				t.Fatal(err)
			}
			lock = string(data)
		}
	}
}

// TestBuildToOutput writes an image to standard output, and the same to a file
// in a folder that it is given.
func TestBuildToOutput(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	dir := p.folder(t, "images")
	p.run(t, call{}, "build", "--format", "tar", "-o", dir)
	data, err := os.ReadFile(filepath.Join(dir, "base.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if o := p.run(t, call{}, "build", "--format", "tar", "-o", "-"); o.out != string(data) || len(data) == 0 {
		t.Errorf("%d bytes on standard output, %d in the file", len(o.out), len(data))
	}
}

// TestPush sends an image to a real registry, and starts another from it.
func TestPush(t *testing.T) {
	p := newPerson(t)
	ref := ocitest.Registry(t, "") + "/pond:1"
	o := p.run(t, call{limit: cold}, "build", "-q", "--push", ref)
	sum, _, _ := strings.Cut(o.out, "  ")
	if len(sum) != 64 || !strings.HasSuffix(o.out, "  "+ref+"\n") {
		t.Errorf("said %v", o)
	}
	o = p.run(t, call{limit: cold}, "run", "-q", "--from", ref, "--", "cat", "/etc/os-release")
	if !strings.Contains(o.out, "ID=debian\n") {
		t.Error(o)
	}
	o = p.try(t, call{}, "build", "-q", "--push", ref, "--format", "cpio")
	if o.status != 2 || !oneLine(o.err) || !strings.Contains(o.err, "format oci") {
		t.Error(o)
	}
}

// TestPackageNamesComplete completes names of packages from what is in the cache,
// without a network; what is not there is not got.
func TestPackageNamesComplete(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	p.run(t, call{program: p.plain(t), limit: cold}, "explain", "image", "-q", "-p", "busybox-static")
	for args, want := range map[string]string{
		"run -p busybox-stat":                    "busybox-static\n:4\n",
		"build --package=busybox-stat":           "busybox-static\n:4\n",
		"run -p no-such-package":                 ":4\n",
		"run --release nonesuch -p busybox-stat": ":4\n",
	} {
		o := p.run(t, call{wrap: inNamespace(t, ":")}, append([]string{"__complete"}, strings.Fields(args)...)...)
		if o.out != want && o.out != "--package="+want {
			t.Errorf("%s: want %q: %v", args, want, o)
		}
	}
}
