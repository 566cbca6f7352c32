package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"wolffia/internal/tree"
)

// ReadOptions bound what a foreign archive may make us do. The zero value is
// right for any ordinary initramfs.
type ReadOptions struct {
	// Limits bound the entries and their metadata.
	Limits tree.Limits
	// SpoolFile is the file that takes the contents; it is created or
	// truncated with mode 0600, must stay for as long as the tree's contents
	// are read, and is the caller's to remove, after an error too. Empty means
	// memory.
	SpoolFile string
	// MaxSize bounds all archives together, uncompressed, in bytes. 0 means
	// 1 GiB in memory, 64 GiB in a file.
	MaxSize int64
}

// EntryError says what is wrong with which entry of an archive.
type EntryError struct {
	Name   string // as the archive spells it; empty where it isn't known
	Offset int64  // of the entry's header, counted in uncompressed bytes
	Err    error
}

func (e *EntryError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("cpio entry at byte %d: %v", e.Offset, e.Err)
	}
	return fmt.Sprintf("cpio entry %.200q at byte %d: %v", e.Name, e.Offset, e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

// Read reads all archives of r into one tree, later ones over earlier ones. The
// compression is seen from the bytes.
//
// Errors about an entry are [*EntryError]; one that wraps
// [io.ErrUnexpectedEOF] means that r is cut off.
func Read(r io.Reader, o ReadOptions) (t *tree.Tree, err error) {
	if o.MaxSize == 0 {
		o.MaxSize = 1 << 30
		if o.SpoolFile != "" {
			o.MaxSize = 64 << 30
		}
	}
	rd := &reader{u: tree.NewUnpacker(o.Limits), src: newSource(r, o.MaxSize), links: map[link]*tree.Node{}}
	defer rd.src.Close()
	if o.SpoolFile != "" {
		f, err := os.OpenFile(o.SpoolFile, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, err
		}
		defer func() {
			if e := f.Close(); e != nil && err == nil {
				t, err = nil, e
			}
		}()
		rd.spool = f
	}
	if err := rd.readAll(); err != nil {
		return nil, err
	}
	return rd.u.Tree(), nil
}

type reader struct {
	u       *tree.Unpacker
	src     *source
	spool   *os.File // nil: contents go into memory
	spooled int64
	links   map[link]*tree.Node // of this archive, until its trailer
	open    bool                // inside an archive, whose trailer is still to come
	header  [headerSize]byte
}

// link tells which entries are names of one file.
type link struct{ major, minor, ino uint32 }

func (r *reader) readAll() error {
	for {
		start := r.src.off
		more, err := r.src.next()
		if err != nil {
			return &EntryError{Offset: r.src.off, Err: err}
		}
		if !more && (r.open || start == 0) {
			return &EntryError{Offset: r.src.off, Err: fmt.Errorf("there is no %s entry: the archive is cut off: %w", trailerName, io.ErrUnexpectedEOF)}
		}
		if !more {
			return nil
		}
		start = r.src.off
		name, err := r.entry()
		if err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = fmt.Errorf("the archive is cut off at byte %d: %w", r.src.off, io.ErrUnexpectedEOF)
			}
			return &EntryError{Name: name, Offset: start, Err: err}
		}
	}
}

// entry reads one entry whole, and gives its name even with an error.
func (r *reader) entry() (string, error) {
	if err := r.full(r.header[:]); err != nil {
		return "", err
	}
	var h header
	check, err := h.decode(r.header[:])
	if err != nil {
		return "", err
	}
	raw := make([]byte, int(h.NameSize)+pad4(headerSize+int64(h.NameSize)))
	if err := r.full(raw); err != nil {
		return "", err
	}
	name := string(raw[:h.NameSize-1])
	if raw[h.NameSize-1] != 0 || strings.IndexByte(name, 0) >= 0 {
		return name, errors.New("the name holds a NUL, or doesn't end with one")
	}
	r.open = true
	if name == trailerName {
		r.open = false
		clear(r.links)
		if h.Size != 0 {
			return name, fmt.Errorf("%d bytes of data in the trailer", h.Size)
		}
		return name, nil
	}
	n, err := r.node(&h, check)
	if err != nil {
		return name, err
	}
	if err := r.u.Put(name, n); err != nil {
		return name, err
	}
	return name, r.full(r.header[:pad4(int64(h.Size))])
}

