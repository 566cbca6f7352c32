package uml

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"wolffia/internal/machine"
)

// overlays are copy-on-write files of User-Mode Linux ([machine.OverlayFormat]):
// a header, a bitmap with one bit for each sector that was written, and the
// sectors, each as far behind the bitmap as it is from the disk's beginning, in a
// sparse file.
type overlays struct{}

// Overlays is the name of their format.
const Overlays = "cow"

// cowHeader is version 3 of the header, in big-endian order (struct
// cow_header_v3 in the kernel's arch/um/drivers/cow_user.c).
type cowHeader struct {
	Magic     uint32
	Version   uint32
	Changed   uint32 // when the image below was, in seconds since 1970
	Size      uint64 // of the disk, in bytes
	Sector    uint32 // bytes
	Alignment uint32 // of the bitmap and the sectors, in bytes
	Format    uint32 // bitmap
	Below     [4096]byte
}

const (
	cowMagic     = 0x4f4f4f4d
	cowVersion   = 3
	cowSector    = 512
	cowAlignment = 4096
)

// sectors is where a disk's sectors begin in the file.
func (h *cowHeader) sectors() int64 {
	bitmap := align(int64(binary.Size(h)))
	return align(bitmap + (int64(h.Size)+cowSector-1)/(8*cowSector))
}

func align(n int64) int64 { return (n + cowAlignment - 1) &^ (cowAlignment - 1) }

// headerOver is the header of a file over a disk's image as it is now.
func headerOver(d machine.Disk) (*cowHeader, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	h := &cowHeader{
		Magic: cowMagic, Version: cowVersion, Sector: cowSector, Alignment: cowAlignment,
		Size: uint64(size), Changed: uint32(info.ModTime().Unix()),
	}
	if copy(h.Below[:len(h.Below)-1], d.Path) < len(d.Path) {
		return nil, fmt.Errorf("the path %.40q... has more than %d bytes", d.Path, len(h.Below)-1)
	}
	if size > math.MaxInt64/2 {
		return nil, fmt.Errorf("%s: a disk of %d bytes is not possible", d.Path, size)
	}
	return h, nil
}

func (h *cowHeader) write(w io.WriterAt) error {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.BigEndian, h); err != nil {
		return err
	}
	_, err := w.WriteAt(b.Bytes(), 0)
	return err
}

// Name implements [machine.OverlayFormat].
func (overlays) Name() string { return Overlays }

// Create implements [machine.OverlayFormat].
func (overlays) Create(f *os.File, d machine.Disk) error {
	h, err := headerOver(d)
	if err != nil {
		return err
	}
	if err := h.write(f); err != nil {
		return err
	}
	return f.Truncate(h.sectors() + int64(h.Size))
}

// Reopen implements [machine.OverlayFormat]. The kernel refuses an image that was
// touched or moved since the header was written. Whether it is still the same is
// known better here.
func (overlays) Reopen(f *os.File, d machine.Disk) error {
	now, err := headerOver(d)
	if err != nil {
		return err
	}
	var was cowHeader
	if err := binary.Read(io.NewSectionReader(f, 0, int64(binary.Size(was))), binary.BigEndian, &was); err != nil {
		return fmt.Errorf("read its header: %w", err)
	}
	old := was
	was.Changed, was.Below = now.Changed, now.Below
	if was != *now {
		return errors.New("its header is not one of such a disk")
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < now.sectors()+int64(now.Size) {
		return errors.New("it is cut short")
	}
	if old == *now {
		return nil
	}
	return now.write(f)
}
