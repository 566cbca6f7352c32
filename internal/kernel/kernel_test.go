package kernel_test

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"

	"github.com/klauspost/compress/zstd"

	"wolffia/internal/kernel"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/program"
	"wolffia/internal/tree"
)

// uml is an unpacked user-mode-linux of a suite with its libc6.
func uml(t *testing.T, suite string) (*kernel.Kernel, *tree.Tree) {
	t.Helper()
	c, _ := machinetest.Archive(t)
	pkg := machinetest.Unpack(t, c, kernel.UMLRequest(suite, "amd64"))
	k, err := kernel.FromPackage(pkg)
	if err != nil {
		t.Fatal(err)
	}
	return k, pkg
}

func names(mods []kernel.Module) (out []string) {
	for _, m := range mods {
		out = append(out, m.Name)
	}
	return out
}

func TestUML(t *testing.T) {
	k, pkg := uml(t, "bookworm")
	if !strings.HasPrefix(k.Release, "6.1.") || k.Has("UML") != "y" || k.Has("CONFIG_IPV6") != "m" || k.Has("NONSENSE") != "" {
		t.Errorf("release %q, UML=%q, IPV6=%q", k.Release, k.Has("UML"), k.Has("IPV6"))
	}
	dir := t.TempDir()
	if err := k.InstallUML(dir, pkg); err != nil {
		t.Fatal(err)
	}
	linux := filepath.Join(dir, kernel.UMLName)
	if interp, err := program.Interpreter(linux); err != nil || interp != program.RuntimeLoader {
		t.Errorf("interpreter %q, %v", interp, err)
	}
	for _, f := range []string{"linux", "rt/ld.so", "rt/libc.so.6", "rt/libgcc_s.so.1"} {
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode().Perm()&0o111 == 0 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	// The program runs from any folder whose link rt leads there.
	cwd := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "rt"), filepath.Join(cwd, "rt")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(linux, "--version")
	cmd.Dir, cmd.Env = cwd, []string{"LD_LIBRARY_PATH=rt"}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != k.Release {
		t.Errorf("--version: %q, %v", out, err)
	}
	if err := k.InstallUML(dir, pkg); err == nil {
		t.Error("it is installed twice")
	}
	if err := k.InstallUML(t.TempDir(), tree.New()); err == nil || !strings.Contains(err.Error(), "linux.uml") {
		t.Errorf("without its packages: %v", err)
	}
}

func TestClosure(t *testing.T) {
	k, _ := uml(t, "bookworm")
	for _, c := range []struct {
		want  []string
		order []string // the whole answer
	}{
		{[]string{"ipv6"}, []string{"crc_ccitt", "ipv6"}},
		{[]string{"net-pf-10"}, []string{"crc_ccitt", "ipv6"}},              // by alias
		{[]string{"ext4", "hostfs", "ipv6"}, []string{"crc_ccitt", "ipv6"}}, // built in
		{[]string{"fat", "vfat", "vfat"}, []string{"fat", "vfat"}},
		{[]string{"vfat"}, []string{"fat", "vfat"}},
		{nil, nil},
	} {
		mods, err := k.Closure(c.want)
		if err != nil {
			t.Errorf("%v: %v", c.want, err)
		}
		if !slices.Equal(names(mods), c.order) {
			t.Errorf("%v: %v, want %v", c.want, names(mods), c.order)
		}
	}
	_, err := k.Closure([]string{"ipv66"})
	var unknown *kernel.UnknownModuleError
	if !errors.As(err, &unknown) || unknown.Nearest != "ipv6" {
		t.Errorf("unknown module: %v", err)
	}
}

// Every module of the kernel can be read, and comes after what it needs.
func TestClosureOfEverything(t *testing.T) {
	k, _ := uml(t, "bookworm")
	var all []string
	err := k.Modules.Walk(func(name string, n *tree.Node) error {
		if base, ok := strings.CutSuffix(filepath.Base(name), ".ko"); ok {
			all = append(all, base)
		}
		return nil
	})
	if err != nil || len(all) < 500 {
		t.Fatal(len(all), err)
	}
	mods, err := k.Closure(all)
	if err != nil {
		t.Fatal(err)
	}
	if len(mods) != len(all) {
		t.Errorf("%d modules of %d", len(mods), len(all))
	}
	seen := map[string]bool{}
	for _, m := range mods {
		for _, d := range m.Depends {
			if !seen[d] {
				t.Errorf("%s comes before %s, which it needs", m.Name, d)
			}
		}
		seen[m.Name] = true
	}
}

// Modules lose their debug information and nothing else: readelf and the real
// kernel (machine/uml's tests load them) take them.
func TestStripped(t *testing.T) {
	readelf := tooltest.Require(t, "readelf", "binutils")
	k, _ := uml(t, "bookworm")
	mods, err := k.Closure([]string{"ipv6", "nf_conntrack"})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mods {
		e, err := elf.NewFile(bytes.NewReader(m.Data))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range e.Sections {
			if strings.HasPrefix(s.Name, ".debug") && s.Type != elf.SHT_NULL {
				t.Errorf("%s still has %s", m.Name, s.Name)
			}
		}
		_, original, err := k.Modules.Resolve("/" + m.Path)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(m.Data))*2 > original.Size() {
			t.Errorf("%s: %d bytes of %d are left", m.Name, len(m.Data), original.Size())
		}
		file := filepath.Join(t.TempDir(), "m.ko")
		if err := os.WriteFile(file, m.Data, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(readelf, "-Wa", file).CombinedOutput(); err != nil || bytes.Contains(out, []byte("Warning")) || bytes.Contains(out, []byte("Error")) {
			t.Errorf("readelf: %v, %.500s", err, out)
		}
	}
}

