package cpio

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// source gives the uncompressed bytes of a file of archives, each of which is
// plain or compressed. Compression is looked for only between records, as the
// kernel does: the data of a file in the archive is never taken for it.
type source struct {
	raw   *rawReader
	in    *bufio.Reader // of compressed members, one after the other; nil outside
	close func()        // what ends in
	off   int64         // uncompressed bytes read so far
	limit int64         // of off
}

func newSource(r io.Reader, limit int64) *source {
	return &source{raw: &rawReader{Reader: bufio.NewReaderSize(r, 64<<10)}, limit: limit}
}

// Close ends decompression. It doesn't close the file.
func (s *source) Close() {
	if s.in != nil {
		s.close()
		s.in = nil
	}
}

// Read gives bytes of a record that has begun.
func (s *source) Read(p []byte) (int, error) {
	var n int
	var err error
	if s.in != nil {
		n, err = s.in.Read(p)
	} else {
		n, err = s.raw.Read(p)
	}
	if e := s.charge(n); e != nil {
		return 0, e
	}
	return n, err
}

// next goes over padding to the next record. It reports false at the end of
// the file.
func (s *source) next() (bool, error) {
	for {
		b := s.raw.Reader
		if s.in != nil {
			b = s.in
		}
		c, err := b.Peek(1)
		switch {
		case err == io.EOF && s.in != nil:
			s.Close()
			continue
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, err
		case c[0] == 0:
			if err := s.skipZeros(b); err != nil {
				return false, err
			}
			continue
		case c[0] == '0':
			if s.in == nil && s.raw.n%4 != 0 {
				return false, errors.New("an archive begins at an offset that is no multiple of 4, which the kernel refuses")
			}
			return true, nil
		case s.in != nil:
			return false, fmt.Errorf("byte %#x where an archive or padding should be", c[0])
		}
		if err := s.enter(); err != nil {
			return false, err
		}
	}
}

// skipZeros goes over the zeros that b holds just now.
func (s *source) skipZeros(b *bufio.Reader) error {
	held, err := b.Peek(b.Buffered())
	if err != nil {
		return err
	}
	n := len(held) - len(bytes.TrimLeft(held, "\x00"))
	if err := s.charge(n); err != nil {
		return err
	}
	if s.in == nil {
		s.raw.n += int64(n)
	}
	_, err = b.Discard(n)
	return err
}

// charge counts n bytes that are about to be taken.
func (s *source) charge(n int) error {
	if s.off+int64(n) > s.limit {
		return fmt.Errorf("the archive has more than the limit of %d bytes, uncompressed", s.limit)
	}
	s.off += int64(n)
	return nil
}

// foreign are the compressions that the kernel knows and we don't
// (lib/decompress.c).
var foreign = []struct{ magic, name string }{
	{"\xfd7zXZ", "xz"}, {"BZh", "bzip2"}, {"\x5d\x00\x00", "lzma"}, {"\x89LZO", "lzo"}, {"\x02!L\x18", "lz4"},
}

// enter begins to decompress what lies at the raw position.
func (s *source) enter() error {
	m := &members{raw: s.raw}
	ok, err := m.open()
	if err != nil {
		return err
	}
	if !ok {
		head, _ := s.raw.Peek(6)
		for _, f := range foreign {
			if len(head) >= len(f.magic) && string(head[:len(f.magic)]) == f.magic {
				return fmt.Errorf("the archive is compressed with %s, which is not supported: decompress it first", f.name)
			}
		}
		return fmt.Errorf("bytes %x where an archive, gzip, zstd or padding should be", head)
	}
	s.in, s.close = bufio.NewReaderSize(m, 64<<10), m.close
	return nil
}

// rawReader counts, and gives single bytes, so that the decompressors take
// nothing that lies behind their member.
type rawReader struct {
	*bufio.Reader
	n int64
}

func (r *rawReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}

func (r *rawReader) ReadByte() (byte, error) {
	b, err := r.Reader.ReadByte()
	if err == nil {
		r.n++
	}
	return b, err
}

