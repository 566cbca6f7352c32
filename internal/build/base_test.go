package build

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/image/compress"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/oci"
	"wolffia/internal/image/oci/ocitest"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/image/tarball"
	"wolffia/internal/lab"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/rootfs"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// elsewhere is the tree of a small system, with a file that says so.
func elsewhere(t testing.TB, says string) *tree.Tree {
	t.Helper()
	tr := tree.New()
	for name, text := range map[string]string{
		"/etc/says": says, "/etc/passwd": "root:x:0:0::/root:/bin/sh\neve:x:500:500::/:/bin/sh\n", "/etc/group": "root:x:0:\n",
	} {
		must(t, tr.MkdirAll(filepath.Dir(name), 0o755))
		must(t, tr.Put(name, tree.File(0o644, tree.Bytes(text))))
	}
	must(t, tr.Walk(func(_ string, n *tree.Node) error { n.ModTime = time.Unix(1e9, 0).UTC(); return nil }))
	return tr
}

func create(t testing.TB, name string, write func(f *os.File) error) string {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	must(t, errors.Join(write(f), f.Close()))
	return name
}

// imageTree makes an image and reads it.
func imageTree(t testing.TB, b *Builder, img *lab.Image) *tree.Tree {
	t.Helper()
	art, err := b.Image(context.Background(), img, Format{Name: "tar", Compression: "zstd"})
	must(t, err)
	defer art.Release()
	f, err := os.Open(art.Path)
	must(t, err)
	defer f.Close()
	tr, err := tarball.Read(f, tarball.ReadOptions{})
	must(t, err)
	return tr
}

func says(t testing.TB, tr *tree.Tree, name, want string) {
	t.Helper()
	b, err := tr.ReadFile(name, 8<<20)
	if err != nil || !strings.Contains(string(b), want) {
		t.Errorf("%s says %.200q, not %q: %v", name, b, want, err)
	}
}

