package deb

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/mikelolasagasti/xz"
	"golang.org/x/sync/errgroup"
)

// XZOptions bound the decoding of an xz file. The zero value suits packages
// and indexes.
type XZOptions struct {
	MaxSize int64  // bytes, decompressed; 0 means 4 GiB
	MaxDict uint32 // bytes of dictionary for each worker; 0 means 128 MiB
	Workers int    // blocks decoded at once; 0 means GOMAXPROCS
}

// DecodeXZ decompresses the xz file of size bytes in ra, writes it to w from
// offset 0 on and gives its length. A file tells in the index at its end where
// its blocks lie, so they are decoded side by side, each verified against its
// check. Writes come from several goroutines, to disjoint ranges.
//
// A file that does not keep to its index, or that is longer than MaxSize (a
// *LimitError, before anything is decoded), is refused.
func DecodeXZ(ctx context.Context, ra io.ReaderAt, size int64, w io.WriterAt, opts XZOptions) (int64, error) {
	if opts.MaxSize == 0 {
		opts.MaxSize = 4 << 30
	}
	if opts.MaxDict == 0 {
		opts.MaxDict = 128 << 20
	}
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	blocks, err := readXZIndex(ra, size)
	if err != nil {
		return 0, err
	}
	// Both sums are safe: readXZIndex bounds the count and each size.
	var total int64
	for _, b := range blocks {
		if b.size > opts.MaxSize-total {
			return 0, &LimitError{"xz file", opts.MaxSize}
		}
		total += b.size
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(opts.Workers)
	var at int64
	for i, b := range blocks {
		dest := io.NewOffsetWriter(w, at)
		at += b.size
		g.Go(func() error {
			if err := b.decode(ctx, ra, dest, opts.MaxDict); err != nil {
				return fmt.Errorf("decode xz block %d of %d: %w", i+1, len(blocks), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return total, nil
}

// Sizes and magic numbers of the format, section 2.1.
const (
	xzHeaderSize = 12
	xzMagic      = "\xfd7zXZ\x00"
	xzEndMagic   = "YZ"
	maxXZIndex   = 1 << 20 // bytes of an index: some 100,000 blocks
	maxXZBlocks  = 1 << 18
	maxXZStreams = 1 << 10
)

// xzBlock is one block and what its index and stream say about it.
type xzBlock struct {
	offset   int64   // of its header, in the file
	unpadded int64   // bytes of header, data and check
	size     int64   // bytes decompressed
	flags    [2]byte // stream flags: the kind of check
}

// decode writes the block's contents to w. The block is made a stream of its
// own: a stream header, the block, an index of one record and a footer.
func (b xzBlock) decode(ctx context.Context, ra io.ReaderAt, w io.Writer, maxDict uint32) error {
	index := appendVLI(appendVLI([]byte{0, 1}, uint64(b.unpadded)), uint64(b.size))
	index = sealIndex(index)
	stream := io.MultiReader(
		bytes.NewReader(xzStreamHeader(b.flags)),
		io.NewSectionReader(ra, b.offset, padXZ(b.unpadded)),
		bytes.NewReader(index),
		bytes.NewReader(xzStreamFooter(b.flags, len(index))))
	r, err := xz.NewReader(bufio.NewReaderSize(stream, 64<<10), maxDict)
	if err != nil {
		return err
	}
	// The reader compares the index with what it decoded, so a block of
	// another size is an error; the limit stops it before it grows.
	limited := &limitReader{r: r, left: b.size, err: errors.New("the block is longer than the index says")}
	n, err := copyContext(ctx, w, limited)
	if err == nil && n != b.size {
		err = fmt.Errorf("the block has %d bytes, the index says %d", n, b.size)
	}
	return err
}

// sealIndex adds the padding and the checksum.
func sealIndex(index []byte) []byte {
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	return binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
}

func padXZ(n int64) int64 { return (n + 3) &^ 3 }

func xzStreamHeader(flags [2]byte) []byte {
	h := append([]byte(xzMagic), flags[:]...)
	return binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(flags[:]))
}

func xzStreamFooter(flags [2]byte, indexSize int) []byte {
	body := binary.LittleEndian.AppendUint32(nil, uint32(indexSize/4-1))
	body = append(body, flags[:]...)
	f := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(body))
	return append(append(f, body...), xzEndMagic...)
}

// appendVLI writes a multibyte integer, section 1.2, which is little-endian
// base 128 just as a Go uvarint is.
func appendVLI(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }

// readXZIndex finds the blocks of all streams of a file, in order. It reads
// from the end: stream padding, footer, index, and then, where the index says
// that the stream starts, its header.
func readXZIndex(ra io.ReaderAt, size int64) ([]xzBlock, error) {
	var streams [][]xzBlock
	count := 0
	for end := size; end > 0; {
		var err error
		if end, err = skipXZPadding(ra, end); err != nil {
			return nil, fmt.Errorf("read xz padding: %w", err)
		}
		blocks, start, err := readXZStream(ra, end)
		if err != nil {
			return nil, fmt.Errorf("read xz stream that ends at %d: %w", end, err)
		}
		if count += len(blocks); count > maxXZBlocks || len(streams) == maxXZStreams {
			return nil, errors.New("read xz index: too many blocks or streams")
		}
		streams = append(streams, blocks)
		end = start
	}
	if len(streams) == 0 {
		return nil, fmt.Errorf("read xz file: %w", io.ErrUnexpectedEOF)
	}
	all := make([]xzBlock, 0, count)
	for i := len(streams) - 1; i >= 0; i-- {
		all = append(all, streams[i]...)
	}
	return all, nil
}

// skipXZPadding gives the end of the last stream: padding is a multiple of
// four zero bytes, section 2.2.
func skipXZPadding(ra io.ReaderAt, end int64) (int64, error) {
	var buf [4096]byte
	for end > 0 {
		n := min(end, int64(len(buf)))
		if _, err := io.ReadFull(io.NewSectionReader(ra, end-n, n), buf[:n]); err != nil {
			return 0, noEOF(err)
		}
		if zeros := n - int64(len(bytes.TrimRight(buf[:n], "\x00"))); zeros < n {
			return end - zeros&^3, nil
		}
		end -= n
	}
	return 0, errors.New("the file holds only zeros")
}

// readXZStream reads the footer and the index of the stream that ends at end,
// and checks that its header is where it must be.
func readXZStream(ra io.ReaderAt, end int64) (blocks []xzBlock, start int64, err error) {
	if end < 2*xzHeaderSize {
		return nil, 0, io.ErrUnexpectedEOF
	}
	var footer [xzHeaderSize]byte
	if _, err := io.ReadFull(io.NewSectionReader(ra, end-xzHeaderSize, xzHeaderSize), footer[:]); err != nil {
		return nil, 0, noEOF(err)
	}
	flags := [2]byte(footer[8:10])
	indexSize := (int64(binary.LittleEndian.Uint32(footer[4:8])) + 1) * 4
	if indexSize > maxXZIndex || indexSize > end-2*xzHeaderSize {
		return nil, 0, fmt.Errorf("the index claims %d bytes", indexSize)
	}
	if !bytes.Equal(footer[:], xzStreamFooter(flags, int(indexSize))) {
		return nil, 0, errors.New("the footer is malformed: the file is cut off, or no xz file")
	}
	index := make([]byte, indexSize)
	indexAt := end - xzHeaderSize - indexSize
	if _, err := io.ReadFull(io.NewSectionReader(ra, indexAt, indexSize), index); err != nil {
		return nil, 0, noEOF(err)
	}
	blocks, err = parseXZIndex(index)
	if err != nil {
		return nil, 0, err
	}
	var body int64
	for _, b := range blocks {
		if body += padXZ(b.unpadded); body > indexAt-xzHeaderSize {
			return nil, 0, errors.New("the index claims more blocks than the file holds")
		}
	}
	start = indexAt - body - xzHeaderSize
	var header [xzHeaderSize]byte
	if _, err := io.ReadFull(io.NewSectionReader(ra, start, xzHeaderSize), header[:]); err != nil {
		return nil, 0, noEOF(err)
	}
	if !bytes.Equal(header[:], xzStreamHeader(flags)) {
		return nil, 0, errors.New("no header where the index says that the stream starts")
	}
	at := start + xzHeaderSize
	for i := range blocks {
		blocks[i].offset, blocks[i].flags = at, flags
		at += padXZ(blocks[i].unpadded)
	}
	return blocks, start, nil
}

// parseXZIndex reads an index, section 4: a zero byte, the number of records,
// for each the unpadded and the uncompressed size, padding, CRC32.
func parseXZIndex(index []byte) ([]xzBlock, error) {
	if len(index) < 8 || index[0] != 0 {
		return nil, errors.New("the index is malformed")
	}
	body := index[:len(index)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(index[len(body):]) {
		return nil, errors.New("the index has a wrong checksum")
	}
	rest := body[1:]
	next := func() (int64, bool) {
		v, n := binary.Uvarint(rest)
		if n <= 0 || n > 9 || n > 1 && rest[n-1] == 0 {
			return 0, false // too long, or not the shortest form
		}
		rest = rest[n:]
		return int64(v), true
	}
	count, ok := next()
	if !ok || count > int64(len(rest)/2) {
		return nil, errors.New("the index is malformed: wrong number of records")
	}
	blocks := make([]xzBlock, count)
	for i := range blocks {
		var ok1, ok2 bool
		blocks[i].unpadded, ok1 = next()
		blocks[i].size, ok2 = next()
		// The shortest block is a header of 8 bytes and an end marker.
		if !ok1 || !ok2 || blocks[i].unpadded < 5 || blocks[i].unpadded > 1<<62 {
			return nil, fmt.Errorf("the index is malformed: record %d", i+1)
		}
	}
	if len(rest) > 3 || len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, errors.New("the index is malformed: wrong padding")
	}
	return blocks, nil
}
