package ext4

import (
	"errors"
	"fmt"
	"io"

	"wolffia/internal/tree"
)

// content is a regular file's. It is a [tree.Sparse].
type content struct {
	f      *FS
	number uint32 // of the inode, for errors
	size   int64
	blocks fileMap
}

var _ tree.Sparse = (*content)(nil)

func (c *content) Size() int64 { return c.size }

func (c *content) Open() (io.ReadCloser, error) {
	return &fileReader{c: c, cache: cache{f: c.f}}, nil
}

func (c *content) OpenAt() (tree.ReaderAtCloser, error) { return fileAt{c}, nil }

// maxHoles bounds the list of a file's parts. A file in more pieces has, for
// whoever asks, no holes.
const maxHoles = 1 << 20

func (c *content) Data() ([]tree.Extent, error) {
	var out []tree.Extent
	cache := cache{f: c.f}
	bs := int64(c.f.bs)
	for n := int64(0); n*bs < c.size; {
		s, err := c.blocks.find(&cache, uint64(n))
		if err != nil {
			return nil, c.wrap(err)
		}
		if s.disk != 0 {
			e := tree.Extent{Off: n * bs, Len: min(int64(s.count)*bs, c.size-n*bs)}
			if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len == e.Off {
				out[k].Len += e.Len
			} else {
				out = append(out, e)
			}
			if len(out) > maxHoles {
				return []tree.Extent{{Off: 0, Len: c.size}}, nil
			}
		}
		n += int64(s.count)
	}
	return out, nil
}

func (c *content) wrap(err error) error { return fmt.Errorf("inode %d: %w", c.number, err) }

// read fills p from off on, which is within the size. At is the stretch that was
// read last, which begins at the block from.
func (c *content) read(cache *cache, at *stretch, from *uint64, p []byte, off int64) error {
	bs := c.f.bs
	for len(p) > 0 {
		n := uint64(off) / bs
		if n < *from || n >= *from+at.count {
			s, err := c.blocks.find(cache, n)
			if err != nil {
				return c.wrap(err)
			}
			*at, *from = s, n
		}
		skip := uint64(off) - *from*bs
		k := min(uint64(len(p)), at.count*bs-skip)
		if at.disk == 0 {
			clear(p[:k])
		} else if err := c.f.read(at.disk+skip/bs, skip%bs, p[:k]); err != nil {
			return c.wrap(err)
		}
		p, off = p[k:], off+int64(k)
	}
	return nil
}

// fileReader reads a file from its start.
type fileReader struct {
	c     *content
	cache cache
	at    stretch
	from  uint64
	off   int64
}

func (r *fileReader) Read(p []byte) (int, error) {
	if r.off >= r.c.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.c.size-r.off)]
	if err := r.c.read(&r.cache, &r.at, &r.from, p, r.off); err != nil {
		return 0, err
	}
	r.off += int64(len(p))
	return len(p), nil
}

func (r *fileReader) Close() error { return nil }

// fileAt reads a file anywhere, in any number of goroutines.
type fileAt struct{ c *content }

func (r fileAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= r.c.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.c.size-off))
	at, from := stretch{}, uint64(0)
	if err := r.c.read(&cache{f: r.c.f}, &at, &from, p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r fileAt) Close() error { return nil }
