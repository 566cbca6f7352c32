// Package mbr reads and writes the classic partition table of PCs, which lies
// in the first sector of a disk, beside the boot code.
//
// Written are up to four primary partitions, and the protective partition that
// a GPT needs in front of it. Only the bytes of the table are written (440 to
// 511 of the sector): the boot code before them is left to whoever has one.
// Read are also logical partitions, which form a chain inside an extended one.
// What is read is taken for hostile: a chain that is a loop, or leads out of
// its partition, is an error.
//
// Deliberately absent: writing extended partitions (a disk with more than four
// partitions wants a GPT), sectors other than of 512 bytes, and BSD's tables
// within partitions.
//
// The format: https://uefi.org/specs/UEFI/2.10/05_GUID_Partition_Table_Format.html
// (5.2, "LBA 0 Format"). The chain of logical partitions is as Linux has it in
// block/partitions/msdos.c.
//
//	t := mbr.Table{Signature: mbr.Signature(seed), Partitions: []mbr.Partition{
//		{Type: mbr.Linux, Bootable: true, Offset: 1 << 20, Size: 63 << 20},
//	}}
//	err := mbr.Write(f, 64<<20, t)
package mbr

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// SectorSize is the unit of all places and lengths in the table, in bytes.
const SectorSize = 512

// BootCode is how many bytes at the start of the first sector are not the
// table's: a boot loader's first part lies there.
const BootCode = 440

// MaxSize is, in bytes, where the last partition can begin, and how long it
// can be.
const MaxSize = (1<<32 - 1) * SectorSize

// Type says what a partition is for.
type Type uint8

// Types of partitions that matter to Linux and to firmware.
const (
	FAT12       Type = 0x01
	FAT16Small  Type = 0x04 // of less than 32 MiB
	Extended    Type = 0x05
	FAT16       Type = 0x06
	NTFS        Type = 0x07 // exFAT too
	FAT32       Type = 0x0B
	FAT32LBA    Type = 0x0C
	FAT16LBA    Type = 0x0E
	ExtendedLBA Type = 0x0F
	Swap        Type = 0x82
	Linux       Type = 0x83
	LinuxExt    Type = 0x85 // a second extended partition, known to Linux alone
	LVM         Type = 0x8E
	Protective  Type = 0xEE // the disk has a GPT
	ESP         Type = 0xEF // the EFI system partition
	RAID        Type = 0xFD
)

var typeNames = map[Type]string{
	FAT12: "fat12", FAT16Small: "fat16-small", Extended: "extended", FAT16: "fat16", NTFS: "ntfs",
	FAT32: "fat32", FAT32LBA: "fat32-lba", FAT16LBA: "fat16-lba", ExtendedLBA: "extended-lba",
	Swap: "swap", Linux: "linux", LinuxExt: "linux-extended", LVM: "lvm", Protective: "gpt", ESP: "esp", RAID: "raid",
}

// String is the type's name, or its number as in 0x17.
func (t Type) String() string {
	if name := typeNames[t]; name != "" {
		return name
	}
	return fmt.Sprintf("%#02x", uint8(t))
}

func (t Type) extended() bool { return t == Extended || t == ExtendedLBA || t == LinuxExt }

// Table is the partitions of a disk.
type Table struct {
	// Signature identifies the disk. Linux makes of it the names of partitions
	// (PARTUUID): eight hexadecimal digits, a dash, and the number in two.
	Signature uint32
	// Partitions are those that there are. Read gives them by number.
	Partitions []Partition
}

// Partition is an entry of the table.
type Partition struct {
	// Number is as Linux counts: 1 to 4 are the primary partitions, from 5 on
	// come the logical ones. For Write, 0 means the place in the list.
	Number   int
	Type     Type
	Bootable bool  // "active": where a BIOS's boot code looks for more
	Offset   int64 // from the disk's start, in bytes
	Size     int64 // in bytes
}

// UUID is the partition's PARTUUID on Linux, as in root=PARTUUID=….
func (t *Table) UUID(number int) string { return fmt.Sprintf("%08x-%02x", t.Signature, number) }

// Signature makes a disk's signature, which is never 0, of a digest of seed.
func Signature(seed []byte) uint32 {
	sum := sha256.Sum256(append([]byte("wolffia mbr signature\x00"), seed...))
	return max(1, binary.LittleEndian.Uint32(sum[:]))
}

