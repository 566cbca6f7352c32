package store

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ReadOnlyError says that the store has to be written and can't be.
type ReadOnlyError struct {
	Dir  string // the store's folder
	Path string // what was to be written
	Err  error
}

func (e *ReadOnlyError) Error() string {
	return fmt.Sprintf("the cache folder %s can't be written (%v): %s", e.Dir, cause(e.Err), e.Fix())
}

func (e *ReadOnlyError) Unwrap() error { return e.Err }

// Fix says what to do about it.
func (e *ReadOnlyError) Fix() string {
	return "make it writable, or set WOLFFIA_CACHE to a folder that is"
}

// SpaceError says that the disk, or the user's quota on it, is full.
type SpaceError struct {
	Path string // the file that was being written
	Free int64  // bytes that are left on its file system for this user, -1 if unknown
	Err  error
}

func (e *SpaceError) Error() string {
	free := ""
	if e.Free >= 0 {
		free = fmt.Sprintf(", %s free", Size(e.Free))
	}
	return fmt.Sprintf("write %s: %v%s: %s", e.Path, cause(e.Err), free, e.Fix())
}

func (e *SpaceError) Unwrap() error { return e.Err }

// Fix says what to do about it.
func (e *SpaceError) Fix() string {
	return "make room with `wolffia cache prune`, or set WOLFFIA_CACHE to a folder on another disk"
}

// cause is the error number within err where there is one: what is around it
// names temporary files that mean nothing to the reader.
func cause(err error) error {
	var no unix.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

// explain turns an error met while writing path into one that says what to do.
func (s *Store) explain(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*SpaceError)), errors.As(err, new(*ReadOnlyError)):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &SpaceError{Path: path, Free: freeSpace(filepath.Dir(path), s.dir), Err: err}
	case errors.Is(err, unix.EROFS):
		return &ReadOnlyError{Dir: s.dir, Path: path, Err: err}
	}
	return err
}

// explainDenied is explain for the store's own bookkeeping, where a missing
// permission too means that the store can't be written. In a caller's code it
// may mean anything.
func (s *Store) explainDenied(path string, err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return &ReadOnlyError{Dir: s.dir, Path: path, Err: err}
	}
	return s.explain(path, err)
}

// freeSpace is what an ordinary user may still write below the first of dirs
// that exists.
func freeSpace(dirs ...string) int64 {
	for _, d := range dirs {
		var st unix.Statfs_t
		if unix.Statfs(d, &st) == nil {
			return int64(st.Bavail) * int64(st.Bsize)
		}
	}
	return -1
}

// Size is a number of bytes that prints for people: "14.2 MB".
type Size int64

func (n Size) String() string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d bytes", int64(n))
	}
	v, i := float64(n)/1000, 0
	for ; v >= 999.95 && i < len(units)-1; i++ {
		v /= 1000
	}
	return fmt.Sprintf("%.1f %cB", v, units[i])
}
