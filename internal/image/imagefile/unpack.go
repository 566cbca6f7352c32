package imagefile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"wolffia/internal/image/disk"
	"wolffia/internal/image/xz"
)

// maxWindow bounds the memory that a zstd frame may ask for.
const maxWindow = 128 << 20

// decompress gives the content of r, which is compressed with gzip or zstd, and
// the function that ends it.
func decompress(r io.Reader, format disk.Format) (io.Reader, func(), error) {
	if format == disk.Gzip {
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

// within tells a compressed cpio archive from all else. Such a file can have
// several archives, compressed and plain ones with zeros between, which only
// package cpio can unpack.
func (f *File) within(r *os.File) (disk.Format, error) {
	if f.Format == disk.XZ {
		return disk.Unknown, nil
	}
	defer r.Seek(0, io.SeekStart) // it did before
	z, end, err := decompress(r, f.Format)
	if err != nil {
		return disk.Unknown, err
	}
	defer end()
	head := make([]byte, 6)
	if n, _ := io.ReadFull(z, head); n == len(head) && (string(head) == "070701" || string(head) == "070702") {
		return disk.CPIO, nil
	}
	return disk.Unknown, nil
}

// unpack decompresses r into a file of the scratch folder.
func (f *File) unpack(ctx context.Context, r *os.File, size int64) (*os.File, int64, error) {
	dir, err := f.dir()
	if err != nil {
		return nil, 0, err
	}
	name := filepath.Join(dir, fmt.Sprintf("unpacked-%d", len(f.Packed)))
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, 0, &hostError{err}
	}
	format := f.Packed[len(f.Packed)-1]
	if format == disk.XZ {
		_, err = xz.Decode(ctx, r, size, out, xz.Options{MaxSize: f.o.MaxSize})
	} else {
		err = f.inflate(ctx, out, r, format)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, 0, fmt.Errorf("unpack %s: %w", format, err)
	}
	return f.openSource(name)
}

func (f *File) inflate(ctx context.Context, out *os.File, r io.Reader, format disk.Format) error {
	z, end, err := decompress(r, format)
	if err != nil {
		return err
	}
	defer end()
	buf, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(z, buf)
		if off+int64(n) > f.o.MaxSize {
			return fmt.Errorf("it has more than %d bytes, unpacked", f.o.MaxSize)
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := out.WriteAt(buf[:n], off); err != nil {
				return &hostError{err}
			}
		}
		off += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			// ReadFull says the latter of a short last read, too: a stream that is
			// cut off says so again.
			if _, err := io.ReadFull(z, buf[:1]); err != io.EOF {
				return io.ErrUnexpectedEOF
			}
			if err := out.Truncate(off); err != nil {
				return &hostError{err}
			}
			return nil
		default:
			return err
		}
	}
}
