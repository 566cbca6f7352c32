package disk

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"wolffia/internal/image/ext4"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/gpt"
	"wolffia/internal/image/grub"
	"wolffia/internal/image/mbr"
	"wolffia/internal/image/uki"
	"wolffia/internal/tree"
)

// Paths in the root file system, where there is a boot loader that reads them.
const (
	KernelPath = "/boot/vmlinuz"
	InitrdPath = "/boot/initrd" // the second and further have their number behind it
)

// Options says what a complete disk consists of. Root, Kernel, and one of Stub
// and GRUB are needed.
type Options struct {
	// Arch is Debian's name, such as "amd64".
	Arch string
	// Table is the kind of the partition table; empty means GPT.
	Table Table
	// Size is the disk's length in bytes, the root file system taking what is
	// left. 0 means as small as the files, and Free, need.
	Size int64
	// Free is, where Size is 0, how many bytes to leave in the root file system.
	Free int64
	// Seed is what identifiers are made of. Empty means a digest of the root's
	// names and metadata, and of the command line.
	Seed []byte
	// Time, where set, is the latest time that a file may have.
	Time time.Time

	// Root is the root file system.
	Root *tree.Tree
	// FS is how it is written. Size, Free and Time are taken from here, the label
	// is "root" unless set.
	FS ext4.Options

	// Kernel and Initrd are what boots. For UEFI, Kernel must be a UEFI program
	// itself, as Debian's are.
	Kernel tree.Content
	Initrd []tree.Content
	// Cmdline is the kernel's command line. Where it has no root=, one that names
	// the root's partition (PARTUUID) is put behind it.
	Cmdline string
	// Uname and OSRelease are for UEFI boot menus, see [uki.Options].
	Uname, OSRelease string

	// Stub is systemd's EFI stub, see [uki.Options]. Empty: UEFI can't boot it.
	Stub []byte
	// GRUB is the package grub-pc-bin, unpacked. Nil: a BIOS can't boot it. With
	// it, Kernel, Initrd and GRUB's menu are put into the root file system, at
	// [KernelPath], [InitrdPath] and [grub.MenuPath]. What Root has there, or a
	// link to it, stays, and is what is booted.
	GRUB *tree.Tree
	// Timeout is how many seconds GRUB's menu waits; with 0 it is not shown.
	Timeout int
}

// System writes a disk that boots into w, which must read as zeros wherever
// nothing is written, as a new file does. Its last byte is.
//
// A disk of a size that is too small is a [*TooSmallError].
func System(w io.WriterAt, o Options) error {
	l, err := o.layout()
	if err == nil {
		err = write(w, *l)
	}
	if err != nil {
		return fmt.Errorf("write system disk: %w", err)
	}
	return nil
}

func (o *Options) check() error {
	switch {
	case o.Root == nil || o.Kernel == nil:
		return errors.New("a root and a kernel are needed")
	case len(o.Stub) == 0 && o.GRUB == nil:
		return errors.New("nothing would boot it: give an EFI stub, GRUB, or both")
	case o.GRUB != nil && o.Arch != "amd64" && o.Arch != "i386":
		return fmt.Errorf("GRUB for a BIOS is for amd64 and i386, not %s", o.Arch)
	case o.Size < 0 || o.Free < 0 || o.Size > 0 && o.Free > 0:
		return fmt.Errorf("size %d and free %d: one of them can be set, to no negative number", o.Size, o.Free)
	}
	o.FS.Time, o.FS.Size, o.FS.Free = o.Time, 0, o.Free
	if o.Table == "" {
		o.Table = GPT
	}
	if len(o.Seed) == 0 {
		o.Seed = o.digest()
	}
	o.FS.Label = cmp.Or(o.FS.Label, "root")
	return nil
}

