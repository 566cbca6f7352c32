package tree

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// Content is the bytes of a regular file.
type Content interface {
	// Size is the length in bytes. It never changes.
	Size() int64
	// Open starts reading at byte 0. The reader gives exactly Size bytes.
	// Several may be open at once, in several goroutines.
	Open() (io.ReadCloser, error)
}

type bytesContent string

// Bytes is content held in memory. It is a copy of b.
func Bytes[T ~string | ~[]byte](b T) Content { return bytesContent(b) }

func (b bytesContent) Size() int64 { return int64(len(b)) }
func (b bytesContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(b))), nil
}

// ReaderAtCloser is what [Section] reads from; an *os.File is one.
type ReaderAtCloser interface {
	io.ReaderAt
	io.Closer
}

type section struct {
	open      func() (ReaderAtCloser, error)
	off, size int64
}

// Section is content that lies at a byte offset in a larger file, such as an
// uncompressed archive. open is called once for each reading. A file that has
// become shorter since is an [io.ErrUnexpectedEOF].
func Section(open func() (ReaderAtCloser, error), off, size int64) Content {
	return section{open, off, size}
}

func (s section) Size() int64 { return s.size }
func (s section) Open() (io.ReadCloser, error) {
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	return &sectionReader{f: f, off: s.off, end: s.off + s.size}, nil
}

// sectionReader is an io.SectionReader that doesn't take the file's early end
// for its own.
type sectionReader struct {
	f        ReaderAtCloser
	off, end int64
}

func (r *sectionReader) Read(p []byte) (int, error) {
	if r.off >= r.end {
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.end-r.off)], r.off)
	r.off += int64(n)
	switch {
	case err == io.EOF && r.off < r.end:
		err = io.ErrUnexpectedEOF
	case err == io.EOF:
		err = nil
	}
	return n, err
}

func (r *sectionReader) Close() error { return r.f.Close() }

// Open reads the content of a regular file.
func (n *Node) Open() (io.ReadCloser, error) {
	if n.Type() != TypeRegular {
		return nil, errNotRegular
	}
	if n.Content == nil {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return n.Content.Open()
}

// ReadFile gives the content of the regular file called name, following links.
// It refuses files of more than limit bytes.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	_, n, err := t.Resolve(name)
	if err != nil {
		return nil, err
	}
	if n.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes are more than the limit of %d", n.Size(), limit)}
	}
	b, err := readAll(n)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

func readAll(n *Node) ([]byte, error) {
	r, err := n.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, n.Size()+1))
	if err == nil && int64(len(b)) != n.Size() {
		err = fmt.Errorf("content has %d bytes where %d were promised", len(b), n.Size())
	}
	return b, err
}
