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
//
// Deliberately absent: permission checks, access times, and links that are
// followed during a walk: every method works on the names themselves, except
// [Tree.Resolve].
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

// MaxPath bounds the length in bytes of a path, as PATH_MAX does on Linux;
// MaxName bounds one component, as NAME_MAX does.
const (
	MaxPath = 4096
	MaxName = 255
)

// Content is the bytes of a regular file.
type Content interface {
	// Size is the length in bytes. It never changes.
	Size() int64
	// Open starts reading at byte 0. The reader gives exactly Size bytes.
	Open() (io.ReadCloser, error)
}

// Node is one inode. The zero value is not useful: use [File], [Dir],
// [Symlink] or [Device].
type Node struct {
	Mode         uint32 // type bits and permission bits (07777), as st_mode
	UID, GID     uint32
	ModTime      time.Time
	Major, Minor uint32            // of block and character devices
	Target       string            // of symbolic links
	Content      Content           // of regular files; nil means empty
	Xattrs       map[string][]byte // by full name, such as "security.capability"

	children map[string]*Node // of directories
}

// File makes a regular file with the permission bits perm, owned by 0:0.
func File(perm uint32, c Content) *Node { return &Node{Mode: TypeRegular | perm&0o7777, Content: c} }

// Dir makes an empty directory with the permission bits perm, owned by 0:0.
func Dir(perm uint32) *Node {
	return &Node{Mode: TypeDir | perm&0o7777, children: map[string]*Node{}}
}

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

// Open reads the content of a regular file.
func (n *Node) Open() (io.ReadCloser, error) {
	if n.Type() != TypeRegular {
		return nil, errors.New("not a regular file")
	}
	if n.Content == nil {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return n.Content.Open()
}

// Names lists a directory's entries, sorted bytewise.
func (n *Node) Names() []string { return slices.Sorted(maps.Keys(n.children)) }

// Child is the directory entry called name, or nil.
func (n *Node) Child(name string) *Node { return n.children[name] }

// Tree is a file tree with a root directory.
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
		return "", fmt.Errorf("path %q holds a NUL byte", name)
	}
	var out strings.Builder
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", fmt.Errorf("path %q holds \"..\"", name)
		case len(part) > MaxName:
			return "", fmt.Errorf("path component %.40q... is longer than %d bytes", part, MaxName)
		}
		out.WriteByte('/')
		out.WriteString(part)
	}
	if out.Len() == 0 {
		return "/", nil
	}
	if out.Len() >= MaxPath {
		return "", fmt.Errorf("path %.40q... is longer than %d bytes", name, MaxPath-1)
	}
	return out.String(), nil
}

// Lookup finds the node called name without following links; a *[fs.PathError]
// wrapping [fs.ErrNotExist] says that there is none.
func (t *Tree) Lookup(name string) (*Node, error) {
	p, err := Clean(name)
	if err != nil {
		return nil, &fs.PathError{Op: "lookup", Path: name, Err: err}
	}
	n := t.root
	for part := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
		if part == "" {
			break
		}
		c := n.children[part]
		if c == nil {
			return nil, &fs.PathError{Op: "lookup", Path: p, Err: fs.ErrNotExist}
		}
		n = c
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
// [fs.ErrExist]. A directory put over a directory passes on its attributes
// and keeps the entries that are there.
func (t *Tree) Put(name string, n *Node) error {
	p, err := Clean(name)
	if err != nil {
		return &fs.PathError{Op: "put", Path: name, Err: err}
	}
	if p == "/" {
		if !n.IsDir() {
			return &fs.PathError{Op: "put", Path: p, Err: errors.New("the root is a directory")}
		}
		copyAttributes(t.root, n)
		return nil
	}
	parent, err := t.Lookup(path.Dir(p))
	if err != nil {
		return &fs.PathError{Op: "put", Path: p, Err: fmt.Errorf("parent: %w", fs.ErrNotExist)}
	}
	if !parent.IsDir() {
		return &fs.PathError{Op: "put", Path: p, Err: errors.New("parent is not a directory")}
	}
	base := path.Base(p)
	if old := parent.children[base]; old != nil && (old.IsDir() || n.IsDir()) {
		if !old.IsDir() || !n.IsDir() {
			return &fs.PathError{Op: "put", Path: p, Err: fs.ErrExist}
		}
		copyAttributes(old, n)
		return nil
	}
	parent.children[base] = n
	return nil
}

func copyAttributes(dst, src *Node) {
	dst.Mode, dst.UID, dst.GID, dst.ModTime, dst.Xattrs = src.Mode, src.UID, src.GID, src.ModTime, src.Xattrs
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
// the permission bits perm. What exists stays as it is, and must be a directory.
func (t *Tree) MkdirAll(name string, perm uint32) error {
	p, err := Clean(name)
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	n := t.root
	for part := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
		if part == "" {
			break
		}
		c := n.children[part]
		if c == nil {
			c = Dir(perm)
			n.children[part] = c
		}
		if !c.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: p, Err: fmt.Errorf("%q is not a directory", part)}
		}
		n = c
	}
	return nil
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

