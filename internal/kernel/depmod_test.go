package kernel_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"wolffia/internal/kernel"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// linux is an unpacked linux-image.
func linux(t *testing.T, release, arch, flavour string) *kernel.Kernel {
	t.Helper()
	sources, err := kernel.LinuxSources(release, arch, flavour)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := machinetest.Archive(t)
	k, err := kernel.FromPackage(machinetest.Unpack(t, c, sources[0].Request()))
	if err != nil {
		t.Fatal(err)
	}
	k.KeepIndex(func(scan func() (*kernel.ModuleIndex, error)) (*kernel.ModuleIndex, error) {
		scanned.Lock()
		defer scanned.Unlock()
		if x := scanned.by[k.Release]; x != nil {
			return x, nil
		}
		x, err := scan()
		scanned.by[k.Release] = x
		return x, err
	})
	return k
}

// scanned are the indexes of kernels that a test has read already.
var scanned = struct {
	sync.Mutex
	by map[string]*kernel.ModuleIndex
}{by: map[string]*kernel.ModuleIndex{}}

// write writes the regular files of a tree into a folder of the test's own.
func write(t *testing.T, r *tree.Tree) string {
	t.Helper()
	dir := t.TempDir()
	err := r.Walk(func(name string, n *tree.Node) error {
		at := filepath.Join(dir, name)
		switch n.Type() {
		case tree.TypeDir:
			return os.MkdirAll(at, 0o755)
		case tree.TypeSymlink:
			return os.Symlink(n.Target, at)
		}
		in, err := n.Open()
		if err != nil {
			return err
		}
		defer in.Close()
		b, err := io.ReadAll(in)
		if err == nil && int64(len(b)) != n.Size() {
			t.Errorf("%s has %d bytes, not %d", name, len(b), n.Size())
		}
		return cmp.Or(err, os.WriteFile(at, b, 0o644))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// lines are the lines of a file without comments, each a set of words after
// the first when sets is true, in a form that does not depend on their order.
func lines(t *testing.T, name string, sets bool) (out []string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if sets {
			slices.Sort(words[1:])
		}
		out = append(out, strings.Join(words, " "))
	}
	slices.Sort(out)
	return out
}

// TestDepmod compares with the real depmod: the same files, and the same
// answers of modprobe.
func TestDepmod(t *testing.T) {
	depmod := tooltest.Require(t, "depmod", "kmod")
	modprobe := tooltest.Require(t, "modprobe", "kmod")
	k := linux(t, "bookworm", "i386", "") // 4,000 modules, and not compressed
	r := tree.New()
	if err := k.Install(r, kernel.InstallOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	dir := write(t, r)
	folder := filepath.Join(dir, "lib/modules", k.Release)
	ours := t.TempDir()
	texts := []string{"dep", "alias", "symbols", "softdep", "devname"}
	indexes := []string{"dep.bin", "alias.bin", "symbols.bin", "builtin.bin", "builtin.alias.bin"}
	for _, f := range slices.Concat(texts, indexes) {
		if err := os.Rename(filepath.Join(folder, "modules."+f), filepath.Join(ours, "modules."+f)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(depmod, "-b", dir, k.Release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v, %s", err, out)
	}
	for _, f := range texts {
		got, want := lines(t, filepath.Join(ours, "modules."+f), f == "dep"), lines(t, filepath.Join(folder, "modules."+f), f == "dep")
		if !slices.Equal(got, want) {
			t.Errorf("modules.%s has %d lines, depmod's %d: %s", f, len(got), len(want), difference(got, want))
		}
	}
	for _, f := range indexes[3:] { // the others hold the order of what is needed, which may differ
		got, err := os.ReadFile(filepath.Join(ours, "modules."+f))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := os.ReadFile(filepath.Join(folder, "modules."+f)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("modules.%s has %d bytes, depmod's %d, %v", f, len(got), len(want), err)
		}
	}
	ask := func(name string) string {
		out, err := exec.Command(modprobe, "-d", dir, "-S", k.Release, "-C", "/dev/null", "--show-depends", "--ignore-install", name).CombinedOutput()
		if err != nil {
			return err.Error()
		}
		words := strings.Split(string(out), "\n")
		slices.Sort(words)
		return strings.Join(words, "\n")
	}
	names := []string{"btrfs", "nfsd", "ext4", "fs-ext4", "net-pf-40", "symbol:nvmf_register_transport", "pci:v00001AF4d00001041sv0sd0bc0sc0i0",
		"virtio:d00000001v00000001", "crypto-crc32c", "char-major-10-200", "devname:net/tun", "nothing", "vfio-pci", "kvm_intel"}
	want := map[string]string{}
	for _, name := range names {
		want[name] = ask(name)
	}
	for _, f := range slices.Concat(texts, indexes) {
		if err := os.Rename(filepath.Join(ours, "modules."+f), filepath.Join(folder, "modules."+f)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		if got := ask(name); got != want[name] {
			t.Errorf("modprobe %s: %s, with depmod's files %s", name, got, want[name])
		}
	}
	if !strings.Contains(want["btrfs"], "btrfs.ko") || !strings.Contains(want["net-pf-40"], "vsock.ko") {
		t.Errorf("modprobe finds nothing: %q", want)
	}
}

// difference shows some lines that are in one list only.
func difference(got, want []string) string {
	var out []string
	for _, l := range got {
		if !slices.Contains(want, l) && len(out) < 5 {
			out = append(out, "+"+l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) && len(out) < 10 {
			out = append(out, "-"+l)
		}
	}
	return strings.Join(out, "\n")
}

// TestInstallSome: a root with some modules, where /usr is merged, and the same
// from an index that was kept.
func TestInstallSome(t *testing.T) {
	k := linux(t, "trixie", "amd64", "cloud")
	index, err := k.Index()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	var kept kernel.ModuleIndex
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	again := linux(t, "trixie", "amd64", "cloud")
	again.KeepIndex(func(func() (*kernel.ModuleIndex, error)) (*kernel.ModuleIndex, error) { return &kept, nil })
	var roots [2]*tree.Tree
	for i, k := range []*kernel.Kernel{k, again} {
		r := tree.New()
		if err := cmp.Or(r.MkdirAll("/usr/lib", 0o755), r.Put("/lib", tree.Symlink("usr/lib"))); err != nil {
			t.Fatal(err)
		}
		if err := k.Install(r, kernel.InstallOptions{Modules: []string{"btrfs", "crypto-xxhash64"}}); err != nil {
			t.Fatal(err)
		}
		roots[i] = r
	}
	base := "/usr/lib/modules/" + k.Release
	dep, err := roots[0].ReadFile(base+"/modules.dep", 1<<20)
	if err != nil || !strings.Contains(string(dep), "/btrfs.ko: ") || strings.Count(string(dep), "\n") > 20 {
		t.Errorf("modules.dep: %s, %v", dep, err)
	}
	for line := range strings.Lines(string(dep)) {
		for _, f := range strings.Fields(strings.Replace(line, ":", "", 1)) {
			if roots[0].Get(base+"/"+f) == nil {
				t.Errorf("%s is not there", f)
			}
		}
	}
	for _, f := range []string{"/boot/vmlinuz-" + k.Release, "/boot/config-" + k.Release, base + "/modules.builtin", base + "/modules.alias.bin"} {
		if n := roots[0].Get(f); n == nil || n.Size() == 0 {
			t.Errorf("%s is not there", f)
		}
	}
	a, err := tree.Digest(roots[0])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tree.Digest(roots[1]); err != nil || a != b {
		t.Errorf("another root from the index that was kept, %v", err)
	}
}
