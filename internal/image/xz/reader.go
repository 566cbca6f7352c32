package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Reader decompresses an xz file that is read from its start, one block after
// the other.
type Reader struct {
	src  source
	opts Options
	left int64 // bytes of MaxSize

	block   block
	inside  bool // a block is open
	flags   streamFlags
	blocks  int64     // complete ones of the stream
	records hash.Hash // of what the stream's index has to say about them

	data []byte // what was decoded and not read yet
	err  error  // what comes after data
}

// NewReader gives a reader of the file in r. It may read more of r than the
// file's bytes, unless r is a *bufio.Reader. Options.Workers isn't used. Errors,
// also those of the file's first bytes, come from Read.
func NewReader(r io.Reader, opts Options) *Reader {
	b, ok := r.(*bufio.Reader)
	if !ok {
		b = bufio.NewReaderSize(r, 64<<10)
	}
	opts = opts.withDefaults()
	return &Reader{src: source{r: b}, opts: opts, left: opts.MaxSize}
}

// Read gives io.EOF after the last stream was verified, and r ended.
func (z *Reader) Read(p []byte) (int, error) {
	for len(z.data) == 0 && z.err == nil {
		if z.data, z.err = z.next(); z.err != nil && z.err != io.EOF {
			z.err = fmt.Errorf("decode xz at byte %d: %w", z.src.n, z.err)
		}
	}
	if len(z.data) == 0 {
		return 0, z.err
	}
	n := copy(p, z.data)
	z.data = z.data[n:]
	return n, nil
}

// next gives the next part of the file, maybe an empty one.
func (z *Reader) next() ([]byte, error) {
	if z.inside {
		return z.nextOfBlock()
	}
	if z.records == nil {
		return nil, z.openStream()
	}
	first, err := z.src.r.Peek(1)
	if err != nil {
		return nil, noEOF(err)
	}
	if first[0] != 0 {
		err := z.block.open(&z.src, z.flags, z.left, &SizeError{z.opts.MaxSize}, z.opts.MaxDict)
		z.inside = err == nil
		return nil, err
	}
	if err := z.closeStream(); err != nil {
		return nil, err
	}
	return nil, z.skipPadding()
}

func (z *Reader) nextOfBlock() ([]byte, error) {
	data, err := z.block.next()
	z.left -= int64(len(data))
	if err == io.EOF {
		z.inside = false
		z.blocks++
		z.records.Write(z.block.record.append(nil))
		err = nil
	}
	return data, err
}

// openStream reads a stream's header.
func (z *Reader) openStream() error {
	var header [headerSize]byte
	if err := z.src.read(header[:]); err != nil {
		return fmt.Errorf("read stream header: %w", err)
	}
	z.flags = streamFlags(header[6:8])
	if !bytes.Equal(header[:], z.flags.header()) {
		return errors.New("the stream header is malformed: it is no xz file")
	}
	z.blocks, z.records = 0, sha256.New()
	_, err := newCheck(z.flags)
	return err
}

// closeStream reads a stream's index and footer.
func (z *Reader) closeStream() error {
	begin := z.src.n
	if err := z.readIndex(); err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	want := z.flags.footer(z.src.n - begin)
	var footer [headerSize]byte
	if err := z.src.read(footer[:]); err != nil {
		return fmt.Errorf("read stream footer: %w", err)
	}
	if !bytes.Equal(footer[:], want) {
		return errors.New("the stream footer is malformed")
	}
	z.records = nil
	return nil
}

// readIndex reads an index, section 4, and compares it with the blocks. Of
// both it keeps a hash only: there may be any number of blocks.
func (z *Reader) readIndex() error {
	begin := z.src.n
	sum := crc32.NewIEEE()
	in := summed{&z.src, sum}
	if _, err := in.ReadByte(); err != nil { // the zero that was seen
		return err
	}
	count, err := readNumber(in)
	if err != nil {
		return err
	}
	if count != z.blocks {
		return fmt.Errorf("it has %d records for %d blocks", count, z.blocks)
	}
	records := sha256.New()
	for range count {
		r, err := readRecord(in)
		if err != nil {
			return err
		}
		records.Write(r.append(nil))
	}
	if !bytes.Equal(records.Sum(nil), z.records.Sum(nil)) {
		return errors.New("it isn't that of the blocks")
	}
	for (z.src.n-begin)%4 != 0 {
		if zero, err := in.ReadByte(); err != nil || zero != 0 {
			return errors.Join(errors.New("its padding is malformed"), err)
		}
	}
	var crc [4]byte
	if err := z.src.read(crc[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(crc[:]) != sum.Sum32() {
		return errors.New("its checksum is wrong")
	}
	return nil
}

// summed is a source whose bytes are summed up.
type summed struct {
	src *source
	sum hash.Hash32
}

func (s summed) ReadByte() (byte, error) {
	b, err := s.src.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b})
	}
	return b, err
}

// skipPadding reads zeros up to the next stream, or gives io.EOF: padding is a
// multiple of four zero bytes, section 2.2.
func (z *Reader) skipPadding() error {
	for {
		word, err := z.src.r.Peek(4)
		switch {
		case err != nil && err != io.EOF:
			return err
		case len(word) == 0:
			return io.EOF
		case !bytes.Equal(word, make([]byte, 4)):
			return nil // a stream, or what its header's checks refuse
		}
		if _, err := z.src.r.Discard(4); err != nil {
			return err
		}
		z.src.n += 4
	}
}
