// Package grub makes GNU GRUB for PCs with a BIOS ready to be written on a
// disk: the boot code of the first sector and the core image, assembled from
// the blobs of Debian's package grub-pc-bin. No program of GRUB's is run.
//
// The core image holds all modules that it needs, so that nothing but a menu
// has to lie on the disk:
//
//	boot, err := grub.New(pkg, grub.Options{Partition: "gpt3"}) // pkg is grub-pc-bin, unpacked
//	menu, err := grub.Menu{Entries: []grub.Entry{{
//		Title: "Linux", Kernel: "/boot/vmlinuz", Initrd: []string{"/boot/initrd"},
//		Cmdline: "root=PARTLABEL=root console=tty0 console=ttyS0",
//	}}}.Text()
//	err = root.Put(grub.MenuPath, tree.File(0o644, tree.Bytes(menu)))
//
// and, once it is known where the core image goes,
//
//	boot.BootCode(sector) // to bytes 0 to 439 of the disk
//	boot.Core(sector)     // to that sector and those after it
//
// where sector is 1, in the gap that a partition table of the MBR kind leaves
// before its first partition, or the first of a BIOS boot partition of a GPT.
// The menu, the kernel and the initial RAM disk are read from ext2, ext3, ext4,
// FAT and what else there is a module for. The same options give the same bytes.
//
// How it starts: the BIOS runs the boot code, which reads the core's first
// sector; that one reads the others by its block list; the code at their
// beginning unpacks the kernel and the modules to 1 MiB; and the kernel links
// the modules, runs [Options.Config] and then the module normal, which runs the
// menu.
//
// GRUB speaks on the screen and on the first serial port, at 115,200 bits a
// second, and listens to the keyboard and the port.
//
// Subset: the platform i386-pc of GRUB 2.06 and later. Deliberately absent:
// UEFI (see package uki), Reed-Solomon codes, fonts, graphical menus, disks with
// sectors of more than 512 bytes, core images that lie in pieces, and modules on
// the disk.
//
// Specification: https://www.gnu.org/software/grub/manual/grub-dev/, and the
// source that makes core images, util/mkimage.c.
package grub

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// Package is the Debian package with GRUB's blobs, of amd64 and i386.
const Package = "grub-pc-bin"

// Needless are the packages that it depends on, and its blobs do not: who
// fetches it leaves them out.
var Needless = [...]string{"grub-common", "grub2-common", "libc6", "libdevmapper1.02.1"}

// Dir is where the package keeps them.
const Dir = "/usr/lib/grub/i386-pc"

// MenuPath is where GRUB looks for its menu on the partition that
// [Options] names.
const MenuPath = menuDir + "/grub.cfg"

const menuDir = "/boot/grub"

const sectorSize = 512

// Options says what a core image holds and where it finds its menu: by
// Partition, UUID or Label. With none of them, Config is all that it does before
// its prompt.
type Options struct {
	// Partition has the menu at MenuPath: "gpt3" or "msdos1", counted from 1, on
	// the disk that GRUB was started from.
	Partition string
	// UUID is that of the file system with the menu, on whatever disk:
	// "0b5a0f1c-...", or "1234-ABCD" of FAT.
	UUID string
	// Label is that of the file system with the menu, on whatever disk.
	Label string
	// Modules are put into the core image besides those that a menu on ext4,
	// booting Linux, with a serial console, needs.
	Modules []string
	// Config is commands that are run before the menu is looked for, one a line.
	// Only plain commands with arguments are understood: no if, no for.
	Config string
}

// usual are the modules that every core image has: to read partitions of both
// kinds and the usual file systems, to run a menu, and to look around at the
// prompt when something is wrong.
var usual = [...]string{
	"biosdisk", "part_gpt", "part_msdos", "ext2", "fat", "search_fs_uuid", "search_label",
	"normal", "configfile", "linux", "serial", "terminal", "test", "echo", "ls", "cat", "reboot", "halt", "minicmd",
}

