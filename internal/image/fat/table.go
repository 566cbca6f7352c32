package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// boot writes the boot sector, and what a FAT32 has beside it.
func (w *writer) boot() error {
	l, o := &w.l, &w.c.o
	b := bootSector{
		Jump: [3]byte{0xEB, bootPartSize + idPartSize - 2, 0x90}, OEM: [8]byte([]byte("wolffia ")),
		BytesPerSector: sectorSize, SectorsPerCluster: uint8(l.cluster), Reserved: uint16(l.reserved), FATs: 2,
		RootEntries: uint16(l.rootEntry), Media: media, FATSectors16: uint16(l.fat),
		SectorsPerTrack: 63, Heads: 255, Hidden: uint32(min(o.Offset/sectorSize, 1<<32-1)),
	}
	id := idPart{Drive: 0x80, Signature: extSignature, Serial: o.Serial, Kind: [8]byte([]byte(map[Type]string{FAT12: "FAT12   ", FAT16: "FAT16   ", FAT32: "FAT32   "}[l.kind]))}
	fill(id.Label[:], "NO NAME")
	if o.Label != "" {
		fill(id.Label[:], o.Label)
	}
	if l.sectors < 1<<16 && l.kind != FAT32 {
		b.Sectors16 = uint16(l.sectors)
	} else {
		b.Sectors32 = uint32(l.sectors)
	}
	parts := []any{&b, id}
	if l.kind == FAT32 {
		b.FATSectors16 = 0
		b.Jump[1] += fat32PartSize
		parts = []any{&b, fat32Part{FATSectors32: uint32(l.fat), RootCluster: firstCluster, FSInfo: fsInfoSector, Backup: backupSector}, id}
	}
	var buf bytes.Buffer
	for _, p := range parts {
		if err := binary.Write(&buf, le, p); err != nil {
			return err
		}
	}
	// int 0x18 passes on to what the BIOS would boot next; then it halts.
	buf.Write([]byte{0xCD, 0x18, 0xF4, 0xEB, 0xFD})
	sector := make([]byte, sectorSize)
	copy(sector, buf.Bytes())
	le.PutUint16(sector[510:], bootSignature)
	if err := w.at(sector, 0); err != nil || l.kind != FAT32 {
		return err
	}
	info := w.info()
	return errors.Join(w.at(info, fsInfoSector*sectorSize), w.at(sector, backupSector*sectorSize),
		w.at(info, (backupSector+fsInfoSector)*sectorSize))
}

// info is the FSInfo sector (section 5).
func (w *writer) info() []byte {
	used := w.used()
	b := make([]byte, fsInfoSize)
	le.PutUint32(b, fsInfoLead)
	le.PutUint32(b[484:], fsInfoStruct)
	le.PutUint32(b[fsInfoFree:], uint32(w.l.clusters-int64(used)))
	le.PutUint32(b[fsInfoNext:], firstCluster+used-1)
	le.PutUint32(b[508:], bootSignature<<16)
	return b
}

// used is how many clusters the files take.
func (w *writer) used() (n uint32) {
	for _, f := range w.c.files {
		n += f.clusters
	}
	return n
}

// table writes a FAT, as far as it is not zeros.
func (w *writer) table(sector int64) error {
	k := kinds[w.l.kind]
	t := tableWriter{w: w, bits: k.bits, off: sector * sectorSize}
	if err := t.put(k.eoc&^0xFF | media); err != nil {
		return err
	}
	if err := t.put(k.eoc); err != nil { // clean, without errors
		return err
	}
	for _, f := range w.c.files {
		for i := range f.clusters {
			next := f.first + i + 1
			if i == f.clusters-1 {
				next = k.eoc
			}
			if err := t.put(next); err != nil {
				return err
			}
		}
	}
	return t.flush(true)
}

// tableWriter packs the entries of a FAT.
type tableWriter struct {
	w    *writer
	bits int64
	off  int64
	b    []byte
	half bool // b's last byte has room for the first half of an entry of 12 bits
}

func (t *tableWriter) put(v uint32) error {
	switch {
	case t.bits == 32:
		t.b = le.AppendUint32(t.b, v)
	case t.bits == 16:
		t.b = le.AppendUint16(t.b, uint16(v))
	case t.half:
		t.b[len(t.b)-1] |= byte(v << 4)
		t.b = append(t.b, byte(v>>4))
		t.half = false
	default:
		t.b = append(t.b, byte(v), byte(v>>8))
		t.half = true
	}
	return t.flush(false)
}

func (t *tableWriter) flush(all bool) error {
	if len(t.b) == 0 || !all && (len(t.b) < bufferSize || t.half) {
		return nil
	}
	err := t.w.at(t.b, t.off)
	t.off += int64(len(t.b))
	t.b = t.b[:0]
	return err
}
