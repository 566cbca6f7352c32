package rootfs

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"wolffia/internal/spell"
	"wolffia/internal/tree"
)

// Pruned is what [Prune] did.
type Pruned struct {
	Pruned  int      // files left out
	Kept    []string // files kept that were not wanted themselves, sorted
	Missing []string // "PATH needs WHAT", sorted
}

// documents are folders that a running system does not need.
var documents = []string{
	"/usr/share/doc", "/usr/share/doc-base", "/usr/share/man", "/usr/share/info", "/usr/share/locale",
	"/usr/share/lintian", "/usr/share/bash-completion", "/usr/share/zsh", "/usr/share/fish",
	"/usr/share/bug", "/usr/share/menu", "/usr/share/linda", "/usr/share/gtk-doc",
	"/usr/share/applications", "/usr/share/icons", "/usr/share/pixmaps", "/usr/share/metainfo",
	"/usr/share/initramfs-tools", "/usr/share/apport",
}

// IsDocument says whether a path of a package is left out by
// [Prune] even if it is wanted, because a running system does not need it.
func IsDocument(name string) bool {
	return slices.ContainsFunc(documents, func(d string) bool { return name == d || strings.HasPrefix(name, d+"/") })
}

// opened are libraries that open others by name, where no header shows it:
// the patterns are of whole paths, for path.Match.
var opened = map[string][]string{
	"libpam.so.0":    {"/usr/lib/*/security/*.so", "/etc/pam.conf", "/etc/pam.d/*", "/etc/security/*"},
	"libcrypto.so.3": {"/usr/lib/*/ossl-modules/*.so", "/etc/ssl/openssl.cnf", "/usr/lib/ssl/openssl.cnf"},
	// pthread_cancel and pthread_exit load libgcc_s, out of libpthread before
	// glibc 2.34.
	"libc.so.6": {"/usr/lib/*/libnss_files.so.2", "/usr/lib/*/libnss_dns.so.2", "/lib/*/libnss_files.so.2", "/lib/*/libnss_dns.so.2",
		"/usr/lib/*/libgcc_s.so.1", "/lib/*/libgcc_s.so.1"},
	"libpthread.so.0": {"/usr/lib/*/libgcc_s.so.1", "/lib/*/libgcc_s.so.1"},
}

// always stays, whoever brings it: who the system is, and where libraries are.
var always = []string{
	"/etc/os-release", "/usr/lib/os-release", "/etc/debian_version", "/etc/ld.so.conf", "/etc/ld.so.conf.d/*",
	"/var/lib/dpkg/status",
}

// PackageFiles lists the files of the named packages, from dpkg's own lists
// (/var/lib/dpkg/info/NAME.list or NAME:ARCH.list) in the tree.
func PackageFiles(t *tree.Tree, names []string) ([]string, error) {
	info := t.Get("/var/lib/dpkg/info")
	if info == nil {
		return nil, errors.New("find the files of packages: the tree has no /var/lib/dpkg/info")
	}
	lists := map[string][]string{}
	for _, f := range info.Names() {
		if name, ok := strings.CutSuffix(f, ".list"); ok {
			name, _, _ = strings.Cut(name, ":")
			lists[name] = append(lists[name], f)
		}
	}
	var out []string
	for _, name := range names {
		name, _, _ = strings.Cut(name, ":")
		if len(lists[name]) == 0 {
			var have []string
			for n := range lists {
				have = append(have, n)
			}
			slices.Sort(have)
			text := "is not among the unpacked packages"
			if near := spell.Nearest(name, have); near != "" {
				text += "; did you mean " + near + "?"
			}
			return nil, &Error{Part: "package", Name: name, Err: errors.New(text)}
		}
		for _, f := range lists[name] {
			data, err := t.ReadFile("/var/lib/dpkg/info/"+f, 64<<20)
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(string(data)) {
				out = append(out, strings.TrimSuffix(line, "\n"))
			}
		}
	}
	return out, nil
}

// Prune gives the part of t that the wanted files need: themselves without
// their documentation, the shared libraries that their programs are linked
// with, the loader, and the interpreters of scripts. What a program opens by
// name while it runs shows in no header; a few such habits of common libraries
// are known, and everything else has to be a wanted package itself.
//
// Every name in wanted is a path in t; names that aren't there are passed over.
func Prune(t *tree.Tree, wanted []string) (*tree.Tree, *Pruned, error) {
	p := pruner{t: t, place: newTreePlace(t), keep: map[string]bool{}, asked: map[string]bool{}, rep: &Pruned{}}
	for _, name := range wanted {
		p.want(name)
	}
	for _, pattern := range always {
		p.match(pattern)
	}
	p.follow()
	out, err := p.copy()
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(p.rep.Missing)
	p.rep.Missing = slices.Compact(p.rep.Missing)
	return out, p.rep, nil
}

