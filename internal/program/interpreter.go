package program

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"wolffia/internal/tree"
)

// Fields of a 64-bit ELF header and program header (System V gABI, chapters 4
// and 5).
const (
	ehSize   = 64
	ehPhoff  = 0x20
	phSize   = 56
	phOffset = 8
	phFilesz = 32
	phMemsz  = 40
)

// setInterpreter makes the program at name ask the kernel for the dynamic
// loader interp. The new name goes to the end of the file: the kernel reads it
// by file offset, so that it need not be in a loaded segment (elf(5), PT_INTERP).
func setInterpreter(name, interp string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil {
		return err
	}
	if e.Class != elf.ELFCLASS64 || e.ByteOrder != binary.ByteOrder(binary.LittleEndian) {
		return errors.New("not a 64-bit little-endian program")
	}
	i := slices.IndexFunc(e.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if i < 0 {
		return errors.New("program is not dynamically linked")
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Write(append([]byte(interp), 0)); err != nil {
		return err
	}
	var header [ehSize]byte
	if _, err := f.ReadAt(header[:], 0); err != nil {
		return err
	}
	at := int64(binary.LittleEndian.Uint64(header[ehPhoff:])) + int64(i)*phSize
	for field, v := range map[int64]uint64{phOffset: uint64(end), phFilesz: uint64(len(interp) + 1), phMemsz: uint64(len(interp) + 1)} {
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, v), at+field); err != nil {
			return err
		}
	}
	return nil
}

// Interpreter is the dynamic loader that the program at name asks for; "" for
// a static one.
func Interpreter(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return interpreter(f)
}

func interpreter(r io.ReaderAt) (string, error) {
	e, err := elf.NewFile(r)
	if err != nil {
		return "", err
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz > tree.MaxPath {
			return "", errors.New("the dynamic loader's path is too long")
		}
		b := make([]byte, p.Filesz)
		if _, err := io.ReadFull(p.Open(), b); err != nil {
			return "", fmt.Errorf("read the dynamic loader's path: %w", err)
		}
		if n := slices.Index(b, 0); n >= 0 {
			b = b[:n]
		}
		return string(b), nil
	}
	return "", nil
}