// TestBases makes the same image of the same system in every form.
func TestBases(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	from := elsewhere(t, "hello")
	tarFile := func(name string, kind compress.Kind) {
		create(t, at(name), func(f *os.File) error {
			return tarball.Write(f, from, tarball.WriteOptions{Compression: kind})
		})
	}
	tarFile("root.tar", compress.None)
	tarFile("root.tar.gz", compress.Gzip)
	must(t, exec.Command(tooltest.Require(t, "xz", "xz-utils"), "-k", at("root.tar")).Run())
	create(t, at("root.ext4"), func(f *os.File) error { return ext4.Write(f, from, ext4.Options{}) })
	create(t, at("root.qcow2"), func(f *os.File) error {
		in, err := os.Open(at("root.ext4"))
		if err != nil {
			return err
		}
		defer in.Close()
		st, err := in.Stat()
		if err != nil {
			return err
		}
		return qcow2.Write(f, in, st.Size(), qcow2.Options{})
	})
	image := []oci.Image{{Tree: from, Arch: "amd64"}}
	_, err := oci.WriteLayout(at("layout"), image, oci.WriteOptions{})
	must(t, err)
	create(t, at("layout.tar"), func(f *os.File) error { _, err := oci.WriteArchive(f, image, oci.WriteOptions{}); return err })
	must(t, os.MkdirAll(at("folder/etc"), 0o755))
	for _, name := range []string{"says", "passwd", "group"} {
		text, err := from.ReadFile("/etc/"+name, 1000)
		must(t, err)
		must(t, os.WriteFile(at("folder/etc/"+name), text, 0o644))
	}

	b, _ := builder(t)
	b.Dir = dir
	var first string
	for _, name := range []string{"root.tar", "root.tar.gz", "root.tar.xz", "root.ext4", "root.qcow2", "layout", "layout.tar", "folder"} {
		img := &lab.Image{Name: "x", From: lab.Base{Path: "./" + name}, Release: "trixie", Guess: true, Arch: "amd64", Files: []rootfs.File{{Path: "/etc/motd", Content: "mine"}}}
		tr := imageTree(t, b, img)
		says(t, tr, "/etc/says", "hello")
		says(t, tr, "/etc/motd", "mine")
		says(t, tr, "/etc/passwd", "eve:x:500")
		says(t, tr, "/init", "#!/usr/lib/wolffia/bin/sh")
		if tr.Get("/var/lib/dpkg") != nil {
			t.Errorf("%s: the tools' packages are in dpkg's list", name)
		}
		if name == "folder" {
			continue // its times are none
		}
		if got := tr.Get("/etc/says").ModTime; !got.Equal(time.Unix(1e9, 0)) {
			t.Errorf("%s: a file of the base has the time %v", name, got)
		}
		sum, err := tree.Digest(tr)
		must(t, err)
		if first == "" {
			first = string(sum[:])
		}
		if string(sum[:]) != first {
			t.Errorf("%s: another tree", name)
		}
	}
	os.WriteFile(at("text"), []byte("some text"), 0o644)
	for path, want := range map[string]string{
		"./none": "no such file", "./text": "it is unknown, of which no system can be read", "/dev/null": "neither a file nor a folder",
	} {
		_, err := b.Image(context.Background(), &lab.Image{Name: "x", From: lab.Base{Path: path}, Release: "trixie"}, Format{Name: "tar"})
		if e := (*BaseError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "image x, from "+path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, err = b.Image(context.Background(), &lab.Image{Name: "x", From: lab.Base{Path: "./layout"}, Release: "trixie", Arch: "arm64"}, Format{Name: "tar"})
	if e := (*oci.PlatformError)(nil); !errors.As(err, &e) {
		t.Errorf("of another architecture: %v", err)
	}
}

// TestPackagesOverBase lays packages of the base's own release over a base that
// has some of them.
func TestPackagesOverBase(t *testing.T) {
	client, st := machinetest.Archive(t)
	lock, err := client.Resolve(context.Background(), debian.Request{Release: "bookworm", Arch: "amd64", Packages: []string{"base-files", "bash", "libc6"}})
	must(t, err)
	u, err := client.Unpack(context.Background(), lock, debian.UnpackOptions{})
	must(t, err)
	defer u.Close()
	u.Tree.Remove("/usr/share/doc")
	dir := t.TempDir()
	create(t, filepath.Join(dir, "debian.tar"), func(f *os.File) error { return tarball.Write(f, u.Tree, tarball.WriteOptions{}) })
	must(t, u.Tree.Put("/etc/os-release", tree.File(0o644, tree.Bytes("ID=other\n"))))
	u.Tree.Remove("/var/lib/dpkg")
	create(t, filepath.Join(dir, "other.tar"), func(f *os.File) error { return tarball.Write(f, u.Tree, tarball.WriteOptions{}) })

	b := &Builder{Store: st, Client: client, Dir: dir, LockFile: filepath.Join(dir, "wolffia.lock")}
	img := &lab.Image{Name: "x", From: lab.Base{Path: "./debian.tar"}, Release: "trixie", Guess: true, Arch: "amd64", Packages: []string{"hello"}, Deps: rootfs.DepsPackages}
	tr := imageTree(t, b, img)
	says(t, tr, "/etc/debian_version", "12")
	says(t, tr, "/var/lib/dpkg/status", "Package: bash\n")
	says(t, tr, "/var/lib/dpkg/status", "Package: hello\n")
	says(t, tr, "/usr/bin/hello", "ELF")
	says(t, tr, "/usr/bin/bash", "ELF")
	if n := tr.Get("/usr/share/doc/libc6"); n != nil {
		t.Error("libc6 was laid over itself")
	}
	if tr.Get("/usr/share/doc/hello") == nil {
		t.Error("hello is not all there")
	}
	img.Deps = rootfs.DepsELF
	if tr := imageTree(t, b, img); tr.Get("/usr/bin/hello") == nil || tr.Get("/usr/share/doc/hello") != nil {
		t.Error("with deps: elf the documents stay")
	}
	l, err := readLocks(b.LockFile)
	must(t, err)
	if len(l.packages) != 2 || l.packages[0].Request.Release != "bookworm" || l.packages[1].Request.Release != "trixie" {
		t.Errorf("locked: %s", l.bytes())
	}
	img.From.Path = "./other.tar"
	_, err = b.Image(context.Background(), img, Format{Name: "tar"})
	if e := (*rootfs.LoaderError)(nil); !errors.As(err, &e) {
		t.Errorf("over another C library: %v", err)
	}
	img.Packages = nil
	imageTree(t, b, img)
	img.Arch = "arm64"
	_, err = b.Image(context.Background(), img, Format{Name: "tar"})
	if e := (*rootfs.ArchError)(nil); !errors.As(err, &e) || e.Have != "amd64" {
		t.Errorf("of another architecture: %v", err)
	}
}

// TestRegistryBase starts from an image of a registry: what its name stands for
// is pinned, once by a lock file, once in the store.
func TestRegistryBase(t *testing.T) {
	addr := ocitest.Registry(t, "")
	ctx := context.Background()
	push := func(text string) {
		dir := filepath.Join(t.TempDir(), "layout")
		_, err := oci.WriteLayout(dir, []oci.Image{{Tree: elsewhere(t, text), Arch: "amd64"}, {Tree: elsewhere(t, "arm"), Arch: "arm64"}}, oci.WriteOptions{})
		must(t, err)
		_, err = oci.Push(ctx, dir, addr+"/some/base:tag", oci.RegistryOptions{})
		must(t, err)
	}
	push("first")
	dir := t.TempDir()
	img := func() *lab.Image {
		return &lab.Image{Name: "x", From: lab.Base{Reference: addr + "/some/base:tag"}, Release: "trixie", Guess: true, Arch: "amd64"}
	}
	b, _ := builder(t)
	b.Dir, b.LockFile = dir, filepath.Join(dir, "wolffia.lock")
	now := time.Now()
	b.Now = func() time.Time { return now }
	tr := imageTree(t, b, img())
	says(t, tr, "/etc/says", "first")
	lock, err := os.ReadFile(b.LockFile)
	must(t, err)
	for _, want := range []string{"\n\n# Images of registries, by the digests of their manifests.\nImage: " + addr + "/some/base:tag\nArchitecture: amd64\nPinned: " + addr + "/some/base@sha256:", "Request: busybox-static dropbear-bin\n"} {
		if !strings.Contains(string(lock), want) {
			t.Errorf("the lock file lacks %q:\n%s", want, lock)
		}
	}
	arm := img()
	arm.Arch = "arm64"
	says(t, imageTree(t, b, arm), "/etc/says", "arm")
	stored := *b
	stored.LockFile = ""
	says(t, imageTree(t, &stored, img()), "/etc/says", "first")

	push("second")
	says(t, imageTree(t, b, img()), "/etc/says", "first")
	says(t, imageTree(t, &stored, img()), "/etc/says", "first")
	offline := stored
	offline.Offline = true
	now = now.Add(2 * lockAge)
	says(t, imageTree(t, &offline, img()), "/etc/says", "first")
	says(t, imageTree(t, &stored, img()), "/etc/says", "second")
	b.Update = true
	says(t, imageTree(t, b, img()), "/etc/says", "second")
	again, err := readLocks(b.LockFile)
	must(t, err)
	if len(again.images) != 2 || len(again.packages) != 2 {
		t.Errorf("the lock file is\n%s", again.bytes())
	}

	offline.LockFile = filepath.Join(dir, "new.lock")
	_, err = offline.Image(ctx, img(), Format{Name: "tar"})
	if e := (*debian.OfflineError)(nil); !errors.As(err, &e) {
		t.Errorf("offline: %v", err)
	}
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "sub/root.tar"), nil, 0o600))
	none := img()
	none.From.Reference = "sub/root.tar"
	if _, err = offline.Image(ctx, none, Format{Name: "tar"}); err == nil || !strings.Contains(err.Error(), "if the file of that name is meant, write ./sub/root.tar") {
		t.Errorf("a file that is taken for an image: %v", err)
	}
	none.From.Reference = addr + "/none"
	_, err = b.Image(ctx, none, Format{Name: "tar"})
	if e := (*oci.RegistryError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), "check the name and its tag") {
		t.Errorf("of no name: %v", err)
	}
}

