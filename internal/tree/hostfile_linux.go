package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// hostDir opens what lies in a directory of the host, never through a symbolic
// link.
type hostDir struct {
	dir  string // as the caller named it
	real string // without any link, for openat2(2); empty where that is not to be had
}

// newHostDir is of the directory that is open as fd.
func newHostDir(dir string, fd int) *hostDir {
	h := &hostDir{dir: dir}
	var opened, named unix.Stat_t
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err == nil && unix.Fstat(fd, &opened) == nil && unix.Lstat(real, &named) == nil && inodeOf(&opened) == inodeOf(&named) {
		h.real = real
	}
	return h
}

// open opens name for reading. It does not wait for the other end of a FIFO.
func (h *hostDir) open(name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	if h.real != "" {
		how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_NO_SYMLINKS}
		fd, err := retry(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, h.real+"/"+name, &how) })
		if err == nil {
			return fd, nil
		}
		// Kernels before 5.6 do not have the call, and the filters of older
		// container engines do not know it.
		if err != unix.ENOSYS && err != unix.EPERM {
			return -1, &fs.PathError{Op: "open", Path: path.Join(h.dir, name), Err: err}
		}
	}
	root, err := os.OpenRoot(h.dir)
	if err != nil {
		return -1, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, flags, 0)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return fd, os.NewSyscallError("dup", err)
}

// retry makes a system call until no signal comes in between.
func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

// content is the content of the regular file called name as it is now.
func (h *hostDir) content(name string, st *unix.Stat_t) Content {
	f := &hostFile{h: h, name: name, id: inodeOf(st), size: st.Size, modTime: st.Mtim}
	// A file of fewer blocks than its size needs has holes, or is kept
	// compressed; a few blocks are not worth the question.
	const few, sector = 64 << 10, 512
	if st.Size-st.Blocks*sector >= few {
		return sparseHostFile{f}
	}
	return f
}

// hostFile is the content of a file of the host as it was when it was seen.
type hostFile struct {
	h       *hostDir
	name    string
	id      inode
	size    int64
	modTime unix.Timespec
}

func (f *hostFile) Size() int64 { return f.size }

func (f *hostFile) Open() (io.ReadCloser, error) {
	file, err := f.open()
	if err != nil {
		return nil, err // not a nil *os.File in an interface
	}
	return file, nil
}

func (f *hostFile) open() (*os.File, error) {
	fd, err := f.h.open(f.name, 0)
	if err != nil {
		return nil, err
	}
	full := path.Join(f.h.dir, f.name)
	if err := f.same(fd); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: full, Err: err}
	}
	return os.NewFile(uintptr(fd), full), nil
}

var errChanged = errors.New("the file changed since its directory was read: read it again")

func (f *hostFile) same(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&TypeMask != TypeRegular || inodeOf(&st) != f.id || st.Size != f.size || st.Mtim != f.modTime {
		return errChanged
	}
	return nil
}

// sparseHostFile is a hostFile with holes.
type sparseHostFile struct{ *hostFile }

var _ Sparse = sparseHostFile{}

func (f sparseHostFile) OpenAt() (ReaderAtCloser, error) {
	file, err := f.open()
	if err != nil {
		return nil, err
	}
	return file, nil
}

// Data asks the file system, with lseek(2).
func (f sparseHostFile) Data() (list []Extent, err error) {
	file, err := f.open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for at := int64(0); at < f.size; {
		from, err := file.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // none to the end
			break
		}
		if err != nil {
			return nil, err
		}
		to, err := file.Seek(from, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		to = min(to, f.size)
		if from >= to {
			return nil, &fs.PathError{Op: "lseek", Path: file.Name(), Err: errChanged}
		}
		list = append(list, Extent{from, to - from})
		at = to
	}
	return list, nil
}
