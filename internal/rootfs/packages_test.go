package rootfs

import (
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wolffia/internal/tree"
)

// released stands for the Release's date.
var released = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// requireTool skips the test where a tool is missing, and fails it in CI.
func requireTool(t testing.TB, tool, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is needed: apt-get install %s", tool, pkg)
		}
		t.Skipf("%s is missing: apt-get install %s", tool, pkg)
	}
}

// defaultPackages are those of a machine with ssh, their dependencies included.
var defaultPackages = []string{
	"busybox-static", "dropbear-bin", "libc6", "libcrypt1", "libtomcrypt1", "libtommath1", "zlib1g", "libgmp10",
}

var packageFolder struct {
	sync.Mutex
	dir string
	got map[string]string // unpacked folders by package
	err map[string]error
}

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(packageFolder.dir)
	os.Exit(code)
}

// unpack downloads a package of the host's own release and unpacks it with
// dpkg, once for all tests, and gives the folder.
func unpack(t testing.TB, name string) string {
	t.Helper()
	requireTool(t, "apt-get", "apt")
	requireTool(t, "dpkg-deb", "dpkg")
	p := &packageFolder
	p.Lock()
	defer p.Unlock()
	if p.got == nil {
		dir, err := os.MkdirTemp("", "rootfs-packages-")
		if err != nil {
			t.Fatal(err)
		}
		p.dir, p.got, p.err = dir, map[string]string{}, map[string]error{}
	}
	if p.got[name] == "" && p.err[name] == nil {
		p.got[name], p.err[name] = download(p.dir, name)
	}
	if err := p.err[name]; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return p.got[name]
}

func download(dir, name string) (string, error) {
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("apt-get", "download", "-qq", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New("apt-get download " + name + ": " + string(out))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", errors.New("apt-get download " + name + " brought no package")
	}
	root := filepath.Join(dir, "root")
	if out, err := exec.Command("dpkg-deb", "-x", debs[0], root).CombinedOutput(); err != nil {
		return "", errors.New("dpkg-deb -x " + name + ": " + string(out))
	}
	return root, nil
}

// packages makes the base tree of some packages: merged /usr and dpkg's lists.
func packages(t testing.TB, names ...string) *tree.Tree {
	t.Helper()
	out := tree.New()
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		must(t, out.MkdirAll("/usr/"+dir, 0o755))
		must(t, out.Put("/"+dir, tree.Symlink("usr/"+dir)))
	}
	must(t, out.MkdirAll("/var/lib/dpkg/info", 0o755))
	for _, name := range names {
		one, err := tree.FromDir(unpack(t, name), tree.DirOptions{})
		must(t, err)
		var list strings.Builder
		must(t, one.Walk(func(p string, n *tree.Node) error {
			list.WriteString(strings.TrimSuffix(p, "/") + "\n")
			if n.IsDir() {
				return nil
			}
			dir, _, err := out.Resolve(path.Dir(p))
			if err != nil {
				must(t, out.MkdirAll(dirOf(out, path.Dir(p)), 0o755))
				dir, _, err = out.Resolve(path.Dir(p))
				must(t, err)
			}
			return out.Put(path.Join(dir, path.Base(p)), n)
		}))
		must(t, out.Put("/var/lib/dpkg/info/"+name+".list", tree.File(0o644, tree.Bytes(list.String()))))
	}
	return out
}

// dirOf gives name with a first component that is a link followed.
func dirOf(t *tree.Tree, name string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if n := t.Get("/" + first); n != nil && n.Type() == tree.TypeSymlink {
		return "/" + n.Target + "/" + rest
	}
	return name
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
