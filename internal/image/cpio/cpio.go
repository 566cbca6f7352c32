// Package cpio writes and reads initramfs archives: cpio in the "newc" form
// (magic 070701), plain or compressed with gzip or zstd, and any number of them
// one after the other, as the kernel's boot loaders pass them.
//
// What is written is the same, byte for byte, for the same tree and options, on
// any number of processors: entries in [tree.Tree.Walk]'s order, the root as ".",
// inodes numbered in that order from 1, device numbers of the containing file
// system 0. Hard links share an inode, and their content comes with the last
// name. A compressed archive is one gzip member or one zstd frame, although all
// processors work on it, because the kernel's unpacker (init/initramfs.c)
// refuses an archive that doesn't end with a record at the end of each; its zstd
// window is 1 MiB, which the kernel has to allocate.
//
// What is read, besides: the "crc" form (070702), whose checksums are verified;
// compressed archives of several members or frames; plain and compressed
// archives mixed, with zeros between.
//
// What the form can't hold: extended attributes (the caller is told of them, see
// [Options.Dropped]); files of 4 GiB and more (an error); times before 1970,
// after 2106, or finer than a second (brought to the nearest whole second
// within). Symbolic links have one name each: the kernel never links them, so
// several names become several links.
//
// Deliberately absent: the older binary and "odc" forms, swapped byte orders,
// xz, lzma, bzip2, lzo and lz4, and following the archive's own links while
// reading, as the kernel would (see [tree.Unpacker]).
//
// The form: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
//
//	f, err := os.Create("initramfs.cpio.zst")
//	...
//	err = cpio.Write(f, t, cpio.Options{Compression: compress.Zstd, Time: epoch})
package cpio

import (
	"errors"
	"fmt"
	"strconv"
)

const (
	magicNewc   = "070701"
	magicCRC    = "070702"
	headerSize  = 110
	trailerName = "TRAILER!!!"
	maxName     = 4096 // with its NUL: the kernel skips entries of longer names

	maxMajor = 1<<12 - 1 // MAJOR and MINOR of a Linux dev_t
	maxMinor = 1<<20 - 1
)

// header is one entry's fixed part: the magic and thirteen numbers of eight hex
// digits, in this order ("buffer-format", cpio_header). The name follows with
// a NUL, padded with zeros so that header and name end at a multiple of 4, then
// the data, padded to a multiple of 4.
type header struct {
	Ino, Mode, UID, GID, Nlink, MTime uint32
	Size                              uint32
	DevMajor, DevMinor                uint32 // of the file system that holds it
	RdevMajor, RdevMinor              uint32 // of the device that it is
	NameSize                          uint32 // with the NUL
	Check                             uint32 // sum of the data's bytes, where the magic is 070702
}

func (h *header) fields() [13]*uint32 {
	return [13]*uint32{&h.Ino, &h.Mode, &h.UID, &h.GID, &h.Nlink, &h.MTime, &h.Size,
		&h.DevMajor, &h.DevMinor, &h.RdevMajor, &h.RdevMinor, &h.NameSize, &h.Check}
}

// encode appends the header in the newc form.
func (h *header) encode(b []byte) []byte {
	const digits = "0123456789ABCDEF"
	b = append(b, magicNewc...)
	for _, f := range h.fields() {
		for shift := 28; shift >= 0; shift -= 4 {
			b = append(b, digits[*f>>shift&15])
		}
	}
	return b
}

// decode reads a header and reports whether Check is valid.
func (h *header) decode(b []byte) (check bool, err error) {
	switch string(b[:6]) {
	case magicNewc:
	case magicCRC:
		check = true
	case "070707":
		return false, errors.New("the archive is in the old odc form: write it with cpio -H newc")
	default:
		return false, fmt.Errorf("%q is no cpio magic", b[:6])
	}
	for i, f := range h.fields() {
		digits := string(b[6+8*i:][:8])
		n, err := strconv.ParseUint(digits, 16, 32)
		if err != nil || digits[0] == '+' {
			return false, fmt.Errorf("header field %q is no hexadecimal number", digits)
		}
		*f = uint32(n)
	}
	if h.NameSize == 0 || h.NameSize > maxName {
		return false, fmt.Errorf("the name's length of %d bytes is not in 1 to %d", h.NameSize, maxName)
	}
	return check, nil
}

// pad4 is how many zeros bring n to a multiple of 4.
func pad4(n int64) int { return int(-n & 3) }
