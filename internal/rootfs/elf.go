package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"wolffia/internal/tree"
)

// Limits on what a hostile ELF file can make us read, in bytes and entries.
const (
	maxSegments = 512      // program headers
	maxDynamic  = 64 << 10 // bytes of the dynamic section
	maxNeeded   = 1024     // DT_NEEDED entries
	maxELFWord  = 4096     // bytes of one string
)

// Field values of the System V ABI, chapters 4 and 5.
const (
	ptLoad, ptDynamic, ptInterp       = 1, 2, 3
	dtNull, dtNeeded, dtStrtab        = 0, 1, 5
	dtStrsz, dtRpath, dtRunpath       = 10, 15, 29
	elfClass32, elfClass64, elfLittle = 1, 2, 1
)

// object is what the dynamic loader would want to know about an ELF file.
type object struct {
	class, order byte   // EI_CLASS and EI_DATA
	machine      uint16 // e_machine
	interp       string // the program interpreter, of dynamic programs
	dynamic      bool
	needed       []string
	rpath        []string // entries of DT_RPATH and DT_RUNPATH, unexpanded
	runpath      []string
}

// fits reports whether o and p can be in one process.
func (o *object) fits(p *object) bool {
	return o.class == p.class && o.order == p.order && o.machine == p.machine
}

// errNotELF says that a file is something else; all other errors are damage.
var errNotELF = errors.New("is not an ELF file")

type segment struct {
	kind            uint32
	off, addr, size uint64
}

// readObject reads the headers of an ELF file: program headers and the dynamic
// section only, since the loader needs no more and sections may be stripped.
func readObject(r io.ReaderAt, size int64) (*object, error) {
	head := make([]byte, 64)
	n, err := r.ReadAt(head, 0)
	if n < 4 || string(head[:4]) != "\x7fELF" {
		if err != nil && err != io.EOF {
			return nil, err
		}
		return nil, errNotELF
	}
	o := &object{class: head[4], order: head[5]}
	if o.class != elfClass32 && o.class != elfClass64 || o.order != 1 && o.order != 2 {
		return nil, fmt.Errorf("ELF header: class %d, byte order %d", o.class, o.order)
	}
	if n < 52 || o.class == elfClass64 && n < 64 {
		return nil, errors.New("ELF header is cut short")
	}
	e := elfReader{r: r, size: size, wide: o.class == elfClass64, order: binary.ByteOrder(binary.LittleEndian)}
	if o.order != elfLittle {
		e.order = binary.BigEndian
	}
	o.machine = e.order.Uint16(head[18:])
	segments, err := e.segments(head)
	if err != nil {
		return nil, err
	}
	for _, s := range segments {
		switch s.kind {
		case ptInterp:
			text, err := e.bytes(s.off, min(s.size, maxELFWord))
			if err != nil {
				return nil, fmt.Errorf("read interpreter: %w", err)
			}
			o.interp = string(bytes.TrimRight(text, "\x00"))
		case ptDynamic:
			o.dynamic = true
			if err := e.dynamic(o, s, segments); err != nil {
				return nil, fmt.Errorf("read dynamic section: %w", err)
			}
		}
	}
	return o, nil
}

// elfReader reads numbers of one class and byte order.
type elfReader struct {
	r     io.ReaderAt
	size  int64
	wide  bool
	order binary.ByteOrder
}

