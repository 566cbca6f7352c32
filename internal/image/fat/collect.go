package fat

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"time"

	"wolffia/internal/tree"
)

// file is a file or directory on its way into the image.
type file struct {
	node     *tree.Node
	path     string
	parent   *file
	children []*file
	short    shortName
	bits     byte
	long     []uint16 // nil: the short name is all
	size     int64    // bytes; of a directory, those of its entries
	first    uint32   // cluster
	clusters uint32
}

// collection is all files in the order of the image.
type collection struct {
	o     Options
	files []*file // the root first
}

// collect checks everything about the tree that does not depend on the layout.
func collect(t *tree.Tree, o Options) (*collection, error) {
	c := &collection{o: o}
	root := &file{node: t.Root(), path: "/"}
	if err := c.add(root, map[*tree.Node]string{}); err != nil {
		return nil, err
	}
	if o.Serial == 0 {
		c.o.Serial = c.serial()
	}
	return c, nil
}

func (c *collection) add(f *file, seen map[*tree.Node]string) error {
	wrap := func(err error) error { return fmt.Errorf("%q: %w", f.path, err) }
	if other, ok := seen[f.node]; ok {
		return wrap(fmt.Errorf("FAT can't hold a hard link, here of %q", other))
	}
	seen[f.node] = f.path
	c.files = append(c.files, f)
	if len(f.node.Xattrs) > 0 {
		return wrap(errors.New("FAT can't hold extended attributes"))
	}
	switch f.node.Type() {
	case tree.TypeRegular:
		if f.size = f.node.Size(); f.size > maxFile {
			return wrap(fmt.Errorf("FAT can't hold a file of %d bytes: less than 4 GiB fit", f.size))
		}
		return nil
	case tree.TypeSymlink:
		return wrap(errors.New("FAT can't hold a symbolic link"))
	case tree.TypeDir:
	default:
		return wrap(errors.New("FAT can't hold a device node, pipe or socket"))
	}

	names := f.node.Names()
	d, err := newDirectory(names)
	if err != nil {
		return wrap(err)
	}
	entries := int64(2) // . and ..
	if f.parent == nil {
		entries = 1 // the label
	}
	for _, name := range names {
		child := &file{node: f.node.Child(name), path: path.Join(f.path, name), parent: f}
		if err := child.name(d, name); err != nil {
			return fmt.Errorf("%q: %w", child.path, err)
		}
		f.children = append(f.children, child)
		entries += 1 + int64(len(child.long)+longUnits-1)/longUnits
	}
	if f.size = entries * direntSize; f.size > maxDirectory {
		return wrap(fmt.Errorf("FAT can't hold a directory of %d entries: %d fit, of which a long name takes several", entries, maxDirectory/direntSize))
	}
	for _, child := range f.children {
		if err := c.add(child, seen); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) name(d *directory, name string) error {
	long, err := checkName(name)
	if err != nil {
		return err
	}
	var whole bool
	f.short, f.bits, whole, err = d.short(name)
	if !whole {
		f.long = long
	}
	return err
}

// serial is made of the names and metadata.
func (c *collection) serial() uint32 {
	h := sha256.New()
	fmt.Fprintf(h, "wolffia fat %q %d %d %d %q %d\n", c.o.Type, c.o.Size, c.o.Free, c.o.ClusterSize, c.o.Label, c.o.Offset)
	for _, f := range c.files {
		fmt.Fprintf(h, "%q %o %d %d\n", f.path, f.node.Mode&^0o7555, f.size, c.time(f).Unix())
	}
	return max(1, binary.LittleEndian.Uint32(h.Sum(nil)))
}

func (c *collection) time(f *file) time.Time { return c.o.clamp(f.node.ModTime) }

func (o *Options) clamp(t time.Time) time.Time {
	if !o.Time.IsZero() && t.After(o.Time) {
		return o.Time
	}
	return t
}
