package qcow2

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"wolffia/internal/tree"
)

// extents gives the parts of r that may hold anything but zeros, ascending.
func extents(r io.ReaderAt, size int64) iter.Seq2[tree.Extent, error] {
	switch r := r.(type) {
	case *os.File:
		return fileExtents(r, size)
	case interface{ Data() ([]tree.Extent, error) }:
		return func(yield func(tree.Extent, error) bool) {
			all, err := r.Data()
			if err != nil {
				yield(tree.Extent{}, err)
				return
			}
			for _, e := range all {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	return func(yield func(tree.Extent, error) bool) {
		if size > 0 {
			yield(tree.Extent{Len: size}, nil)
		}
	}
}

// fileExtents asks the host's file system, which may know of no holes.
func fileExtents(f *os.File, size int64) iter.Seq2[tree.Extent, error] {
	return func(yield func(tree.Extent, error) bool) {
		for off := int64(0); off < size; {
			start, err := f.Seek(off, unix.SEEK_DATA)
			switch {
			case errors.Is(err, unix.ENXIO): // nothing but a hole
				return
			case errors.Is(err, unix.EINVAL) && off == 0, errors.Is(err, unix.EOPNOTSUPP):
				yield(tree.Extent{Off: off, Len: size - off}, nil)
				return
			case err != nil:
				yield(tree.Extent{}, err)
				return
			}
			end, err := f.Seek(start, unix.SEEK_HOLE)
			if err != nil {
				yield(tree.Extent{}, err)
				return
			}
			start, end = min(start, size), min(end, size)
			if end > start && !yield(tree.Extent{Off: start, Len: end - start}, nil) {
				return
			}
			off = max(end, off+1)
		}
	}
}

// allZero compares b with itself, one byte further on, which the library does
// with the widest instructions that there are.
func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// output joins writes of what lies together.
type output struct {
	w   io.WriterAt
	at  int64 // of buf
	buf []byte
}

func (o *output) write(b []byte, off int64) error {
	if off == o.at+int64(len(o.buf)) && len(o.buf)+len(b) <= batchSize {
		o.buf = append(o.buf, b...)
		return nil
	}
	if err := o.flush(); err != nil {
		return err
	}
	if len(b) >= batchSize {
		_, err := o.w.WriteAt(b, off)
		return err
	}
	o.at, o.buf = off, append(o.buf, b...)
	return nil
}

func (o *output) flush() error {
	b := o.buf
	o.buf = o.buf[:0]
	if len(b) == 0 {
		return nil
	}
	_, err := o.w.WriteAt(b, o.at)
	return err
}
