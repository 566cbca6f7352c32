package deb

import (
	"bufio"
	"compress/bzip2"
	"io"
	"math"
	"strings"

	"wolffia/internal/image/xz"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decoders open a compressed stream, by the suffix of the member's name.
var decoders = map[string]func(io.Reader, Options) (io.ReadCloser, error){
	"": func(r io.Reader, _ Options) (io.ReadCloser, error) { return io.NopCloser(r), nil },
	".gz": func(r io.Reader, _ Options) (io.ReadCloser, error) {
		return gzip.NewReader(r)
	},
	".bz2": func(r io.Reader, _ Options) (io.ReadCloser, error) {
		return io.NopCloser(bzip2.NewReader(r)), nil
	},
	".xz": func(r io.Reader, o Options) (io.ReadCloser, error) {
		// Who reads bounds what is read.
		return io.NopCloser(xz.NewReader(r, xz.Options{MaxSize: math.MaxInt64, MaxDict: o.MaxDict})), nil
	},
	".zst": func(r io.Reader, o Options) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(uint64(max(o.MaxDict, zstd.MinWindowSize))), zstd.WithDecoderConcurrency(o.Workers))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	},
}

// open decompresses a member from its start.
func (a *Archive) open(m member, section *io.SectionReader) (io.ReadCloser, error) {
	_, suffix, _ := strings.Cut(m.name, ".tar")
	return decoders[suffix](bufio.NewReaderSize(section, 64<<10), a.opts)
}