// bytes reads n bytes at off, all of which must be in the file.
func (e elfReader) bytes(off, n uint64) ([]byte, error) {
	if off > uint64(e.size) || n > uint64(e.size)-off {
		return nil, fmt.Errorf("%d bytes at %d lie outside the file of %d", n, off, e.size)
	}
	b := make([]byte, n)
	if _, err := e.r.ReadAt(b, int64(off)); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

func (e elfReader) word(b []byte, off32, off64 int) uint64 {
	if e.wide {
		return e.order.Uint64(b[off64:])
	}
	return uint64(e.order.Uint32(b[off32:]))
}

// segments reads the program headers: Elf32_Phdr (32 bytes) or Elf64_Phdr (56).
func (e elfReader) segments(head []byte) ([]segment, error) {
	off, want, entry, count := e.word(head, 28, 32), uint64(32), uint64(0), uint64(0)
	if e.wide {
		want, entry, count = 56, uint64(e.order.Uint16(head[54:])), uint64(e.order.Uint16(head[56:]))
	} else {
		entry, count = uint64(e.order.Uint16(head[42:])), uint64(e.order.Uint16(head[44:]))
	}
	if count == 0 {
		return nil, nil
	}
	if entry < want || entry > 4*want || count > maxSegments {
		return nil, fmt.Errorf("%d program headers of %d bytes", count, entry)
	}
	table, err := e.bytes(off, entry*count)
	if err != nil {
		return nil, fmt.Errorf("read program headers: %w", err)
	}
	out := make([]segment, count)
	for i := range out {
		b := table[uint64(i)*entry:]
		out[i] = segment{e.order.Uint32(b), e.word(b, 4, 8), e.word(b, 8, 16), e.word(b, 16, 32)}
	}
	return out, nil
}

// dynamic reads Elf32_Dyn or Elf64_Dyn pairs of a tag and a value, and the
// strings they point to.
func (e elfReader) dynamic(o *object, s segment, segments []segment) error {
	step := 8
	if e.wide {
		step = 16
	}
	b, err := e.bytes(s.off, min(s.size, maxDynamic))
	if err != nil {
		return err
	}
	var needed, rpath, runpath []uint64
	var strtab, strsz uint64
pairs:
	for ; len(b) >= step; b = b[step:] {
		value := e.word(b, 4, 8)
		switch e.word(b, 0, 0) {
		case dtNull:
			break pairs
		case dtNeeded:
			if needed = append(needed, value); len(needed) > maxNeeded {
				return fmt.Errorf("more than %d libraries", maxNeeded)
			}
		case dtStrtab:
			strtab = value
		case dtStrsz:
			strsz = value
		case dtRpath:
			rpath = append(rpath[:0], value)
		case dtRunpath:
			runpath = append(runpath[:0], value)
		}
	}
	if len(needed)+len(rpath)+len(runpath) == 0 {
		return nil
	}
	off, ok := fileOffset(strtab, segments)
	if !ok {
		return fmt.Errorf("string table at address %#x lies in no segment", strtab)
	}
	word := func(at uint64) (string, error) {
		if at >= strsz || off+at < off || off+at > uint64(e.size) {
			return "", fmt.Errorf("string at %d lies outside the table of %d bytes", at, strsz)
		}
		text, err := e.bytes(off+at, min(strsz-at, maxELFWord, uint64(e.size)-(off+at)))
		if err != nil {
			return "", err
		}
		end := bytes.IndexByte(text, 0)
		if end < 0 {
			return "", fmt.Errorf("string at %d has no end", at)
		}
		return string(text[:end]), nil
	}
	for _, at := range needed {
		name, err := word(at)
		if err != nil {
			return err
		}
		o.needed = append(o.needed, name)
	}
	for _, p := range []struct {
		at []uint64
		to *[]string
	}{{rpath, &o.rpath}, {runpath, &o.runpath}} {
		for _, at := range p.at {
			text, err := word(at)
			if err != nil {
				return err
			}
			*p.to = splitPath(text)
		}
	}
	return nil
}

func splitPath(s string) []string {
	var out []string
	for _, p := range bytes.Split([]byte(s), []byte(":")) {
		if len(p) > 0 {
			out = append(out, string(p))
		}
	}
	return out
}

// fileOffset turns an address into a place in the file.
func fileOffset(addr uint64, segments []segment) (uint64, bool) {
	for _, s := range segments {
		if s.kind == ptLoad && addr >= s.addr && addr-s.addr < s.size && s.off+(addr-s.addr) >= s.off {
			return s.off + (addr - s.addr), true
		}
	}
	return 0, false
}

// readNode reads a regular file of a tree as an ELF file.
func readNode(n *tree.Node) (*object, error) {
	r, err := n.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if at, ok := r.(io.ReaderAt); ok {
		return readObject(at, n.Size())
	}
	// The content can only be streamed: look at the start before taking it all.
	data := make([]byte, 4, 4096)
	if _, err := io.ReadFull(r, data); err != nil || string(data) != "\x7fELF" {
		return nil, errNotELF
	}
	if n.Size() > maxProgram {
		return nil, fmt.Errorf("is larger than %d bytes", maxProgram)
	}
	data = append(make([]byte, 0, n.Size()), data...)
	data = data[:n.Size()]
	if _, err := io.ReadFull(r, data[4:]); err != nil {
		return nil, err
	}
	return readObject(bytes.NewReader(data), n.Size())
}

// interpreter is the program that a script's first line names, or "".
func interpreter(n *tree.Node) string {
	r, err := n.Open()
	if err != nil {
		return ""
	}
	defer r.Close()
	head := make([]byte, 256) // the kernel's BINPRM_BUF_SIZE
	k, _ := io.ReadFull(r, head)
	return parseInterpreter(head[:k])
}

// parseInterpreter reads "#!/bin/sh -e" as the kernel does.
func parseInterpreter(head []byte) string {
	line, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return ""
	}
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	words := bytes.Fields(line)
	if len(words) == 0 || words[0][0] != '/' {
		return ""
	}
	return string(words[0])
}
