package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/event"
)

// A flock belongs to the open file description: the kernel drops it when the
// process dies, however it dies, and two goroutines that open the same file
// exclude each other as two processes do.

// tryFlock takes a lock (LOCK_SH or LOCK_EX) without waiting. It reports false
// where somebody else's lock is in the way.
func tryFlock(fd, how int) (bool, error) {
	for {
		switch err := unix.Flock(fd, how|unix.LOCK_NB); err {
		case nil:
			return true, nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return false, nil
		default:
			return false, os.NewSyscallError("flock", err)
		}
	}
}

// openRaw opens a path for locking. The descriptor is no *os.File, whose
// finalizer would drop the lock behind the owner's back.
func openRaw(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o666)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// isAt reports whether the file that fd has open is still the one at path.
// Lock files and objects are unlinked or renamed while locked, so whoever gets
// a lock has to look whether it still means anything.
func isAt(fd int, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(fd, &a) == nil && unix.Lstat(path, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

// keyLock is the right to make one object.
type keyLock struct {
	fd   int
	path string
}

// lockKey waits for the right to make the object kind/key. It says so, once,
// when another process has it.
func (s *Store) lockKey(ctx context.Context, kind, key string) (*keyLock, error) {
	path := s.lockPath(kind, key)
	if err := s.mkdir(s.lockDir()); err != nil {
		return nil, err
	}
	said := false
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		l, err := tryKeyLock(path)
		if err != nil {
			return nil, s.explainDenied(path, fmt.Errorf("lock %s %s: %w", kind, key, err))
		}
		if l != nil {
			return l, nil
		}
		if pid := lockOwner(path); !said && pid != 0 && pid != os.Getpid() {
			said = true
			s.events.Emit(event.Event{Kind: event.Note, Task: "wait", Subject: kind + " " + key,
				Message: fmt.Sprintf("waiting for another wolffia (process %d) that is making the same thing", pid)})
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s %s, which process %d is making: %w", kind, key, lockOwner(path), ctx.Err())
		case <-time.After(wait):
		}
	}
}

// tryKeyLock gives nil where somebody else has the lock.
func tryKeyLock(path string) (*keyLock, error) {
	fd, err := openRaw(path, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	got, err := tryFlock(fd, unix.LOCK_EX)
	if err != nil || !got || !isAt(fd, path) {
		unix.Close(fd)
		return nil, err
	}
	// Only for the message to those who wait: it may fail on a full disk.
	unix.Ftruncate(fd, 0)
	unix.Pwrite(fd, []byte(strconv.Itoa(os.Getpid())), 0)
	return &keyLock{fd, path}, nil
}

// unlock removes the lock file while it is still locked, so that none is left.
func (l *keyLock) unlock() {
	unix.Unlink(l.path)
	unix.Close(l.fd)
}

// lockOwner is the process that has the lock file, or 0.
func lockOwner(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// sweep removes the temporary files and lock files of processes that died. Each
// is locked by whoever works on it, so what can be locked is left over. It is
// best effort: what it can't remove costs only room.
func (s *Store) sweep() {
	for _, dir := range []string{s.tempDir(), s.lockDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			sweepOne(dir + "/" + e.Name())
		}
	}
}

func sweepOne(path string) {
	fd, err := openRaw(path, unix.O_RDONLY)
	if err != nil {
		// A folder without read permission can't be in work: nothing here
		// makes one. Whatever else it is, it stays.
		if errors.Is(err, unix.ELOOP) {
			os.Remove(path)
		}
		return
	}
	defer unix.Close(fd)
	if got, err := tryFlock(fd, unix.LOCK_EX); err == nil && got && isAt(fd, path) {
		removeAll(path)
	}
}
