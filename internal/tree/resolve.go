package tree

import (
	"errors"
	"io/fs"
	"path"
	"strings"
)

// maxLinks is how many symbolic links the kernel follows for one name
// (MAXSYMLINKS).
const maxLinks = 40

// Resolve follows symbolic links in every component, the last included, as the
// kernel would with this tree as its root, and gives the path without links and
// its node. More than 40 links are a loop.
//
// Where only the final name is missing, its path under the resolved parent is
// given with an error wrapping [fs.ErrNotExist]; so the caller knows where to
// create it. In all other errors the path is empty.
func (t *Tree) Resolve(name string) (string, *Node, error) {
	fail := func(p string, err error) (string, *Node, error) {
		return p, nil, &fs.PathError{Op: "resolve", Path: name, Err: err}
	}
	var names []string // of the nodes in stack, without the root
	stack := []*Node{t.root}
	rest := splitNames(nil, name) // what is still to do, last first
	for links := 0; len(rest) > 0; {
		part := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if part == ".." {
			stack, names = stack[:max(1, len(stack)-1)], names[:max(0, len(names)-1)]
			continue
		}
		dir := stack[len(stack)-1]
		if !dir.IsDir() {
			return fail("", errNotDir)
		}
		n := dir.children[part]
		if n == nil {
			if len(rest) > 0 {
				return fail("", fs.ErrNotExist)
			}
			return fail("/"+path.Join(path.Join(names...), part), fs.ErrNotExist)
		}
		if n.Type() != TypeSymlink {
			stack, names = append(stack, n), append(names, part)
			continue
		}
		if links++; links > maxLinks || len(rest) > MaxPath {
			return fail("", errors.New("too many levels of symbolic links"))
		}
		if strings.HasPrefix(n.Target, "/") {
			stack, names = stack[:1], names[:0]
		}
		rest = splitNames(rest, n.Target)
	}
	return "/" + strings.Join(names, "/"), stack[len(stack)-1], nil
}

// splitNames pushes name's components onto the stack todo, the first on top.
// Empty ones and "." are left out.
func splitNames(todo []string, name string) []string {
	from := len(todo)
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && part != "." {
			todo = append(todo, part)
		}
	}
	for i, j := from, len(todo)-1; i < j; i, j = i+1, j-1 {
		todo[i], todo[j] = todo[j], todo[i]
	}
	return todo
}

// Merge lays o over t: directories are joined and take o's attributes (but t's
// root keeps its own), everything else is replaced by o's. Where o has a directory and t a symbolic
// link to one, the link stays and is followed, and what it leads to keeps its
// attributes: so a package's /bin/x lands in /usr/bin on a merged-usr tree. In
// every other case where one side has a directory and the other has not, the
// merge ends with an error wrapping [fs.ErrExist], with what came before it in
// [Tree.Walk]'s order already merged.
//
// Nodes that are no directories are shared between the two trees afterwards.
func (t *Tree) Merge(o *Tree) error {
	return o.Walk(func(name string, n *Node) error {
		if name == "/" {
			return nil
		}
		dir, base := path.Split(name)
		real, d, err := t.Resolve(dir)
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return &fs.PathError{Op: "merge", Path: name, Err: errNotDir}
		}
		dst := path.Join(real, base)
		if !n.IsDir() {
			return t.Put(dst, n)
		}
		old := d.children[base]
		if old != nil && old.Type() == TypeSymlink {
			if _, have, err := t.Resolve(dst); err == nil && have.IsDir() {
				return nil
			}
		}
		fresh := Dir(0)
		copyAttributes(fresh, n)
		return t.Put(dst, fresh)
	})
}
