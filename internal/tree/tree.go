// Package tree is a Unix file tree held in memory: owners, modes, times,
// device nodes, hard links and extended attributes that the host's own file
// system never has to be able to store, so that no root and no fakeroot is
// needed to describe them.
//
// Regular files carry a [Content], which knows its size and can be opened any
// number of times, so a tree of gigabytes costs only its metadata.
// A hard link is one [Node] reached under several names.
//
// A tree is not safe for concurrent change; concurrent reading is fine.
//
//	t := tree.New()
//	t.MkdirAll("/etc", 0o755)
//	t.Put("/etc/motd", tree.File(0o644, tree.Bytes("hello\n")))
//	t.Walk(func(name string, n *tree.Node) error { ... })
//
// Trees come from the host ([FromDir]), from archives (package tarball and
// package cpio, through an [Unpacker]) or from code; they can be laid over each
// other ([Tree.Merge]), read as an [fs.FS] ([Tree.FS]) and compared
// ([Manifest], [Digest]).
//
// Deliberately absent: permission checks, access and change times, ACLs other
// than as extended attributes, and links that are followed on the way: every
// method works on the names themselves, except [Tree.Resolve], [Tree.ReadFile],
// the view of [Tree.FS], and [Tree.Merge] as it says.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// File type bits of [Node.Mode], as in st_mode (inode(7)).
const (
	TypeMask    = 0o170000
	TypeSocket  = 0o140000
	TypeSymlink = 0o120000
	TypeRegular = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFIFO    = 0o010000
)

// MaxPath bounds the length in bytes of a path, its final NUL included, as
// PATH_MAX does on Linux; MaxName bounds one component, as NAME_MAX does.
const (
	MaxPath = 4096
	MaxName = 255
)

var (
	errNotRegular = errors.New("not a regular file")
	errNotDir     = errors.New("not a directory")
	errCycle      = errors.New("a directory can't lie within itself")
)

// Node is one inode. The zero value is not useful: use [File], [Dir],
// [Symlink] or [Device].
type Node struct {
	Mode         uint32 // type bits and permission bits (07777), as st_mode
	UID, GID     uint32
	ModTime      time.Time         // the zero time means the epoch
	Major, Minor uint32            // of block and character devices
	Target       string            // of symbolic links
	Content      Content           // of regular files; nil means empty
	Xattrs       map[string][]byte // by full name, such as "security.capability"

	children map[string]*Node // of directories
}

// File makes a regular file with the permission bits perm, owned by 0:0.
func File(perm uint32, c Content) *Node { return &Node{Mode: TypeRegular | perm&0o7777, Content: c} }

// Dir makes an empty directory with the permission bits perm, owned by 0:0.
func Dir(perm uint32) *Node { return &Node{Mode: TypeDir | perm&0o7777} }

// Symlink makes a symbolic link to target, which is kept byte for byte.
func Symlink(target string) *Node { return &Node{Mode: TypeSymlink | 0o777, Target: target} }

// Device makes a block (TypeBlock) or character (TypeChar) device node.
func Device(kind, perm, major, minor uint32) *Node {
	return &Node{Mode: kind&TypeMask | perm&0o7777, Major: major, Minor: minor}
}

// Type is the file type bits of the mode, such as [TypeDir].
func (n *Node) Type() uint32 { return n.Mode & TypeMask }

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Type() == TypeDir }

// Size is the content's length in bytes, the length of a link's target, or 0.
func (n *Node) Size() int64 {
	switch {
	case n.Type() == TypeSymlink:
		return int64(len(n.Target))
	case n.Type() == TypeRegular && n.Content != nil:
		return n.Content.Size()
	}
	return 0
}

// Names lists a directory's entries, sorted bytewise.
func (n *Node) Names() []string { return slices.Sorted(maps.Keys(n.children)) }

// Child is the directory entry called name, or nil.
func (n *Node) Child(name string) *Node { return n.children[name] }

