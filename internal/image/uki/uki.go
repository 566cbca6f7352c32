// Package uki writes unified kernel images: one UEFI program that holds a
// kernel, its initial RAM disk and its command line, so that a firmware which
// finds it on the EFI system partition boots Linux without any boot loader or
// configuration beside it. It also lists what such a file holds.
//
// The program is systemd's EFI stub, a file of Debian's package
// systemd-boot-efi. What the stub is to start is appended to it as further PE
// sections: .osrel, .cmdline, .uname, .initrd and .linux, each on a page of its
// own. The stub's bytes stay as they are but for its section table, the size of
// its image, its checksum and a signature, which are made anew or cleared. The
// same options give the same bytes.
//
// Put at [Target.Boot] on a FAT partition of the type EFI system partition, the
// image is what a firmware starts that was told nothing:
//
//	at, err := uki.For("amd64")
//	stub, err := pkg.ReadFile(at.Stub, uki.MaxStub) // pkg is systemd-boot-efi, unpacked
//	image, err := uki.New(uki.Options{
//		Stub:    stub,
//		Kernel:  kernel,
//		Initrd:  []tree.Content{initramfs},
//		Cmdline: "root=PARTLABEL=root console=ttyS0",
//	})
//	err = esp.Put(at.Boot, tree.File(0o644, image))
//
// Subset: PE32 and PE32+ stubs of systemd 252 and later. Deliberately absent:
// signing for Secure Boot, the measured sections (.pcrsig, .pcrpkey), splash
// images, device trees and microcode, profiles, and stubs whose headers have no
// room for five more sections.
//
// Specifications:
// https://uapi-group.org/specifications/specs/unified_kernel_image/,
// https://learn.microsoft.com/windows/win32/debug/pe-format, systemd-stub(7).
package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"wolffia/internal/tree"
)

// MaxStub bounds the size in bytes of a stub.
const MaxStub = 16 << 20

// maxText bounds the command line and the other texts; a kernel takes a command
// line of some KiB.
const maxText = 64 << 10

// Options says what goes into an image. Stub and Kernel are needed.
type Options struct {
	// Stub is systemd's EFI stub for the kernel's architecture: the file
	// [Target.Stub] of package [Target.Package]. At most [MaxStub] bytes.
	Stub []byte
	// Kernel is a kernel that is a UEFI program itself (CONFIG_EFI_STUB): a
	// bzImage, an uncompressed Image, or a zImage.
	Kernel tree.Content
	// Initrd are the archives of the initial RAM disk, one after the other.
	Initrd []tree.Content
	// Cmdline is the kernel's command line. Where it is empty, the kernel gets
	// what the firmware passes.
	Cmdline string
	// Uname is the kernel's release as uname -r prints it, for boot menus.
	Uname string
	// OSRelease is the system's os-release(5), for boot menus.
	OSRelease string
}

// Write writes the image to w.
func Write(w io.Writer, o Options) error {
	c, err := New(o)
	if err != nil {
		return err
	}
	r, err := c.Open()
	if err != nil {
		return fmt.Errorf("write unified kernel image: %w", err)
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("write unified kernel image: %w", err)
	}
	return nil
}

// New is the image as a file's content. Kernel and Initrd are opened each time
// it is read, and are not kept in memory; the kernel's headers are read now.
func New(o Options) (tree.Content, error) {
	c, err := newImage(o)
	if err != nil {
		return nil, fmt.Errorf("make unified kernel image: %w", err)
	}
	return c, nil
}

func newImage(o Options) (*joined, error) {
	if len(o.Stub) > MaxStub {
		return nil, fmt.Errorf("stub: %d bytes are more than the limit of %d", len(o.Stub), MaxStub)
	}
	stub, err := parse(o.Stub[:min(len(o.Stub), maxHeader)], int64(len(o.Stub)))
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	if stub.section(".linux") != nil {
		return nil, errors.New("stub: it holds a kernel already")
	}
	if o.Kernel == nil {
		return nil, errors.New("no kernel given")
	}
	if err := checkKernel(o.Kernel, stub.machine); err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	parts, err := o.parts()
	if err != nil {
		return nil, err
	}
	return stub.join(o.Stub, parts)
}

// part is a section to be appended.
type part struct {
	name  string
	flags uint32
	data  *joined
}

