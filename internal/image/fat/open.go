package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
)

// FS is a file system that is open for reading. It is safe for use by several
// goroutines.
type FS struct {
	r    io.ReaderAt
	info Info
	kind kind
	root uint32 // first cluster of the root directory; 0: it lies at rootAt

	table    int64 // where the FAT in use begins, in bytes
	rootAt   int64
	rootSize int64
	data     int64 // where the first cluster begins
	cluster  int64 // bytes
	clusters uint32

	// For Check: the place of all FATs, and of a FAT32's two further sectors, 0
	// where there are none.
	tables, tableSize  int64
	copies             int
	infoAt, bootCopyAt int64
}

// Info is what a file system says about itself.
type Info struct {
	Type        Type
	SectorSize  int
	ClusterSize int
	Clusters    int64
	Size        int64 // bytes
	Free        int64 // bytes; -1 where it does not say
	Label       string
	Serial      uint32
	Clean       bool // it was unmounted, or never mounted, and no errors were seen
}

// ErrNone says that there is no FAT file system.
var ErrNone = errors.New("there is no FAT file system")

// Open reads the boot sector of the file system that begins at byte 0 of r,
// which has size bytes and must stay readable for as long as the file system
// and the contents of its trees are used. Where there is none the error wraps
// [ErrNone].
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r}
	if err := f.open(size); err != nil {
		return nil, fmt.Errorf("open FAT file system: %w", err)
	}
	return f, nil
}

func (f *FS) open(size int64) error {
	if size < sectorSize {
		return fmt.Errorf("%w: %d bytes are less than a sector", ErrNone, size)
	}
	raw := make([]byte, sectorSize)
	if err := readFull(f.r, raw, 0); err != nil {
		return err
	}
	var b bootSector
	if _, err := binary.Decode(raw, le, &b); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	var big fat32Part
	rest := raw[bootPartSize:]
	if b.FATSectors16 == 0 {
		if _, err := binary.Decode(rest, le, &big); err != nil {
			return err
		}
		rest = rest[fat32PartSize:]
	}
	if err := f.geometry(&b, &big, size); err != nil {
		return err
	}
	var id idPart
	if _, err := binary.Decode(rest, le, &id); err != nil {
		return err
	}
	if id.Signature == extSignature {
		f.info.Serial = id.Serial
		if f.info.Label = text(id.Label[:]); f.info.Label == "NO NAME" {
			f.info.Label = ""
		}
	}
	if label, ok := f.volumeLabel(); ok {
		f.info.Label = label
	}
	return f.state(&big, id.State)
}

// check tells whether this is the boot sector of a FAT at all. There is no
// magic number: what counts is that all fields make sense.
func (b *bootSector) check() error {
	switch {
	case b.Jump[0] != 0xEB && b.Jump[0] != 0xE9:
		return fmt.Errorf("%w: it does not begin with a jump", ErrNone)
	case b.BytesPerSector < 512 || b.BytesPerSector > 4096 || bits.OnesCount16(b.BytesPerSector) != 1:
		return fmt.Errorf("%w: sectors of %d bytes are out of range", ErrNone, b.BytesPerSector)
	case bits.OnesCount8(b.SectorsPerCluster) != 1:
		return fmt.Errorf("%w: clusters of %d sectors are out of range", ErrNone, b.SectorsPerCluster)
	case b.Reserved == 0 || b.FATs == 0 || b.FATs > 4:
		return fmt.Errorf("%w: %d reserved sectors and %d FATs are out of range", ErrNone, b.Reserved, b.FATs)
	case b.Media != 0xF0 && b.Media < 0xF8:
		return fmt.Errorf("%w: its medium is %#x", ErrNone, b.Media)
	case b.Sectors16 == 0 && b.Sectors32 == 0:
		return fmt.Errorf("%w: it has no sectors", ErrNone)
	}
	return nil
}