func (n *Node) setChild(name string, c *Node) {
	if n.children == nil {
		n.children = map[string]*Node{}
	}
	n.children[name] = c
}

// check refuses nodes that no file system could hold, so that every writer can
// rely on it.
func (n *Node) check() error {
	switch n.Type() {
	case TypeSocket, TypeRegular, TypeBlock, TypeDir, TypeChar, TypeFIFO:
		return nil
	case TypeSymlink:
		if n.Target == "" || len(n.Target) >= MaxPath || strings.IndexByte(n.Target, 0) >= 0 {
			return fmt.Errorf("the link's target is empty, longer than %d bytes, or holds a NUL", MaxPath-1)
		}
		return nil
	}
	return fmt.Errorf("mode %#o has no known file type", n.Mode)
}

// Tree is a file tree with a root directory. Use [New] to make one.
type Tree struct{ root *Node }

// New makes a tree of one empty root directory of mode 0755.
func New() *Tree { return &Tree{root: Dir(0o755)} }

// Root is the root directory.
func (t *Tree) Root() *Node { return t.root }

// Clean turns name into the tree's canonical form: rooted, without a trailing
// slash, "." or empty components. It refuses what no archive may smuggle in:
// "..", NUL bytes, and names longer than the kernel's limits.
func Clean(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("path %.200q holds a NUL byte", name)
	}
	var out strings.Builder
	out.Grow(min(len(name)+1, MaxPath))
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", fmt.Errorf("path %.200q holds \"..\"", name)
		case len(part) > MaxName:
			return "", fmt.Errorf("path component %.40q... is longer than %d bytes", part, MaxName)
		}
		if out.Len()+1+len(part) >= MaxPath {
			return "", fmt.Errorf("path %.40q... is longer than %d bytes", name, MaxPath-1)
		}
		out.WriteByte('/')
		out.WriteString(part)
	}
	if out.Len() == 0 {
		return "/", nil
	}
	return out.String(), nil
}

