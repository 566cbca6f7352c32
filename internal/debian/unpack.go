package debian

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"wolffia/internal/debian/control"
	"wolffia/internal/event"
	"wolffia/internal/tree"
)

// UnpackOptions of [Client.Unpack].
type UnpackOptions struct {
	NoDatabase bool // leave out /var/lib/dpkg
	SplitUsr   bool // keep /bin, /sbin and /lib as folders of their own
}

// Script is something that installing a package would have run, or acted on.
type Script struct {
	Package string `json:"package"` // name:arch=version
	Name    string `json:"name"`    // "preinst", "postinst", "prerm", "postrm", "config", "triggers"
	Text    string `json:"-"`
}

// Clash is a file that two packages have without leave. The first one's stays.
type Clash struct {
	Path          string `json:"path"`
	First, Second string // packages
}

func (c Clash) String() string {
	return fmt.Sprintf("%s is in %s and in %s: the first one's is kept", c.Path, c.First, c.Second)
}

// Unpacked is the packages of a lock as one tree. The contents of its files are
// in the store, and can be read until Close.
type Unpacked struct {
	Tree    *tree.Tree
	Scripts []Script // what was not run, package by package in the order of the lock
	Clashes []Clash
	owners  map[string]*pkg
	pkgs    []*pkg
}

// Owner is the package (name:arch=version) that the file or link at a path of
// the tree came from, or "".
func (u *Unpacked) Owner(name string) string {
	if p := u.owners[name]; p != nil {
		return p.pin.String()
	}
	return ""
}

// Close lets the store remove the packages, when it has to. Contents can't be
// read afterwards.
func (u *Unpacked) Close() error {
	var errs []error
	for _, p := range u.pkgs {
		errs = append(errs, p.file.Close())
	}
	u.pkgs = nil
	return errors.Join(errs...)
}

// Unpack makes a tree of all packages of a lock, as dpkg would have unpacked
// them: /bin, /sbin and /lib are links into /usr, directories never replace
// links, and a file that is in two packages is the one's that replaces the
// other. Packages that the store does not have are fetched. No maintainer
// script runs; they are listed in the result.
func (c *Client) Unpack(ctx context.Context, lock *Lock, o UnpackOptions) (*Unpacked, error) {
	if err := c.fetchPins(ctx, lock.Packages); err != nil {
		return nil, err
	}
	pkgs, err := c.openPackages(ctx, lock)
	if err != nil {
		return nil, err
	}
	u := &Unpacked{Tree: tree.New(), owners: map[string]*pkg{}, pkgs: pkgs}
	err = u.merge(lock, o)
	if err == nil && !o.NoDatabase {
		err = u.writeDatabase(lock)
	}
	if err == nil {
		err = u.stamp(lock.Date)
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	for _, clash := range u.Clashes {
		c.warn("unpack", clash.Path, clash.String())
	}
	return u, nil
}

// stamp gives the folders and links that were made here a time.
func (u *Unpacked) stamp(date time.Time) error {
	return u.Tree.Walk(func(_ string, n *tree.Node) error {
		if n.ModTime.IsZero() {
			n.ModTime = date
		}
		return nil
	})
}

// openPackages opens all packages on all cores, the largest first, so that none
// is left to the end alone.
func (c *Client) openPackages(ctx context.Context, lock *Lock) ([]*pkg, error) {
	pkgs := make([]*pkg, len(lock.Packages))
	order := make([]int, len(pkgs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lock.Packages[b].Size, lock.Packages[a].Size) })
	progress := beginProgress(c.o.Events, "unpack", fmt.Sprintf("%d packages", len(pkgs)), int64(len(pkgs)), event.Items)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, i := range order {
		g.Go(func() (err error) {
			if gctx.Err() != nil {
				return gctx.Err()
			}
			pkgs[i], err = c.openPackage(gctx, &lock.Packages[i])
			progress.add(1)
			return err
		})
	}
	err := g.Wait()
	progress.end(err)
	if err == nil {
		return pkgs, nil
	}
	for _, p := range pkgs {
		if p != nil {
			p.file.Close()
		}
	}
	return nil, err
}

