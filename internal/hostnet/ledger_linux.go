package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// setting is a sysctl of the host that a plan wants.
type setting struct {
	Key   string // its path under /proc/sys
	Value string
	// From, when it is not empty, is the only value that is replaced; with
	// another, the sysctl is none of ours.
	From string `json:",omitempty"`
	// Unless puts nothing back when this other sysctl is 1: then somebody has
	// switched on for all what we had switched on for one.
	Unless string `json:",omitempty"`
	// Resets are sysctls that the kernel sets along with Key. Those that were
	// not 0 are put back after it.
	Resets []string `json:",omitempty"`
}

// ledger has the sysctls of one network namespace that labs have changed. It is
// a file that all of them share, locked by the folder that it lies in.
type ledger struct {
	dir  string // of all ledgers of this host and user
	name string // of the namespace's
	user string // the journal of whoever uses this one
}

// entry is a sysctl in the ledger.
type entry struct {
	Setting setting
	Before  string
	Kept    map[string]string `json:",omitempty"` // of Setting.Resets
	Users   []string          // journals of the labs that need it
}

type entries map[string]*entry

// maxLedger bounds what is read of a ledger: thousands of interfaces fit.
const maxLedger = 4 << 20

// openRunDir makes the folder for ledgers. In /tmp anybody might have made it
// first, so it has to be ours.
func openRunDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		f.Close()
		return nil, fmt.Errorf("%s is somebody else's, or others may write into it", dir)
	}
	return f, nil
}

// update has fn change the entries while nobody else does. What fn returns an
// error for is written all the same, because it says what was set.
func (l *ledger) update(fn func(entries) error) error {
	dir, err := openRunDir(l.dir)
	if err != nil {
		return fmt.Errorf("open the ledger of sysctls: %w", err)
	}
	defer dir.Close() // and with it goes the lock
	if err := flock(dir, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the ledger of sysctls in %s: %w", l.dir, err)
	}
	all, err := l.read()
	if err != nil {
		return err
	}
	return fn(all)
}

func (l *ledger) path() string { return filepath.Join(l.dir, l.name) }

func (l *ledger) read() (entries, error) {
	f, err := os.Open(l.path())
	if errors.Is(err, os.ErrNotExist) {
		return entries{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the ledger of sysctls: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLedger))
	if err != nil {
		return nil, fmt.Errorf("read the ledger of sysctls: %w", err)
	}
	return parseLedger(l.path(), b)
}

func parseLedger(path string, b []byte) (entries, error) {
	all := entries{}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("read the ledger of sysctls %s: %w", path, err)
	}
	for key, e := range all {
		if e == nil || !validKey(key) || e.Setting.Key != key || slices.ContainsFunc(e.Setting.Resets, func(k string) bool { return !validKey(k) }) {
			return nil, fmt.Errorf("read the ledger of sysctls %s: %q is no sysctl of the network", path, key)
		}
		for k := range e.Kept {
			if !validKey(k) {
				return nil, fmt.Errorf("read the ledger of sysctls %s: %q is no sysctl of the network", path, k)
			}
		}
	}
	return all, nil
}

// validKey keeps a damaged file from having anything else written.
func validKey(key string) bool {
	return filepath.IsLocal(key) && filepath.Clean(key) == key && (len(key) > 4 && key[:4] == "net/")
}

func (l *ledger) write(all entries) error {
	if len(all) == 0 {
		if err := os.Remove(l.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the ledger of sysctls: %w", err)
		}
		return nil
	}
	b, err := json.Marshal(all)
	if err == nil {
		err = writeDurably(l.path(), b)
	}
	if err != nil {
		return fmt.Errorf("write the ledger of sysctls: %w", err)
	}
	return nil
}

// writeDurably replaces a file, so that a crash leaves the old or the new one.
func writeDurably(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// acquire sets a sysctl, and notes that the user needs it.
func (l *ledger) acquire(s setting) error {
	return l.update(func(all entries) error {
		e := all[s.Key]
		if e == nil {
			before, err := readSysctl(s.Key)
			if err != nil {
				return err
			}
			if s.From != "" && before != s.From {
				return nil
			}
			e = &entry{Setting: s, Before: before, Kept: map[string]string{}}
			for _, k := range s.Resets {
				// An interface may have gone meanwhile.
				if v, err := readSysctl(k); err == nil && v != "0" {
					e.Kept[k] = v
				}
			}
			all[s.Key] = e
		}
		if !slices.Contains(e.Users, l.user) {
			e.Users = append(e.Users, l.user)
		}
		if err := l.write(all); err != nil {
			return err
		}
		if now, err := readSysctl(s.Key); err == nil && now == e.Setting.Value {
			return nil
		}
		return writeSysctl(s.Key, e.Setting.Value)
	})
}

// release notes that the user no longer needs a sysctl, and puts it back when
// nobody does who is still alive.
func (l *ledger) release(key string) error {
	return l.update(func(all entries) error {
		e := all[key]
		if e == nil {
			return nil
		}
		e.Users = slices.DeleteFunc(e.Users, func(u string) bool { return u == l.user || !alive(u) })
		if len(e.Users) == 0 {
			if err := e.putBack(); err != nil {
				return err
			}
			delete(all, key)
		}
		return l.write(all)
	})
}

// putBack sets a sysctl to what it was, if it is still what we set it to.
func (e *entry) putBack() error {
	now, err := readSysctl(e.Setting.Key)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the interface has gone
	}
	if err != nil {
		return err
	}
	if e.Setting.Unless != "" {
		if v, err := readSysctl(e.Setting.Unless); err == nil && v == "1" {
			return nil
		}
	}
	if now != e.Setting.Value && now != e.Before {
		return nil // somebody else's now
	}
	if now != e.Before {
		if err := writeSysctl(e.Setting.Key, e.Before); err != nil {
			return err
		}
	}
	for k, v := range e.Kept {
		if err := writeSysctl(k, v); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// alive says whether the owner of a journal lives: it has a lock on it.
func alive(journal string) bool {
	f, err := os.Open(journal)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	defer f.Close()
	return flock(f, unix.LOCK_SH|unix.LOCK_NB) != nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}
