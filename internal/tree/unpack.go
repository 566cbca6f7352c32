package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// Limits bound what a foreign archive may make us keep. Zero fields take the
// defaults.
type Limits struct {
	// Entries bounds the entries, the parents that the archive leaves out
	// included. 0 means 1<<20.
	Entries int
	// Metadata bounds, in bytes, all names, link targets and extended
	// attributes together. 0 means 256 MiB.
	Metadata int64
}

// Unpacker builds a tree from the entries of a foreign archive in their order,
// by one set of rules for all formats:
//
//   - Names are taken relative to the root; "..", NUL bytes and names beyond the
//     kernel's limits are refused ([Clean]).
//   - Directories that the archive leaves out are made, with mode 0755.
//   - A later entry replaces an earlier one of its name, but a directory is
//     never replaced by anything else, nor anything else by a directory, and a
//     link is never followed: an entry below one is refused. So no entry can
//     reach through another.
//   - Hard links lead to an earlier entry that is no directory.
//   - [Limits] hold.
//
// Use [NewUnpacker] to make one.
type Unpacker struct {
	t        *Tree
	left     int
	metadata int64
	limits   Limits
}

// NewUnpacker starts with an empty tree.
func NewUnpacker(l Limits) *Unpacker {
	if l.Entries == 0 {
		l.Entries = 1 << 20
	}
	if l.Metadata == 0 {
		l.Metadata = 256 << 20
	}
	return &Unpacker{t: New(), left: l.Entries, metadata: l.Metadata, limits: l}
}

// Tree is what was built so far.
func (u *Unpacker) Tree() *Tree { return u.t }

// Charge counts bytes of metadata beyond those of names and targets, which
// [Unpacker.Put] counts, before the reader allocates them.
func (u *Unpacker) Charge(bytes int64) error {
	if u.metadata -= bytes; u.metadata < 0 {
		return fmt.Errorf("the archive's names and attributes take more than the limit of %d bytes", u.limits.Metadata)
	}
	return nil
}

func (u *Unpacker) entries(n int) error {
	if u.left -= n; u.left < 0 {
		return fmt.Errorf("the archive has more than the limit of %d entries", u.limits.Entries)
	}
	return nil
}

// Put places n at the name that the archive gives.
func (u *Unpacker) Put(name string, n *Node) error {
	if name == "" {
		return errors.New("the name is empty")
	}
	p, err := Clean(name)
	if err != nil {
		return err
	}
	if err := u.entries(1); err != nil {
		return err
	}
	if err := u.Charge(int64(len(p) + len(n.Target))); err != nil {
		return err
	}
	dir, made, err := u.t.mkdirAll(path.Dir(p), 0o755)
	if err != nil {
		return fmt.Errorf("place %q: %w", p, err)
	}
	if err := u.entries(made); err != nil {
		return err
	}
	return u.t.place(dir, p, n)
}

// add places n, as [Unpacker.Put] does, as the entry base of the directory dir,
// which the host's kernel vouches for: it is new, and base is one component.
// name is dir's.
func (u *Unpacker) add(dir *Node, name, base string, n *Node) error {
	size := len(name) + 1 + len(base)
	if size >= MaxPath {
		return fmt.Errorf("path %.40q... is longer than %d bytes", name, MaxPath-1)
	}
	if err := u.entries(1); err != nil {
		return err
	}
	if err := u.Charge(int64(size + len(n.Target))); err != nil {
		return err
	}
	if err := n.check(); err != nil {
		return &fs.PathError{Op: "put", Path: path.Join(name, base), Err: err}
	}
	dir.setChild(base, n)
	return nil
}

// Link gives the earlier entry target the further name name.
func (u *Unpacker) Link(target, name string) error {
	p, err := Clean(target)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	n := u.t.Get(p)
	switch {
	case target == "" || n == nil:
		return fmt.Errorf("hard link to %.200q, which is not in the archive before it", target)
	case n.IsDir():
		return fmt.Errorf("hard link to the directory %.200q", target)
	}
	return u.Put(name, n)
}
