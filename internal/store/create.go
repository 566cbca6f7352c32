package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Create gives the path of the object kind/key, and makes it when it is not
// there: write fills an empty file, which becomes the object when write returns
// nil and is removed when it does not. While another process makes the same
// object, Create waits for it, until ctx ends.
func (s *Store) Create(ctx context.Context, kind, key string, write func(f *os.File) error) (path string, err error) {
	return s.create(ctx, kind, key, func(final string) error {
		f, err := s.tempFile()
		if err != nil {
			return err
		}
		defer f.Close() // the lock with it, after the rename
		if err := write(f); err != nil {
			os.Remove(f.Name())
			return err
		}
		return s.commit(f, final)
	})
}

// CreateDir is [Store.Create] for an object that is a folder: fill puts the
// content into the empty folder dir.
func (s *Store) CreateDir(ctx context.Context, kind, key string, fill func(dir string) error) (path string, err error) {
	return s.create(ctx, kind, key, func(final string) error {
		dir, fd, err := s.tempFolder()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = fill(dir)
		if err == nil && s.sync {
			err = unix.Syncfs(fd)
		}
		if err == nil {
			err = os.Rename(dir, final)
		}
		if err != nil {
			removeAll(dir)
		}
		return err
	})
}

// Resume is [Store.Create] for an object that arrives piece by piece: the file
// that write gets holds what an earlier call left when it did not succeed, with
// the offset at its end. What write leaves is kept when it returns an error; to
// have it gone, write truncates the file.
func (s *Store) Resume(ctx context.Context, kind, key string, write func(f *os.File) error) (path string, err error) {
	return s.create(ctx, kind, key, func(final string) error {
		if err := s.mkdir(s.partDir()); err != nil {
			return err
		}
		part := s.partPath(kind, key)
		f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o666)
		if err != nil {
			return s.explainDenied(part, err)
		}
		defer f.Close()
		if _, err := f.Seek(0, 2); err != nil {
			return err
		}
		if err := write(f); err != nil {
			if st, serr := f.Stat(); serr == nil && st.Size() == 0 {
				os.Remove(part)
			}
			return err
		}
		return s.commit(f, final)
	})
}

// Replace is [Store.Create] for the few things that change, such as what a mirror
// said last: the file that write fills takes the place of the one that is there.
// Readers see the one or the other, whole.
func (s *Store) Replace(ctx context.Context, kind, key string, write func(f *os.File) error) (path string, err error) {
	if err := check(kind, key); err != nil {
		return "", err
	}
	l, err := s.lockKey(ctx, kind, key)
	if err != nil {
		return "", err
	}
	defer l.unlock()
	path = s.objectPath(kind, key)
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return "", err
	}
	f, err := s.tempFile()
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := write(f); err != nil {
		os.Remove(f.Name())
		return "", s.explain(path, err)
	}
	return path, s.explain(path, s.commit(f, path))
}

// create brackets the making of an object: the lock, the second look, the
// folder, and errors that say what to do.
func (s *Store) create(ctx context.Context, kind, key string, produce func(final string) error) (string, error) {
	if err := check(kind, key); err != nil {
		return "", err
	}
	if path, ok := s.Get(kind, key); ok {
		return path, nil
	}
	l, err := s.lockKey(ctx, kind, key)
	if err != nil {
		return "", err
	}
	defer l.unlock()
	if path, ok := s.Get(kind, key); ok {
		return path, nil
	}
	path := s.objectPath(kind, key)
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return "", err
	}
	if err := produce(path); err != nil {
		return "", s.explain(path, err)
	}
	return path, nil
}

// commit makes the finished file f appear at final.
func (s *Store) commit(f *os.File, final string) error {
	if s.sync {
		if err := f.Sync(); err != nil {
			os.Remove(f.Name())
			return err
		}
	}
	if err := os.Rename(f.Name(), final); err != nil {
		os.Remove(f.Name())
		return s.explainDenied(final, err)
	}
	return nil
}

// tempFile makes an empty file that is locked as long as it is open.
func (s *Store) tempFile() (*os.File, error) {
	if err := s.mkdir(s.tempDir()); err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(filepath.Join(s.tempDir(), rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return nil, s.explainDenied(s.tempDir(), err)
		}
		// A sweep may take it away before it is locked: then once more.
		got, err := tryFlock(int(f.Fd()), unix.LOCK_EX)
		if err == nil && got && isAt(int(f.Fd()), f.Name()) {
			return f, nil
		}
		f.Close()
		os.Remove(f.Name())
		if err != nil {
			return nil, err
		}
	}
}

// tempFolder makes an empty folder that is locked as long as fd is open.
func (s *Store) tempFolder() (dir string, fd int, err error) {
	if err := s.mkdir(s.tempDir()); err != nil {
		return "", -1, err
	}
	for {
		dir := filepath.Join(s.tempDir(), rand.Text())
		if err := os.Mkdir(dir, 0o777); err != nil {
			return "", -1, s.explainDenied(dir, err)
		}
		fd, err := openRaw(dir, unix.O_RDONLY|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", -1, err
		}
		got, err := tryFlock(fd, unix.LOCK_EX)
		if err == nil && got && isAt(fd, dir) {
			return dir, fd, nil
		}
		unix.Close(fd)
		os.Remove(dir)
		if err != nil {
			return "", -1, err
		}
	}
}

// Remove takes an object away, whoever holds it, together with an unfinished
// download of it. It is for objects that turned out to be damaged: those who
// have it open keep what they have. An object that is not there is no error.
func (s *Store) Remove(kind, key string) error {
	if err := check(kind, key); err != nil {
		return err
	}
	os.Remove(s.partPath(kind, key))
	path := s.objectPath(kind, key)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.discard(path); err != nil {
		return s.explainDenied(path, fmt.Errorf("remove from cache: %w", err))
	}
	return nil
}

// discard removes an object so that it is never seen half gone.
func (s *Store) discard(path string) error {
	if err := s.mkdir(s.tempDir()); err != nil {
		return err
	}
	gone := filepath.Join(s.tempDir(), rand.Text())
	if err := os.Rename(path, gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return removeAll(gone)
}

// removeAll is os.RemoveAll for trees with folders that can't be written, as
// unpacked ones may have.
func removeAll(path string) error {
	if os.RemoveAll(path) == nil {
		return nil
	}
	filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// blocks is the room that one file takes on the disk.
func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