func TestModuleTree(t *testing.T) {
	k, _ := uml(t, "bookworm")
	mods, err := k.Closure([]string{"vfat"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := kernel.ModuleTree(k.Release, mods)
	if err != nil {
		t.Fatal(err)
	}
	base := "/usr/lib/modules/" + k.Release
	for name, want := range map[string]string{
		"/etc/wolffia/modules": base + "/kernel/fs/fat/fat.ko\n" + base + "/kernel/fs/fat/vfat.ko\n",
		base + "/modules.dep":  "kernel/fs/fat/fat.ko:\nkernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko\n",
	} {
		if b, err := r.ReadFile(name, 1<<20); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if n := r.Get(base + "/kernel/fs/fat/vfat.ko"); n == nil || n.Size() != int64(len(mods[1].Data)) {
		t.Error("vfat.ko is not there")
	}
}

// Modules may be compressed in any of the kernel's ways.
func TestCompressed(t *testing.T) {
	xz := tooltest.Require(t, "xz", "xz-utils")
	k, _ := uml(t, "bookworm")
	plain, err := k.Closure([]string{"vfat"})
	if err != nil {
		t.Fatal(err)
	}
	pack := map[string]func([]byte) []byte{
		".gz": func(b []byte) []byte {
			var out bytes.Buffer
			w := gzip.NewWriter(&out)
			w.Write(b)
			w.Close()
			return out.Bytes()
		},
		".zst": func(b []byte) []byte {
			w, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			return w.EncodeAll(b, nil)
		},
		".xz": func(b []byte) []byte {
			cmd := exec.Command(xz, "--check=crc32", "--lzma2=dict=1MiB")
			cmd.Stdin = bytes.NewReader(b)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			return out
		},
	}
	for suffix, f := range pack {
		pkg := tree.New()
		dir := "/usr/lib/modules/6.0.0-test/kernel/fs"
		if err := pkg.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, m := range plain {
			if err := pkg.Put(dir+"/"+filepath.Base(m.Path)+suffix, tree.File(0o644, tree.Bytes(f(m.Data)))); err != nil {
				t.Fatal(err)
			}
		}
		k, err := kernel.FromPackage(pkg)
		if err != nil {
			t.Fatal(err)
		}
		mods, err := k.Closure([]string{"vfat"})
		if err != nil {
			t.Errorf("%s: %v", suffix, err)
			continue
		}
		if !slices.Equal(names(mods), []string{"fat", "vfat"}) || !bytes.Equal(mods[1].Data, plain[1].Data) || mods[1].Path != "kernel/fs/vfat.ko" {
			t.Errorf("%s: %v %s", suffix, names(mods), mods[1].Path)
		}
	}
}

// Since Linux 7 IPv6 can't be a module, and so is in no list of built-in ones.
func TestBuiltInOnly(t *testing.T) {
	k, _ := uml(t, "sid")
	if mods, err := k.Closure([]string{"ipv6"}); err != nil || k.Has("IPV6") == "y" && len(mods) > 0 {
		t.Errorf("%v, %v", names(mods), err)
	}
	// A slip in its name had no suggestion, for want of a list to look in.
	_, err := k.Closure([]string{"ipv66"})
	var unknown *kernel.UnknownModuleError
	if !errors.As(err, &unknown) || unknown.Nearest != "ipv6" {
		t.Errorf("unknown module: %v", err)
	}
}

func TestFromPackageErrors(t *testing.T) {
	if _, err := kernel.FromPackage(tree.New()); err == nil {
		t.Error("a kernel in an empty package")
	}
	two := tree.New()
	for _, d := range []string{"/usr/lib/modules/1", "/usr/lib/modules/2"} {
		if err := two.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kernel.FromPackage(two); err == nil || !strings.Contains(err.Error(), "2 kernel releases") {
		t.Errorf("two kernels: %v", err)
	}
}

// Soft dependencies that form a circle, or that the kernel lacks, do no harm.
func TestSoftDependencies(t *testing.T) {
	k, _ := uml(t, "bookworm")
	mods, err := k.Closure([]string{"vfat"})
	if err != nil {
		t.Fatal(err)
	}
	pkg := tree.New()
	dir := "/lib/modules/1"
	if err := errors.Join(
		pkg.MkdirAll(dir, 0o755),
		pkg.Put(dir+"/fat.ko", tree.File(0o644, tree.Bytes(mods[0].Data))),
		pkg.Put(dir+"/a.ko", tree.File(0o644, tree.Bytes(mods[0].Data))),
		pkg.Put(dir+"/modules.softdep", tree.File(0o644, tree.Bytes("# text\nsoftdep fat pre: missing post: a\nsoftdep a pre: fat\nsoftdep\n"))),
		pkg.Put(dir+"/modules.alias", tree.File(0o644, tree.Bytes("alias one two\nalias two one\nalias fs-* fat\nalias three fat\n"))),
	); err != nil {
		t.Fatal(err)
	}
	k, err = kernel.FromPackage(pkg)
	if err != nil {
		t.Fatal(err)
	}
	got, err := k.Closure([]string{"three"})
	if err != nil || !slices.Equal(names(got), []string{"fat", "a"}) {
		t.Errorf("%v, %v", names(got), err)
	}
	if got, err := k.Closure([]string{"one"}); len(got) != 0 || err != nil {
		t.Errorf("aliases of each other: %v, %v", names(got), err)
	}
}

func TestSuites(t *testing.T) {
	if got := kernel.UMLSuites(0); !slices.Equal(got, []string{"sid", "trixie", "bookworm"}) {
		t.Error(got)
	}
	if got := kernel.UMLSuites(11008); !slices.Equal(got, []string{"sid"}) {
		t.Error(got)
	}
}