// Loader is GRUB, ready to be placed on a disk.
type Loader struct {
	boot     []byte // boot.img, one sector
	diskboot []byte // diskboot.img, one sector
	rest     []byte // what diskboot reads: whole sectors
}

// New assembles GRUB from an unpacked package.
func New(pkg *tree.Tree, o Options) (*Loader, error) {
	l, err := assemble(blobs{pkg}, o)
	if err != nil {
		return nil, fmt.Errorf("assemble GRUB: %w", err)
	}
	return l, nil
}

func assemble(b blobs, o Options) (*Loader, error) {
	prefix, config, err := o.start()
	if err != nil {
		return nil, err
	}
	l := &Loader{}
	if l.boot, err = b.boot(); err != nil {
		return nil, err
	}
	if l.diskboot, err = b.diskboot(); err != nil {
		return nil, err
	}
	kernel, err := b.kernel()
	if err != nil {
		return nil, err
	}
	names, err := b.closure(append(slices.Clone(usual[:]), o.Modules...))
	if err != nil {
		return nil, err
	}
	objects := make([]object, 0, len(names)+2)
	total := 0
	for _, name := range names {
		data, err := b.module(name)
		if err != nil {
			return nil, err
		}
		if total += len(data); total > maxModuleBytes {
			return nil, fmt.Errorf("the modules are more than %d MiB; use fewer", maxModuleBytes>>20)
		}
		objects = append(objects, object{typeModule, data})
	}
	objects = append(objects, object{typeConfig, []byte(config + "\x00")}, object{typePrefix, []byte(prefix + "\x00")})
	decompressor, err := b.decompressor()
	if err != nil {
		return nil, err
	}
	l.rest, err = pack(decompressor, kernel, objects)
	return l, err
}

// start gives the prefix, the folder where GRUB looks for its menu, and the
// commands to run first.
func (o *Options) start() (prefix, config string, err error) {
	config = terminals + o.Config
	if !strings.HasSuffix(config, "\n") {
		config += "\n"
	}
	switch {
	case strings.IndexByte(config, 0) >= 0:
		return "", "", errors.New("the commands hold a NUL byte")
	case len(config) > maxConfig:
		return "", "", fmt.Errorf("the commands are %d bytes, more than the limit of %d", len(config), maxConfig)
	}
	given := 0
	for _, s := range []string{o.Partition, o.UUID, o.Label} {
		if s != "" {
			given++
		}
	}
	if given > 1 {
		return "", "", errors.New("more than one of Partition, UUID and Label is given")
	}
	const found = "set prefix=($root)" + menuDir + "\n"
	switch {
	case o.Partition != "":
		// Without a disk's name it is the one that GRUB was started from.
		if !plain(o.Partition, "") {
			return "", "", fmt.Errorf("partition %.40q is not such as gpt1 or msdos1", o.Partition)
		}
		return "(," + o.Partition + ")" + menuDir, config, nil
	case o.UUID != "":
		if !plain(o.UUID, "-") {
			return "", "", fmt.Errorf("UUID %.40q has other characters than letters, digits and hyphens", o.UUID)
		}
		config += "search.fs_uuid " + o.UUID + " root\n" + found
	case o.Label != "":
		if !plain(o.Label, "-_.+ ") {
			return "", "", fmt.Errorf("label %.40q has other characters than letters, digits, spaces and - _ . +", o.Label)
		}
		config += "search.fs_label \"" + o.Label + "\" root\n" + found
	}
	return menuDir, config, nil
}

const maxConfig = 64 << 10

// terminals are the screen with the keyboard, and the first serial port, from
// the first moment on, so that an error can be seen on either. On a PC without
// a serial port the commands fail, and the screen stays.
const terminals = "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\n"

// plain reports whether s is of ASCII letters, digits and the others.
func plain(s, others string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
}
