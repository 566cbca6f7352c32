package build

import (
	"context"
	"fmt"
	"os"

	"wolffia/internal/debian"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/uki"
	"wolffia/internal/lab"
)

// Disk is what is on the disk of an image.
type Disk struct {
	Size       int64       `json:"size"`  // in bytes
	Table      string      `json:"table"` // gpt or mbr
	UUID       string      `json:"uuid"`
	Kernel     string      `json:"kernel"`         // its release
	Source     string      `json:"source"`         // the kernel's package, or its path on the host
	Cmdline    string      `json:"cmdline"`        // the kernel's
	UEFI       string      `json:"uefi"`           // what a UEFI starts, and the package with the stub in it
	BIOS       string      `json:"bios,omitempty"` // what a BIOS starts, and its package
	Partitions []Partition `json:"partitions"`
}

// Partition is one of a [Disk].
type Partition struct {
	Number     int    `json:"number"`
	Type       string `json:"type"`
	Name       string `json:"name,omitempty"`
	UUID       string `json:"uuid"`   // PARTUUID
	Offset     int64  `json:"offset"` // in bytes
	Size       int64  `json:"size"`   // in bytes
	FileSystem string `json:"fileSystem,omitempty"`
	Free       int64  `json:"free,omitempty"` // bytes
	Holds      string `json:"holds"`
}

// Disk says what is on the disk of an image, which is made for that, or found
// in the store. The format is that of a disk.
func (b *Builder) Disk(ctx context.Context, img *lab.Image, format Format) (*Disk, error) {
	if err := format.Check(); err != nil {
		return nil, err
	}
	format, _ = format.plain()
	a, err := b.Image(ctx, img, format)
	if err != nil {
		return nil, err
	}
	defer a.Release()
	s, err := b.systemOf(ctx, img)
	if err != nil {
		return nil, err
	}
	k, err := b.linux(ctx, s)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	at, err := uki.For(s.arch)
	if err != nil {
		return nil, err
	}
	d := &Disk{
		Table: string(format.Table), Kernel: k.Release, Source: s.own,
		UEFI: fmt.Sprintf("%s, on the stub of %s", at.Boot, pinOf(s.stub)),
	}
	if s.kernel != nil {
		d.Source = fmt.Sprintf("%s of Debian %s", pinOf(s.kernel), s.source.Release)
	}
	if s.grub != nil {
		d.BIOS = fmt.Sprintf("GRUB, of %s", pinOf(s.grub))
	}
	if err := d.read(a.Path, at.Boot); err != nil {
		return nil, err
	}
	d.Cmdline = s.cmdline() + " root=PARTUUID=" + d.Partitions[len(d.Partitions)-1].UUID
	return d, nil
}

// pinOf is the first package that was asked for.
func pinOf(l *debian.Lock) string {
	for i := range l.Packages {
		if len(l.Request.Packages) > 0 && l.Packages[i].Name == packageName(l.Request.Packages[0]) {
			return l.Packages[i].String()
		}
	}
	return ""
}

// read fills in what the disk itself says.
func (d *Disk) read(path, boot string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	image, err := disk.Open(f, st.Size())
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	d.Size, d.UUID = image.Size, image.UUID
	for i := range image.Parts {
		p := &image.Parts[i]
		out := Partition{Number: p.Number, Type: p.Type, Name: p.Name, UUID: p.UUID, Offset: p.Offset, Size: p.Size, Holds: "GRUB's core image"}
		switch p.Type {
		case "bios-boot":
		case "esp":
			out.Holds = boot + ": kernel, initial RAM disk and command line"
		default:
			out.Holds = "the root file system"
		}
		if fs, err := p.FileSystem(); err == nil {
			out.FileSystem, out.Free = fs.Type, max(0, fs.Free)
		}
		d.Partitions = append(d.Partitions, out)
	}
	return nil
}
