// Package xz decompresses files in the .xz format, on all processors where the
// file lets it.
//
// Decode takes a file of known size, finds its blocks in the index at the end
// and decodes them side by side: xz -T and dpkg-deb write a block for every
// three dictionaries or so, a kernel package has seventeen. Reader takes a
// stream from its start, one block after the other. Both verify everything
// that the format has to verify: the headers' and the index's checksums, the
// sizes, and each block's check.
//
// Subset: LZMA2, alone or after one of the filters for x86, ARM, ARM-Thumb and
// ARM64 code (with which kernels are compressed); the checks CRC32, CRC64,
// SHA-256 and none; any number of streams, with padding. Deliberately absent:
// compression, the filters for other processors and the delta filter (an
// *UnsupportedError names them), the formats .lzma and .lz, and access to a
// place in the middle.
//
// The bytes are foreign: what a file may ask for in memory and in output is
// bounded by Options, and memory is only taken as data arrives that fills it.
//
// Specifications: https://tukaani.org/xz/xz-file-format.txt; LZMA and LZMA2 as
// in the LZMA SDK's lzma-specification.txt.
//
//	n, err := xz.Decode(ctx, file, size, out, xz.Options{})
//
//	r := xz.NewReader(conn, xz.Options{MaxSize: 1 << 20})
//	text, err := io.ReadAll(r)
package xz

import (
	"fmt"
	"io"
	"runtime"
)

// Options bound the decoding. The zero value suits packages and their indexes.
type Options struct {
	MaxSize int64  // bytes, decompressed; 0 means 4 GiB
	MaxDict uint32 // bytes of dictionary for each worker, which takes up to twice as many; 0 means 128 MiB
	Workers int    // blocks that Decode decodes at once; 0 means GOMAXPROCS
}

func (o Options) withDefaults() Options {
	if o.MaxSize == 0 {
		o.MaxSize = 4 << 30
	}
	if o.MaxDict == 0 {
		o.MaxDict = 128 << 20
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o
}

// SizeError says that a file decompresses to more than Options.MaxSize.
type SizeError struct {
	Limit int64 // bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("it decompresses to more than the limit of %d bytes", e.Limit)
}

// DictError says that a block needs a larger dictionary than Options.MaxDict.
type DictError struct {
	Size, Limit uint32 // bytes
}

func (e *DictError) Error() string {
	return fmt.Sprintf("it needs a dictionary of %d bytes, more than the limit of %d", e.Size, e.Limit)
}

// UnsupportedError says that a file uses a part of the format that this
// package leaves out.
type UnsupportedError struct {
	What string // "the delta filter"
}

func (e *UnsupportedError) Error() string { return e.What + " is not supported" }

// noEOF is for the end of a file where something must follow.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
