package gpt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

var le = binary.LittleEndian

const (
	signature  = 0x5452415020494645 // "EFI PART"
	revision   = 0x00010000
	headerSize = 92
	entrySize  = 128
	bigSector  = 4096
)

// header is the GPT header (UEFI 5.3.2, table 5.5).
type header struct {
	Signature    uint64 // 0
	Revision     uint32
	Size         uint32
	CRC          uint32 // 16, of the header with zeros here
	Reserved     uint32
	MyLBA        uint64 // 24
	AlternateLBA uint64
	FirstUsable  uint64 // 40
	LastUsable   uint64
	DiskGUID     GUID   // 56
	EntriesLBA   uint64 // 72
	EntryCount   uint32
	EntrySize    uint32
	EntriesCRC   uint32 // 88
}

// entry is a partition entry (5.3.3, table 5.6).
type entry struct {
	Type       GUID // 0
	GUID       GUID
	First      uint64 // 32
	Last       uint64
	Attributes uint64 // 48
	Name       [MaxName]uint16
}

// write writes the header, with its checksum, and the entries to their places.
func (h header) write(w io.WriterAt, sector int64, entries []byte) error {
	h.CRC = 0
	var b bytes.Buffer
	if err := binary.Write(&b, le, h); err != nil {
		return err
	}
	raw := make([]byte, sector)
	copy(raw, b.Bytes())
	le.PutUint32(raw[16:], crc32.ChecksumIEEE(raw[:headerSize]))
	if _, err := w.WriteAt(entries, int64(h.EntriesLBA)*sector); err != nil {
		return err
	}
	_, err := w.WriteAt(raw, int64(h.MyLBA)*sector)
	return err
}
