package mbr

import (
	"bytes"
	"encoding/binary"
	"io"
)

const (
	magic  = 0xAA55
	active = 0x80
)

// sector is the legacy master boot record (UEFI 5.2.1, table 5.1) behind its
// boot code. The sectors of the chain in an extended partition have its form
// too, but no signature.
type sector struct {
	Signature uint32 // 440
	Unknown   uint16
	Entries   [4]entry // 446
	Magic     uint16   // 510
}

// entry is a partition record (table 5.2). The places are given twice: by
// cylinder, head and sector, and by the number of the sector, which alone is
// read today.
type entry struct {
	Boot  uint8
	First [3]byte
	Type  uint8
	Last  [3]byte
	Start uint32 // of the disk; in the chain, see chain
	Count uint32
}

func (s *sector) write(w io.WriterAt) error {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, s); err != nil {
		return err
	}
	_, err := w.WriteAt(b.Bytes(), BootCode)
	return err
}

// The geometry that everybody assumes for disks of more than 8 GB, which is
// as good as any for smaller ones.
const (
	heads   = 255
	sectors = 63
	maxCHS  = 1024 * heads * sectors // the first sector that has no address
)

// chs packs a sector's cylinder, head and sector. One that has no such address
// gets the last that there is, as Linux's and Microsoft's tools do it.
func chs(n int64) [3]byte {
	n = min(n, maxCHS-heads*sectors+(heads-1)*sectors+sectors-1)
	c, h, s := n/(heads*sectors), n/sectors%heads, n%sectors+1
	return [3]byte{byte(h), byte(s | c>>8<<6), byte(c)}
}
