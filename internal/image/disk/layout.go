package disk

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"wolffia/internal/image/gpt"
	"wolffia/internal/image/mbr"
)

// Table is a kind of partition table.
type Table string

// The kinds.
const (
	GPT Table = "gpt"
	MBR Table = "mbr" // the classic one: four partitions, 2 TiB
)

// Layout is a disk to be written.
type Layout struct {
	// Table is the kind of the partition table; empty means GPT.
	Table Table
	// Size is the disk's length in bytes, of whole sectors of 512. 0 means as
	// small as the partitions allow.
	Size int64
	// Seed is what the disk's and the partitions' identifiers are made of. Two
	// disks that one machine may see at once need different ones.
	Seed []byte
	// BootCode is what a BIOS starts: at most [mbr.BootCode] bytes.
	BootCode []byte
	// Gap is written from the second sector on, in front of the first partition
	// at 1 MiB, for MBR only: a GPT lies there.
	Gap []byte
	// Partitions are numbered from 1 in this order, and lie in it.
	Partitions []Partition
}

// Partition is one to be written.
type Partition struct {
	// Type is a name that [gpt.ParseType] knows, such as "esp" or "root-amd64",
	// or a GUID; with MBR also a number such as "0x83".
	Type string
	// Name is the partition's label, which MBR has no place for.
	Name string
	// Size is in bytes, of whole sectors. Where it is 0 for the last partition,
	// and the layout has a size, that one takes all that is left.
	Size int64
	// Bootable makes MBR's boot code start this partition, or says so in a GPT.
	Bootable bool
	// Write, where set, fills the partition. What it does not write are zeros;
	// what it writes beyond the partition is an error.
	Write func(w io.WriterAt) error
}

// Plan is where everything of a [Layout] lies.
type Plan struct {
	Size       int64  // of the disk, in bytes
	UUID       string // the disk's GUID, or its signature as of MBR
	Partitions []Placed

	gpt *gpt.Table
	mbr *mbr.Table
}

// Placed is where a partition lies, in bytes.
type Placed struct {
	Number       int
	Offset, Size int64
	UUID         string // PARTUUID, as in root=PARTUUID=…
}

// TooSmallError says that a disk has not the size that its partitions need.
type TooSmallError struct {
	Size, Need int64 // bytes
}

func (e *TooSmallError) Error() string {
	return fmt.Sprintf("a disk of %d bytes is too small: its partitions need %d", e.Size, e.Need)
}

// Fix is what a person can do.
func (e *TooSmallError) Fix() string {
	return fmt.Sprintf("give it a size of at least %d MiB", align(e.Need)>>20)
}

func align(n int64) int64 { return (n + gpt.Align - 1) &^ (gpt.Align - 1) }

// Plan places the partitions, each at a multiple of 1 MiB.
func (l *Layout) Plan() (*Plan, error) {
	if l.Table == "" {
		l.Table = GPT
	}
	if l.Table != GPT && l.Table != MBR {
		return nil, fmt.Errorf("partition table %q is neither gpt nor mbr", string(l.Table))
	}
	if l.Size < 0 || l.Size%mbr.SectorSize != 0 {
		return nil, fmt.Errorf("a disk of %d bytes is not of whole sectors", l.Size)
	}
	tail := int64(0) // what the table takes at the end
	if l.Table == GPT {
		_, end := gpt.Usable(gpt.Align)
		tail = gpt.Align - end
	}
	p := &Plan{Size: l.Size}
	at := int64(gpt.Align)
	for i, part := range l.Partitions {
		size := part.Size
		if size == 0 && l.Size > 0 && i == len(l.Partitions)-1 {
			if size = (l.Size-tail)&^(gpt.Align-1) - at; size <= 0 {
				return nil, &TooSmallError{l.Size, at + gpt.Align + tail}
			}
		}
		if size <= 0 {
			return nil, fmt.Errorf("partition %d has no size", i+1)
		}
		p.Partitions = append(p.Partitions, Placed{Number: i + 1, Offset: at, Size: size})
		at = align(at + size)
	}
	end := int64(gpt.Align)
	if n := len(p.Partitions); n > 0 {
		end = p.Partitions[n-1].Offset + p.Partitions[n-1].Size
	}
	if p.Size == 0 {
		p.Size = align(end + tail)
	}
	if end+tail > p.Size {
		return nil, &TooSmallError{p.Size, end + tail}
	}
	if l.Table == MBR {
		return p, l.planMBR(p)
	}
	return p, l.planGPT(p)
}

