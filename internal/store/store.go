// Package store keeps what wolffia has fetched or made, so that it need not
// fetch or make it again: package indexes, packages, unpacked packages, images,
// kernels. It also knows the folders (XDG) that state and sockets belong in.
//
// An object is a file or a folder, found by its kind ("deb") and its key, which
// is a digest or another name that says everything about the content: an
// object never changes. It appears whole or not at all, whatever happens to the
// process that makes it, and processes that want the same object at the same
// time make it once.
//
//	st, err := store.Open(store.Options{Dir: folders.Cache})
//	path, err := st.Create(ctx, "deb", sum, func(f *os.File) error { return fetch(f) })
//
// On the disk an object is DIR/KIND/KEY, and nothing else is in these folders.
// Temporary files (.tmp) and unfinished downloads (.part) lie beside them, in the
// same file system, and are renamed when they are complete. All coordination is
// by flock(2), which the kernel undoes with the process:
//
//   - .lock/KIND.KEY is locked while an object is made;
//   - a temporary file is locked by its maker: what can be locked is left over,
//     and the next Open removes it;
//   - an object is locked, shared, by those who [Store.Hold] it, and removed
//     only under an exclusive lock.
//
// The last use of an object is its modification time. There is no database.
//
// Deliberately absent: checking of content (whoever writes an object has
// checked it), and surviving a power failure without damage unless
// [Options.Sync] is set; flock must work on the file system, as it does on all
// local ones and on NFS since Linux 2.6.12.
package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/event"
)

// Options of [Open].
type Options struct {
	Dir    string     // the store's folder, absolute; made when it is missing
	Events event.Sink // hears when another process has to be waited for; may be nil
	Sync   bool       // write every object through to the disk before it appears
}

// Store is an open store. Its methods may be called from any goroutine.
type Store struct {
	dir    string
	events event.Sink
	sync   bool
}

// Open opens the store in the folder o.Dir, makes the folder when it is
// missing, and removes what processes that died have left in it. A store that
// can't be written can be opened and read.
func Open(o Options) (*Store, error) {
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("open cache: folder %q is not an absolute path", o.Dir)
	}
	s := &Store{dir: filepath.Clean(o.Dir), events: event.Or(o.Events), sync: o.Sync}
	if err := s.init(); err != nil {
		return nil, err
	}
	s.sweep()
	return s, nil
}

// cacheTag marks the folder for backup programs, see https://bford.info/cachedir/.
const cacheTag = "Signature: 8a477f597d28d172789f06886806bc55\n# wolffia's cache: everything here can be made again\n"

func (s *Store) init() error {
	st, err := os.Stat(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(s.dir, 0o755); err != nil {
			return s.explainDenied(s.dir, fmt.Errorf("make cache folder: %w", err))
		}
		// Only a folder that is ours from the start is tagged.
		tag := filepath.Join(s.dir, "CACHEDIR.TAG")
		return s.explainDenied(tag, os.WriteFile(tag, []byte(cacheTag), 0o644))
	}
	if err != nil {
		return fmt.Errorf("open cache: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("open cache: %s is not a folder; set WOLFFIA_CACHE to one", s.dir)
	}
	return nil
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) lockDir() string { return filepath.Join(s.dir, ".lock") }
func (s *Store) tempDir() string { return filepath.Join(s.dir, ".tmp") }
func (s *Store) partDir() string { return filepath.Join(s.dir, ".part") }

func (s *Store) lockPath(kind, key string) string { return filepath.Join(s.lockDir(), kind+"."+key) }
func (s *Store) objectPath(kind, key string) string {
	return filepath.Join(s.dir, kind, key)
}
func (s *Store) partPath(kind, key string) string { return filepath.Join(s.partDir(), kind+"."+key) }

func (s *Store) mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return s.explainDenied(dir, fmt.Errorf("make cache folder: %w", err))
	}
	return nil
}

// maxKey leaves room for a kind and a dot in one file name.
const maxKey = 200

// check refuses kinds and keys that are no plain file names.
func check(kind, key string) error {
	if kind == "" || len(kind) > 40 || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("cache kind %q is not a short word of a-z, 0-9 and -", kind)
	}
	const ok = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~=%-"
	if key == "" || len(key) > maxKey || key[0] == '.' || strings.Trim(key, ok) != "" {
		return fmt.Errorf("cache key %q is not a file name of at most %d letters, digits and ._+~=%%-", key, maxKey)
	}
	return nil
}

