package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// signatureMark ends a signed module (scripts/sign-file.c).
const signatureMark = "~Module signature appended~\n"

// Offsets in the 64-bit ELF header and section header that stripDebug edits
// (System V gABI, chapter 4).
const (
	ehShoff     = 0x28
	ehShentsize = 0x3a
	ehSize      = 64
	shSize64    = 64
	shType      = 4
	shOffset    = 24
)

// stripDebug takes the debug sections out of a module, as strip -g does but
// keeping section numbers: their headers become empty ones. The kernel would
// copy and check them at each load. What is signed, 32-bit or not understood
// stays as it is.
func stripDebug(module []byte) []byte {
	if bytes.HasSuffix(module, []byte(signatureMark)) {
		return module
	}
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil || f.Class != elf.ELFCLASS64 || f.Type != elf.ET_REL || len(f.Progs) > 0 {
		return module
	}
	order := f.ByteOrder
	if order.Uint16(module[ehShentsize:]) != shSize64 {
		return module
	}
	shoff := order.Uint64(module[ehShoff:])
	if end := shoff + uint64(len(f.Sections))*shSize64; end > uint64(len(module)) || end < shoff {
		return module
	}
	headers := bytes.Clone(module[shoff : shoff+uint64(len(f.Sections))*shSize64])
	out := bytes.Clone(module[:ehSize])
	stripped := false
	for i, s := range f.Sections {
		h := headers[i*shSize64:][:shSize64]
		if name := strings.TrimPrefix(s.Name, ".rela"); strings.HasPrefix(name, ".debug_") && s.Flags&elf.SHF_ALLOC == 0 {
			clear(h[shType:]) // SHT_NULL, no flags, no size; the name stays
			stripped = true
			continue
		}
		if s.Type == elf.SHT_NULL {
			continue
		}
		if s.Addralign > 1<<16 {
			return module
		}
		out = pad(out, int(s.Addralign))
		order.PutUint64(h[shOffset:], uint64(len(out)))
		if s.Type == elf.SHT_NOBITS {
			continue
		}
		end := s.Offset + s.FileSize
		if end < s.Offset || end > uint64(len(module)) || len(out) > len(module) {
			return module
		}
		out = append(out, module[s.Offset:end]...)
	}
	if !stripped {
		return module
	}
	out = pad(out, 8)
	binary.ByteOrder(order).PutUint64(out[ehShoff:], uint64(len(out)))
	return append(out, headers...)
}

// pad appends zeros up to a multiple of align.
func pad(b []byte, align int) []byte {
	if align > 1 {
		for len(b)%align != 0 {
			b = append(b, 0)
		}
	}
	return b
}
