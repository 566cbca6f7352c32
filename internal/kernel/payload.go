package kernel

import (
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Uncompress gives the kernel inside one that unpacks itself, in a form that
// QEMU's -kernel starts without the unpacking, which under emulation is a third
// to a half of the guest's start: the ELF file in a bzImage, the Image in an
// EFI zboot program or a gzip file, the Image in a zImage with a branch to it.
// ok is false when the kernel is best booted as it is.
//
// An ELF file of x86 is given only when it can be started by the PVH protocol.
// It is not relocated to a random address (KASLR), which a throwaway machine
// does not miss.
func Uncompress(r io.ReaderAt, size int64) (raw []byte, ok bool, err error) {
	info, err := Identify(r, size)
	if err != nil {
		return nil, false, err
	}
	if info.Gzip {
		raw, err = decompress(io.NewSectionReader(r, 0, size), size, maxKernel)
		return raw, err == nil, err
	}
	var head [headSize]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, false, err
	}
	switch info.Format {
	case ZBoot:
		raw, err = unpackZBoot(head[:], r, size)
		return raw, err == nil, err
	case BzImage:
		return unpackBzImage(head[:], r, size)
	case ZImage:
		if raw, err = zImagePayload(head[:], r, size); err != nil {
			return nil, false, nil
		}
		return branchTo(raw), true, nil
	}
	return nil, false, nil
}

func unpackBzImage(head []byte, r io.ReaderAt, size int64) ([]byte, bool, error) {
	h, err := readSetup(head, size)
	if err != nil || h.length == 0 {
		return nil, false, err
	}
	raw, err := unpackPayload(r, h.payload, h.length)
	if errors.Is(err, errCompression) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, &NotKernelError{Why: "the compressed kernel in the bzImage is damaged: " + err.Error()}
	}
	inner, err := identifyELF(bytes.NewReader(raw), int64(len(raw)))
	return raw, err == nil && inner.PVH, nil
}

// branchTo puts a 32-bit arm Image where it can run. QEMU loads what has no
// header of its own 64 KiB above the start of memory and jumps there. The
// kernel takes memory to begin at the 2 MiB boundary below it, and wants room
// there for its first page tables (TEXT_OFFSET, 0x8000 or 0x208000): so the
// first instruction branches over zeros to the Image, which lies at 0x208000.
func branchTo(image []byte) []byte {
	const distance = 0x208000 - 0x10000
	out := make([]byte, distance, distance+len(image))
	binary.LittleEndian.PutUint32(out, 0xea000000|(distance-8)/4) // b, relative to the instruction after the next
	return append(out, image...)
}

// unpackPayload unpacks length bytes at off, of which the last four are the
// size of the kernel, for all compressions but gzip, which ends so by itself.
func unpackPayload(r io.ReaderAt, off, length int64) ([]byte, error) {
	if length < 8 {
		return nil, errNoPayload
	}
	var magic, tail [4]byte
	if _, err := r.ReadAt(magic[:], off); err != nil {
		return nil, err
	}
	if _, err := r.ReadAt(tail[:], off+length-4); err != nil {
		return nil, err
	}
	size := int64(binary.LittleEndian.Uint32(tail[:]))
	if size > maxKernel {
		return nil, fmt.Errorf("it claims %d bytes", size)
	}
	if !bytes.HasPrefix(magic[:], gzipMagic) {
		length -= 4
	}
	raw, err := decompress(io.NewSectionReader(r, off, length), length, size)
	if err == nil && int64(len(raw)) != size {
		err = fmt.Errorf("it has %d bytes and claims %d", len(raw), size)
	}
	return raw, err
}

// unpackZBoot unpacks an EFI zboot program: offset and length of the
// compressed kernel stand at 8 and 12, the compression's name at 24.
func unpackZBoot(head []byte, r io.ReaderAt, size int64) ([]byte, error) {
	off, length := int64(binary.LittleEndian.Uint32(head[8:])), int64(binary.LittleEndian.Uint32(head[12:]))
	if off+length > size {
		return nil, &NotKernelError{Why: fmt.Sprintf("the EFI zboot image has %d bytes and should have %d: it is cut short", size, off+length)}
	}
	raw, err := unpackPayload(r, off, length)
	if err != nil {
		return nil, &NotKernelError{Why: fmt.Sprintf("the kernel in the EFI zboot image (%s) can't be unpacked: %v", firstWord(head[24:56]), err)}
	}
	return raw, nil
}

// errCompression says that a compression is not one of ours.
var errCompression = errors.New("compressed in an unknown way")

// decompress unpacks what is compressed with gzip, xz, zstd, lz4 (the legacy
// format, which the kernel uses) or bzip2, told apart by their first bytes, of
// at most limit bytes.
func decompress(r *io.SectionReader, size, limit int64) ([]byte, error) {
	var magic [6]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil {
		return nil, errCompression
	}
	var in io.Reader
	switch m := string(magic[:]); {
	case m[:2] == "\x1f\x8b":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		z.Multistream(false)
		in = z
	case m == "\xfd7zXZ\x00":
		return unpackXZ(r, size, limit)
	case m[:4] == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		in = z
	case m[:4] == "\x02\x21\x4c\x18":
		return unpackLZ4(r, limit)
	case m[:3] == "BZh":
		in = bzip2.NewReader(r)
	default:
		return nil, errCompression
	}
	raw, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return raw, err
}

// zImagePayload unpacks the kernel in a zImage. Its header leads to a tag with
// the place of the four bytes that end the compressed kernel and tell its size
// (arch/arm/boot/compressed/vmlinux.lds.S); where it begins only its magic
// number tells.
func zImagePayload(head []byte, r io.ReaderAt, size int64) ([]byte, error) {
	const moreMagic, sizeTag = 0x45454545, 0x5a534c4b
	u32 := binary.LittleEndian.Uint32
	if u32(head[52:]) != moreMagic {
		return nil, errNoPayload
	}
	var tag [12]byte // length in words, name, place of the size
	if _, err := r.ReadAt(tag[:], int64(u32(head[56:]))); err != nil || u32(tag[4:]) != sizeTag {
		return nil, errNoPayload
	}
	end := int64(u32(tag[8:])) + 4
	if end > min(size, maxKernel) {
		return nil, errNoPayload
	}
	file := make([]byte, end)
	if _, err := r.ReadAt(file, 0); err != nil {
		return nil, err
	}
	const tries = 16 // by chance, code looks like the magic number of gzip now and then
	for n, at := 0, 0; n < tries; n++ {
		i := nextMagic(file[at:])
		if i < 0 {
			break
		}
		at += i
		if raw, err := unpackPayload(r, int64(at), end-int64(at)); err == nil {
			return raw, nil
		}
		at++
	}
	return nil, errNoPayload
}

var errNoPayload = errors.New("no compressed kernel is in it")

// nextMagic is where the next of the compressions that a zImage may have
// begins, or -1.
func nextMagic(b []byte) int {
	best := -1
	for _, magic := range []string{"\x1f\x8b\x08\x00", "\xfd7zXZ\x00", "\x02\x21\x4c\x18"} {
		if i := bytes.Index(b, []byte(magic)); i >= 0 && (best < 0 || i < best) {
			best = i
		}
	}
	return best
}
