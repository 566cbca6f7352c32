package build

import (
	"errors"
	"path"
	"slices"
	"testing"

	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// TestLeftOut tells what is a loss from what is not, of packages that only have what
// matters here.
func TestLeftOut(t *testing.T) {
	from := tree.New()
	put := func(name string, n *tree.Node) {
		t.Helper()
		dir := path.Dir(name)
		if at, _, err := from.Resolve(dir); err == nil {
			dir = at
		}
		if err := errors.Join(from.MkdirAll(dir, 0o755), from.Put(path.Join(dir, path.Base(name)), n)); err != nil {
			t.Fatal(err)
		}
	}
	put("/usr/bin/x", tree.File(0o755, tree.Bytes("x")))
	put("/bin", tree.Symlink("usr/bin"))
	status := ""
	for _, p := range []struct {
		name, fields string
		files        []string
	}{
		{"tool", "Depends: gone, tool-data (>= 1) | other, loop, kept, lib, setting, manual, base, scripts, virtual\nPre-Depends: meta\n", []string{"/bin/tool"}},
		{"tool-data", "", []string{"/usr/share/tool/data", "/usr/share/doc/tool-data/copyright"}},
		{"loop", "Depends: tool, loop\n", []string{"/usr/share/doc/loop"}},
		{"meta", "Depends: deep\n", nil},
		{"deep", "", []string{"/usr/lib/deep/module.py", "/etc/deep"}},
		{"kept", "", []string{"/usr/lib/libkept.so.1", "/usr/share/kept/locale"}},
		{"lib", "", []string{"/usr/lib/liblib.so.1.2", "/usr/lib/liblib.so"}},
		{"setting", "", []string{"/etc/setting"}},
		{"manual", "", []string{"/usr/share/man/man1/tool.1.gz"}},
		{"base", "Essential: yes\nDepends: behind\n", []string{"/usr/bin/base"}},
		{"behind", "", []string{"/usr/share/behind/x"}},
		{"scripts", "Priority: required\n", []string{"/usr/bin/scripts"}},
		{"real", "Provides: virtual (= 2)\n", []string{"/usr/share/real/x"}},
		{"apart", "", []string{"/usr/share/apart/x"}},
	} {
		list := "/.\n"
		for _, f := range p.files {
			put(f, tree.File(0o755, tree.Bytes("x")))
			list += f + "\n"
		}
		put("/var/lib/dpkg/info/"+p.name+".list", tree.File(0o644, tree.Bytes(list)))
		status += "Package: " + p.name + "\nVersion: 1\n" + p.fields + "\n"
	}
	put("/var/lib/dpkg/status", tree.File(0o644, tree.Bytes(status)))
	wanted, err := rootfs.PackageFiles(from, []string{"tool"})
	if err != nil {
		t.Fatal(err)
	}
	image, _, err := rootfs.Prune(from, append(wanted, "/usr/lib/libkept.so.1"))
	if err != nil {
		t.Fatal(err)
	}
	got := leftOut(from, image, []string{"tool", "absent"})
	if want := []string{"tool-data, for tool", "deep, for tool", "real, for tool"}; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("left out: %q, want %q", got, want)
	}
	if got := leftOut(from, from, []string{"tool"}); got != nil {
		t.Errorf("of the whole is left out %q", got)
	}
	if got := leftOut(tree.New(), tree.New(), []string{"tool"}); got != nil {
		t.Errorf("of nothing is left out %q", got)
	}
}
