package fat

import (
	"errors"
	"io"
	"sort"

	"wolffia/internal/tree"
)

// content is a file's or directory's bytes.
type content struct {
	f    *FS
	size int64
	runs []run
	ends []int64 // of the runs, in bytes of the file
}

var _ tree.Sparse = (*content)(nil)

func newContent(f *FS, size int64, runs []run) *content {
	c := &content{f: f, size: size, runs: runs, ends: make([]int64, len(runs))}
	end := int64(0)
	for i, r := range runs {
		end += int64(r.count) * f.cluster
		c.ends[i] = end
	}
	return c
}

func (c *content) Size() int64 { return c.size }

// Data is all of it: FAT has no holes.
func (c *content) Data() ([]tree.Extent, error) { return []tree.Extent{{Off: 0, Len: c.size}}, nil }

func (c *content) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(fileAt{c}, 0, c.size)), nil
}

func (c *content) OpenAt() (tree.ReaderAtCloser, error) { return fileAt{c}, nil }

// fileAt reads a file anywhere, in any number of goroutines.
type fileAt struct{ c *content }

func (r fileAt) ReadAt(p []byte, off int64) (int, error) {
	c := r.c
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	read := 0
	for read < len(p) && off < c.size {
		i := sort.Search(len(c.ends), func(i int) bool { return c.ends[i] > off })
		from := c.ends[i] - int64(c.runs[i].count)*c.f.cluster
		n := min(int64(len(p)-read), c.size-off, c.ends[i]-off)
		at := c.f.data + int64(c.runs[i].first-firstCluster)*c.f.cluster + off - from
		if err := readFull(c.f.r, p[read:read+int(n)], at); err != nil {
			return read, err
		}
		read, off = read+int(n), off+n
	}
	if read < len(p) {
		return read, io.EOF
	}
	return read, nil
}

func (r fileAt) Close() error { return nil }
