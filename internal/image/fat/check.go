package fat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"wolffia/internal/image/finding"
)

// maxDepth bounds directories in directories, as the length of paths does.
const maxDepth = 2048

// Check looks for damage in all structures of the file system, as fsck.vfat
// does, and repairs nothing. Verified are: that the FATs agree; that each chain is
// as long as its file, leads nowhere else and meets no other; that no cluster is
// taken without belonging to anything; directories, with their "." and ".." and
// names; and of a FAT32 the copy of the boot sector and the count of free
// clusters.
//
// Findings are about damage; an error, that it can't be read at all.
func (f *FS) Check(ctx context.Context) (*finding.List, error) {
	c := &checker{f: f, ctx: ctx, claims: newClaims(f)}
	if !f.info.Clean {
		c.list.Note("boot sector", "it was not unmounted, or errors were seen")
	}
	for _, step := range []func() error{c.copies, c.bootCopy, c.tree, c.clusters} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("check FAT file system: %w", err)
		}
	}
	return &c.list, nil
}

type checker struct {
	f      *FS
	ctx    context.Context
	claims *claims
	list   finding.List
}

// copies compares the FATs.
func (c *checker) copies() error {
	used := (int64(c.f.clusters+firstCluster)*c.f.kind.bits + 7) / 8
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for k := 1; k < c.f.copies; k++ {
		for off := int64(0); off < used; off += int64(len(a)) {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			n := min(int64(len(a)), used-off)
			if err := errors.Join(readFull(c.f.r, a[:n], c.f.tables+off), readFull(c.f.r, b[:n], c.f.tables+int64(k)*c.f.tableSize+off)); err != nil {
				return err
			}
			if at := firstDifference(a[:n], b[:n]); at >= 0 {
				c.list.Problem(fmt.Sprintf("FAT %d", k+1), "it differs from the first, at cluster %d", (off+int64(at))*8/c.f.kind.bits)
				break
			}
		}
	}
	return nil
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// bootCopy compares the boot sector of a FAT32 with its copy, but for the byte
// that says whether it is mounted.
func (c *checker) bootCopy() error {
	at := c.f.bootCopyAt
	if at == 0 || at+sectorSize > c.f.tables {
		return nil
	}
	a, b := make([]byte, sectorSize), make([]byte, sectorSize)
	if err := errors.Join(readFull(c.f.r, a, 0), readFull(c.f.r, b, at)); err != nil {
		return err
	}
	const state = bootPartSize + fat32PartSize + 1
	a[state], b[state] = 0, 0
	if at := firstDifference(a, b); at >= 0 {
		c.list.Problem("boot sector", "its copy differs from it, at byte %d", at)
	}
	return nil
}

// tree goes through all directories.
func (c *checker) tree() error {
	if c.f.root == 0 {
		if c.f.info.Type == FAT32 {
			c.list.Problem("/", "the root directory has no cluster")
			return nil
		}
		d, err := c.f.openDir(0, true, c.claims)
		if err != nil {
			return err
		}
		return c.dir("/", d, 0, 0, 0)
	}
	return c.openDir("/", c.f.root, 0, 0)
}

// openDir goes through the directory that begins at a cluster.
func (c *checker) openDir(name string, first, parent uint32, depth int) error {
	d, err := c.f.openDir(first, false, c.claims)
	if err != nil {
		c.list.Problem(where(name), "%v", err)
		return nil
	}
	return c.dir(name, d, first, parent, depth)
}

// where is a path as it is told.
func where(name string) string { return fmt.Sprintf("%.400q", name) }

// dir looks at the entries of a directory, and at what is below it. Parent is the
// first cluster of the one above, or 0 for the root.
func (c *checker) dir(name string, d *dirReader, first, parent uint32, depth int) error {
	if depth > maxDepth {
		c.list.Problem(where(name), "directories lie in each other more than %d deep", maxDepth)
		return nil
	}
	if err := c.dots(name, d, first, parent, depth); err != nil {
		return c.readError(name, err)
	}
	type sub struct {
		name  string
		first uint32
	}
	var subs []sub
	long, short := map[string]bool{}, map[shortName]bool{}
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		child, e, err := d.named()
		if err == io.EOF {
			break
		}
		if err != nil && err != errName {
			return c.readError(name, err)
		}
		p := path.Join(name, child)
		switch upper := strings.ToUpper(child); {
		case err == errName:
			c.list.Problem(where(name), "the name %.300q in it is impossible", child)
		case long[upper], short[e.Name]:
			c.list.Problem(where(p), "the name is there twice")
		default:
			long[upper] = true
		}
		short[e.Name] = true
		if e.Name.forbidden() {
			c.list.Problem(where(p), "its short name %.11q has characters that none can have", string(e.Name[:]))
		}
		if e.Attributes&attrDirectory == 0 {
			c.file(p, e)
			continue
		}
		if e.Size != 0 {
			c.list.Problem(where(p), "it is a directory, and has a size of %d bytes", e.Size)
		}
		subs = append(subs, sub{p, e.first()})
	}
	if depth == 0 {
		first = 0 // which is what ".." says of the root
	}
	for _, s := range subs {
		if err := c.openDir(s.name, s.first, first, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// readError tells that a directory's clusters can't be read: all that there are
// lie within the image, so the image is at fault.
func (c *checker) readError(name string, err error) error {
	return fmt.Errorf("%s: %w", where(name), err)
}

// dots looks at the first two entries of a directory that is not the root.
func (c *checker) dots(name string, d *dirReader, first, parent uint32, depth int) error {
	if depth == 0 {
		return nil
	}
	for k, want := range []struct {
		name  string
		first uint32
	}{{".", first}, {"..", parent}} {
		e, err := d.next()
		if err != nil && err != io.EOF {
			return err
		}
		got := strings.TrimRight(string(e.Name[:]), " ")
		switch {
		case err == io.EOF || got != want.name || e.Attributes&attrDirectory == 0:
			c.list.Problem(where(name), "entry %d of it is not %q", k+1, want.name)
			return nil
		case e.first() != want.first:
			c.list.Problem(where(name), "its %q leads to cluster %d, not %d", want.name, e.first(), want.first)
		}
	}
	return nil
}

// forbidden reports whether a short name has characters that none can have.
func (s *shortName) forbidden() bool {
	for _, b := range s {
		if b < ' ' || b == 0x7F || strings.IndexByte(`*?<>|":/\`, b) >= 0 {
			return true
		}
	}
	return false
}

// file follows a file's chain.
func (c *checker) file(name string, e dirent) {
	first, want := e.first(), ceil(int64(e.Size), c.f.cluster)
	switch {
	case first == 0 && want == 0:
		return
	case first == 0:
		c.list.Problem(where(name), "it has %d bytes, and no cluster", e.Size)
		return
	}
	runs, err := c.claims.follow(first, want, int64(c.f.clusters))
	if err != nil {
		c.list.Problem(where(name), "%v", err)
		return
	}
	count := int64(0)
	for _, r := range runs {
		count += int64(r.count)
	}
	if count > want {
		c.list.Problem(where(name), "its chain has %d clusters where its size needs %d", count, want)
	}
}

// clusters looks for clusters that are taken and belong to nothing, and compares
// the count of free ones.
func (c *checker) clusters() error {
	var free, lost, firstLost uint32
	for n := uint32(firstCluster); n-firstCluster < c.f.clusters; n++ {
		if n%(1<<16) == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		v, err := c.claims.entry(n)
		if err != nil {
			return fmt.Errorf("read FAT: %w", err)
		}
		switch {
		case v == 0:
			free++
		case v == c.f.kind.eoc&^7-1: // marked as bad
		case !c.claims.has(n):
			if lost++; lost == 1 {
				firstLost = n
			}
		}
	}
	if lost > 0 {
		c.list.Problem("FAT", "%d clusters are taken and belong to no file, the first is %d", lost, firstLost)
	}
	return c.freeCount(free)
}

// freeCount compares what a FAT32's further sector says.
func (c *checker) freeCount(free uint32) error {
	if c.f.infoAt == 0 || c.f.infoAt+fsInfoSize > c.f.tables {
		return nil
	}
	b := make([]byte, fsInfoSize)
	if err := readFull(c.f.r, b, c.f.infoAt); err != nil {
		return err
	}
	said := le.Uint32(b[fsInfoFree:])
	switch {
	case le.Uint32(b) != fsInfoLead || le.Uint32(b[484:]) != fsInfoStruct || le.Uint16(b[510:]) != bootSignature:
		c.list.Problem("FSInfo", "the sector has not its signatures")
	case said != 0xFFFFFFFF && said != free:
		c.list.Problem("FSInfo", "it counts %d free clusters, and there are %d", said, free)
	}
	return nil
}

// has reports whether a cluster belongs to a file.
func (c *claims) has(n uint32) bool {
	word, bit := int((n-firstCluster)/64), uint64(1)<<((n-firstCluster)%64)
	return word < len(c.taken) && c.taken[word]&bit != 0
}
