package uml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"wolffia/internal/image/cpio"
	"wolffia/internal/machine"
	"wolffia/internal/tree"
)

// checkDisks refuses what User-Mode Linux can't boot from or use.
func checkDisks(spec machine.Spec) error {
	fail := func(cause, fix string) error {
		return &machine.StartError{Machine: spec.Name, Stage: "start", Cause: cause, Fix: fix}
	}
	if spec.Firmware != machine.FirmwareNone {
		return fail("User-Mode Linux has no firmware: its kernel is a program of the host", "use the backend qemu, or leave the firmware out")
	}
	for i, d := range spec.Disks {
		if d.Format != machine.Raw {
			return fail(fmt.Sprintf("disk %d is of format %s, and User-Mode Linux takes raw images alone", i, d.Format), "convert it, or use the backend qemu")
		}
	}
	return nil
}

// diskLink is the name in Spec.Dir by which the kernel finds a disk's image:
// its own path may hold what separates file names in a parameter.
func diskLink(i int) string { return fmt.Sprintf("disk%d", i) }

// disks are the parameters of the block devices.
func (p *plan) disks() []string {
	var out []string
	for i, d := range p.spec.Disks {
		const noCOW = "d" // whatever the image begins with, it is not a copy-on-write file
		link := diskLink(i)
		switch {
		case d.ReadOnly:
			out = append(out, fmt.Sprintf("ubd%dr%s=%s", i, noCOW, link))
		case d.Persistent:
			out = append(out, fmt.Sprintf("ubd%d%s=%s", i, noCOW, link))
		default:
			out = append(out, fmt.Sprintf("ubd%d=%s.cow,%s", i, link, link))
		}
	}
	return out
}

// linkDisks makes the links of diskLink, and links to overlays or room for new
// copy-on-write files.
func linkDisks(spec machine.Spec) error {
	for i, d := range spec.Disks {
		link := filepath.Join(spec.Dir, diskLink(i))
		for _, name := range []string{link, link + ".cow"} {
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("disk %d: %w", i, err)
			}
		}
		if err := os.Symlink(d.Path, link); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		if d.Overlay == "" {
			continue
		}
		if err := os.Symlink(d.Overlay, link+".cow"); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	return nil
}

// fillInitramfs writes a machine's initramfs; one that has none gets an archive
// with nothing in it, of two pages: see retain_initrd.
func fillInitramfs(f *os.File, spec machine.Spec) error {
	if len(spec.Initramfs) > 0 {
		return machine.FillInitramfs(f, spec.Initramfs)
	}
	if err := cpio.Write(f, tree.New(), cpio.Options{}); err != nil {
		return fmt.Errorf("write an empty initramfs: %w", err)
	}
	return f.Truncate(int64(2 * os.Getpagesize()))
}
