package program

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// FromCode is an ELF file of machine code: one segment that can be read and
// executed, at an address that every kernel leaves to programs. Execution begins
// at the first byte of code; behind its last one lie 32 zeros. It is nil where
// there is no code. [elf.EM_386] and [elf.EM_ARM] have 32 bits, all others 64; all
// are little-endian.
func FromCode(machine elf.Machine, code []byte) []byte {
	const address, align, zeros = 0x400000, 0x1000, 32
	const readExecute = uint32(elf.PF_R | elf.PF_X)
	if len(code) == 0 {
		return nil
	}
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // a Buffer takes all
	if machine == elf.EM_386 || machine == elf.EM_ARM {
		ident[elf.EI_CLASS] = byte(elf.ELFCLASS32)
		const head = 52 + 32
		size := uint32(head + len(code) + zeros)
		flags := uint32(0)
		if machine == elf.EM_ARM {
			flags = 0x05000000 // EF_ARM_EABI_VER5
		}
		put(elf.Header32{
			Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: address + head, Phoff: 52,
			Flags: flags, Ehsize: 52, Phentsize: 32, Phnum: 1,
		})
		put(elf.Prog32{Type: uint32(elf.PT_LOAD), Vaddr: address, Paddr: address, Filesz: size, Memsz: size, Flags: readExecute, Align: align})
	} else {
		const head = 64 + 56
		size := uint64(head + len(code) + zeros)
		put(elf.Header64{
			Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: address + head, Phoff: 64,
			Ehsize: 64, Phentsize: 56, Phnum: 1,
		})
		put(elf.Prog64{Type: uint32(elf.PT_LOAD), Vaddr: address, Paddr: address, Filesz: size, Memsz: size, Flags: readExecute, Align: align})
	}
	b.Write(code)
	b.Write(make([]byte, zeros))
	return b.Bytes()
}