// usrLinks are the folders that merged /usr turns into links, for every
// architecture. Those of libDirs are links too where a package has them.
var (
	usrLinks = []string{"bin", "sbin", "lib"}
	libDirs  = []string{"lib32", "lib64", "libx32", "libo32"}
)

// merge lays the packages over each other in the order of the lock, base-files
// first, as it has the modes of the folders that all share.
func (u *Unpacked) merge(lock *Lock, o UnpackOptions) error {
	if !o.SplitUsr {
		if err := u.linkUsr(); err != nil {
			return err
		}
	}
	order := slices.Clone(u.pkgs)
	slices.SortStableFunc(order, func(a, b *pkg) int {
		return cmp.Compare(rank(a), rank(b))
	})
	for _, p := range order {
		m := merger{u: u, p: p, dirs: map[string]string{"/": "/"}}
		if err := p.tree.Walk(m.add); err != nil {
			return fmt.Errorf("unpack %s: %w", p.pin, err)
		}
	}
	for _, p := range u.pkgs {
		for _, name := range p.control.Scripts() {
			u.Scripts = append(u.Scripts, Script{p.pin.String(), name, string(p.control.Files[name])})
		}
	}
	return nil
}

func rank(p *pkg) int {
	if p.pin.Name == "base-files" {
		return 0
	}
	return 1
}

// linkUsr makes the links before anything is unpacked, so that everything lands
// behind them.
func (u *Unpacked) linkUsr() error {
	links := slices.Clone(usrLinks)
	for _, dir := range libDirs {
		if slices.ContainsFunc(u.pkgs, func(p *pkg) bool { return p.tree.Get("/"+dir) != nil || p.tree.Get("/usr/"+dir) != nil }) {
			links = append(links, dir)
		}
	}
	for _, dir := range links {
		if err := u.Tree.MkdirAll("/usr/"+dir, 0o755); err != nil {
			return err
		}
		if err := u.Tree.Put("/"+dir, tree.Symlink("usr/"+dir)); err != nil {
			return err
		}
	}
	return nil
}

// merger adds one package to the tree.
type merger struct {
	u    *Unpacked
	p    *pkg
	dirs map[string]string // where the package's folders are in the tree
}

func (m *merger) add(name string, n *tree.Node) error {
	if name == "/" {
		return nil
	}
	parent, base := path.Split(name)
	dst := path.Join(m.dirs[path.Clean(parent)], base)
	have := m.u.Tree.Get(dst)
	if n.IsDir() {
		return m.addDir(name, dst, n, have)
	}
	if have != nil {
		use, err := m.decide(dst, n, have)
		if err != nil || !use {
			return err
		}
	}
	if err := m.u.Tree.Put(dst, n); err != nil {
		return err
	}
	m.u.owners[dst] = m.p
	return nil
}

// addDir keeps a folder that is there, and a link to one, as it is: dpkg never
// changes them.
func (m *merger) addDir(name, dst string, n, have *tree.Node) error {
	if have == nil {
		fresh := tree.Dir(n.Mode)
		fresh.UID, fresh.GID, fresh.ModTime, fresh.Xattrs = n.UID, n.GID, n.ModTime, n.Xattrs
		m.dirs[name] = dst
		return m.u.Tree.Put(dst, fresh)
	}
	real, d, err := m.u.Tree.Resolve(dst)
	if err != nil || !d.IsDir() {
		return fmt.Errorf("folder %s: package %s has something else there", dst, m.u.ownerName(dst))
	}
	m.dirs[name] = real
	if m.u.untouched(real, d) {
		d.Mode, d.UID, d.GID, d.ModTime, d.Xattrs = n.Mode, n.UID, n.GID, n.ModTime, n.Xattrs
	}
	return nil
}

