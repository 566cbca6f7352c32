// Package compress compresses archives on all processors into the same bytes on
// any number of them: one gzip member or one zstd frame, because the kernel's
// initramfs unpacker takes no archive that goes on from one to the next.
//
//	z, end, err := compress.Writer(f, compress.Zstd)
//	...
//	err = end()
package compress

import (
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// Kind says how an archive is compressed.
type Kind string

// The compressions. The output doesn't depend on the number of processors.
const (
	None Kind = ""
	Gzip Kind = "gzip" // about as small as gzip -6, in a fraction of its time
	Zstd Kind = "zstd" // smaller than gzip, and much faster both ways
)

const (
	gzipLevel  = 8       // of the library's scale: the nearest in size to gzip -6
	gzipBlock  = 1 << 20 // bytes compressed at a time; part of the format's bytes, never change it lightly
	zstdWindow = 1 << 20
)

// Writer gives a writer that compresses into w, and the function that ends
// it, which must be called once, whatever happened before.
func Writer(w io.Writer, c Kind) (io.Writer, func() error, error) {
	switch c {
	case None:
		return w, func() error { return nil }, nil
	case Gzip:
		z, err := pgzip.NewWriterLevel(w, gzipLevel)
		if err != nil {
			return nil, nil, err
		}
		z.ModTime = time.Unix(0, 0) // "no time is available", RFC 1952
		if err := z.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0)); err != nil {
			return nil, nil, err
		}
		return z, func() error {
			err := z.Close()
			z.Reset(io.Discard) // ends its goroutines after an error, too
			return err
		}, nil
	case Zstd:
		z, err := zstd.NewWriter(w, zstd.WithWindowSize(zstdWindow), zstd.WithConcurrentBlocks(true),
			// With one, the library takes another path, whose bytes differ.
			zstd.WithEncoderConcurrency(max(2, runtime.GOMAXPROCS(0))))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, nil, fmt.Errorf("compression %q is not supported: use gzip, zstd or none", string(c))
}