// full fills p.
func (r *reader) full(p []byte) error {
	_, err := io.ReadFull(r.src, p)
	return err
}

// node makes an entry's node, or finds that of its earlier names.
func (r *reader) node(h *header, check bool) (*tree.Node, error) {
	if h.Mode>>16 != 0 {
		return nil, fmt.Errorf("mode %#o is out of range", h.Mode)
	}
	n := &tree.Node{Mode: h.Mode}
	kind := n.Type()
	if h.Nlink > 1 && kind != tree.TypeDir && kind != tree.TypeSymlink {
		key := link{h.DevMajor, h.DevMinor, h.Ino}
		if old := r.links[key]; old != nil {
			if old.Type() != kind {
				return nil, errors.New("it is a hard link to a file of another type")
			}
			n = old
			n.Mode = h.Mode // the last name's attributes stay, as in the kernel
		} else {
			r.links[key] = n
		}
	}
	n.UID, n.GID, n.ModTime = h.UID, h.GID, time.Unix(int64(h.MTime), 0).UTC()
	switch {
	case kind == tree.TypeSymlink:
		target, err := r.target(h)
		n.Target = target
		return n, err
	case kind == tree.TypeBlock || kind == tree.TypeChar:
		n.Major, n.Minor = h.RdevMajor, h.RdevMinor
	}
	if h.Size == 0 {
		return n, nil
	}
	if kind != tree.TypeRegular {
		return nil, fmt.Errorf("%d bytes of data, but it is no regular file", h.Size)
	}
	var sum checksum
	src := io.Reader(r.src)
	if check {
		src = io.TeeReader(r.src, &sum)
	}
	c, err := r.content(src, int64(h.Size))
	if err == nil && check && uint32(sum) != h.Check {
		err = fmt.Errorf("its data is damaged: the checksum is %#x, and should be %#x", uint32(sum), h.Check)
	}
	n.Content = c
	return n, err
}

func (r *reader) target(h *header) (string, error) {
	if h.Size >= tree.MaxPath {
		return "", fmt.Errorf("the link's target of %d bytes is longer than %d", h.Size, tree.MaxPath-1)
	}
	b := make([]byte, h.Size)
	return string(b), r.full(b)
}

// checksum is the sum of the bytes written to it, as 070702 has it.
type checksum uint32

func (c *checksum) Write(p []byte) (int, error) {
	for _, b := range p {
		*c += checksum(b)
	}
	return len(p), nil
}

// content keeps the next size bytes. The size is the archive's word: memory is
// taken only as bytes come.
func (r *reader) content(src io.Reader, size int64) (tree.Content, error) {
	if size > r.src.limit-r.src.off {
		return nil, fmt.Errorf("%d bytes reach past the limit of %d bytes for the archive, uncompressed", size, r.src.limit)
	}
	src = io.LimitReader(src, size)
	if r.spool == nil {
		var b bytes.Buffer
		b.Grow(int(min(size, 1<<20) + bytes.MinRead))
		n, err := b.ReadFrom(src)
		return memory(b.Bytes()), short(n, size, err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{r.spool}, src, make([]byte, min(size, bufferSize)))
	c := tree.Section(opener(r.spool.Name()), r.spooled, size)
	r.spooled += n
	return c, short(n, size, err)
}

func short(n, size int64, err error) error {
	if err == nil && n < size {
		err = fmt.Errorf("the archive is cut off after %d of the entry's %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	return err
}

func opener(name string) func() (tree.ReaderAtCloser, error) {
	return func() (tree.ReaderAtCloser, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err // not a nil *os.File in an interface
		}
		return f, nil
	}
}

// memory is content that nobody else holds.
type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m)), nil }