// TestLocksOfBoth reads what it writes, and nothing else.
func TestLocksOfBoth(t *testing.T) {
	pinned := "registry.example/a/b@sha256:" + strings.Repeat("01", 32)
	l := locks{}.put(imagePin{"b:c", "arm64", pinned}).put(imagePin{"b:c", "amd64", pinned}).put(imagePin{"a", "amd64", pinned})
	l.packages = l.packages.Put(&debian.Lock{Request: debian.Request{Release: "trixie", Arch: "amd64", Packages: []string{"x"}}, Date: time.Unix(1e9, 0).UTC()})
	got, err := parseLocks(string(l.bytes()))
	must(t, err)
	if string(got.bytes()) != string(l.bytes()) || got.find("b:c", "arm64") != pinned || got.find("b", "arm64") != "" || len(got.packages) != 1 {
		t.Errorf("%s\nbecame\n%s", l.bytes(), got.bytes())
	}
	for _, bad := range []string{"", "Image: x\n", "Lock-Format: 1\n\nImage: x\nArchitecture: amd64\nPinned: x:y\n", "Lock-Format: 1\n\nImage: x\nPinned: x@sha256:0\n"} {
		if l, err := parseLocks(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, l)
		}
	}
}

// FuzzLocks reads anything as a lock file, and what is written of it once more.
func FuzzLocks(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseLocks(text)
		if err != nil {
			return
		}
		again, err := parseLocks(string(l.bytes()))
		if err != nil || string(again.bytes()) != string(l.bytes()) {
			t.Errorf("%q became\n%s\nand then\n%s: %v", text, l.bytes(), again.bytes(), err)
		}
	})
}
