package store

import (
	"context"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// PruneOptions say what may stay. Without any limit nothing is removed.
type PruneOptions struct {
	MaxBytes int64         // remove the least recently used until this is left; 0: no limit
	MaxAge   time.Duration // remove what was not used for this long; 0: no limit
	All      bool          // remove everything
	DryRun   bool          // only say what would be removed
	Now      time.Time     // the time that ages are measured from; zero: the clock
}

// Pruned is what [Store.Prune] did.
type Pruned struct {
	Removed []Entry `json:"removed"`         // least recently used first
	InUse   []Entry `json:"inUse,omitempty"` // due, but held by a running process
	Freed   int64   `json:"freed"`           // bytes
	Left    int64   `json:"left"`            // bytes
}

// Prune removes objects, the least recently used first, until the limits hold.
// What a running process holds or makes stays.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	s.sweep()
	entries, err := s.List()
	if err != nil {
		return Pruned{}, err
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Used.Compare(b.Used) })
	var p Pruned
	for _, e := range entries {
		p.Left += e.Size
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return p, context.Cause(ctx)
		}
		due := o.All || o.MaxAge > 0 && now.Sub(e.Used) > o.MaxAge || o.MaxBytes > 0 && p.Left > o.MaxBytes
		if !due {
			continue
		}
		removed, err := s.pruneOne(e, o.DryRun)
		if err != nil {
			return p, err
		}
		if !removed {
			p.InUse = append(p.InUse, e)
			continue
		}
		p.Removed = append(p.Removed, e)
		p.Freed += e.Size
		p.Left -= e.Size
	}
	return p, nil
}

// pruneOne removes an entry unless somebody holds it or works on it.
func (s *Store) pruneOne(e Entry, dryRun bool) (bool, error) {
	if e.Partial {
		return s.prunePartial(e, dryRun)
	}
	path := s.objectPath(e.Kind, e.Key)
	fd, err := openRaw(path, unix.O_RDONLY)
	if os.IsNotExist(err) {
		return true, nil // somebody was faster
	}
	if err != nil {
		return false, s.explainDenied(path, err)
	}
	defer unix.Close(fd)
	if got, err := tryFlock(fd, unix.LOCK_EX); err != nil || !got || dryRun {
		return got, err
	}
	if !isAt(fd, path) {
		return true, nil
	}
	return true, s.explainDenied(path, s.discard(path))
}

// prunePartial removes an unfinished download that nobody continues just now.
func (s *Store) prunePartial(e Entry, dryRun bool) (bool, error) {
	path := s.partPath(e.Kind, e.Key)
	if err := s.mkdir(s.lockDir()); err != nil {
		return false, err
	}
	l, err := tryKeyLock(s.lockPath(e.Kind, e.Key))
	if err != nil {
		return false, s.explainDenied(path, err)
	}
	if l == nil {
		return false, nil
	}
	defer l.unlock()
	if dryRun {
		return true, nil
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return false, s.explainDenied(path, err)
	}
	return true, nil
}
