package gpt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"slices"
	"unicode/utf16"

	"wolffia/internal/image/mbr"
)

// ErrNone says that a disk has no such table.
var ErrNone = errors.New("there is no GUID partition table")

// maxArray bounds the entries, in bytes. 128 entries take 16 KiB.
const maxArray = 1 << 20

// Read reads the table of a disk of size bytes: the first copy, or where that
// is damaged the backup. Whether partitions overlap, or the disk is cut off, is
// not looked at: that is what [Table.Check] is for. A disk without a table
// gives an error that wraps [ErrNone].
func Read(r io.ReaderAt, size int64) (*Table, error) {
	t, err := read(r, size)
	if err != nil {
		return nil, fmt.Errorf("read GUID partition table: %w", err)
	}
	return t, nil
}

func read(r io.ReaderAt, size int64) (*Table, error) {
	var damaged error
	for _, sector := range []int64{mbr.SectorSize, bigSector} {
		t, err := readCopies(r, size/sector, sector)
		if err == nil {
			t.protected(r, size)
			return t, nil
		}
		if !errors.Is(err, ErrNone) && damaged == nil {
			damaged = err
		}
	}
	if damaged != nil {
		return nil, damaged
	}
	return nil, fmt.Errorf("%w: neither at the start nor at the end of the disk", ErrNone)
}

// readCopies reads a disk of so many sectors.
func readCopies(r io.ReaderAt, sectors, sector int64) (*Table, error) {
	first, h, err := readCopy(r, sectors, sector, 1)
	alternate := sectors - 1
	if err == nil {
		alternate = int64(h.AlternateLBA)
	}
	second, _, err2 := readCopy(r, sectors, sector, alternate)
	switch {
	case err == nil && err2 == nil:
		if first.GUID != second.GUID || !slices.Equal(first.Partitions, second.Partitions) {
			first.Damage = append(first.Damage, errors.New("the backup differs from the first copy"))
		}
		return first, nil
	case err == nil:
		first.Damage = append(first.Damage, fmt.Errorf("the backup is damaged: %w", err2))
		return first, nil
	case err2 == nil:
		second.Damage = append(second.Damage, fmt.Errorf("the first copy is damaged, the backup is used: %w", err))
		return second, nil
	case errors.Is(err, ErrNone):
		return nil, err2
	}
	return nil, fmt.Errorf("both copies are damaged: %w; backup: %w", err, err2)
}

// protected notes where the MBR does not protect the table.
func (t *Table) protected(r io.ReaderAt, size int64) {
	m, err := mbr.Read(r, size)
	if err == nil && !m.Protected() {
		err = errors.New("it has no protective partition")
	}
	if err != nil {
		t.Damage = append(t.Damage, fmt.Errorf("the protective MBR is damaged: %w", err))
	}
}

// readCopy reads the header in the sector lba, and its entries.
func readCopy(r io.ReaderAt, sectors, sector, lba int64) (*Table, *header, error) {
	if lba < 1 || lba >= sectors {
		return nil, nil, fmt.Errorf("%w: sector %d is not on the disk", ErrNone, lba)
	}
	raw := make([]byte, sector)
	if err := readFull(r, raw, lba*sector); err != nil {
		return nil, nil, err
	}
	h := &header{}
	if _, err := binary.Decode(raw, le, h); err != nil {
		return nil, nil, err
	}
	if err := h.check(raw, sectors, sector, lba); err != nil {
		return nil, nil, err
	}
	entries := make([]byte, int64(h.EntryCount)*int64(h.EntrySize))
	if err := readFull(r, entries, int64(h.EntriesLBA)*sector); err != nil {
		return nil, nil, err
	}
	if crc32.ChecksumIEEE(entries) != h.EntriesCRC {
		return nil, nil, errors.New("the checksum of the entries is wrong")
	}
	t := &Table{GUID: h.DiskGUID.swapped(), SectorSize: int(sector)}
	for i := range int(h.EntryCount) {
		p, err := decode(entries[i*int(h.EntrySize):], sector)
		if err != nil {
			return nil, nil, fmt.Errorf("partition %d: %w", i+1, err)
		}
		if p.Type != (GUID{}) {
			p.Number = i + 1
			t.Partitions = append(t.Partitions, p)
		}
	}
	return t, h, nil
}

func (h *header) check(raw []byte, sectors, sector, lba int64) error {
	if h.Signature != signature {
		return ErrNone
	}
	if h.Size < headerSize || int64(h.Size) > sector {
		return fmt.Errorf("a header of %d bytes is out of range", h.Size)
	}
	clear(raw[16:20])
	array := uint64(h.EntryCount) * uint64(h.EntrySize)
	switch {
	case crc32.ChecksumIEEE(raw[:h.Size]) != h.CRC:
		return errors.New("the checksum of the header is wrong")
	case h.Revision>>16 != 1:
		return fmt.Errorf("revision %d.%d is not known", h.Revision>>16, h.Revision&0xFFFF)
	case h.MyLBA != uint64(lba):
		return fmt.Errorf("the header says it lies in sector %d, not %d", h.MyLBA, lba)
	case h.EntrySize < entrySize || bits.OnesCount32(h.EntrySize) != 1 || array > maxArray:
		return fmt.Errorf("%d entries of %d bytes are out of range", h.EntryCount, h.EntrySize)
	case h.EntriesLBA < 2 || h.EntriesLBA >= uint64(sectors) || array > (uint64(sectors)-h.EntriesLBA)*uint64(sector):
		return fmt.Errorf("the entries at sector %d lie outside of the disk", h.EntriesLBA)
	case h.AlternateLBA > math.MaxInt64/uint64(sector):
		return fmt.Errorf("the other copy's place, sector %d, is out of range", h.AlternateLBA)
	}
	return nil
}

func decode(b []byte, sector int64) (Partition, error) {
	e := entry{}
	if _, err := binary.Decode(b, le, &e); err != nil || e.Type == (GUID{}) {
		return Partition{}, err
	}
	if e.Last < e.First || e.Last >= uint64(math.MaxInt64/sector) {
		return Partition{}, fmt.Errorf("sectors %d to %d are out of range", e.First, e.Last)
	}
	name := e.Name[:]
	if end := slices.Index(name, 0); end >= 0 {
		name = name[:end]
	}
	return Partition{
		Type: e.Type.swapped(), GUID: e.GUID.swapped(), Attributes: e.Attributes, Name: string(utf16.Decode(name)),
		Offset: int64(e.First) * sector, Size: int64(e.Last-e.First+1) * sector,
	}, nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == io.EOF || err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}
