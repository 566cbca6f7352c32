package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"wolffia/internal/image/ext4"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/gpt"
	"wolffia/internal/image/mbr"
)

// Format is what some bytes are.
type Format string

// The formats that are known by their content.
const (
	Unknown  Format = "unknown"
	Empty    Format = "empty"    // nothing but zeros where a format would show
	DiskGPT  Format = "gpt"      // a disk with a GUID partition table
	DiskMBR  Format = "mbr"      // a disk with a classic one
	Ext      Format = "ext"      // ext2, ext3 or ext4
	FAT      Format = "fat"      // FAT12, FAT16 or FAT32
	QCOW2    Format = "qcow2"    // QEMU's disk image
	CPIO     Format = "cpio"     // an archive, as an initramfs is
	Tar      Format = "tar"      // an archive
	Gzip     Format = "gzip"     // a compressed file
	Zstd     Format = "zstd"     // a compressed file
	XZ       Format = "xz"       // a compressed file
	SquashFS Format = "squashfs" // a read-only file system
	ISO9660  Format = "iso9660"  // a CD-ROM's file system
	Swap     Format = "swap"
	UEFI     Format = "uefi" // a UEFI program, such as a unified kernel image
)

// magics are those that stand at one place.
var magics = []struct {
	off    int64
	magic  string
	format Format
}{
	{0, "QFI\xFB", QCOW2},
	{0, "\x1F\x8B\x08", Gzip},
	{0, "\x28\xB5\x2F\xFD", Zstd},
	{0, "\xFD7zXZ\x00", XZ},
	{0, "070701", CPIO},
	{0, "070702", CPIO},
	{0, "070707", CPIO},
	{0, "\xC7\x71", CPIO},
	{0, "hsqs", SquashFS},
	{0, "MZ", UEFI},
	{257, "ustar", Tar},
	{4086, "SWAPSPACE2", Swap},
	{0x8001, "CD001", ISO9660},
}

const (
	extMagicOffset = 1024 + 0x38
	extMagic       = "\x53\xEF"
)

// headSize is as far as the magics reach.
const headSize = 0x8001 + 5

// Detect tells what the size bytes of r are, by their content. A partitioned
// disk or a file system may be damaged: whether it can be read is for its
// reader to say.
func Detect(r io.ReaderAt, size int64) (Format, error) {
	head := make([]byte, min(size, headSize))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Unknown, fmt.Errorf("detect format: %w", err)
	}
	if hasGPT(r, size, head) {
		return DiskGPT, nil
	}
	for _, m := range magics {
		if has(head, m.off, m.magic) {
			return m.format, nil
		}
	}
	if has(head, extMagicOffset, extMagic) {
		// Two bytes say little: a boot loader before the first partition may have
		// them too. A damaged file system has no boot sector before it.
		if _, err := ext4.Open(r, size); err == nil || !has(head, 510, "\x55\xAA") {
			return Ext, nil
		}
	}
	if _, err := fat.Open(r, size); err == nil || !errors.Is(err, fat.ErrNone) {
		return FAT, nil
	}
	if t, err := mbr.Read(r, size); err == nil && len(t.Partitions) > 0 || err != nil && !errors.Is(err, mbr.ErrNone) {
		return DiskMBR, nil
	}
	if len(bytes.TrimLeft(head, "\x00")) > 0 {
		return Unknown, nil
	}
	// A disk whose start was wiped. Anything else may have been written over a
	// disk, and left the backup of its table at the end.
	if _, err := gpt.Read(r, size); err == nil {
		return DiskGPT, nil
	}
	return Empty, nil
}

func has(head []byte, off int64, magic string) bool {
	return int64(len(head)) >= off+int64(len(magic)) && string(head[off:][:len(magic)]) == magic
}

// hasGPT tells a disk with a GPT, be it damaged.
func hasGPT(r io.ReaderAt, size int64, head []byte) bool {
	for _, sector := range []int64{512, 4096} {
		if has(head, sector, "EFI PART") {
			return true
		}
	}
	t, err := mbr.Read(r, size)
	return err == nil && t.Protected()
}