// components yields the parts of a cleaned name.
func components(clean string) func(yield func(string) bool) {
	if clean == "/" {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(clean[1:], "/")
}

// Lookup finds the node called name without following links; a *[fs.PathError]
// wrapping [fs.ErrNotExist] says that there is none.
func (t *Tree) Lookup(name string) (*Node, error) {
	p, err := Clean(name)
	if err != nil {
		return nil, &fs.PathError{Op: "lookup", Path: name, Err: err}
	}
	n := t.root
	for part := range components(p) {
		if n = n.children[part]; n == nil {
			return nil, &fs.PathError{Op: "lookup", Path: p, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

// Get is [Tree.Lookup] for callers that take absence as an answer: it gives
// nil where there is nothing.
func (t *Tree) Get(name string) *Node {
	n, err := t.Lookup(name)
	if err != nil {
		return nil
	}
	return n
}

// Put places n at name. The parent must be a directory that exists. What was
// there is replaced, except that a directory is never replaced by something
// else, nor anything else by a directory: that is an error wrapping
// [fs.ErrExist]. An empty directory put over a directory passes on its
// attributes and keeps the entries that are there; one with entries is refused
// ([Tree.Merge] joins directories).
func (t *Tree) Put(name string, n *Node) error {
	p, err := Clean(name)
	if err != nil {
		return &fs.PathError{Op: "put", Path: name, Err: err}
	}
	if p == "/" {
		return t.place(nil, p, n)
	}
	parent := t.root
	for part := range components(path.Dir(p)) {
		parent = parent.children[part]
		switch {
		case parent == nil:
			return &fs.PathError{Op: "put", Path: p, Err: fmt.Errorf("parent: %w", fs.ErrNotExist)}
		case !parent.IsDir():
			return &fs.PathError{Op: "put", Path: p, Err: fmt.Errorf("parent: %q is %w", part, errNotDir)}
		case parent == n:
			return &fs.PathError{Op: "put", Path: p, Err: errCycle}
		}
	}
	return t.place(parent, p, n)
}

// place puts n at the clean name p, whose parent is known.
func (t *Tree) place(parent *Node, p string, n *Node) error {
	if err := n.check(); err != nil {
		return &fs.PathError{Op: "put", Path: p, Err: err}
	}
	if p == "/" {
		return putOver(t.root, n, p)
	}
	if n == t.root || n == parent {
		return &fs.PathError{Op: "put", Path: p, Err: errCycle}
	}
	base := p[strings.LastIndexByte(p, '/')+1:]
	if old := parent.children[base]; old != nil && (old.IsDir() || n.IsDir()) {
		return putOver(old, n, p)
	}
	parent.setChild(base, n)
	return nil
}

// putOver puts n over what is there, where one of them is a directory.
func putOver(old, n *Node, p string) error {
	switch {
	case old == n:
		return nil
	case !old.IsDir() || !n.IsDir():
		return &fs.PathError{Op: "put", Path: p, Err: fs.ErrExist}
	case len(n.children) > 0:
		return &fs.PathError{Op: "put", Path: p, Err: fmt.Errorf("both directories have entries: %w", fs.ErrExist)}
	}
	copyAttributes(old, n)
	return nil
}

func copyAttributes(dst, src *Node) {
	dst.Mode, dst.UID, dst.GID, dst.ModTime, dst.Xattrs = src.Mode, src.UID, src.GID, src.ModTime, maps.Clone(src.Xattrs)
}

// Link gives the node at old the further name name. Directories can't be linked.
func (t *Tree) Link(old, name string) error {
	n, err := t.Lookup(old)
	if err != nil {
		return err
	}
	if n.IsDir() {
		return &fs.PathError{Op: "link", Path: old, Err: errors.New("is a directory")}
	}
	return t.Put(name, n)
}

// MkdirAll makes the directory name and its missing parents, owned by 0:0 with
// the permission bits perm. What exists stays as it is, and must be a
// directory: links are not followed.
func (t *Tree) MkdirAll(name string, perm uint32) error {
	p, err := Clean(name)
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	_, _, err = t.mkdirAll(p, perm)
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	return nil
}

// mkdirAll gives the directory called by the clean name p and counts those
// that it made.
func (t *Tree) mkdirAll(p string, perm uint32) (dir *Node, made int, err error) {
	dir = t.root
	for part := range components(p) {
		c := dir.children[part]
		switch {
		case c == nil:
			c = Dir(perm)
			dir.setChild(part, c)
			made++
		case c.Type() == TypeSymlink:
			return nil, made, fmt.Errorf("%q is a symbolic link, which is not followed, and %w", part, errNotDir)
		case !c.IsDir():
			return nil, made, fmt.Errorf("%q is %w", part, errNotDir)
		}
		dir = c
	}
	return dir, made, nil
}

// Remove takes the name away, with everything below it. A name that is not
// there is no error.
func (t *Tree) Remove(name string) {
	p, err := Clean(name)
	if err != nil || p == "/" {
		return
	}
	if parent := t.Get(path.Dir(p)); parent != nil {
		delete(parent.children, path.Base(p))
	}
}

// Walk calls fn for every name, parents before children, siblings in bytewise
// order, the root ("/") first. A node with several names is visited once for
// each. fn's error ends the walk; [fs.SkipDir] passes over a directory, and
// [fs.SkipAll] ends the walk without an error. fn may change the tree: names
// removed meanwhile are not visited.
func (t *Tree) Walk(fn func(name string, n *Node) error) error {
	err := walk("/", t.root, fn)
	if err == fs.SkipDir || err == fs.SkipAll {
		return nil
	}
	return err
}

func walk(name string, n *Node, fn func(string, *Node) error) error {
	if err := fn(name, n); err != nil || !n.IsDir() {
		return err
	}
	prefix := name + "/"
	if name == "/" {
		prefix = name
	}
	for _, c := range n.Names() {
		child := n.children[c]
		if child == nil {
			continue
		}
		if err := walk(prefix+c, child, fn); err != nil && err != fs.SkipDir {
			return err
		}
	}
	return nil
}