func (f *FS) geometry(b *bootSector, big *fat32Part, size int64) error {
	sector := int64(b.BytesPerSector)
	sectors := int64(b.Sectors16)
	if sectors == 0 {
		sectors = int64(b.Sectors32)
	}
	fat := int64(b.FATSectors16)
	if fat == 0 {
		fat = int64(big.FATSectors32)
	}
	f.cluster = sector * int64(b.SectorsPerCluster)
	f.table = int64(b.Reserved) * sector
	f.tables, f.tableSize, f.copies = f.table, fat*sector, int(b.FATs)
	f.rootSize = int64(b.RootEntries) * direntSize
	f.rootAt = f.table + int64(b.FATs)*fat*sector
	f.data = f.rootAt + ceil(f.rootSize, sector)*sector
	clusters := (sectors*sector - f.data) / f.cluster
	switch {
	case fat == 0 || clusters < 1:
		return fmt.Errorf("%w: %d sectors hold no FAT of %d sectors and clusters", ErrNone, sectors, fat)
	case sectors*sector > size:
		return fmt.Errorf("it has %d sectors of %d bytes, of which only %d are there: the image is cut off", sectors, sector, size/sector)
	}
	f.info.Type = f.kindOf(b, clusters)
	f.kind = kinds[f.info.Type]
	// A FAT that is too short is one whose last clusters are not used.
	clusters = min(clusters, fat*sector*8/f.kind.bits-firstCluster, kinds[FAT32].max)
	if clusters < 1 {
		return fmt.Errorf("%w: its FAT has no entries", ErrNone)
	}
	f.clusters = uint32(clusters)
	f.info.SectorSize, f.info.ClusterSize = int(sector), int(f.cluster)
	f.info.Clusters, f.info.Size = clusters, sectors*sector
	if f.info.Type != FAT32 {
		return nil
	}
	if big.Version != 0 {
		return fmt.Errorf("version %d.%d of FAT32 is not known", big.Version>>8, big.Version&0xFF)
	}
	if big.ExtFlags&0x80 != 0 {
		active := int64(big.ExtFlags & 15)
		if active >= int64(b.FATs) {
			return fmt.Errorf("FAT %d is in use, of %d", active, b.FATs)
		}
		f.table += active * fat * sector
		f.copies = 1 // the others count for nothing
		f.tables = f.table
	}
	f.infoAt, f.bootCopyAt = int64(big.FSInfo)*sector, int64(big.Backup)*sector
	f.root = big.RootCluster
	return nil
}

// kindOf is as Linux has it: mkfs.fat can make a FAT32 of fewer clusters than
// the specification allows.
func (f *FS) kindOf(b *bootSector, clusters int64) Type {
	switch {
	case b.FATSectors16 == 0:
		return FAT32
	case clusters <= kinds[FAT12].max:
		return FAT12
	}
	return FAT16
}

// state reads whether the file system is clean, and how much is free.
func (f *FS) state(big *fat32Part, state uint8) error {
	c := chain{f: f}
	flags, err := c.entry(1)
	if err != nil {
		return fmt.Errorf("read FAT: %w", err)
	}
	f.info.Clean = state&1 == 0
	switch f.info.Type {
	case FAT16:
		f.info.Clean = f.info.Clean && flags>>14 == 3
	case FAT32:
		f.info.Clean = f.info.Clean && flags>>26&3 == 3
		return f.freeOfInfo(int64(big.FSInfo) * int64(f.info.SectorSize))
	}
	free := int64(0)
	for n := range f.clusters {
		v, err := c.entry(n + firstCluster)
		if err != nil {
			return fmt.Errorf("read FAT: %w", err)
		}
		if v == 0 {
			free++
		}
	}
	f.info.Free = free * f.cluster
	return nil
}

// freeOfInfo takes what the FSInfo sector says, where there is one.
func (f *FS) freeOfInfo(off int64) error {
	f.info.Free = -1
	if off == 0 || off+fsInfoSize > f.table {
		return nil
	}
	b := make([]byte, fsInfoSize)
	if err := readFull(f.r, b, off); err != nil {
		return fmt.Errorf("read FSInfo: %w", err)
	}
	if free := le.Uint32(b[fsInfoFree:]); le.Uint32(b) == fsInfoLead && le.Uint32(b[484:]) == fsInfoStruct && free <= f.clusters {
		f.info.Free = int64(free) * f.cluster
	}
	return nil
}

// volumeLabel finds the label in the root directory, which counts more than
// that of the boot sector. Damage is left to be found by whoever reads the tree.
func (f *FS) volumeLabel() (string, bool) {
	d, err := f.openDir(f.root, f.root == 0, newClaims(f))
	if err != nil {
		return "", false
	}
	for {
		e, err := d.next()
		if err != nil {
			return "", false
		}
		if e.Attributes&attrLongMask != attrLong && e.Attributes&attrVolume != 0 {
			return text(e.Name[:]), true
		}
	}
}

// text decodes eleven bytes of a label.
func text(b []byte) string { return strings.TrimRight(decodeOEM(b), " \x00") }

// Info tells what the boot sector says, and the root directory of the label.
func (f *FS) Info() Info { return f.info }

func readFull(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == io.EOF || err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}
