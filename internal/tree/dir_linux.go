package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
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
// process behind them. Extended attributes are not read. Files with holes are
// [Sparse].
//
// Symbolic links that are swapped in while a file is read never lead out of
// dir.
func FromDir(dir string, o DirOptions) (*Tree, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	d := dirReader{host: newHostDir(dir, fd), o: o, u: NewUnpacker(o.Limits), links: map[inode]*Node{}}
	if err := d.root(fd); err != nil {
		return nil, fmt.Errorf("read directory %s: %w", dir, err)
	}
	return d.u.Tree(), nil
}

type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{uint64(st.Dev), uint64(st.Ino)} }

type dirReader struct {
	host  *hostDir
	o     DirOptions
	u     *Unpacker
	links map[inode]*Node
	buf   [32 << 10]byte // of directory entries
}

// root reads the directory that is open as fd, which it closes.
func (d *dirReader) root(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	n, err := d.node(fd, ".", &st)
	if err == nil {
		err = d.u.Put(".", n)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	return d.read(fd, ".", d.u.Tree().Root())
}

// read reads the entries of the directory that is open as fd, which it closes
// before it goes on to those below: however deep they lie, one is open.
func (d *dirReader) read(fd int, name string, dir *Node) error {
	names, err := d.names(fd)
	if err == nil {
		slices.Sort(names) // so that an error is always about the same file
		err = d.entries(fd, name, dir, names)
	}
	unix.Close(fd)
	if err != nil {
		return err
	}
	for _, base := range names {
		n := dir.Child(base)
		if n == nil || !n.IsDir() {
			continue
		}
		below := path.Join(name, base)
		fd, err := d.host.open(below, unix.O_DIRECTORY)
		if err == nil {
			err = d.read(fd, below, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dirReader) names(fd int) (names []string, err error) {
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, d.buf[:]) })
		if err != nil {
			return nil, os.NewSyscallError("getdents", err)
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(d.buf[:n], -1, names)
	}
}

// entries adds a directory's entries to dir.
func (d *dirReader) entries(fd int, name string, dir *Node, names []string) error {
	for _, base := range names {
		var st unix.Stat_t
		if _, err := retry(func() (int, error) { return 0, unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
			return &fs.PathError{Op: "stat", Path: path.Join(name, base), Err: err}
		}
		if st.Mode&TypeMask == TypeSocket {
			continue
		}
		n := d.links[inodeOf(&st)]
		if n == nil {
			var err error
			if n, err = d.node(fd, path.Join(name, base), &st); err != nil {
				return err
			}
			if st.Nlink > 1 && !n.IsDir() {
				d.links[inodeOf(&st)] = n
			}
		}
		if err := d.u.add(dir, name, base, n); err != nil {
			return err
		}
	}
	return nil
}

// node describes what st is about, an entry of the directory fd.
func (d *dirReader) node(fd int, name string, st *unix.Stat_t) (*Node, error) {
	n := &Node{Mode: st.Mode, ModTime: time.Unix(st.Mtim.Unix()).UTC()}
	if d.o.KeepOwners {
		n.UID, n.GID = st.Uid, st.Gid
	}
	switch n.Type() {
	case TypeSymlink:
		var buf [MaxPath]byte
		size, err := unix.Readlinkat(fd, path.Base(name), buf[:])
		if err != nil {
			return nil, &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		n.Target = string(buf[:size])
	case TypeBlock, TypeChar:
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	case TypeRegular:
		if st.Size > 0 {
			n.Content = d.host.content(name, st)
		}
	}
	return n, nil
}
