// Package gpt reads and writes GUID partition tables.
//
// Written are the protective MBR, the header and its entries at the start of
// the disk, and their backup at its end. The bytes before the MBR's table are
// left to a boot loader. GUIDs that are not given come from a digest, so that
// the same table gives the same bytes.
//
// Read are tables of disks with sectors of 512 and of 4096 bytes. Where the
// first copy is damaged the backup is used, and the table says so
// ([Table.Damage]). What is read is taken for hostile and is bounded.
//
// Deliberately absent: hybrid MBRs, changing a table in place, and repairing.
//
// The format: https://uefi.org/specs/UEFI/2.10/05_GUID_Partition_Table_Format.html
//
//	t := gpt.Table{GUID: gpt.Derive(seed, "disk"), Partitions: []gpt.Partition{
//		{Type: gpt.ESP, Offset: gpt.Align, Size: 32 << 20, Name: "esp"},
//		{Type: gpt.Linux, Offset: 33 << 20, Size: 64 << 20, Name: "root"},
//	}}
//	err := gpt.Write(f, 98<<20, t)
package gpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"unicode/utf16"
	"unicode/utf8"

	"wolffia/internal/image/mbr"
)

// Align is where partitions begin by everybody's habit: at multiples of this
// many bytes. It suits the blocks of all disks, and leaves the first one room
// for the table.
const Align = 1 << 20

// MaxPartitions is how many entries are written.
const MaxPartitions = 128

// MaxName is the length of a partition's name, in UTF-16 code units.
const MaxName = 36

// Attributes of a partition (table 5.8).
const (
	Required   uint64 = 1 << 0 // the platform needs it
	NoBlockIO  uint64 = 1 << 1 // firmware makes no device of it
	LegacyBoot uint64 = 1 << 2 // a BIOS's boot code starts it
)

// Table is the partitions of a disk.
type Table struct {
	// GUID is the disk's. For Write, the zero value means one made of a digest
	// of the table.
	GUID GUID
	// SectorSize is 512 or 4096 bytes; 0, for Write, means 512.
	SectorSize int
	// Partitions are those that there are. Read gives them by number.
	Partitions []Partition
	// Damage is what Read found to be wrong with what it did not need: with
	// one of the two copies, or with the protective MBR.
	Damage []error
}

// Partition is an entry of the table.
type Partition struct {
	// Number counts from 1. For Write, 0 means the place in the list.
	Number int
	Type   GUID
	// GUID is the partition's own, which Linux calls PARTUUID. For Write, the
	// zero value means one made of a digest of the disk's and the number.
	GUID       GUID
	Offset     int64 // from the disk's start, in bytes
	Size       int64 // in bytes
	Attributes uint64
	Name       string // at most MaxName UTF-16 code units
}

// Usable gives where, in bytes, the partitions of a disk of size bytes in
// sectors of 512 may begin, and where they must end.
func Usable(size int64) (first, end int64) {
	l := layoutOf(size, mbr.SectorSize)
	return l.first * l.sector, (l.last + 1) * l.sector
}

// layout is where things lie on a disk, in sectors.
type layout struct {
	sector      int64 // bytes
	sectors     int64
	array       int64 // the length of the entries
	first, last int64 // usable ones
}

func layoutOf(size int64, sector int) layout {
	l := layout{sector: int64(sector), sectors: size / int64(sector)}
	l.array = MaxPartitions * entrySize / l.sector
	l.first, l.last = 2+l.array, l.sectors-l.array-2
	return l
}

// Write writes t as the table of a disk of size bytes, with its backup and a
// protective MBR. It refuses what [Table.Check] does.
func Write(w io.WriterAt, size int64, t Table) error {
	if err := write(w, size, t); err != nil {
		return fmt.Errorf("write GUID partition table: %w", err)
	}
	return nil
}

func write(w io.WriterAt, size int64, t Table) error {
	t, err := t.complete()
	if err != nil {
		return err
	}
	if err := t.Check(size); err != nil {
		return err
	}
	entries, err := t.entries()
	if err != nil {
		return err
	}
	l := layoutOf(size, t.SectorSize)
	h := header{
		Signature: signature, Revision: revision, Size: headerSize,
		MyLBA: 1, AlternateLBA: uint64(l.sectors - 1), FirstUsable: uint64(l.first), LastUsable: uint64(l.last),
		DiskGUID: t.GUID.swapped(), EntriesLBA: 2, EntryCount: MaxPartitions, EntrySize: entrySize,
		EntriesCRC: crc32.ChecksumIEEE(entries),
	}
	if err := mbr.WriteProtective(w, l.sectors); err != nil {
		return err
	}
	if err := h.write(w, l.sector, entries); err != nil {
		return err
	}
	h.MyLBA, h.AlternateLBA, h.EntriesLBA = h.AlternateLBA, h.MyLBA, uint64(l.last+1)
	return h.write(w, l.sector, entries)
}