// parts are the sections that o asks for, in the order of the file.
func (o *Options) parts() ([]part, error) {
	var parts []part
	for _, text := range []struct{ name, value string }{
		{".osrel", o.OSRelease}, {".cmdline", o.Cmdline}, {".uname", o.Uname},
	} {
		switch {
		case text.value == "":
			continue
		case len(text.value) > maxText:
			return nil, fmt.Errorf("section %s: %d bytes are more than the limit of %d", text.name, len(text.value), maxText)
		case strings.IndexByte(text.value, 0) >= 0:
			return nil, fmt.Errorf("section %s: the text holds a NUL byte", text.name)
		case text.name != ".osrel" && strings.ContainsAny(text.value, "\r\n"):
			return nil, fmt.Errorf("section %s: the text has several lines", text.name)
		}
		j := &joined{}
		j.add(tree.Bytes(text.value))
		parts = append(parts, part{text.name, dataSection, j})
	}
	initrd := &joined{}
	for _, c := range o.Initrd {
		initrd.add(c)
		initrd.pad(4) // where the kernel looks for the next archive's magic
	}
	if initrd.size > 0 {
		parts = append(parts, part{".initrd", dataSection, initrd})
	}
	kernel := &joined{}
	kernel.add(o.Kernel)
	return append(parts, part{".linux", codeSection, kernel}), nil
}

// Characteristics of a section, as they are in its header.
const (
	dataSection = 0x40000040 // initialized data, readable
	codeSection = 0x60000020 // code, readable, executable
)

// page is the alignment of what is appended, so that a firmware can protect
// each section by itself, whatever alignment the stub is content with.
const page = 4096

// join appends the parts to the stub, whose bytes are copied.
func (h *header) join(stub []byte, parts []part) (*joined, error) {
	stub, err := h.unsigned(bytes.Clone(stub))
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	end := h.tableOff + headerSize*(len(h.sections)+len(parts))
	if room := min(h.room(), int64(len(stub))); int64(end) > room {
		return nil, fmt.Errorf("stub: no room for %d more section headers before byte %d; that of a newer systemd has it", len(parts), room)
	}
	out := &joined{}
	out.add(tree.Bytes("")) // the stub's place, until its headers are right
	out.size = int64(len(stub))
	addr := roundUp(h.end(), max(page, int64(h.sectionAlign)))
	for i, p := range parts {
		out.pad(int64(h.fileAlign))
		raw := roundUp(p.data.size, int64(h.fileAlign))
		if addr+raw > math.MaxInt32 || out.size+raw > math.MaxInt32 {
			return nil, fmt.Errorf("section %s of %d bytes: the image becomes larger than 2 GiB", p.name, p.data.size)
		}
		b := stub[h.tableEnd()+i*headerSize:][:headerSize]
		clear(b) // systemd 252 has machine code there, which is not loaded
		copy(b[:8], p.name)
		binary.LittleEndian.PutUint32(b[8:], uint32(p.data.size))
		binary.LittleEndian.PutUint32(b[12:], uint32(addr))
		binary.LittleEndian.PutUint32(b[16:], uint32(raw))
		binary.LittleEndian.PutUint32(b[20:], uint32(out.size))
		binary.LittleEndian.PutUint32(b[36:], p.flags)
		addr = roundUp(addr+p.data.size, max(page, int64(h.sectionAlign)))
		out.append(p.data)
	}
	out.pad(int64(h.fileAlign))
	binary.LittleEndian.PutUint16(stub[h.coffOff+2:], uint16(len(h.sections)+len(parts)))
	binary.LittleEndian.PutUint32(stub[h.optOff+56:], uint32(addr)) // SizeOfImage
	binary.LittleEndian.PutUint32(stub[h.optOff+64:], 0)            // CheckSum, which UEFI doesn't look at
	out.pieces[0].content = tree.Bytes(stub)
	return out, nil
}

// unsigned cuts the signature off a stub: it would not be true any more.
func (h *header) unsigned(stub []byte) ([]byte, error) {
	if h.certOff == 0 {
		return stub, nil
	}
	dir := stub[h.certDir:][:8]
	if int64(h.certOff) < h.fileEnd() || int64(h.certOff) > int64(len(stub)) {
		return nil, fmt.Errorf("its signature at byte %d lies within its sections or beyond its end", h.certOff)
	}
	clear(dir)
	return stub[:h.certOff], nil
}

// checkKernel refuses what the stub could not start.
func checkKernel(kernel tree.Content, machine uint16) error {
	r, err := kernel.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	start := make([]byte, min(maxHeader, kernel.Size()))
	if _, err := io.ReadFull(r, start); err != nil {
		return fmt.Errorf("read headers: %w", err)
	}
	for _, c := range []struct{ name, magic string }{{"gzip", "\x1f\x8b"}, {"zstd", "\x28\xb5\x2f\xfd"}, {"xz", "\xfd7zXZ"}} {
		if bytes.HasPrefix(start, []byte(c.magic)) {
			return fmt.Errorf("it is compressed with %s; a unified kernel image takes the unpacked Image", c.name)
		}
	}
	h, err := parse(start, kernel.Size())
	if err != nil {
		return fmt.Errorf("it can't be started by UEFI (is CONFIG_EFI_STUB off?): %w", err)
	}
	if h.machine != machine {
		return fmt.Errorf("it is for %s, and the stub for %s", machineName(h.machine), machineName(machine))
	}
	return nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