func (l *Layout) planGPT(p *Plan) error {
	p.gpt = &gpt.Table{GUID: gpt.Derive(l.Seed, "disk"), SectorSize: mbr.SectorSize}
	p.UUID = p.gpt.GUID.String()
	for i := range p.Partitions {
		at, part := &p.Partitions[i], l.Partitions[i]
		kind, err := gpt.ParseType(part.Type)
		if err != nil {
			return fmt.Errorf("partition %d: %w", at.Number, err)
		}
		e := gpt.Partition{
			Number: at.Number, Type: kind, GUID: gpt.PartitionGUID(p.gpt.GUID, at.Number),
			Offset: at.Offset, Size: at.Size, Name: part.Name,
		}
		if part.Bootable {
			e.Attributes |= gpt.LegacyBoot
		}
		at.UUID = e.GUID.String()
		p.gpt.Partitions = append(p.gpt.Partitions, e)
	}
	return p.gpt.Check(p.Size)
}

func (l *Layout) planMBR(p *Plan) error {
	if len(p.Partitions) > 4 {
		return fmt.Errorf("%d partitions are more than an MBR's 4: use a GPT", len(p.Partitions))
	}
	p.mbr = &mbr.Table{Signature: mbr.Signature(l.Seed)}
	p.UUID = fmt.Sprintf("%08x", p.mbr.Signature)
	for i := range p.Partitions {
		at, part := &p.Partitions[i], l.Partitions[i]
		kind, err := mbrType(part.Type)
		if err != nil {
			return fmt.Errorf("partition %d: %w", at.Number, err)
		}
		at.UUID = p.mbr.UUID(at.Number)
		p.mbr.Partitions = append(p.mbr.Partitions, mbr.Partition{
			Number: at.Number, Type: kind, Bootable: part.Bootable, Offset: at.Offset, Size: at.Size,
		})
	}
	return p.mbr.Check(p.Size)
}

// mbrTypes are those of GPT's names that are not just Linux's.
var mbrTypes = map[string]mbr.Type{
	"esp": mbr.ESP, "swap": mbr.Swap, "lvm": mbr.LVM, "raid": mbr.RAID, "basic": mbr.FAT32LBA,
}

func mbrType(name string) (mbr.Type, error) {
	if t, ok := mbrTypes[name]; ok {
		return t, nil
	}
	if number, ok := strings.CutPrefix(name, "0x"); ok {
		if n, err := strconv.ParseUint(number, 16, 8); err == nil && n != 0 {
			return mbr.Type(n), nil
		}
	}
	g, err := gpt.ParseType(name)
	switch {
	case err != nil:
		return 0, err
	case g == gpt.BIOSBoot:
		return 0, errors.New("an MBR needs no bios-boot partition: the core image lies before the first")
	case name == g.String() && g.TypeName() == name:
		return 0, fmt.Errorf("type %s is a GPT's: an MBR has numbers", name)
	}
	return mbr.Linux, nil
}

// Write writes the disk into w, which must read as zeros wherever nothing is
// written, as a new file does. Its last byte is.
func Write(w io.WriterAt, l Layout) error {
	if err := write(w, l); err != nil {
		return fmt.Errorf("write disk: %w", err)
	}
	return nil
}

func write(w io.WriterAt, l Layout) error {
	p, err := l.Plan()
	if err != nil {
		return err
	}
	if len(l.BootCode) > mbr.BootCode {
		return fmt.Errorf("boot code of %d bytes is longer than %d", len(l.BootCode), mbr.BootCode)
	}
	if l.Table == GPT && len(l.Gap) > 0 || len(l.Gap) > gpt.Align-mbr.SectorSize {
		return fmt.Errorf("%d bytes have no place between the table and the first partition", len(l.Gap))
	}
	// Before all else, since a partition may reach to the end.
	if _, err := w.WriteAt([]byte{0}, p.Size-1); err != nil {
		return err
	}
	for i, at := range p.Partitions {
		if fill := l.Partitions[i].Write; fill != nil {
			if err := fill(&window{w, at.Offset, at.Size}); err != nil {
				return fmt.Errorf("partition %d: %w", at.Number, err)
			}
		}
	}
	for _, part := range []struct {
		b   []byte
		off int64
	}{{l.BootCode, 0}, {l.Gap, mbr.SectorSize}} {
		if len(part.b) > 0 {
			if _, err := w.WriteAt(part.b, part.off); err != nil {
				return err
			}
		}
	}
	if p.gpt != nil {
		return gpt.Write(w, p.Size, *p.gpt)
	}
	return mbr.Write(w, p.Size, *p.mbr)
}

// window is a part of a disk to be written. Nothing is written outside.
type window struct {
	w         io.WriterAt
	off, size int64
}

func (w *window) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > w.size || int64(len(p)) > w.size-off {
		return 0, fmt.Errorf("%d bytes at %d are beyond the partition's end at %d", len(p), off, w.size)
	}
	return w.w.WriteAt(p, w.off+off)
}
