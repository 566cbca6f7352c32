package uki

import (
	"fmt"
	"io"
)

// File is a UEFI program that was opened for reading.
type File struct {
	Arch     string // Debian's name of what it is for, or a number such as "machine 0x6264"
	Sections []Section

	r io.ReaderAt
}

// Section is one section of a UEFI program.
type Section struct {
	Name   string // such as ".linux"; at most 8 bytes of any kind
	Offset int64  // of its data in the file, in bytes
	Size   int64  // of its data in bytes, without padding
}

// Open reads the headers of a UEFI program of size bytes: a unified kernel
// image, but also a stub or a kernel. r stays the caller's.
func Open(r io.ReaderAt, size int64) (*File, error) {
	b := make([]byte, max(0, min(maxHeader, size)))
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), b); err != nil {
		return nil, fmt.Errorf("read UEFI program: %w", err)
	}
	h, err := parse(b, size)
	if err != nil {
		return nil, fmt.Errorf("read UEFI program: %w", err)
	}
	f := &File{Arch: machineName(h.machine), r: r}
	for _, s := range h.sections {
		f.Sections = append(f.Sections, Section{Name: s.name, Offset: int64(s.rawOff), Size: s.dataSize()})
	}
	return f, nil
}

// Unified reports whether the file is a unified kernel image.
func (f *File) Unified() bool { return f.Section(".linux") != nil }

// Section reads the data of the section called name, or is nil where there is
// none.
func (f *File) Section(name string) *io.SectionReader {
	for _, s := range f.Sections {
		if s.Name == name {
			return io.NewSectionReader(f.r, s.Offset, s.Size)
		}
	}
	return nil
}

// Text is what a section with text holds (.osrel, .cmdline, .uname), and empty
// where there is none. It refuses more than 64 KiB.
func (f *File) Text(name string) (string, error) {
	s := f.Section(name)
	if s == nil {
		return "", nil
	}
	if s.Size() > maxText {
		return "", fmt.Errorf("read section %s: %d bytes are more than the limit of %d", name, s.Size(), maxText)
	}
	b, err := io.ReadAll(s)
	if err != nil {
		return "", fmt.Errorf("read section %s: %w", name, err)
	}
	return string(b), nil
}