// Get gives the path of an object and counts as a use of it. Whoever reads it
// for longer than an instant should [Store.Hold] it instead, or else it may be
// pruned meanwhile.
func (s *Store) Get(kind, key string) (path string, ok bool) {
	if check(kind, key) != nil {
		return "", false
	}
	path = s.objectPath(kind, key)
	st, err := os.Lstat(path)
	if err != nil {
		return "", false
	}
	s.used(path, st.ModTime())
	return path, true
}

// used notes a use, at most once a minute to spare the disk. A store that can't
// be written forgets it.
func (s *Store) used(path string, last time.Time) {
	if now := time.Now(); now.Sub(last) > time.Minute || last.After(now) {
		os.Chtimes(path, now, now)
	}
}

// Hold is [Store.Get] for longer: the object stays until release is called or
// the process ends. release may be called more than once.
func (s *Store) Hold(kind, key string) (path string, release func(), ok bool) {
	path, fd, ok := s.hold(kind, key)
	if !ok {
		return "", nil, false
	}
	return path, sync.OnceFunc(func() { unix.Close(fd) }), true
}

// Open is [Store.Hold] for an object that is a file: it stays until the file,
// which is open for reading, is closed.
func (s *Store) Open(kind, key string) (f *os.File, ok bool) {
	path, fd, ok := s.hold(kind, key)
	if !ok {
		return nil, false
	}
	return os.NewFile(uintptr(fd), path), true
}

// hold opens an object and locks it, shared, by the descriptor fd.
func (s *Store) hold(kind, key string) (path string, fd int, ok bool) {
	if check(kind, key) != nil {
		return "", -1, false
	}
	path = s.objectPath(kind, key)
	// An object that is there and locked for itself alone has just been made,
	// or is just being removed: either way the lock lasts microseconds. The
	// bound is for a holder that was stopped at that very moment.
	for range 2000 {
		fd, err := openRaw(path, unix.O_RDONLY)
		if err != nil {
			return "", -1, false
		}
		got, err := tryFlock(fd, unix.LOCK_SH)
		if got && isAt(fd, path) {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil {
				s.used(path, time.Unix(st.Mtim.Unix()))
			}
			return path, fd, true
		}
		unix.Close(fd)
		if err != nil {
			return "", -1, false
		}
		time.Sleep(time.Millisecond)
	}
	return "", -1, false
}

// Entry is one object, or one unfinished download, in the store.
type Entry struct {
	Kind    string    `json:"kind"`
	Key     string    `json:"key"`
	Size    int64     `json:"size"` // bytes on the disk
	Used    time.Time `json:"used"` // last use
	Partial bool      `json:"partial,omitempty"`
}

// List gives all that is in the store, ordered by kind and key.
func (s *Store) List() ([]Entry, error) {
	kinds, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list cache: %w", err)
	}
	var out []Entry
	for _, k := range kinds {
		if !k.IsDir() || check(k.Name(), "x") != nil {
			continue
		}
		out, err = listDir(out, filepath.Join(s.dir, k.Name()), func(name string) (string, string, bool) {
			return k.Name(), name, check(k.Name(), name) == nil
		}, false)
		if err != nil {
			return nil, err
		}
	}
	out, err = listDir(out, s.partDir(), func(name string) (string, string, bool) {
		kind, key, ok := strings.Cut(name, ".")
		return kind, key, ok && check(kind, key) == nil
	}, true)
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	return out, err
}

func listDir(out []Entry, dir string, split func(string) (kind, key string, ok bool), partial bool) ([]Entry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list cache: %w", err)
	}
	for _, e := range entries {
		kind, key, ok := split(e.Name())
		info, err := e.Info()
		if !ok || err != nil { // not ours, or pruned meanwhile
			continue
		}
		out = append(out, Entry{Kind: kind, Key: key, Size: diskUse(filepath.Join(dir, e.Name()), info), Used: info.ModTime(), Partial: partial})
	}
	return out, nil
}

// diskUse is the room that a file or a folder takes. What can't be read counts
// as nothing.
func diskUse(path string, info fs.FileInfo) int64 {
	if !info.IsDir() {
		return blocks(info)
	}
	var n int64
	filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			if info, err := d.Info(); err == nil {
				n += blocks(info)
			}
		}
		return nil
	})
	return n
}