// untouched reports whether a folder was made here, and no package had it yet.
func (u *Unpacked) untouched(name string, d *tree.Node) bool {
	return d.ModTime.IsZero() && u.owners[name] == nil
}

func (u *Unpacked) ownerName(name string) string {
	return cmp.Or(u.Owner(name), "(none)")
}

// decide says whether n takes the place of have, which is no directory or is
// one that n can't replace.
func (m *merger) decide(dst string, n, have *tree.Node) (bool, error) {
	old := m.u.owners[dst]
	if have.IsDir() {
		if _, d, err := m.u.resolveFrom(dst, n); err == nil && d.IsDir() {
			return false, nil // a link to a folder; dpkg keeps the folder that is there
		}
		return false, fmt.Errorf("%s is a folder in the package %s", dst, m.u.ownerName(dst))
	}
	switch {
	case old == m.p:
		return true, nil // under both its names, as /lib and /usr/lib
	case old == nil:
		return false, m.sameLink(dst, n, have)
	case replaces(m.p, old):
		return true, nil
	case replaces(old, m.p):
		return false, nil
	}
	same, err := sameFile(n, have)
	if err == nil && !same {
		m.u.Clashes = append(m.u.Clashes, Clash{Path: dst, First: old.pin.String(), Second: m.p.pin.String()})
	}
	return false, err
}

// sameLink checks a package's own /bin, /sbin or /lib against the one made here.
func (m *merger) sameLink(dst string, n, have *tree.Node) error {
	if n.Type() == tree.TypeSymlink && path.Join("/", n.Target) == path.Join("/", have.Target) {
		return nil
	}
	return fmt.Errorf("%s is not the link to %s that merged /usr wants", dst, have.Target)
}

// resolveFrom follows the link n as if it were at name.
func (u *Unpacked) resolveFrom(name string, n *tree.Node) (string, *tree.Node, error) {
	if n.Type() != tree.TypeSymlink {
		return "", nil, errors.New("not a link")
	}
	if path.IsAbs(n.Target) {
		return u.Tree.Resolve(n.Target)
	}
	return u.Tree.Resolve(path.Dir(name) + "/" + n.Target)
}

// replaces reports whether a may overwrite files of b (Policy 7.6.1).
func replaces(a, b *pkg) bool {
	relations, err := control.ParseRelations(a.control.Paragraph.Get("Replaces"))
	if err != nil {
		return false
	}
	for _, alternatives := range relations {
		for _, r := range alternatives {
			if r.Name == b.pin.Name && (r.Op == control.AnyVersion || r.Op.Holds(b.pin.Version, r.Version)) {
				return true
			}
		}
	}
	return false
}

// sameFile reports whether it does not matter which of two files stays, as of a
// package that is there for two architectures.
func sameFile(a, b *tree.Node) (bool, error) {
	if a.Type() != b.Type() || a.Size() != b.Size() || a.Target != b.Target || a.Major != b.Major || a.Minor != b.Minor {
		return false, nil
	}
	if a.Type() != tree.TypeRegular {
		return true, nil
	}
	ra, err := a.Open()
	if err != nil {
		return false, err
	}
	defer ra.Close()
	rb, err := b.Open()
	if err != nil {
		return false, err
	}
	defer rb.Close()
	return sameBytes(ra, rb)
}

func sameBytes(a, b io.Reader) (bool, error) {
	var bufA, bufB [32 << 10]byte
	for {
		n, errA := io.ReadFull(a, bufA[:])
		k, errB := io.ReadFull(b, bufB[:])
		if n != k || !bytes.Equal(bufA[:n], bufB[:k]) {
			return false, nil
		}
		atEnd := func(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }
		switch {
		case atEnd(errA) && atEnd(errB):
			return true, nil
		case errA != nil && !atEnd(errA):
			return false, errA
		case errB != nil && !atEnd(errB):
			return false, errB
		}
	}
}

// lines joins lines, each with its end.
func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}