// digest is of the names and metadata, for identifiers.
func (o *Options) digest() []byte {
	h := sha256.New()
	fmt.Fprintf(h, "wolffia disk %q %q %q %d %d\n", o.Arch, o.Table, o.Cmdline, o.Size, o.Free)
	_ = o.Root.Walk(func(name string, n *tree.Node) error { // which fails only as the function does
		fmt.Fprintf(h, "%q %o %d %d %d %d\n", name, n.Mode, n.UID, n.GID, n.Size(), n.ModTime.Unix())
		return nil
	})
	return h.Sum(nil)
}

// layout makes the partitions. Where they lie is known from their sizes, before
// the command line, which is in them, can name one of them.
func (o *Options) layout() (*Layout, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := system{Options: o, l: &Layout{Table: o.Table, Size: o.Size, Seed: o.Seed}}
	if o.GRUB != nil && o.Table == GPT {
		s.core = s.add(Partition{Type: "bios-boot", Name: "bios", Size: gpt.Align})
	}
	if len(o.Stub) > 0 {
		s.esp = s.add(Partition{Type: "esp", Name: "esp", Size: gpt.Align})
	}
	s.root = s.add(Partition{Type: gpt.Root(o.Arch).TypeName(), Name: "root", Size: gpt.Align, Bootable: o.Table == MBR})
	if err := s.fill(); err != nil {
		return nil, err
	}
	return s.l, nil
}

// system is a disk in the making: the numbers of its partitions, 0 for those
// that it has not.
type system struct {
	*Options
	l               *Layout
	core, esp, root int
}

func (s *system) add(p Partition) int {
	s.l.Partitions = append(s.l.Partitions, p)
	return len(s.l.Partitions)
}

func (s *system) part(number int) *Partition { return &s.l.Partitions[number-1] }

// fill says what is in the partitions, and with that their sizes. Identifiers
// depend on the numbers of the partitions alone.
func (s *system) fill() error {
	draft := *s.l
	draft.Size = 0
	p, err := draft.Plan()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(strings.Fields(s.Cmdline), func(w string) bool { return strings.HasPrefix(w, "root=") }) {
		s.Cmdline = strings.TrimSpace(s.Cmdline + " root=PARTUUID=" + p.Partitions[s.root-1].UUID)
	}
	if s.esp != 0 {
		if err := s.fillESP(); err != nil {
			return fmt.Errorf("EFI system partition: %w", err)
		}
	}
	if s.GRUB != nil {
		if err := s.fillBIOS(p); err != nil {
			return err
		}
	}
	return s.fillRoot()
}

// fillESP makes the FAT with the unified kernel image. It is a FAT32, since
// that is what every firmware must take on a disk that is not removed.
func (s *system) fillESP() error {
	at, err := uki.For(s.Arch)
	if err != nil {
		return err
	}
	image, err := uki.New(uki.Options{
		Stub: s.Stub, Kernel: s.Kernel, Initrd: s.Initrd, Cmdline: s.Cmdline, Uname: s.Uname, OSRelease: s.OSRelease,
	})
	if err != nil {
		return err
	}
	t := tree.New()
	if err := put(t, at.Boot, image, s.Time); err != nil {
		return err
	}
	o := fat.Options{Type: fat.FAT32, Label: "ESP", Time: s.Time}
	size, err := fat.Size(t, o)
	if err != nil {
		return err
	}
	// Placed behind the BIOS boot partition, which is the only one before it.
	o.Size, o.Offset = align(size), int64(s.esp)*gpt.Align
	s.part(s.esp).Size = o.Size
	s.part(s.esp).Write = func(w io.WriterAt) error { return fat.Write(w, t, o) }
	return nil
}

// put places a file, its directories and their times.
func put(t *tree.Tree, name string, c tree.Content, at time.Time) error {
	if err := t.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	n := tree.File(0o644, c)
	n.ModTime = at
	if err := t.Put(name, n); err != nil {
		return err
	}
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if d := t.Get(dir); d.ModTime.IsZero() {
			d.ModTime = at
		}
	}
	return nil
}