type pruner struct {
	t     *tree.Tree
	place treePlace
	keep  map[string]bool // paths without links in their folders
	asked map[string]bool // those of them that were wanted
	rep   *Pruned
}

// want keeps one wanted file, and what its links lead to.
func (p *pruner) want(name string) {
	name = real(p.t, path.Clean("/"+name))
	n := p.t.Get(name)
	if n == nil || IsDocument(name) {
		return
	}
	p.asked[name] = true
	if names, _, err := p.place.chain(name); err == nil {
		for _, name := range names {
			p.keep[name] = true
		}
	}
	p.keep[name] = true
}

// match keeps the files that a pattern of path.Match finds, and tells whether
// there are new ones.
func (p *pruner) match(pattern string) (found bool) {
	dirs := []string{"/"}
	parts := strings.Split(strings.TrimPrefix(pattern, "/"), "/")
	for i, part := range parts {
		var next []string
		for _, d := range dirs {
			for _, e := range p.place.list(d) {
				if ok, _ := path.Match(part, e); ok {
					next = append(next, path.Join(d, e))
				}
			}
		}
		if dirs = next; i < len(parts)-1 {
			continue
		}
		for _, name := range dirs {
			names, n, err := p.place.chain(name)
			if err != nil || n.IsDir() {
				continue
			}
			for _, name := range names {
				found = found || !p.keep[name]
				p.keep[name] = true
			}
		}
	}
	return found
}

// follow adds what the kept programs need, until nothing new comes.
func (p *pruner) follow() {
	l := newLoader(p.place)
	done := map[string]bool{}
	for again := true; again; {
		again = false
		var roots []string
		for name := range p.keep {
			if !done[name] {
				done[name] = true
				roots = append(roots, name)
			}
		}
		slices.Sort(roots)
		for _, name := range roots {
			n := p.t.Get(name)
			if n == nil || n.Type() != tree.TypeRegular || n.Mode&0o111 == 0 {
				continue
			}
			interp := interpreter(n)
			if interp == "" {
				continue
			}
			names, _, err := p.place.chain(interp)
			if err != nil {
				p.rep.Missing = append(p.rep.Missing, name+" needs "+interp)
				continue
			}
			for _, name := range names {
				again = again || !p.keep[name]
				p.keep[name] = true
			}
		}
		files, missing := l.closure(roots)
		p.rep.Missing = append(p.rep.Missing, missing...)
		for f := range files {
			p.keep[f], done[f] = true, true // looked through, with the DT_RPATH of what needs it
			for _, pattern := range opened[path.Base(f)] {
				again = p.match(pattern) || again
			}
		}
	}
}

// copy makes the tree of what is kept. Folders keep their attributes; links
// in the root (merged /usr) always stay.
func (p *pruner) copy() (*tree.Tree, error) {
	out := tree.New()
	err := p.t.Walk(func(name string, n *tree.Node) error {
		top := path.Dir(name) == "/" && n.Type() == tree.TypeSymlink
		switch {
		case n.IsDir() && (name == "/" || p.asked[name] && path.Dir(name) != "/"):
			return p.parents(out, name, n)
		case n.IsDir():
			return nil
		case !p.keep[name] && !top:
			p.rep.Pruned++
			return nil
		}
		if !p.asked[name] && !top {
			p.rep.Kept = append(p.rep.Kept, name)
		}
		if err := p.parents(out, path.Dir(name), p.t.Get(path.Dir(name))); err != nil {
			return err
		}
		return out.Put(name, n)
	})
	return out, err
}

// parents makes the folder name in out, and those above, as they are in t.
func (p *pruner) parents(out *tree.Tree, name string, n *tree.Node) error {
	if name != "/" {
		if have := out.Get(name); have != nil {
			return nil
		}
		up := path.Dir(name)
		if err := p.parents(out, up, p.t.Get(up)); err != nil {
			return err
		}
	}
	if n == nil || !n.IsDir() {
		return &fs.PathError{Op: "prune", Path: name, Err: fs.ErrNotExist}
	}
	return out.Put(name, attributes(tree.Dir(0), n))
}
