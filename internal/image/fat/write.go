package fat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"wolffia/internal/tree"
)

// Write writes t as a file system into w, from offset 0 on: an [os.File], or a
// partition in one. It must read as zeros wherever nothing is written, as a new
// file does. Its last byte is.
//
// Errors name the file of the tree that they are about.
func Write(w io.WriterAt, t *tree.Tree, o Options) error {
	c, l, err := prepare(t, o)
	if err == nil {
		err = (&writer{w: w, c: c, l: l}).write()
	}
	if err != nil {
		return fmt.Errorf("write FAT file system: %w", err)
	}
	return nil
}

// Size gives the length in bytes of the image that Write would write. It reads
// no contents.
func Size(t *tree.Tree, o Options) (int64, error) {
	c, l, err := prepare(t, o)
	if err != nil {
		return 0, fmt.Errorf("size FAT file system: %w", err)
	}
	return c.size(l), nil
}

func prepare(t *tree.Tree, o Options) (*collection, layout, error) {
	if err := o.check(); err != nil {
		return nil, layout{}, err
	}
	c, err := collect(t, o)
	if err != nil {
		return nil, layout{}, err
	}
	l, err := c.plan()
	return c, l, err
}

func (c *collection) size(l layout) int64 {
	if c.o.Size > 0 {
		return c.o.Size
	}
	return l.sectors * sectorSize
}

type writer struct {
	w io.WriterAt
	c *collection
	l layout
}

func (w *writer) write() error {
	// Before all else, since a file may reach to the end.
	if err := w.at([]byte{0}, w.c.size(w.l)-1); err != nil {
		return err
	}
	if err := w.boot(); err != nil {
		return err
	}
	for i := range int64(2) {
		if err := w.table(w.l.reserved + i*w.l.fat); err != nil {
			return err
		}
	}
	for _, f := range w.c.files {
		if err := w.file(f); err != nil {
			return fmt.Errorf("%q: %w", f.path, err)
		}
	}
	return nil
}

func (w *writer) at(b []byte, off int64) error {
	_, err := w.w.WriteAt(b, off)
	return err
}

// offset is where a cluster begins, in bytes.
func (w *writer) offset(cluster uint32) int64 {
	return (w.l.data() + int64(cluster-firstCluster)*w.l.cluster) * sectorSize
}

const bufferSize = 1 << 18

// file writes a file's contents or a directory's entries.
func (w *writer) file(f *file) error {
	if f.node.IsDir() {
		b, err := w.entries(f)
		if err != nil {
			return err
		}
		if f.first == 0 { // the root directory of a FAT12 or FAT16
			return w.at(b, (w.l.reserved+2*w.l.fat)*sectorSize)
		}
		return w.at(b, w.offset(f.first))
	}
	if f.size == 0 {
		return nil
	}
	if s, ok := f.node.Content.(tree.Sparse); ok {
		return w.sparse(f, s)
	}
	src, err := f.node.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	return w.copy(src, w.offset(f.first), f.size)
}

func (w *writer) sparse(f *file, s tree.Sparse) error {
	data, err := s.Data()
	if err != nil {
		return err
	}
	src, err := s.OpenAt()
	if err != nil {
		return err
	}
	defer src.Close()
	for _, e := range data {
		if err := w.copy(io.NewSectionReader(src, e.Off, e.Len), w.offset(f.first)+e.Off, e.Len); err != nil {
			return err
		}
	}
	return nil
}

// copy writes size bytes from src, leaving out long runs of zeros.
func (w *writer) copy(src io.Reader, off, size int64) error {
	b := make([]byte, min(size, bufferSize))
	for size > 0 {
		n := min(size, bufferSize)
		if got, err := io.ReadFull(src, b[:n]); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return fmt.Errorf("content ends %d bytes too early: %w", size-int64(got), io.ErrUnexpectedEOF)
			}
			return err
		}
		if err := w.pieces(b[:n], off); err != nil {
			return err
		}
		off, size = off+n, size-n
	}
	return nil
}

// pieces writes what is not zeros, in as few pieces as can be.
func (w *writer) pieces(b []byte, off int64) error {
	from := 0
	for at := 0; at < len(b); at += holeSize {
		end := min(at+holeSize, len(b))
		zeros := len(bytes.TrimLeft(b[at:end], "\x00")) == 0
		if zeros && from < at {
			if err := w.at(b[from:at], off+int64(from)); err != nil {
				return err
			}
		}
		if zeros {
			from = end
		}
	}
	if from == len(b) {
		return nil
	}
	return w.at(b[from:], off+int64(from))
}

// holeSize is the block of the host's file systems, which have no smaller holes.
const holeSize = 4096

// entries makes a directory.
func (w *writer) entries(f *file) ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(int(f.size))
	if f.parent == nil {
		if w.c.o.Label != "" {
			e := w.dirent(w.c.o.clamp(w.c.o.Time))
			fill(e.Name[:], w.c.o.Label)
			e.Attributes = attrVolume
			if err := binary.Write(&buf, le, e); err != nil {
				return nil, err
			}
		}
	} else {
		self, up := w.entry(f), w.entry(f.parent)
		if f.parent.parent == nil {
			up.FirstHi, up.FirstLo = 0, 0 // the root is 0 here, even where it has a cluster
		}
		fill(self.Name[:], ".")
		fill(up.Name[:], "..")
		self.Case, up.Case = 0, 0
		if err := binary.Write(&buf, le, []dirent{self, up}); err != nil {
			return nil, err
		}
	}
	for _, child := range f.children {
		for i := (len(child.long) + longUnits - 1) / longUnits; i > 0; i-- {
			if err := binary.Write(&buf, le, child.longEntry(i)); err != nil {
				return nil, err
			}
		}
		if err := binary.Write(&buf, le, w.entry(child)); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

func (w *writer) dirent(t time.Time) dirent {
	date, clock, hundredths := stamp(t)
	return dirent{
		CreatedTenth: hundredths, CreatedTime: clock, CreatedDate: date,
		AccessDate: date, WriteTime: clock, WriteDate: date,
	}
}

func (w *writer) entry(f *file) dirent {
	e := w.dirent(w.c.time(f))
	e.Name, e.Case = f.short, f.bits
	e.FirstHi, e.FirstLo = uint16(f.first>>16), uint16(f.first)
	if f.node.IsDir() {
		e.Attributes = attrDirectory
		return e
	}
	e.Attributes, e.Size = attrArchive, uint32(f.size)
	if f.node.Mode&0o222 == 0 {
		e.Attributes |= attrReadOnly
	}
	return e
}

// longEntry is the i-th part, from 1, of a long name. Behind its end comes a
// zero, and ones up to the end of the last part.
func (f *file) longEntry(i int) longDirent {
	e := longDirent{Order: byte(i), Attributes: attrLong, Checksum: f.short.checksum()}
	var units [longUnits]uint16
	n := copy(units[:], f.long[(i-1)*longUnits:])
	for k := n + 1; k < longUnits; k++ {
		units[k] = 0xFFFF
	}
	if i*longUnits >= len(f.long) {
		e.Order |= lastLong
	}
	copy(e.Name1[:], units[:5])
	copy(e.Name2[:], units[5:11])
	copy(e.Name3[:], units[11:])
	return e
}
