package tarball

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"wolffia/internal/tree"
)

// maxZstdWindow bounds what a frame's header can make us allocate, as the zstd
// tool does.
const maxZstdWindow = 128 << 20

// Read makes a tree of the archive that r gives, plain or compressed with gzip
// or zstd, which is seen from its first bytes. It reads r to its end. Contents
// are kept as [ReadOptions.SpoolFile] says.
//
// Errors about an entry are [*EntryError]; one that wraps
// [io.ErrUnexpectedEOF] means that r is cut off.
func Read(r io.Reader, o ReadOptions) (*tree.Tree, error) {
	if o.MaxSize == 0 {
		o.MaxSize = 1 << 30
		if o.SpoolFile != "" {
			o.MaxSize = 64 << 30
		}
	}
	plain, end, err := decompress(r)
	if err != nil {
		return nil, fmt.Errorf("read tar: %w", err)
	}
	defer end()
	if o.SpoolFile == "" {
		return readMemory(plain, o)
	}
	return readSpooled(plain, o)
}

func readMemory(r io.Reader, o ReadOptions) (*tree.Tree, error) {
	var b bytes.Buffer
	if err := spool(&b, r, o.MaxSize); err != nil {
		return nil, err
	}
	open := func() (tree.ReaderAtCloser, error) { return memory{bytes.NewReader(b.Bytes())}, nil }
	return ReadAt(open, int64(b.Len()), o)
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func readSpooled(r io.Reader, o ReadOptions) (t *tree.Tree, err error) {
	f, err := os.OpenFile(o.SpoolFile, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := f.Close(); e != nil && err == nil {
			t, err = nil, e
		}
	}()
	if err := spool(f, r, o.MaxSize); err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	open := func() (tree.ReaderAtCloser, error) {
		f, err := os.Open(o.SpoolFile)
		if err != nil {
			return nil, err // not a nil *os.File in an interface
		}
		return f, nil
	}
	return readAt(f, open, size, o)
}

func spool(w io.Writer, r io.Reader, limit int64) error {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err != nil {
		return fmt.Errorf("read tar: %w", err)
	}
	if n > limit {
		return fmt.Errorf("read tar: the archive has more than the limit of %d bytes, uncompressed", limit)
	}
	return nil
}

// foreign are compressions that are common for tar and not read here.
var foreign = []struct{ magic, name string }{
	{"\xfd7zXZ", "xz"}, {"BZh", "bzip2"}, {"\x1f\x9d", "compress"}, {"LZIP", "lzip"}, {"\x04\x22\x4d\x18", "lz4"},
}

// decompress gives the uncompressed archive, and the function that ends it.
func decompress(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, fmt.Errorf("read gzip header: %w", err)
		}
		z.Multistream(false)
		return &gzipMembers{z, b}, func() {}, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("read zstd header: %w", err)
		}
		return z, z.Close, nil
	}
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return nil, nil, fmt.Errorf("the archive is compressed with %s, which is not supported: decompress it first", f.name)
		}
	}
	return b, func() {}, nil
}

// gzipMembers reads gzip members one after the other, and goes over the zeros
// with which bsdtar fills up its last block after them.
type gzipMembers struct {
	z   *gzip.Reader
	raw *bufio.Reader
}

func (g *gzipMembers) Read(p []byte) (int, error) {
	for {
		n, err := g.z.Read(p)
		if err == io.EOF {
			err = g.next()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next starts on the next member, or gives [io.EOF] where there is none.
func (g *gzipMembers) next() error {
	for {
		c, err := g.raw.Peek(1)
		if err != nil {
			return err
		}
		if c[0] != 0 {
			break
		}
		if _, err := g.raw.Discard(1); err != nil {
			return err
		}
	}
	if err := g.z.Reset(g.raw); err != nil {
		return fmt.Errorf("after a gzip member: %w", err)
	}
	g.z.Multistream(false)
	return nil
}