// Write writes t as the table of a disk of size bytes, of which it touches
// nothing but bytes 440 to 511. It refuses what [Table.Check] does.
func Write(w io.WriterAt, size int64, t Table) error {
	if err := write(w, size, t); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

func write(w io.WriterAt, size int64, t Table) error {
	t.Partitions = slices.Clone(t.Partitions)
	if len(t.Partitions) > 4 {
		return fmt.Errorf("%d partitions are more than the table's 4 entries: a GPT has 128", len(t.Partitions))
	}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if p.Number == 0 {
			p.Number = i + 1
		}
		if p.Number > 4 || p.Type.extended() {
			return fmt.Errorf("partition %d: extended and logical partitions can't be written: a GPT needs none", p.Number)
		}
	}
	if err := t.Check(size); err != nil {
		return err
	}
	s := sector{Signature: t.Signature, Magic: magic}
	for _, p := range t.Partitions {
		first, count := p.Offset/SectorSize, p.Size/SectorSize
		s.Entries[p.Number-1] = entry{
			First: chs(first), Type: uint8(p.Type), Last: chs(first + count - 1),
			Start: uint32(first), Count: uint32(count),
		}
		if p.Bootable {
			s.Entries[p.Number-1].Boot = active
		}
	}
	return s.write(w)
}

// WriteProtective writes the table of a disk that has a GPT: one partition over
// all of its sectors, of whatever size these are, so that programs that know
// nothing of GPT take the disk for full.
func WriteProtective(w io.WriterAt, sectors int64) error {
	s := sector{Magic: magic}
	s.Entries[0] = entry{
		First: chs(1), Type: uint8(Protective), Last: chs(sectors - 1),
		Start: 1, Count: uint32(min(sectors-1, 1<<32-1)),
	}
	if sectors > maxCHS {
		s.Entries[0].Last = [3]byte{0xFF, 0xFF, 0xFF} // Table 5.4, "Ending CHS"
	}
	if err := s.write(w); err != nil {
		return fmt.Errorf("write protective partition table: %w", err)
	}
	return nil
}

// Protected reports whether the table stands in front of a GPT.
func (t *Table) Protected() bool {
	return slices.ContainsFunc(t.Partitions, func(p Partition) bool { return p.Type == Protective })
}

// Check tells what is wrong with the table of a disk of size bytes: partitions
// outside of it, or over each other, or over the table itself, numbers that are
// there twice, and more than one that is bootable.
func (t *Table) Check(size int64) error {
	var errs []error
	bad := func(p Partition, format string, args ...any) {
		errs = append(errs, fmt.Errorf("partition %d: %w", p.Number, fmt.Errorf(format, args...)))
	}
	bootable := 0
	for i, p := range t.Partitions {
		if p.Bootable && p.Number <= 4 {
			if bootable++; bootable == 2 {
				bad(p, "another one is bootable too")
			}
		}
		switch {
		case p.Number < 1:
			bad(p, "the number is out of range")
		case p.Type == 0:
			bad(p, "it has no type")
		case p.Offset%SectorSize != 0 || p.Size%SectorSize != 0:
			bad(p, "offset %d and size %d are not of whole sectors", p.Offset, p.Size)
		case p.Offset < SectorSize || p.Size <= 0:
			bad(p, "offset %d and size %d are out of range", p.Offset, p.Size)
		case p.Offset > MaxSize || p.Size > MaxSize:
			bad(p, "offset %d and size %d are beyond the table's 2 TiB: a GPT has more", p.Offset, p.Size)
		case p.Offset > size || p.Size > size-p.Offset:
			bad(p, "bytes %d to %d are beyond the disk's end at %d", p.Offset, p.Offset+p.Size, size)
		case p.Number > 4 && !slices.ContainsFunc(t.Partitions, p.within):
			bad(p, "it is in no extended partition")
		}
		for _, o := range t.Partitions[:i] {
			switch {
			case o.Number == p.Number:
				bad(p, "the number is there twice")
			case (o.Number > 4) == (p.Number > 4) && o.Offset < p.Offset+p.Size && p.Offset < o.Offset+o.Size:
				bad(p, "it overlaps partition %d", o.Number)
			}
		}
	}
	return errors.Join(errs...)
}

// within reports whether p lies in the extended partition e.
func (p Partition) within(e Partition) bool {
	return e.Number <= 4 && e.Type.extended() && p.Offset > e.Offset && p.Offset+p.Size <= e.Offset+e.Size
}
