package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"wolffia/internal/tree"
)

// dpkgStatus is dpkg's list of what is installed.
const dpkgStatus = "/var/lib/dpkg/status"

// maxStatus bounds it, in bytes.
const maxStatus = 256 << 20

// Lay gives base with unpacked packages over it, as dpkg would have unpacked
// them there: folders, and links to folders, stay as they are, and files take
// the place of files. Where base is Debian's, dpkg's list knows both afterwards.
// Neither tree is changed; contents are shared.
//
// A base with a dynamic loader of its own that is not Debian's would not run any
// more with Debian's in its place: that is a *[LoaderError].
func Lay(base, packages *tree.Tree) (*tree.Tree, error) {
	if err := checkLoader(base, packages); err != nil {
		return nil, err
	}
	status, err := joinStatus(base, packages)
	if err != nil {
		return nil, fmt.Errorf("lay packages over the base: %w", err)
	}
	l := layer{t: clone(base), at: map[string]string{"/": "/"}}
	if err := packages.Walk(l.add); err != nil {
		return nil, fmt.Errorf("lay packages over the base: %w", err)
	}
	if status != "" {
		n := l.t.Get(dpkgStatus)
		n.Content = tree.Bytes(status)
	}
	return l.t, nil
}

// layer lays one tree over another.
type layer struct {
	t  *tree.Tree
	at map[string]string // where the upper tree's folders are, links followed
}

func (l *layer) add(name string, n *tree.Node) error {
	if name == "/" {
		return nil
	}
	to := path.Join(l.at[path.Dir(name)], path.Base(name))
	real, have, err := l.t.Resolve(to)
	isDir := err == nil && have.IsDir()
	switch {
	case n.IsDir() && isDir:
		l.at[name] = real
		return nil
	case n.IsDir():
		l.t.Remove(to) // a file, or a link that leads nowhere
		l.at[name] = to
		return l.t.Put(to, attributes(tree.Dir(0), n))
	case isDir && n.Type() == tree.TypeSymlink:
		return nil // a folder where the package has a link to one, such as /bin
	case isDir:
		return &fs.PathError{Op: "lay", Path: to, Err: errors.New("is a folder in the base, and a file of a package")}
	}
	return l.t.Put(to, n)
}

// loaders are the dynamic loaders that the C library brings, where a program
// names them.
var loaders = map[string]string{
	"/lib64/ld-linux-x86-64.so.2": "amd64", "/lib/ld-linux.so.2": "i386", "/lib/ld-linux-aarch64.so.1": "arm64",
	"/lib/ld-linux-armhf.so.3": "armhf", "/lib/ld-linux-riscv64-lp64d.so.1": "riscv64",
}

// LoaderError says that packages can't be laid over a base.
type LoaderError struct{ Path string }

func (e *LoaderError) Error() string {
	return fmt.Sprintf("the base has a C library of its own (%s) and no packages of Debian's: with Debian's in its place its programs would no longer run; %s", e.Path, e.Fix())
}

// Fix is what a person can do.
func (e *LoaderError) Fix() string {
	return "leave packages out, and install what is wanted in the base, or take a base that is Debian's or has no glibc"
}

func checkLoader(base, packages *tree.Tree) error {
	if base.Get(dpkgStatus) != nil {
		return nil
	}
	for name := range loaders {
		_, _, err := base.Resolve(name)
		_, _, perr := packages.Resolve(name)
		if err == nil && perr == nil {
			return &LoaderError{name}
		}
	}
	return nil
}

// ArchError says that a base is for another architecture.
type ArchError struct {
	Path       string // of a program that says so
	Have, Want string
}

func (e *ArchError) Error() string {
	return fmt.Sprintf("the base is for %s (%s), and the image for %s; %s", e.Have, e.Path, e.Want, e.Fix())
}

// Fix is what a person can do.
func (e *ArchError) Fix() string { return "set arch: " + e.Have + ", or take another base" }

// checkArch looks at the first programs of a base from elsewhere.
func (r *Recipe) checkArch(base *tree.Tree) error {
	if r.Tools == nil || r.Arch == "" {
		return nil
	}
	for _, name := range []string{"/bin/sh", "/bin/busybox", "/sbin/init", "/usr/bin/env", "/bin/ls", "/bin/bash"} {
		real, n, err := base.Resolve(name)
		if err != nil || n.Type() != tree.TypeRegular {
			continue
		}
		o, err := readNode(n)
		if err != nil {
			continue // a script, or damaged: then it says nothing
		}
		for arch, machine := range machines {
			if machine == o.machine && arch != r.Arch {
				return &ArchError{real, arch, r.Arch}
			}
		}
		return nil
	}
	return nil
}

// joinStatus gives the list of what base has and packages has not, and of what
// packages has; it is empty where one of them has no list.
func joinStatus(base, packages *tree.Tree) (string, error) {
	if base.Get(dpkgStatus) == nil || packages.Get(dpkgStatus) == nil {
		return "", nil
	}
	old, err := base.ReadFile(dpkgStatus, maxStatus)
	if err != nil {
		return "", err
	}
	added, err := packages.ReadFile(dpkgStatus, maxStatus)
	if err != nil {
		return "", err
	}
	again := map[string]bool{}
	for p := range paragraphs(string(added)) {
		again[whose(p)] = true
	}
	var out strings.Builder
	for p := range paragraphs(string(old)) {
		if !again[whose(p)] {
			out.WriteString(p + "\n\n")
		}
	}
	out.Write(added)
	return out.String(), nil
}

func paragraphs(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for p := range strings.SplitSeq(text, "\n\n") {
			if p = strings.Trim(p, "\n"); p != "" && !yield(p) {
				return
			}
		}
	}
}

// whose names the package that a paragraph is about.
func whose(paragraph string) string {
	var name, arch string
	for line := range strings.Lines(paragraph) {
		if v, ok := strings.CutPrefix(line, "Package:"); ok {
			name = strings.TrimSpace(v)
		}
		if v, ok := strings.CutPrefix(line, "Architecture:"); ok {
			arch = strings.TrimSpace(v)
		}
	}
	return name + ":" + arch
}
