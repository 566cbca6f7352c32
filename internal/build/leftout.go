package build

import (
	"path"
	"slices"
	"strings"

	"wolffia/internal/debian/control"
	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// forScripts are packages that others depend on for their maintainer scripts,
// which are never run, besides those that every Debian has.
var forScripts = []string{
	"adduser", "debconf", "init-system-helpers", "libcap2-bin", "lsb-base", "perl-base", "runit-helper", "sysvinit-utils", "ucf", "update-inetd",
	"readline-common", // what it has are settings, in /usr
}

// settings are folders whose files say how something is to be, that has defaults.
var settings = []string{"/etc/", "/usr/lib/sysctl.d/", "/usr/lib/systemd/", "/usr/lib/sysusers.d/", "/usr/lib/tmpfiles.d/", "/usr/share/apparmor/"}

// leftOut finds the packages that wanted ones depend on and of which the image t,
// made with [rootfs.DepsELF], has nothing, of those unpacked into from: not the
// data and modules that a program opens while it runs, which no header names. Each
// is "NAME, for WANTED". A library alone that no program is linked with is no loss.
func leftOut(from, t *tree.Tree, wanted []string) []string {
	packages := dependencies(from)
	seen := map[string]bool{}
	for _, w := range wanted {
		seen[w] = true
	}
	var out []string
	for _, w := range wanted {
		for todo := slices.Clone(packages[w].needs); len(todo) > 0; todo = todo[1:] {
			name := todo[0]
			p, there := packages[name]
			if seen[name] || !there || p.plumbing {
				continue
			}
			seen[name] = true
			todo = append(todo, p.needs...)
			if files, err := rootfs.PackageFiles(from, []string{name}); err == nil && lost(from, t, files) {
				out = append(out, name+", for "+w)
			}
		}
	}
	return out
}

// dependency is an unpacked package.
type dependency struct {
	needs    []string // by Pre-Depends and Depends, all alternatives
	plumbing bool     // every Debian has it, or only maintainer scripts want it
}

// dependencies are the unpacked packages by their names, and by those that they
// provide. Of a list that can't be read it gives what comes before.
func dependencies(from *tree.Tree) map[string]dependency {
	out := map[string]dependency{}
	n := from.Get("/var/lib/dpkg/status")
	if n == nil {
		return out
	}
	f, err := n.Open()
	if err != nil {
		return out
	}
	defer f.Close()
	for r := control.NewReader(f, control.ReaderOptions{}); ; {
		p, err := r.Next()
		if err != nil {
			return out
		}
		name := p.Get("Package")
		d := dependency{plumbing: p.Get("Essential") == "yes" || p.Get("Priority") == "required" || slices.Contains(forScripts, name)}
		for _, field := range []string{"Pre-Depends", "Depends"} {
			relations, err := control.ParseRelations(p.Get(field))
			if err != nil {
				continue
			}
			for _, r := range slices.Concat(relations...) {
				d.needs = append(d.needs, r.Name)
			}
		}
		out[name] = d
		provides, _ := control.ParseRelations(p.Get("Provides"))
		for _, r := range slices.Concat(provides...) {
			if _, there := out[r.Name]; !there {
				out[r.Name] = dependency{needs: []string{name}}
			}
		}
	}
}

// lost says whether there is something in files, of a package unpacked into from,
// besides documents, settings and libraries, and nothing of it all in t.
func lost(from, t *tree.Tree, files []string) bool {
	data := false
	for _, name := range files {
		if n := at(from, name); n == nil || n.IsDir() || rootfs.IsDocument(name) {
			continue
		}
		if at(t, name) != nil {
			return false
		}
		library := strings.HasSuffix(name, ".so") || strings.Contains(path.Base(name), ".so.")
		data = data || !library && !slices.ContainsFunc(settings, func(dir string) bool { return strings.HasPrefix(name, dir) })
	}
	return data
}

// at is the node that is called name, through links in its folder.
func at(t *tree.Tree, name string) *tree.Node {
	dir, _, err := t.Resolve(path.Dir(name))
	if err != nil {
		return nil
	}
	return t.Get(path.Join(dir, path.Base(name)))
}
