package grub

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"wolffia/internal/spell"
	"wolffia/internal/tree"
)

// blobs reads and checks the files of the package.
type blobs struct{ pkg *tree.Tree }

// Limits on the package's files and what they list.
const (
	maxBlob        = 1 << 20 // bytes of a file
	maxModules     = 2000
	maxModuleBytes = 8 << 20 // of all that go into a core image, which holds half a MiB of them compressed
)

func (b blobs) read(name string) ([]byte, error) {
	data, err := b.pkg.ReadFile(Dir+"/"+name, maxBlob)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// boot gives boot.img, the disk's first sector.
func (b blobs) boot() ([]byte, error) {
	data, err := b.read("boot.img")
	switch {
	case err != nil:
		return nil, err
	case len(data) != sectorSize || data[510] != 0x55 || data[511] != 0xaa:
		return nil, fmt.Errorf("boot.img: %d bytes that are not a boot sector", len(data))
	case !bytes.Equal(data[bootKernelSector:bootKernelSector+9], []byte{1, 0, 0, 0, 0, 0, 0, 0, 0xff}):
		return nil, fmt.Errorf("boot.img: no place for the core's sector at %#x", bootKernelSector)
	case data[bootDriveCheck] != 0xeb:
		return nil, fmt.Errorf("boot.img: no jump over the check of the drive at %#x", bootDriveCheck)
	}
	return data, nil
}

// diskboot gives diskboot.img, the first sector of the core image.
func (b blobs) diskboot() ([]byte, error) {
	data, err := b.read("diskboot.img")
	switch {
	case err != nil:
		return nil, err
	case len(data) != sectorSize:
		return nil, fmt.Errorf("diskboot.img: %d bytes, not %d", len(data), sectorSize)
	case binary.LittleEndian.Uint16(data[blockList+10:]) != blockSegment || !allZero(data[blockList-12:blockList]):
		return nil, fmt.Errorf("diskboot.img: no block list for segment %#x at its end", blockSegment)
	}
	return data, nil
}

// Places in lzma_decompress.img, each of 32 bits.
const (
	compressedSize   = 8
	uncompressedSize = 12
	reedSolomon      = 16 // bytes of redundancy, which stays 0
	decompressorMin  = 512
	decompressorMax  = 16 << 10
)

// decompressor gives lzma_decompress.img, which begins with a far jump to
// itself, and loads the address of its end, where the compressed data is.
func (b blobs) decompressor() ([]byte, error) {
	data, err := b.read("lzma_decompress.img")
	switch {
	case err != nil:
		return nil, err
	case len(data) < decompressorMin || len(data) > decompressorMax:
		return nil, fmt.Errorf("lzma_decompress.img: %d bytes, not %d to %d", len(data), decompressorMin, decompressorMax)
	case data[0] != 0xea || data[2] != 0x82 || !allZero(data[compressedSize:reedSolomon+4]):
		return nil, errors.New("lzma_decompress.img: no far jump to itself with places for the sizes behind it")
	case !bytes.Contains(data, loads(0xbe, loadAddr+len(data))):
		return nil, fmt.Errorf("lzma_decompress.img: %d bytes, which is not the length that its code says", len(data))
	}
	return data, nil
}

// loads is the machine code (opcode 0xb8 and a register's number, and 32 bits)
// that loads a number.
func loads(opcode byte, number int) []byte {
	return binary.LittleEndian.AppendUint32([]byte{opcode}, uint32(number))
}

// kernelAddr is where the kernel runs.
const kernelAddr = 0x9000

// kernel gives what kernel.img, an ELF executable, loads into memory. Its code
// expects the modules right behind that.
func (b blobs) kernel() ([]byte, error) {
	data, err := b.read("kernel.img")
	if err != nil {
		return nil, err
	}
	loaded, err := loadKernel(data)
	if err != nil {
		return nil, fmt.Errorf("kernel.img: %w", err)
	}
	return loaded, nil
}

func loadKernel(data []byte) ([]byte, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if f.Class != elf.ELFCLASS32 || f.Machine != elf.EM_386 || f.Type != elf.ET_EXEC {
		return nil, fmt.Errorf("a %v %v for %v, not an executable for i386", f.Class, f.Type, f.Machine)
	}
	var load *elf.Prog
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if load != nil {
			return nil, errors.New("more than one segment to load")
		}
		load = p
	}
	switch {
	case load == nil:
		return nil, errors.New("no segment to load")
	case load.Vaddr != kernelAddr || f.Entry != kernelAddr:
		return nil, fmt.Errorf("linked to %#x and started at %#x, not %#x", load.Vaddr, f.Entry, kernelAddr)
	case load.Off > uint64(len(data)) || load.Filesz > uint64(len(data))-load.Off || load.Filesz%4 != 0:
		return nil, fmt.Errorf("a segment of %d bytes at %d, in a file of %d", load.Filesz, load.Off, len(data))
	case load.Memsz < load.Filesz || load.Memsz > maxKernelEnd-kernelAddr:
		return nil, fmt.Errorf("it takes %d bytes of memory, more than there are below %#x", load.Memsz, maxKernelEnd)
	}
	loaded := data[load.Off:][:load.Filesz]
	// It copies so much of itself to kernelAddr, and takes what follows for the
	// modules.
	if !bytes.Contains(loaded[:min(64, len(loaded))], loads(0xb9, len(loaded))) {
		return nil, fmt.Errorf("a segment of %d bytes, which is not the length that its code says", len(loaded))
	}
	return loaded, nil
}

