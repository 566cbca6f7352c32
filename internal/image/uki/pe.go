package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Limits on the headers of a PE file.
const (
	maxHeader   = 64 << 10 // bytes from the start that are looked at
	maxSections = 96       // what Windows' loader takes
	headerSize  = 40       // of a section's header
)

// header is what a PE file's headers say, as far as it is of use here. What it
// holds was checked: offsets lie within the file, sums don't overflow.
type header struct {
	machine      uint16
	coffOff      int // of the COFF header
	optOff       int // of the optional header
	certDir      int // of the data directory of the signature, or 0
	tableOff     int // of the section table
	sectionAlign uint32
	fileAlign    uint32
	sizeOfImage  uint32
	sizeOfHeader uint32
	certOff      uint32 // of the signature, or 0
	sections     []section
}

// section is one row of the section table.
type section struct {
	name                        string
	virtualSize, virtualAddress uint32
	rawSize, rawOff             uint32
}

// dataSize is how many bytes of the file are the section's data, without the
// padding.
func (s *section) dataSize() int64 { return int64(min(s.virtualSize, s.rawSize)) }

// parse reads the headers from b, the first bytes of a file of so many bytes:
// all of them, or maxHeader.
func parse(b []byte, size int64) (*header, error) {
	le := binary.LittleEndian
	if len(b) < 64 || string(b[:2]) != "MZ" {
		return nil, errors.New("not a PE file: no MZ magic")
	}
	pe := int64(le.Uint32(b[60:]))
	if pe < 4 || pe+24 > int64(len(b)) || string(b[pe:pe+4]) != "PE\x00\x00" {
		return nil, errors.New("not a PE file: no PE magic where its header points to")
	}
	h := &header{coffOff: int(pe) + 4, optOff: int(pe) + 24}
	h.machine = le.Uint16(b[h.coffOff:])
	count, optSize := int(le.Uint16(b[h.coffOff+2:])), int(le.Uint16(b[h.coffOff+16:]))
	h.tableOff = h.optOff + optSize
	if count == 0 || count > maxSections {
		return nil, fmt.Errorf("PE file with %d sections, not 1 to %d", count, maxSections)
	}
	if end := h.tableOff + count*headerSize; end > len(b) {
		return nil, fmt.Errorf("PE file cut off: its section table ends at byte %d of %d", end, len(b))
	}
	if err := h.parseOptional(b[h.optOff:h.tableOff]); err != nil {
		return nil, err
	}
	for i := range count {
		s, err := parseSection(b[h.tableOff+i*headerSize:][:headerSize], size)
		if err != nil {
			return nil, fmt.Errorf("section %d: %w", i+1, err)
		}
		h.sections = append(h.sections, s)
	}
	return h, nil
}

// parseOptional reads the optional header, whose fields lie at the same place
// in PE32 and PE32+ but for the data directories.
func (h *header) parseOptional(b []byte) error {
	le := binary.LittleEndian
	if len(b) < 70 {
		return fmt.Errorf("optional header of %d bytes is too short", len(b))
	}
	var dirs int // of the count of data directories, which follow it
	switch magic := le.Uint16(b); magic {
	case 0x10b:
		dirs = 92
	case 0x20b:
		dirs = 108
	default:
		return fmt.Errorf("optional header's magic %#x is neither PE32's nor PE32+'s", magic)
	}
	h.sectionAlign, h.fileAlign = le.Uint32(b[32:]), le.Uint32(b[36:])
	h.sizeOfImage, h.sizeOfHeader = le.Uint32(b[56:]), le.Uint32(b[60:])
	for _, align := range []uint32{h.sectionAlign, h.fileAlign} {
		if align == 0 || align > 1<<20 || align&(align-1) != 0 {
			return fmt.Errorf("alignment of %d bytes is not a power of two up to 2^20", align)
		}
	}
	if subsystem := le.Uint16(b[68:]); subsystem != 10 {
		return fmt.Errorf("subsystem %d is not that of UEFI programs, 10", subsystem)
	}
	const cert = 4 // the signature's directory
	if len(b) >= dirs+4+8*(cert+1) && le.Uint32(b[dirs:]) > cert {
		h.certDir = h.optOff + dirs + 4 + 8*cert
		h.certOff = le.Uint32(b[dirs+4+8*cert:])
	}
	return nil
}

// parseSection reads a row of the section table of a file of so many bytes.
func parseSection(b []byte, size int64) (section, error) {
	le := binary.LittleEndian
	s := section{
		name:        strings.TrimRight(string(b[:8]), "\x00"),
		virtualSize: le.Uint32(b[8:]), virtualAddress: le.Uint32(b[12:]),
		rawSize: le.Uint32(b[16:]), rawOff: le.Uint32(b[20:]),
	}
	if int64(s.virtualAddress)+int64(max(s.virtualSize, s.rawSize)) > math.MaxInt32 {
		return s, fmt.Errorf("%q lies at more than 2 GiB in memory", s.name)
	}
	if s.rawSize > 0 && int64(s.rawOff)+int64(s.rawSize) > size {
		return s, fmt.Errorf("%q ends at byte %d of a file of %d", s.name, int64(s.rawOff)+int64(s.rawSize), size)
	}
	return s, nil
}

func (h *header) section(name string) *section {
	for i := range h.sections {
		if h.sections[i].name == name {
			return &h.sections[i]
		}
	}
	return nil
}

func (h *header) tableEnd() int { return h.tableOff + headerSize*len(h.sections) }

// room is where the headers must end: before the first section, in the file
// and in memory, and within what is loaded as headers.
func (h *header) room() int64 {
	room := int64(min(h.sizeOfHeader, maxHeader))
	for _, s := range h.sections {
		room = min(room, int64(s.virtualAddress))
		if s.rawSize > 0 {
			room = min(room, int64(s.rawOff))
		}
	}
	return room
}

// end is where the image ends in memory.
func (h *header) end() int64 {
	end := int64(h.sizeOfImage)
	for _, s := range h.sections {
		end = max(end, int64(s.virtualAddress)+int64(max(s.virtualSize, s.rawSize)))
	}
	return end
}

// fileEnd is where the last section's data ends in the file.
func (h *header) fileEnd() int64 {
	end := int64(h.sizeOfHeader)
	for _, s := range h.sections {
		if s.rawSize > 0 {
			end = max(end, int64(s.rawOff)+int64(s.rawSize))
		}
	}
	return end
}
