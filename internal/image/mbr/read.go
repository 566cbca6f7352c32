package mbr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ErrNone says that a disk has no such table.
var ErrNone = errors.New("there is no MBR partition table")

// maxLogical bounds the chain of logical partitions; Linux shows no more than
// 256 partitions of a disk.
const maxLogical = 256

// Read reads the table of a disk of size bytes, its logical partitions
// included. Whether partitions overlap, or the disk is cut off, is not looked
// at: that is what [Table.Check] is for. A disk without a table gives an error
// that wraps [ErrNone].
//
// The first sector of a FAT file system ends in the same two bytes as a table,
// and where there is no boot code it may pass for an empty one: who does not
// know what is there looks for a file system first.
func Read(r io.ReaderAt, size int64) (*Table, error) {
	t, err := read(r, size)
	if err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	return t, nil
}

func read(r io.ReaderAt, size int64) (*Table, error) {
	if size < SectorSize {
		return nil, fmt.Errorf("%w: %d bytes are less than a sector", ErrNone, size)
	}
	s, err := readSector(r, 0)
	if err != nil {
		return nil, err
	}
	if s.Magic != magic {
		return nil, fmt.Errorf("%w: the first sector does not end in 55 AA", ErrNone)
	}
	t := &Table{Signature: s.Signature}
	for i, e := range s.Entries {
		if e.Boot != 0 && e.Boot != active {
			return nil, fmt.Errorf("%w: entry %d begins with %#x", ErrNone, i+1, e.Boot)
		}
		if e.Type != 0 && e.Count != 0 {
			t.Partitions = append(t.Partitions, e.partition(i+1, 0))
		}
	}
	for _, p := range slices.Clone(t.Partitions) {
		if p.Type.extended() {
			if err := t.chain(r, size, p); err != nil {
				return nil, fmt.Errorf("partition %d: %w", p.Number, err)
			}
		}
	}
	return t, nil
}

func (e entry) partition(number int, base int64) Partition {
	return Partition{
		Number: number, Type: Type(e.Type), Bootable: e.Boot == active,
		Offset: base + int64(e.Start)*SectorSize, Size: int64(e.Count) * SectorSize,
	}
}

func readSector(r io.ReaderAt, off int64) (*sector, error) {
	b := make([]byte, SectorSize-BootCode)
	if n, err := r.ReadAt(b, off+BootCode); n < len(b) {
		if err == io.EOF || err == nil {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read the sector at byte %d: %w", off, err)
	}
	s := &sector{}
	_, err := binary.Decode(b, binary.LittleEndian, s)
	return s, err
}

// chain reads the logical partitions of x. Each has a sector in front of it,
// which places it relative to that sector, and the next such sector relative to
// x's start.
func (t *Table) chain(r io.ReaderAt, size int64, x Partition) error {
	number := 4
	for _, p := range t.Partitions {
		number = max(number, p.Number)
	}
	end := min(size, x.Offset+x.Size)
	seen := map[int64]bool{}
	for at := x.Offset; ; {
		switch {
		case at < x.Offset || at > end-SectorSize:
			return fmt.Errorf("the chain of logical partitions leads to byte %d, which is outside", at)
		case seen[at]:
			return fmt.Errorf("the chain of logical partitions is a loop at byte %d", at)
		case len(seen) >= maxLogical:
			return fmt.Errorf("there are more than %d logical partitions", maxLogical)
		}
		seen[at] = true
		s, err := readSector(r, at)
		if err != nil {
			return err
		}
		if s.Magic != magic {
			// One that was made and never filled has no first sector.
			if at == x.Offset {
				return nil
			}
			return fmt.Errorf("the chain of logical partitions leads to byte %d, where there is none", at)
		}
		next := int64(-1)
		for _, e := range s.Entries[:2] {
			switch {
			case e.Type == 0 || e.Count == 0:
			case Type(e.Type).extended():
				next = x.Offset + int64(e.Start)*SectorSize
			default:
				number++
				t.Partitions = append(t.Partitions, e.partition(number, at))
			}
		}
		if next < 0 {
			return nil
		}
		at = next
	}
}
