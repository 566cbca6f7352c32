package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DirOptions says how [FromDir] reads a host's directory.
type DirOptions struct {
	// KeepOwners keeps the host's numeric owners. Else everything belongs to
	// 0:0, as an image's overlay should.
	KeepOwners bool
	// Limits bound the tree.
	Limits Limits
}

// FromDir reads the host's directory dir, which becomes the root, without
// following links. Modes and times are kept as they are, files with several
// names in dir become hard links, and contents are opened only when they are
// read: then a file that is no longer the one that was seen, by inode, size and
// time, is an error. Sockets are left out, since they mean nothing without the
// process behind them. Extended attributes are not read.
//
// Symbolic links that are swapped in while a file is read never lead out of
// dir.
func FromDir(dir string, o DirOptions) (*Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	d := dirReader{dir: dir, root: root, o: o, u: NewUnpacker(o.Limits), links: map[inode]*Node{}}
	if err := d.visit("."); err != nil {
		return nil, fmt.Errorf("read directory %s: %w", dir, err)
	}
	return d.u.Tree(), nil
}

type inode struct{ dev, ino uint64 }

type dirReader struct {
	dir   string
	root  *os.Root
	o     DirOptions
	u     *Unpacker
	links map[inode]*Node
}

func (d *dirReader) visit(name string) error {
	fi, err := d.root.Lstat(name)
	if err != nil {
		return err
	}
	if err := d.add(name, fi); err != nil || !fi.IsDir() {
		return err
	}
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	slices.Sort(names) // so that an error is always about the same file
	for _, c := range names {
		if err := d.visit(path.Join(name, c)); err != nil {
			return err
		}
	}
	return nil
}

func (d *dirReader) add(name string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the file system gives no inode numbers")
	}
	if st.Mode&TypeMask == TypeSocket {
		return nil
	}
	id := inode{uint64(st.Dev), uint64(st.Ino)}
	if n := d.links[id]; n != nil {
		return d.u.Put(name, n)
	}
	n, err := d.node(name, fi, st)
	if err != nil {
		return err
	}
	if st.Nlink > 1 && !fi.IsDir() {
		d.links[id] = n
	}
	return d.u.Put(name, n)
}

func (d *dirReader) node(name string, fi fs.FileInfo, st *syscall.Stat_t) (*Node, error) {
	n := &Node{Mode: st.Mode, ModTime: fi.ModTime().UTC()}
	if d.o.KeepOwners {
		n.UID, n.GID = st.Uid, st.Gid
	}
	switch n.Type() {
	case TypeSymlink:
		target, err := d.root.Readlink(name)
		if err != nil {
			return nil, err
		}
		n.Target = target
	case TypeBlock, TypeChar:
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	case TypeRegular:
		if fi.Size() > 0 {
			n.Content = hostFile{d.dir, name, inode{uint64(st.Dev), uint64(st.Ino)}, fi.Size(), fi.ModTime()}
		}
	}
	return n, nil
}

// hostFile is the content of a file of the host as it was when it was seen.
type hostFile struct {
	dir, name string
	id        inode
	size      int64
	modTime   time.Time
}

func (h hostFile) Size() int64 { return h.size }

func (h hostFile) Open() (io.ReadCloser, error) {
	f, err := os.OpenInRoot(h.dir, h.name)
	if err != nil {
		return nil, err
	}
	if err := h.same(f); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: path.Join(h.dir, h.name), Err: err}
	}
	return f, nil
}

func (h hostFile) same(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || (inode{uint64(st.Dev), uint64(st.Ino)}) != h.id || fi.Size() != h.size || !fi.ModTime().Equal(h.modTime) {
		return errors.New("the file changed since its directory was read: read it again")
	}
	return nil
}