// members reads gzip members and zstd frames that follow each other without a
// gap as one stream.
type members struct {
	raw  *rawReader
	cur  io.Reader
	gz   *gzip.Reader
	zstd *zstd.Decoder
}

const (
	gzipMagic     = "\x1f\x8b"
	zstdMagic     = "\x28\xb5\x2f\xfd"
	maxZstdWindow = 128 << 20 // the kernel's own bound
)

// open starts on a member at the raw position and reports whether there is one.
func (m *members) open() (bool, error) {
	m.cur = nil
	head, _ := m.raw.Peek(4)
	switch {
	case len(head) >= 2 && string(head[:2]) == gzipMagic:
		var err error
		if m.gz == nil {
			m.gz, err = gzip.NewReader(m.raw)
		} else {
			err = m.gz.Reset(m.raw)
		}
		if err != nil {
			return false, fmt.Errorf("read gzip header: %w", err)
		}
		m.gz.Multistream(false)
		m.cur = m.gz
		return true, nil
	case string(head) == zstdMagic:
		frame := &zstdFrame{raw: m.raw}
		var err error
		if m.zstd == nil {
			m.zstd, err = zstd.NewReader(frame, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		} else {
			err = m.zstd.Reset(frame)
		}
		if err != nil {
			return false, fmt.Errorf("read zstd header: %w", err)
		}
		m.cur = m.zstd
		return true, nil
	}
	return false, nil
}

func (m *members) close() {
	if m.zstd != nil {
		m.zstd.Close()
	}
}

func (m *members) Read(p []byte) (int, error) {
	for m.cur != nil {
		n, err := m.cur.Read(p)
		if err == io.EOF {
			_, err = m.open()
		} else if err != nil {
			err = fmt.Errorf("decompress: %w", err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// zstdFrame gives the bytes of one frame and then ends, since the decoder
// would read on (RFC 8878, "Zstandard Frames").
type zstdFrame struct {
	raw     *rawReader
	pending []byte // to hand out before anything else
	left    int64  // bytes of the raw file to hand out then
	state   frameState
	sum     bool
	err     error
}

type frameState int

const (
	atHeader frameState = iota
	atBlock
	atChecksum
	atEnd
)

func (f *zstdFrame) Read(p []byte) (int, error) {
	for len(f.pending) == 0 && f.left == 0 {
		if f.err == nil {
			f.err = f.advance()
		}
		if f.err != nil {
			return 0, f.err
		}
	}
	if len(f.pending) > 0 {
		n := copy(p, f.pending)
		f.pending = f.pending[n:]
		return n, nil
	}
	n, err := f.raw.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// advance reads the next header within the frame.
func (f *zstdFrame) advance() error {
	switch f.state {
	case atHeader:
		if err := f.take(5); err != nil {
			return err
		}
		d := f.pending[4] // Frame_Header_Descriptor
		f.sum = d&0x04 != 0
		single := d&0x20 != 0
		f.left = int64([4]int{0, 1, 2, 4}[d&3]) // Dictionary_ID
		if !single {
			f.left++ // Window_Descriptor
		}
		f.left += int64([4]int{0, 2, 4, 8}[d>>6]) // Frame_Content_Size
		if single && d>>6 == 0 {
			f.left++
		}
		f.state = atBlock
	case atBlock:
		if err := f.take(3); err != nil {
			return err
		}
		b := binary.LittleEndian.Uint32(append(f.pending[:3:3], 0))
		f.left = int64(b >> 3)
		switch b >> 1 & 3 {
		case 1: // RLE: one byte, repeated
			f.left = 1
		case 3:
			return errors.New("reserved zstd block type")
		}
		if b&1 != 0 {
			f.state = atChecksum
		}
	case atChecksum:
		f.state = atEnd
		if f.sum {
			f.left = 4
		}
	case atEnd:
		return io.EOF
	}
	return nil
}

func (f *zstdFrame) take(n int) error {
	f.pending = make([]byte, n)
	if _, err := io.ReadFull(f.raw, f.pending); err != nil {
		f.pending = nil
		return io.ErrUnexpectedEOF
	}
	return nil
}
