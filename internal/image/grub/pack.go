package grub

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/ulikunitz/xz/lzma"
)

// object is what comes with the kernel: a module or a text.
type object struct {
	kind uint32
	data []byte
}

// Kinds of object (include/grub/kernel.h).
const (
	typeModule = 0
	typeConfig = 2
	typePrefix = 3
)

// Bounds of memory that GRUB sets itself.
const (
	loadAddr     = 0x8200  // of the decompressor and what it unpacks
	maxLoadEnd   = 0x78000 // where the memory of the BIOS may begin
	maxKernelEnd = 0x68000 // where GRUB's own buffers begin
)

// pack joins the decompressor with the compressed kernel and objects, padded to
// whole sectors.
func pack(decompressor, kernel []byte, objects []object) ([]byte, error) {
	plain := appendObjects(bytes.Clone(kernel), objects)
	packed, err := compress(plain)
	if err != nil {
		return nil, err
	}
	out := append(bytes.Clone(decompressor), packed...)
	binary.LittleEndian.PutUint32(out[compressedSize:], uint32(len(packed)))
	binary.LittleEndian.PutUint32(out[uncompressedSize:], uint32(len(plain)))
	if loadAddr+len(out) > maxLoadEnd {
		return nil, fmt.Errorf("the core image is %d bytes, more than the %d that fit below the BIOS; use fewer modules", len(out), maxLoadEnd-loadAddr)
	}
	return append(out, make([]byte, -len(out)&(sectorSize-1))...), nil
}

// appendObjects adds the objects to the kernel in the form in which it looks
// for them behind itself: a header ("mimg", the offset of the first object, the
// size of all with the header), and each with its kind and size.
func appendObjects(b []byte, objects []object) []byte {
	le := binary.LittleEndian
	const header = 12
	start := len(b)
	b = append(b, "mimg"...)
	b = le.AppendUint32(b, header)
	b = le.AppendUint32(b, 0) // the size, below
	for _, o := range objects {
		padding := -len(o.data) & 3
		b = le.AppendUint32(b, o.kind)
		b = le.AppendUint32(b, uint32(8+len(o.data)+padding))
		b = append(b, o.data...)
		b = append(b, make([]byte, padding)...)
	}
	le.PutUint32(b[start+8:], uint32(len(b)-start))
	return b
}

// lzmaHeader is the length of what a .lzma file has before its data.
const lzmaHeader = 13

// compress makes the one stream that the decompressor knows: LZMA1 of lc 3,
// lp 0, pb 2, without header and end marker. The dictionary is the output
// itself, so its size is free. (The matcher is the default one, a hash table;
// the other, a binary tree, takes longer and compresses less.)
func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := lzma.WriterConfig{
		Properties:   &lzma.Properties{LC: 3, LP: 0, PB: 2},
		DictCap:      1 << 22,
		SizeInHeader: true, Size: int64(len(b)),
	}.NewWriter(&out)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return out.Bytes()[lzmaHeader:], nil
}
