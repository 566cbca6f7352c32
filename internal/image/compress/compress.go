// Package compress compresses archives on all processors into the same bytes on
// any number of them: one gzip member or one zstd frame, because the kernel's
// initramfs unpacker takes no archive that goes on from one to the next.
//
// Deflate, of which gzip is made (RFC 1951, 1952), is written here: a library
// that looks for no matches of three bytes makes initramfs larger than gzip's own.
//
//	z, end, err := compress.Writer(f, compress.Zstd)
//	...
//	err = end()
package compress

import (
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// Kind says how an archive is compressed.
type Kind string

// The compressions. The output doesn't depend on the number of processors.
const (
	None Kind = ""
	Gzip Kind = "gzip" // smaller than gzip -6, in a fraction of its time
	Zstd Kind = "zstd" // smaller than gzip, and much faster both ways
)

const zstdWindow = 1 << 20

// Writer gives a writer that compresses into w, and the function that ends
// it, which must be called once, whatever happened before.
func Writer(w io.Writer, c Kind) (io.Writer, func() error, error) {
	switch c {
	case None:
		return w, func() error { return nil }, nil
	case Gzip:
		z := newGzip(w)
		return z, func() error { return z.end(w) }, nil
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