// module gives the file of a module, an ELF relocatable, as it is.
func (b blobs) module(name string) ([]byte, error) {
	data, err := b.read(name + ".mod")
	if err != nil {
		return nil, err
	}
	if len(data) < 52 || string(data[:7]) != "\x7fELF\x01\x01\x01" || data[16] != byte(elf.ET_REL) || data[18] != byte(elf.EM_386) {
		return nil, fmt.Errorf("%s.mod: not a relocatable ELF file for i386", name)
	}
	return data, nil
}

// closure gives the modules that the wanted ones need, each after what it needs
// itself.
func (b blobs) closure(wanted []string) ([]string, error) {
	text, err := b.read("moddep.lst")
	if err != nil {
		return nil, err
	}
	needs, err := parseDependencies(string(text))
	if err != nil {
		return nil, fmt.Errorf("moddep.lst: %w", err)
	}
	c := &closer{needs: needs, state: map[string]int{}}
	for _, name := range wanted {
		if err := c.add(name, ""); err != nil {
			return nil, err
		}
	}
	return c.order, nil
}

// parseDependencies reads moddep.lst: one module a line, a colon, and the
// modules that it needs.
func parseDependencies(text string) (map[string][]string, error) {
	needs := map[string][]string{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, list, ok := strings.Cut(line, ":")
		if !ok || !plain(name, "_-+") {
			return nil, fmt.Errorf("line %d: %.60q is not a module's name and a colon", number, line)
		}
		needs[name] = strings.Fields(list)
		if len(needs) > maxModules {
			return nil, fmt.Errorf("more than %d modules", maxModules)
		}
	}
	if len(needs) == 0 {
		return nil, errors.New("no module in it")
	}
	return needs, nil
}

// closer walks the dependencies, depth first.
type closer struct {
	needs map[string][]string
	state map[string]int // visiting, then done
	order []string
}

const (
	visiting = 1
	done     = 2
)

func (c *closer) add(name, by string) error {
	switch c.state[name] {
	case done:
		return nil
	case visiting:
		return fmt.Errorf("modules %s and %s need each other", name, by)
	}
	needs, known := c.needs[name]
	if !known {
		return c.unknown(name, by)
	}
	c.state[name] = visiting
	for _, n := range needs {
		if err := c.add(n, name); err != nil {
			return err
		}
	}
	c.state[name] = done
	c.order = append(c.order, name)
	return nil
}

func (c *closer) unknown(name, by string) error {
	if by != "" {
		return fmt.Errorf("module %s needs %.40q, which the package does not have", by, name)
	}
	names := make([]string, 0, len(c.needs))
	for n := range c.needs {
		names = append(names, n)
	}
	slices.Sort(names)
	hint := ""
	if near := spell.Nearest(name, names); near != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", near)
	}
	return fmt.Errorf("the package has no module %.40q%s", name, hint)
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
