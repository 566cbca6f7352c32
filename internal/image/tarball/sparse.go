package tarball

import (
	"archive/tar"
	"fmt"
	"io"

	"wolffia/internal/tree"
)

// maxSparse bounds a sparse file with its holes, as ext4 does with 4 KiB blocks.
const maxSparse = 1 << 44

// sparseFile is the content of a file with holes. Its map lies in its headers
// in one of four forms, which archive/tar all knows, so each reading begins
// with them again. The holes read as zeros.
type sparseFile struct {
	open            func() (tree.ReaderAtCloser, error)
	start, end, len int64
}

// sparse checks the file's map once, so that it doesn't fail later.
func (r *reader) sparse(e *entry) (tree.Content, error) {
	if e.h.logical > maxSparse {
		return nil, fmt.Errorf("a sparse file of %d bytes is larger than %d", e.h.logical, int64(maxSparse))
	}
	s := sparseFile{r.open, e.start, e.next, e.h.logical}
	f, err := s.Open()
	if err != nil {
		return nil, err
	}
	return s, f.Close()
}

func (s sparseFile) Size() int64 { return s.len }

func (s sparseFile) Open() (io.ReadCloser, error) {
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	tr := tar.NewReader(io.NewSectionReader(f, s.start, s.end-s.start))
	h, err := tr.Next()
	if err == nil && h.Size != s.len {
		err = fmt.Errorf("its map is for %d bytes, its size is %d", h.Size, s.len)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("sparse file: %w", err)
	}
	return struct {
		io.Reader
		io.Closer
	}{tr, f}, nil
}