// fillBIOS places GRUB, and what it reads in the root file system.
func (s *system) fillBIOS(p *Plan) error {
	partition, sector := fmt.Sprintf("msdos%d", s.root), int64(1)
	if s.core != 0 {
		partition, sector = fmt.Sprintf("gpt%d", s.root), p.Partitions[s.core-1].Offset/mbr.SectorSize
	}
	loader, err := grub.New(s.GRUB, grub.Options{Partition: partition})
	if err != nil {
		return err
	}
	if room := int64(gpt.Align - mbr.SectorSize); loader.Size() > room {
		return fmt.Errorf("GRUB's core image of %d bytes is longer than the %d that there are for it", loader.Size(), room)
	}
	s.l.BootCode = loader.BootCode(uint64(sector))
	core := loader.Core(uint64(sector))
	if s.core == 0 {
		s.l.Gap = core
	} else {
		s.part(s.core).Write = func(w io.WriterAt) error {
			_, err := w.WriteAt(core, 0)
			return err
		}
	}
	return s.addBootFiles()
}

// addBootFiles lays what GRUB reads over the root, where that has none.
func (s *system) addBootFiles() error {
	files := map[string]tree.Content{KernelPath: s.Kernel}
	entry := grub.Entry{Title: "Linux", Kernel: KernelPath, Cmdline: s.Cmdline}
	for i, c := range s.Initrd {
		name := InitrdPath
		if i > 0 {
			name += fmt.Sprint(i + 1)
		}
		files[name] = c
		entry.Initrd = append(entry.Initrd, name)
	}
	menu, err := grub.Menu{Entries: []grub.Entry{entry}, Timeout: s.Timeout}.Text()
	if err != nil {
		return err
	}
	files[grub.MenuPath] = tree.Bytes(menu)
	over := tree.New()
	for name, c := range files {
		if s.Root.Get(name) != nil {
			continue
		}
		if err := put(over, name, c, s.Time); err != nil {
			return err
		}
	}
	return s.merge(over)
}

// merge makes the root another tree, since what was given is not ours to change.
func (s *system) merge(over *tree.Tree) error {
	root := tree.New()
	from, to := s.Root.Root(), root.Root()
	to.Mode, to.UID, to.GID, to.ModTime, to.Xattrs = from.Mode, from.UID, from.GID, from.ModTime, from.Xattrs
	for _, t := range []*tree.Tree{s.Root, s.keepDirectories(over)} {
		if err := root.Merge(t); err != nil {
			return err
		}
	}
	s.Root = root
	return nil
}

// keepDirectories gives the directories of over the attributes that the root's
// have, so that a merge does not change them.
func (s *system) keepDirectories(over *tree.Tree) *tree.Tree {
	_ = over.Walk(func(name string, n *tree.Node) error {
		if was := s.Root.Get(name); n.IsDir() && was != nil && was.IsDir() {
			n.Mode, n.UID, n.GID, n.ModTime, n.Xattrs = was.Mode, was.UID, was.GID, was.ModTime, was.Xattrs
		}
		return nil
	})
	return over
}

// fillRoot makes the root file system, of the size that is left.
func (s *system) fillRoot() error {
	need, err := ext4.Size(s.Root, s.FS)
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	root := s.part(s.root)
	root.Size = align(need)
	if s.Size > 0 {
		smallest := *s.l
		smallest.Size = 0
		p, err := smallest.Plan()
		if err != nil {
			return err
		}
		if p.Size > s.Size {
			return &TooSmallError{s.Size, p.Size}
		}
		root.Size = 0
	}
	p, err := s.l.Plan()
	if err != nil {
		return err
	}
	s.FS.Size, s.FS.Free = p.Partitions[s.root-1].Size, 0
	if _, err := ext4.Size(s.Root, s.FS); err != nil { // a larger one may need a larger journal
		return fmt.Errorf("root file system: %w", err)
	}
	root.Write = func(w io.WriterAt) error { return ext4.Write(w, s.Root, s.FS) }
	return nil
}
