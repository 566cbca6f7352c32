package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// PathTooLongError is a path that the address of a unix socket has no room for.
type PathTooLongError struct {
	Path string
	Max  int // bytes that such a path may have
}

func (e *PathTooLongError) Error() string {
	return fmt.Sprintf("%s: the path has %d bytes, and the address of a socket has room for %d; %s", e.Path, len(e.Path), e.Max, e.Fix())
}

// Fix says what to do about it.
func (e *PathTooLongError) Fix() string {
	return fmt.Sprintf("choose a path of at most %d bytes, such as one in $XDG_RUNTIME_DIR or /tmp", e.Max)
}

// InUseError is a socket that a running program listens on.
type InUseError struct{ Path string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s: another program listens there; %s", e.Path, e.Fix())
}

// Fix says what to do about it.
func (e *InUseError) Fix() string { return "end that program, or choose another path" }

// FolderError is a place where no socket can be put, or not safely.
type FolderError struct {
	Path   string
	Why    string
	Remedy string
}

func (e *FolderError) Error() string { return fmt.Sprintf("%s: %s; %s", e.Path, e.Why, e.Fix()) }

// Fix says what to do about it.
func (e *FolderError) Fix() string { return e.Remedy }

// folder is a folder of the host in which sockets of ours lie.
type folder struct {
	file *os.File
	path string // absolute, without links in its parents
	made bool   // by us, or by a server that is dead: it goes with us
}

// openFolder opens a folder, and makes it if it is not there, but not its
// parents.
func openFolder(path string) (*folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("folder of %s: %w", path, err)
	}
	f := &folder{path: filepath.Join(parent, filepath.Base(path))}
	switch err := os.Mkdir(f.path, 0o700); {
	case err == nil:
		f.made = true
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	default: // the folder itself may be a link, too
		if f.path, err = filepath.EvalSymlinks(f.path); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.path, Err: err}
	}
	f.file = os.NewFile(uintptr(fd), f.path)
	return f, nil
}

func (f *folder) fd() int { return int(f.file.Fd()) }

// close gives the folder up, and removes it if it is ours and empty.
func (f *folder) close() {
	if f.made {
		f.tidy(func() error { return unix.Rmdir(f.path) })
	}
	f.file.Close()
}

// tidy is locked for what has to be done even if somebody keeps the lock.
func (f *folder) tidy(do func() error) {
	if errors.Is(f.locked(do), errBusy) {
		_ = do()
	}
}

// errBusy is a lock that another program does not give up.
var errBusy = errors.New("another program keeps it locked")

// errMoved is a folder that is no longer where it was opened.
var errMoved = errors.New("the folder was removed meanwhile")

// patience is how long another program may take to open or close its socket in
// the folder.
const patience = 2 * time.Second

// locked does something while no other program like us does anything in the
// folder, as long as it is still where its path leads.
func (f *folder) locked(do func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(f.fd(), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return fmt.Errorf("lock %s: %w", f.path, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w", f.path, errBusy)
		}
	}
	defer unix.Flock(f.fd(), unix.LOCK_UN)
	var a, b unix.Stat_t
	if unix.Fstat(f.fd(), &a) != nil || unix.Lstat(f.path, &b) != nil || a.Ino != b.Ino || a.Dev != b.Dev {
		return fmt.Errorf("%s: %w", f.path, errMoved)
	}
	return do()
}

// keepsOthersOut checks that only we, root and whom we let may replace what
// lies in the folder.
func (f *folder) keepsOthersOut() error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd(), &st); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if st.Uid != uint32(os.Geteuid()) && st.Uid != 0 {
		return &FolderError{
			Path: f.path, Why: fmt.Sprintf("the folder belongs to another user (%s)", userName(st.Uid)),
			Remedy: "choose a path in a folder of your own",
		}
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return &FolderError{
			Path: f.path, Why: fmt.Sprintf("others may replace what lies in the folder (mode %#o)", st.Mode&0o7777),
			Remedy: "chmod go-w " + f.path + ", or choose a path in another folder",
		}
	}
	return nil
}

// userName is a user's name for people.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}

// address is where a socket in the folder is reached from this process: by its
// path, or through the folder's descriptor if the path is too long.
func (f *folder) address(name string) *unix.SockaddrUnix {
	path := filepath.Join(f.path, name)
	if len(path) > maxSunPath {
		path = fmt.Sprintf("/proc/self/fd/%d/%s", f.fd(), name)
	}
	return &unix.SockaddrUnix{Name: path}
}

// bind makes a socket of a kind in the folder, which only we can open, or with
// a group (not 0) its members as well. It gives the socket's descriptor, which
// does not block.
func (f *folder) bind(name string, kind, gid int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	// The file that bind makes has the socket's mode, so that there is no
	// moment in which others could open it.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, f.address(name))
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "bind", Path: filepath.Join(f.path, name), Err: err}
	}
	if gid != 0 {
		if err = unix.Fchownat(f.fd(), name, -1, gid, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			err = unix.Fchmodat(f.fd(), name, 0o660, 0)
		}
		if err != nil {
			f.remove(name)
			unix.Close(fd)
			return -1, &os.PathError{Op: "give to the group", Path: filepath.Join(f.path, name), Err: err}
		}
	}
	return fd, nil
}

func (f *folder) remove(name string) { _ = unix.Unlinkat(f.fd(), name, 0) }

// clear makes room for a socket called name: one that nobody listens on any
// more is removed, which dead says; one that somebody listens on is an
// [*InUseError].
func (f *folder) clear(name string, kind int) (dead bool, err error) {
	path := filepath.Join(f.path, name)
	var st unix.Stat_t
	switch err := unix.Fstatat(f.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return false, &FolderError{Path: path, Why: "there is a file that is not a socket", Remedy: "remove it, or choose another path"}
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, f.address(name)); err {
	case unix.ECONNREFUSED:
		if err := unix.Unlinkat(f.fd(), name, 0); err != nil {
			return false, &os.PathError{Op: "remove", Path: path, Err: err}
		}
		return true, nil
	case nil, unix.EAGAIN, unix.EPROTOTYPE: // the last: sockets of another type
		return false, &InUseError{Path: path}
	default:
		return false, &os.PathError{Op: "connect", Path: path, Err: err}
	}
}

// groupID is the number of a group given by name or number.
func groupID(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	id, err := strconv.Atoi(name)
	if err != nil {
		g, err := user.LookupGroup(name)
		if err != nil {
			return 0, fmt.Errorf("group %q: %w", name, err)
		}
		if id, err = strconv.Atoi(g.Gid); err != nil {
			return 0, fmt.Errorf("group %q: its number %q is none", name, g.Gid)
		}
	}
	if id <= 0 {
		return 0, fmt.Errorf("group %q: root's group lets nobody in who could not come anyway", name)
	}
	return id, nil
}
