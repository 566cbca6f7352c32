package grub

import "encoding/binary"

// BootCodeSize is the part of the first sector that is code: the disk's
// signature and the partition table come after it.
const BootCodeSize = 440

// Places in boot.img that its installer fills in.
const (
	bootKernelSector = 0x5c // 64 bits: where the core image begins
	bootDrive        = 0x64 // the disk to read from; 0xff means the one the BIOS names
	bootDriveCheck   = 0x66 // a jump over what corrects a wrong name
)

// The last block list entry of diskboot.img, which lies at its end: where to
// read from (64 bits), how many sectors (16 bits), to which segment (16 bits).
const (
	blockList    = sectorSize - 12
	blockSegment = 0x820 // at 0x8200, where the decompressor was linked to run
)

// Size is the core image's length in bytes, whole sectors of 512.
func (l *Loader) Size() int64 { return int64(len(l.diskboot) + len(l.rest)) }

// BootCode is the code for the disk's first [BootCodeSize] bytes, where the core
// image begins at the given sector of 512 bytes.
func (l *Loader) BootCode(sector uint64) []byte {
	b := append([]byte(nil), l.boot[:BootCodeSize]...)
	binary.LittleEndian.PutUint64(b[bootKernelSector:], sector)
	b[bootDrive] = 0xff
	// Some BIOSes name the hard disk as if it were a floppy disk; two NOPs in
	// place of the jump correct that.
	b[bootDriveCheck], b[bootDriveCheck+1] = 0x90, 0x90
	return b
}

// Core is the core image for the given sector of 512 bytes and those after it,
// [Loader.Size] bytes.
func (l *Loader) Core(sector uint64) []byte {
	b := append([]byte(nil), l.diskboot...)
	binary.LittleEndian.PutUint64(b[blockList:], sector+1)
	binary.LittleEndian.PutUint16(b[blockList+8:], uint16(len(l.rest)/sectorSize))
	return append(b, l.rest...)
}
