package xz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Sizes and magic numbers of a stream's header and footer, section 2.1.
const (
	headerSize = 12
	magic      = "\xfd7zXZ\x00"
	endMagic   = "YZ"
)

// What Decode reads of a file before it decodes anything.
const (
	maxIndex   = 1 << 20 // bytes of an index: some 100,000 blocks
	maxBlocks  = 1 << 18
	maxStreams = 1 << 10
)

// streamFlags are the two bytes that a stream's header and footer share: a
// zero and the kind of check.
type streamFlags [2]byte

func (f streamFlags) header() []byte {
	h := append([]byte(magic), f[:]...)
	return binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(f[:]))
}

func (f streamFlags) footer(indexSize int64) []byte {
	body := binary.LittleEndian.AppendUint32(nil, uint32(indexSize/4-1))
	body = append(body, f[:]...)
	b := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(body))
	return append(append(b, body...), endMagic...)
}

// record is what an index says about a block.
type record struct {
	unpadded int64 // bytes of header, data and check
	size     int64 // bytes decompressed
}

// padded is the number of bytes that the block takes in the file.
func (r record) padded() int64 { return (r.unpadded + 3) &^ 3 }

// append writes the record as it stands in an index. The format's numbers,
// section 1.2, are little-endian base 128 just as Go's uvarints are.
func (r record) append(b []byte) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(r.unpadded)), uint64(r.size))
}

var errNumber = errors.New("a number is malformed")

// readNumber reads a number of at most 63 bits in its shortest form.
func readNumber(r io.ByteReader) (int64, error) {
	var v int64
	for shift := 0; shift < 63; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, noEOF(err)
		}
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if b == 0 && shift > 0 {
				return 0, errNumber // not the shortest form
			}
			return v, nil
		}
	}
	return 0, errNumber
}

// readRecord reads a record and checks it.
func readRecord(r io.ByteReader) (record, error) {
	unpadded, err := readNumber(r)
	if err != nil {
		return record{}, err
	}
	size, err := readNumber(r)
	if err != nil {
		return record{}, err
	}
	// The least that the format allows, and the sum of a few never overflows.
	if unpadded < 5 || unpadded > 1<<62 {
		return record{}, fmt.Errorf("a block of %d bytes", unpadded)
	}
	return record{unpadded, size}, nil
}

// located is a block in a file.
type located struct {
	record
	flags  streamFlags
	offset int64 // of its header
}

// readIndexes finds the blocks of all streams of a file, in order. It reads
// from the end: stream padding, footer, index, and then, where the index says
// that the stream starts, its header.
func readIndexes(ra io.ReaderAt, size int64) ([]located, error) {
	var streams [][]located
	count := 0
	for end := size; end > 0; {
		var err error
		if end, err = skipPadding(ra, end); err != nil {
			return nil, fmt.Errorf("read xz padding: %w", err)
		}
		blocks, start, err := readStreamIndex(ra, end)
		if err != nil {
			return nil, fmt.Errorf("read xz stream that ends at %d: %w", end, err)
		}
		if count += len(blocks); count > maxBlocks || len(streams) == maxStreams {
			return nil, errors.New("read xz index: too many blocks or streams")
		}
		streams = append(streams, blocks)
		end = start
	}
	if len(streams) == 0 {
		return nil, fmt.Errorf("read xz file: %w", io.ErrUnexpectedEOF)
	}
	all := make([]located, 0, count)
	for i := len(streams) - 1; i >= 0; i-- {
		all = append(all, streams[i]...)
	}
	return all, nil
}

// readAt fills p from offset off.
func readAt(ra io.ReaderAt, p []byte, off int64) error {
	_, err := io.ReadFull(io.NewSectionReader(ra, off, int64(len(p))), p)
	return noEOF(err)
}

// skipPadding gives the end of the last stream: padding is a multiple of four
// zero bytes, section 2.2.
func skipPadding(ra io.ReaderAt, end int64) (int64, error) {
	var buf [4096]byte
	for end > 0 {
		n := min(end, int64(len(buf)))
		if err := readAt(ra, buf[:n], end-n); err != nil {
			return 0, err
		}
		if zeros := n - int64(len(bytes.TrimRight(buf[:n], "\x00"))); zeros < n {
			return end - zeros&^3, nil
		}
		end -= n
	}
	return 0, errors.New("the file holds only zeros")
}

// readStreamIndex reads the footer and the index of the stream that ends at
// end, and checks that its header is where it must be.
func readStreamIndex(ra io.ReaderAt, end int64) (blocks []located, start int64, err error) {
	if end < 2*headerSize {
		return nil, 0, io.ErrUnexpectedEOF
	}
	var footer [headerSize]byte
	if err := readAt(ra, footer[:], end-headerSize); err != nil {
		return nil, 0, err
	}
	flags := streamFlags(footer[8:10])
	indexSize := (int64(binary.LittleEndian.Uint32(footer[4:8])) + 1) * 4
	if indexSize > maxIndex || indexSize > end-2*headerSize {
		return nil, 0, fmt.Errorf("the index claims %d bytes", indexSize)
	}
	if !bytes.Equal(footer[:], flags.footer(indexSize)) {
		return nil, 0, errors.New("the footer is malformed: the file is cut off, or no xz file")
	}
	index := make([]byte, indexSize)
	indexAt := end - headerSize - indexSize
	if err := readAt(ra, index, indexAt); err != nil {
		return nil, 0, err
	}
	records, err := parseIndex(index)
	if err != nil {
		return nil, 0, fmt.Errorf("parse the index: %w", err)
	}
	var body int64
	for _, r := range records {
		if body += r.padded(); body > indexAt-headerSize {
			return nil, 0, errors.New("the index claims more blocks than the file holds")
		}
	}
	start = indexAt - body - headerSize
	var header [headerSize]byte
	if err := readAt(ra, header[:], start); err != nil {
		return nil, 0, err
	}
	if !bytes.Equal(header[:], flags.header()) {
		return nil, 0, errors.New("no header where the index says that the stream starts")
	}
	at := start + headerSize
	for _, r := range records {
		blocks = append(blocks, located{r, flags, at})
		at += r.padded()
	}
	return blocks, start, nil
}

// parseIndex reads an index, section 4: a zero byte, the number of records, the
// records, padding, CRC32.
func parseIndex(index []byte) ([]record, error) {
	if len(index) < 8 || index[0] != 0 {
		return nil, errors.New("it is malformed")
	}
	body := index[:len(index)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(index[len(body):]) {
		return nil, errors.New("its checksum is wrong")
	}
	rest := bytes.NewReader(body[1:])
	count, err := readNumber(rest)
	if err != nil {
		return nil, err
	}
	if count > int64(rest.Len()/2) {
		return nil, fmt.Errorf("it claims %d records", count)
	}
	records := make([]record, count)
	for i := range records {
		if records[i], err = readRecord(rest); err != nil {
			return nil, fmt.Errorf("record %d: %w", i+1, err)
		}
	}
	if padding := body[len(body)-rest.Len():]; len(padding) > 3 || len(bytes.Trim(padding, "\x00")) > 0 {
		return nil, errors.New("its padding is malformed")
	}
	return records, nil
}