// Resolve follows symbolic links in every component, the last included, as the
// kernel would with this tree as its root, and gives the path without links.
// More than 40 links are a loop. The final name need not exist: then its
// resolved parent's path and the name are given with [fs.ErrNotExist].
func (t *Tree) Resolve(name string) (string, *Node, error) {
	rest := strings.Split(name, "/")
	cur := []string{}
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			cur = cur[:max(0, len(cur)-1)]
			continue
		}
		p := "/" + strings.Join(append(slices.Clone(cur), part), "/")
		n := t.Get(p)
		if n == nil {
			return p, nil, &fs.PathError{Op: "resolve", Path: name, Err: fs.ErrNotExist}
		}
		if n.Type() != TypeSymlink {
			cur = append(cur, part)
			continue
		}
		if links++; links > 40 {
			return p, nil, &fs.PathError{Op: "resolve", Path: name, Err: errors.New("too many levels of symbolic links")}
		}
		if strings.HasPrefix(n.Target, "/") {
			cur = cur[:0]
		}
		rest = append(strings.Split(n.Target, "/"), rest...)
	}
	p := "/" + strings.Join(cur, "/")
	return p, t.Get(p), nil
}

// Walk calls fn for every name, parents before children, siblings in bytewise
// order, the root ("/") first. A node with several names is visited once for
// each. fn's error ends the walk; [fs.SkipDir] passes over a directory.
func (t *Tree) Walk(fn func(name string, n *Node) error) error {
	err := walk("/", t.root, fn)
	if err == fs.SkipDir {
		return nil
	}
	return err
}

func walk(name string, n *Node, fn func(string, *Node) error) error {
	if err := fn(name, n); err != nil || !n.IsDir() {
		return err
	}
	for _, c := range n.Names() {
		if err := walk(path.Join(name, c), n.children[c], fn); err != nil && err != fs.SkipDir {
			return err
		}
	}
	return nil
}

// Merge lays o over t: directories are joined, everything else is replaced by
// o's. Where one side has a directory and the other has not, t's symbolic link
// to a directory stays and is followed (merged /usr); else it is an error.
// Nodes are shared between the two trees afterwards.
func (t *Tree) Merge(o *Tree) error {
	return o.Walk(func(name string, n *Node) error {
		dir, base := path.Split(name)
		if name == "/" {
			return nil
		}
		real, d, err := t.Resolve(dir)
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return &fs.PathError{Op: "merge", Path: name, Err: errors.New("parent is not a directory")}
		}
		dst := path.Join(real, base)
		if n.IsDir() {
			if _, have, err := t.Resolve(dst); err == nil && have.IsDir() {
				if t.Get(dst) == have {
					copyAttributes(have, n)
				}
				return nil
			}
			fresh := Dir(n.Mode)
			copyAttributes(fresh, n)
			return t.Put(dst, fresh)
		}
		return t.Put(dst, n)
	})
}

type bytesContent string

// Bytes is content held in memory.
func Bytes[T ~string | ~[]byte](b T) Content { return bytesContent(b) }

func (b bytesContent) Size() int64 { return int64(len(b)) }
func (b bytesContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(b))), nil
}

type section struct {
	open      func() (ReaderAtCloser, error)
	off, size int64
}

// ReaderAtCloser is what [Section] reads from; an *os.File is one.
type ReaderAtCloser interface {
	io.ReaderAt
	io.Closer
}

// Section is content that lies at a byte offset in a larger file, such as an
// uncompressed archive. open is called once for each reading.
func Section(open func() (ReaderAtCloser, error), off, size int64) Content {
	return section{open, off, size}
}

func (s section) Size() int64 { return s.size }
func (s section) Open() (io.ReadCloser, error) {
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	return &sectionReader{io.NewSectionReader(f, s.off, s.size), f}, nil
}

type sectionReader struct {
	*io.SectionReader
	f io.Closer
}

func (r *sectionReader) Close() error { return r.f.Close() }

// ReadFile gives the content of the regular file called name, following links.
// It refuses files of more than limit bytes.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	_, n, err := t.Resolve(name)
	if err != nil {
		return nil, err
	}
	if n.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes are more than the limit of %d", n.Size(), limit)}
	}
	r, err := n.Open()
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	defer r.Close()
	return io.ReadAll(r)
}
