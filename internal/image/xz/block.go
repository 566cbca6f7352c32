package xz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// unknown is a size that a block's header doesn't say.
const unknown = -1

// blockHeader is the header of a block, section 3.1.
type blockHeader struct {
	packed  int64     // bytes of compressed data, or unknown
	size    int64     // bytes decompressed, or unknown
	filters []*filter // in the order in which they are undone, after LZMA2
	dict    int64     // bytes of LZMA2's dictionary
}

// Bits of a block header's flags.
const (
	flagFilters  = 0x03 // the number of filters, less one
	flagReserved = 0x3c
	flagPacked   = 0x40 // the header says the size of the compressed data
	flagSize     = 0x80 // the header says the size of the data
)

func readBlockHeader(src *source) (h blockHeader, err error) {
	first, err := src.ReadByte()
	if err != nil {
		return h, err
	}
	head := make([]byte, (int(first)+1)*4)
	head[0] = first
	if err := src.read(head[1:]); err != nil {
		return h, err
	}
	body := head[:len(head)-4]
	if first == 0 || crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(head[len(body):]) {
		return h, errors.New("its checksum is wrong")
	}
	flags := body[1]
	if flags&flagReserved != 0 {
		return h, &UnsupportedError{fmt.Sprintf("a block header with flags %#x", flags)}
	}
	rest := bytes.NewReader(body[2:])
	h.packed, h.size = unknown, unknown
	if flags&flagPacked != 0 {
		if h.packed, err = readNumber(rest); err != nil {
			return h, err
		}
	}
	if flags&flagSize != 0 {
		if h.size, err = readNumber(rest); err != nil {
			return h, err
		}
	}
	if err := h.readFilters(rest, int(flags&flagFilters)+1); err != nil {
		return h, err
	}
	padding := body[len(body)-rest.Len():]
	if len(bytes.Trim(padding, "\x00")) > 0 {
		return h, errors.New("its padding is malformed")
	}
	return h, nil
}

// readFilters reads the chain of filters, sections 3.1.5 and 5.3: n of them, of
// which the last is LZMA2, and no other.
func (h *blockHeader) readFilters(r *bytes.Reader, n int) error {
	for i := range n {
		id, err := readNumber(r)
		if err != nil {
			return err
		}
		size, err := readNumber(r)
		if err != nil {
			return err
		}
		if size > int64(r.Len()) {
			return io.ErrUnexpectedEOF
		}
		props := make([]byte, size)
		if _, err := io.ReadFull(r, props); err != nil {
			return noEOF(err)
		}
		if i == n-1 {
			h.dict, err = dictSize(id, props)
			return err
		}
		f, err := newFilter(id, props)
		if err != nil {
			return err
		}
		h.filters = append([]*filter{f}, h.filters...)
	}
	return nil
}

// lzma2ID is LZMA2's number among the filters.
const lzma2ID = 0x21

// dictSize reads LZMA2's properties, section 5.3.1.
func dictSize(id int64, props []byte) (int64, error) {
	switch {
	case id != lzma2ID:
		if _, err := newFilter(id, props); err != nil {
			return 0, err
		}
		return 0, errors.New("the last filter isn't LZMA2")
	case len(props) != 1 || props[0] > 40:
		return 0, errors.New("the properties of LZMA2 are malformed")
	case props[0] == 40:
		return 1<<32 - 1, nil
	}
	return int64(2|props[0]&1) << (props[0]/2 + 11), nil
}

// block decodes blocks, one after the other, with the same memory.
type block struct {
	src   *source
	head  blockHeader
	data  lzma2
	check check
	begin int64 // where in src the block begins
	body  int64 // where its compressed data begins
	size  int64 // bytes that came out

	record record // what the index has to say, known at the end
}

var errHeaderSize = errors.New("the block is longer than its header says")

// open begins a block, whose header is next in src. When it grows beyond size
// bytes, that is the error longer.
func (b *block) open(src *source, flags streamFlags, size int64, longer error, maxDict uint32) (err error) {
	if b.check, err = newCheck(flags); err != nil {
		return err
	}
	b.src, b.begin, b.size = src, src.n, 0
	if b.head, err = readBlockHeader(src); err != nil {
		return fmt.Errorf("read block header: %w", err)
	}
	if b.head.dict > int64(maxDict) {
		return &DictError{uint32(b.head.dict), maxDict}
	}
	if b.head.size != unknown {
		if b.head.size > size {
			return longer
		}
		size, longer = b.head.size, errHeaderSize
	}
	b.body = src.n
	b.data.reset(src, b.head.dict, size, longer)
	return nil
}

// next gives the next part of the block, which is valid until the next call.
// The last part, maybe an empty one, comes with io.EOF, after the block was
// verified.
func (b *block) next() ([]byte, error) {
	data, err := b.data.next()
	if err != nil && err != io.EOF {
		return nil, err
	}
	for _, f := range b.head.filters {
		data = f.run(data, err == io.EOF)
	}
	b.size += int64(len(data))
	b.check.Write(data)
	if err == io.EOF {
		if err := b.verify(); err != nil {
			return nil, err
		}
	}
	return data, err
}

// verify reads what follows the compressed data, and compares.
func (b *block) verify() error {
	packed := b.src.n - b.body
	if b.head.packed != unknown && packed != b.head.packed {
		return fmt.Errorf("the block has %d compressed bytes, its header says %d", packed, b.head.packed)
	}
	if b.head.size != unknown && b.size != b.head.size {
		return fmt.Errorf("the block has %d bytes, its header says %d", b.size, b.head.size)
	}
	want := b.check.Sum(nil)
	b.record = record{unpadded: b.src.n - b.begin + int64(len(want)), size: b.size}
	if err := b.src.padding(b.begin); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if err := b.src.read(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("the check of the block's data is wrong")
	}
	return nil
}
