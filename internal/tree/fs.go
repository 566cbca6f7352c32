package tree

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// FS is a read-only view of the tree for code that takes an [fs.FS]. Names are
// followed through symbolic links as the kernel would with the tree as its
// root, so that a link never leads out of it. The view also has Stat, Lstat,
// ReadLink, ReadDir and ReadFile; [fs.FileInfo]'s Sys gives the [*Node].
//
// Names that are not UTF-8 can't be opened through an [fs.FS]: Go's own rule.
func (t *Tree) FS() fs.FS { return view{t} }

type view struct{ t *Tree }

var (
	_ fs.ReadDirFS  = view{}
	_ fs.StatFS     = view{}
	_ fs.ReadLinkFS = view{}
	_ fs.ReadFileFS = view{}
)

// find resolves name; with last unset, a link that name itself is stays.
func (v view) find(op, name string, last bool) (*Node, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	dir, base := path.Split(name)
	if last || name == "." {
		dir, base = name, ""
	}
	_, n, err := v.t.Resolve(dir)
	if err == nil && base != "" {
		if n = n.children[base]; n == nil {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err
		}
		if errors.Is(err, errNotDir) {
			err = fs.ErrNotExist
		}
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return n, nil
}

func (v view) Open(name string) (fs.File, error) {
	n, err := v.find("open", name, true)
	if err != nil {
		return nil, err
	}
	i := info{path.Base(name), n}
	switch n.Type() {
	case TypeDir:
		return &openDir{info: i, entries: entries(n)}, nil
	case TypeRegular:
		r, err := n.Open()
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &openFile{r, i}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
}

func (v view) Stat(name string) (fs.FileInfo, error) {
	n, err := v.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), n}, nil
}

func (v view) Lstat(name string) (fs.FileInfo, error) {
	n, err := v.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), n}, nil
}

func (v view) ReadLink(name string) (string, error) {
	n, err := v.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if n.Type() != TypeSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return n.Target, nil
}

func (v view) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := v.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !n.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errNotDir}
	}
	return entries(n), nil
}

func (v view) ReadFile(name string) ([]byte, error) {
	n, err := v.find("open", name, true)
	if err != nil {
		return nil, err
	}
	b, err := readAll(n)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

func entries(n *Node) []fs.DirEntry {
	out := make([]fs.DirEntry, 0, len(n.children))
	for name, c := range n.children {
		out = append(out, fs.FileInfoToDirEntry(info{name, c}))
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out
}

// info is a node as an fs.FileInfo.
type info struct {
	name string
	n    *Node
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.n.Size() }
func (i info) Mode() fs.FileMode  { return i.n.FileMode() }
func (i info) ModTime() time.Time { return i.n.ModTime }
func (i info) IsDir() bool        { return i.n.IsDir() }
func (i info) Sys() any           { return i.n }

// FileMode is the node's mode in Go's own bits.
func (n *Node) FileMode() fs.FileMode {
	m := fs.FileMode(n.Mode & 0o777)
	for _, b := range modeBits {
		if n.Mode&0o7000&b.unix != 0 {
			m |= b.mode
		}
	}
	return m | typeModes[n.Type()]
}

var modeBits = [...]struct {
	unix uint32
	mode fs.FileMode
}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}}

var typeModes = map[uint32]fs.FileMode{
	TypeDir:     fs.ModeDir,
	TypeSymlink: fs.ModeSymlink,
	TypeBlock:   fs.ModeDevice,
	TypeChar:    fs.ModeDevice | fs.ModeCharDevice,
	TypeFIFO:    fs.ModeNamedPipe,
	TypeSocket:  fs.ModeSocket,
}

type openFile struct {
	io.ReadCloser
	info info
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }

type openDir struct {
	info    info
	entries []fs.DirEntry // not yet read
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

func (d *openDir) ReadDir(count int) ([]fs.DirEntry, error) {
	if count <= 0 {
		out := d.entries
		d.entries = nil
		return out, nil
	}
	if len(d.entries) == 0 {
		return nil, io.EOF
	}
	count = min(count, len(d.entries))
	out := d.entries[:count]
	d.entries = d.entries[count:]
	return out, nil
}
