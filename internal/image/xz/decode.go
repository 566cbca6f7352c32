package xz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Decode decompresses the xz file of size bytes in ra, writes it to w from
// offset 0 on and gives its length. A file tells in the index at its end where
// its blocks lie, so they are decoded side by side, each verified against its
// check. Writes come from several goroutines, to disjoint ranges and in any
// order. After an error w holds an unknown part.
//
// A file that does not keep to its index, or that decompresses to more than
// MaxSize (a *SizeError, before anything is decoded), is refused.
func Decode(ctx context.Context, ra io.ReaderAt, size int64, w io.WriterAt, opts Options) (int64, error) {
	opts = opts.withDefaults()
	blocks, err := readIndexes(ra, size)
	if err != nil {
		return 0, err
	}
	// Both sums are safe: reading the index bounds the count and each size.
	offsets := make([]int64, len(blocks))
	var total int64
	for i, b := range blocks {
		if b.size > opts.MaxSize-total {
			return 0, &SizeError{opts.MaxSize}
		}
		offsets[i] = total
		total += b.size
	}
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(opts.Workers, len(blocks)) {
		g.Go(func() error {
			var d block
			for {
				i := int(next.Add(1) - 1)
				if i >= len(blocks) {
					return nil
				}
				if err := blocks[i].decode(ctx, &d, ra, io.NewOffsetWriter(w, offsets[i]), opts); err != nil {
					return fmt.Errorf("decode xz block %d of %d: %w", i+1, len(blocks), err)
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return total, nil
}

var errIndexSize = errors.New("the block is longer than the index says")

// decode writes the block's contents to w.
func (l located) decode(ctx context.Context, d *block, ra io.ReaderAt, w io.Writer, opts Options) error {
	section := io.NewSectionReader(ra, l.offset, l.padded())
	src := newSource(section, int(min(l.padded(), readSize)))
	if err := d.open(src, l.flags, l.size, errIndexSize, opts.MaxDict); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := d.next()
		if err != nil && err != io.EOF {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err == io.EOF {
			break
		}
	}
	if got := d.record; got != l.record {
		return fmt.Errorf("the block has %d bytes, %d compressed, and the index says %d and %d", got.size, got.unpadded, l.size, l.unpadded)
	}
	return nil
}

// readSize is the bytes that are read of a file at a time, rather more than a
// chunk, which has some 64 KiB.
const readSize = 256 << 10
