package xz

import (
	"bufio"
	"errors"
	"io"
)

// source reads and counts.
type source struct {
	r *bufio.Reader
	n int64 // bytes that were read
}

// newSource reads up to size bytes ahead.
func newSource(r io.Reader, size int) *source {
	return &source{r: bufio.NewReaderSize(r, size)}
}

// read fills p. The end of the file is io.ErrUnexpectedEOF.
func (s *source) read(p []byte) error {
	n, err := io.ReadFull(s.r, p)
	s.n += int64(n)
	return noEOF(err)
}

// ReadByte is for numbers. The end of the file is io.ErrUnexpectedEOF.
func (s *source) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err != nil {
		return 0, noEOF(err)
	}
	s.n++
	return b, nil
}

// padding reads zeros up to a multiple of four bytes since begin.
func (s *source) padding(begin int64) error {
	for (s.n-begin)%4 != 0 {
		zero, err := s.ReadByte()
		if err != nil {
			return err
		}
		if zero != 0 {
			return errors.New("the padding is malformed")
		}
	}
	return nil
}
