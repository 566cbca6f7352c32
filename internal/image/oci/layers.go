package oci

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"wolffia/internal/image/tarball"
	"wolffia/internal/tree"
)

// Names in a layer that are about the layers below it ("Whiteouts").
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	aufs     = ".wh..wh." // aufs's own notes, which mean nothing here
)

// flatten lays the layers over each other.
func (f *found) flatten(o *ReadOptions) (*tree.Tree, error) {
	if len(f.layers) > maxLayers {
		return nil, fmt.Errorf("%d layers are more than the limit of %d", len(f.layers), maxLayers)
	}
	base := tree.New()
	left := o.MaxSize
	for i, l := range f.layers {
		t, size, err := l.read(base, o, i, left)
		if err == nil {
			left -= size
			err = stack{base}.lay("/", t.Root())
		}
		if err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", i+1, l.name, err)
		}
	}
	return base, nil
}

// read reads a layer over base, and gives its size, uncompressed.
func (l *layer) read(base *tree.Tree, o *ReadOptions, i int, left int64) (*tree.Tree, int64, error) {
	if left <= 0 {
		return nil, 0, errTooLarge
	}
	r, err := l.node.Open()
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	in := io.Reader(r)
	if l.want != nil {
		in = verify(r, *l.want)
	}
	t := tarball.ReadOptions{Limits: o.Limits, MaxSize: left, Linked: func(name string) *tree.Node {
		dir, file := path.Split(path.Clean("/" + name))
		_, d, err := base.Resolve(dir)
		if err != nil {
			return nil
		}
		return d.Child(file) // which may be a link itself
	}}
	if o.Scratch == "" {
		read, err := tarball.Read(in, t)
		return read, contents(read), err
	}
	t.SpoolFile = filepath.Join(o.Scratch, fmt.Sprintf("layer-%d.tar", i+1))
	read, err := tarball.Read(in, t)
	if err != nil {
		return nil, 0, err
	}
	fi, err := os.Stat(t.SpoolFile)
	if err != nil {
		return nil, 0, err
	}
	return read, fi.Size(), nil
}

var errTooLarge = errors.New("the layers before it take all that the limit allows")

// contents is about what a layer in memory takes.
func contents(t *tree.Tree) (n int64) {
	if t == nil {
		return 0
	}
	t.Walk(func(_ string, f *tree.Node) error {
		n += 512 + f.Size()
		return nil
	})
	return n
}

// stack is the tree of the layers so far.
type stack struct{ base *tree.Tree }

// lay lays the entries of the layer's directory from over the directory to, a
// path without links.
func (s stack) lay(to string, from *tree.Node) error {
	if to == "/" && explicit(from) {
		if err := s.base.Put("/", attributes(from)); err != nil {
			return err
		}
	}
	if err := s.whiteouts(to, from); err != nil {
		return err
	}
	for _, name := range from.Names() {
		if strings.HasPrefix(name, whiteout) {
			continue
		}
		if err := s.entry(path.Join(to, name), from.Child(name)); err != nil {
			return err
		}
	}
	return nil
}

// whiteouts takes away what from says is gone from the layers below.
func (s stack) whiteouts(to string, from *tree.Node) error {
	if from.Child(opaque) != nil {
		for _, name := range s.base.Get(to).Names() {
			s.base.Remove(path.Join(to, name))
		}
	}
	for _, name := range from.Names() {
		gone, ok := strings.CutPrefix(name, whiteout)
		if !ok || strings.HasPrefix(name, aufs) {
			continue
		}
		if gone == "" || gone == "." || gone == ".." {
			return fmt.Errorf("%q: a whiteout of nothing", path.Join(to, name))
		}
		s.base.Remove(path.Join(to, gone))
	}
	return nil
}

// entry lays n at the path at.
func (s stack) entry(at string, n *tree.Node) error {
	old := s.base.Get(at)
	if !n.IsDir() {
		if old != nil && old.IsDir() {
			s.base.Remove(at)
		}
		return s.base.Put(at, n)
	}
	if old != nil && old.Type() == tree.TypeSymlink && !explicit(n) {
		if real, d, err := s.base.Resolve(at); err == nil && d.IsDir() {
			return s.lay(real, n)
		}
	}
	if old != nil && !old.IsDir() {
		s.base.Remove(at)
		old = nil
	}
	if old == nil || explicit(n) {
		if err := s.base.Put(at, attributes(n)); err != nil {
			return err
		}
	}
	return s.lay(at, n)
}

// explicit reports whether the layer has an entry of its own for a directory:
// the others, made by [tree.Unpacker], have no time.
func explicit(dir *tree.Node) bool { return !dir.ModTime.IsZero() }

// attributes is the directory dir without what is in it.
func attributes(dir *tree.Node) *tree.Node {
	n := tree.Dir(dir.Mode)
	n.UID, n.GID, n.ModTime, n.Xattrs = dir.UID, dir.GID, dir.ModTime, maps.Clone(dir.Xattrs)
	return n
}