// complete fills in the defaults.
func (t Table) complete() (Table, error) {
	t.Partitions = slices.Clone(t.Partitions)
	if t.SectorSize == 0 {
		t.SectorSize = mbr.SectorSize
	}
	for i := range t.Partitions {
		if t.Partitions[i].Number == 0 {
			t.Partitions[i].Number = i + 1
		}
	}
	if t.GUID == (GUID{}) {
		slices.SortStableFunc(t.Partitions, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
		seed, err := t.entries()
		if err != nil {
			return t, err
		}
		t.GUID = Derive(seed, "disk")
	}
	for i := range t.Partitions {
		if p := &t.Partitions[i]; p.GUID == (GUID{}) {
			p.GUID = PartitionGUID(t.GUID, p.Number)
		}
	}
	return t, nil
}

// PartitionGUID is the GUID that Write gives to a partition that has none.
func PartitionGUID(disk GUID, number int) GUID {
	return Derive(disk[:], fmt.Sprintf("partition %d", number))
}

// entries gives the array of entries.
func (t *Table) entries() ([]byte, error) {
	out := make([]byte, MaxPartitions*entrySize)
	for _, p := range t.Partitions {
		if p.Number < 1 || p.Number > MaxPartitions {
			return nil, fmt.Errorf("partition %d: the number is not within 1 and %d", p.Number, MaxPartitions)
		}
		name := utf16.Encode([]rune(p.Name))
		if len(name) > MaxName || !utf8.ValidString(p.Name) || slices.Contains(name, 0) {
			return nil, fmt.Errorf("partition %d: the name %.80q is longer than %d units, or not UTF-8, or holds a NUL", p.Number, p.Name, MaxName)
		}
		e := entry{
			Type: p.Type.swapped(), GUID: p.GUID.swapped(), Attributes: p.Attributes,
			First: uint64(p.Offset / int64(t.SectorSize)), Last: uint64((p.Offset+p.Size)/int64(t.SectorSize) - 1),
		}
		copy(e.Name[:], name)
		var b bytes.Buffer
		if err := binary.Write(&b, le, e); err != nil {
			return nil, err
		}
		copy(out[(p.Number-1)*entrySize:], b.Bytes())
	}
	return out, nil
}

// Check tells what is wrong with the table of a disk of size bytes: partitions
// outside of what may be used, or over each other, and numbers or GUIDs that
// are there twice.
func (t *Table) Check(size int64) error {
	if t.SectorSize != mbr.SectorSize && t.SectorSize != bigSector {
		return fmt.Errorf("sector size %d is neither 512 nor 4096", t.SectorSize)
	}
	l := layoutOf(size, t.SectorSize)
	if size%l.sector != 0 || l.last < l.first {
		return fmt.Errorf("a disk of %d bytes is not of whole sectors, or too small for a table and its backup", size)
	}
	var errs []error
	for i, p := range t.Partitions {
		for _, err := range p.check(l, t.Partitions[:i]) {
			errs = append(errs, fmt.Errorf("partition %d: %w", p.Number, err))
		}
	}
	return errors.Join(errs...)
}

// check tells what is wrong with p, others the partitions before it.
func (p *Partition) check(l layout, others []Partition) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch first, end := l.first*l.sector, (l.last+1)*l.sector; {
	case p.Number < 1:
		bad("the number is out of range")
	case p.Type == GUID{}:
		bad("it has no type")
	case p.Offset%l.sector != 0 || p.Size%l.sector != 0:
		bad("offset %d and size %d are not of whole sectors", p.Offset, p.Size)
	case p.Offset < 0 || p.Size <= 0 || p.Size > math.MaxInt64-p.Offset:
		bad("offset %d and size %d are out of range", p.Offset, p.Size)
	case p.Offset < first || p.Offset+p.Size > end:
		bad("bytes %d to %d are not within %d and %d, which the disk has room for", p.Offset, p.Offset+p.Size, first, end)
	}
	for _, o := range others {
		switch {
		case o.Number == p.Number:
			bad("the number is there twice")
		case o.GUID == p.GUID && p.GUID != GUID{}:
			bad("it has the GUID of partition %d", o.Number)
		case o.Offset < p.Offset+p.Size && p.Offset < o.Offset+o.Size:
			bad("it overlaps partition %d", o.Number)
		}
	}
	return errs
}
