package tarball

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"wolffia/internal/tree"
)

// ReadOptions bound what a foreign archive may make us do. The zero value is
// right for archives of distribution packages and container images.
type ReadOptions struct {
	// Limits bound the entries and their metadata.
	Limits tree.Limits
	// SpoolFile, for [Read], is the file that takes the uncompressed archive;
	// it is created or truncated with mode 0600, must stay for as long as the
	// tree's contents are read, and is the caller's to remove, after an error
	// too. Empty means memory.
	SpoolFile string
	// MaxSize bounds, for [Read], the uncompressed archive in bytes. 0 means
	// 1 GiB in memory, 64 GiB in a file.
	MaxSize int64
	// Linked, where set, finds the file of a hard link whose target is not in the
	// archive before it, by the name that the archive gives: for the layer of an
	// image, which may link to files of the layers below. Nil where there is none.
	Linked func(target string) *tree.Node
}

// EntryError says what is wrong with which entry of an archive.
type EntryError struct {
	Name   string // as the archive spells it; empty where it isn't known
	Offset int64  // of the entry's first header block, in bytes of the uncompressed archive
	Err    error
}

func (e *EntryError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("tar entry at byte %d: %v", e.Offset, e.Err)
	}
	return fmt.Sprintf("tar entry %.200q at byte %d: %v", e.Name, e.Offset, e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

// ReadAt makes a tree of the uncompressed archive of size bytes that open
// gives. Contents stay where they are: open is called once now, to read the
// headers, and once each time that a file's content is read.
//
// Errors about an entry are [*EntryError].
func ReadAt(open func() (tree.ReaderAtCloser, error), size int64, o ReadOptions) (*tree.Tree, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAt(f, open, size, o)
}

func readAt(f io.ReaderAt, open func() (tree.ReaderAtCloser, error), size int64, o ReadOptions) (*tree.Tree, error) {
	r := &reader{src: window{r: f, size: size}, open: open, u: tree.NewUnpacker(o.Limits), linked: o.Linked}
	if err := r.readAll(); err != nil {
		return nil, err
	}
	return r.u.Tree(), nil
}

// reader turns one archive into a tree.
type reader struct {
	src    window
	open   func() (tree.ReaderAtCloser, error)
	u      *tree.Unpacker
	global map[string]string // of 'g' headers, for all entries that follow
	linked func(target string) *tree.Node
}

func (r *reader) readAll() error {
	if r.src.size == 0 {
		return fmt.Errorf("read tar: the archive is empty, without even an end marker: %w", io.ErrUnexpectedEOF)
	}
	for off := int64(0); ; {
		e := &entry{start: off}
		done, err := r.readEntry(e)
		if err == nil && !done {
			err = r.place(e)
		}
		if err != nil {
			return &EntryError{Name: e.name(), Offset: e.start, Err: err}
		}
		if done {
			return nil
		}
		off = e.next
	}
}

// entry is one entry's place in the archive.
type entry struct {
	h     *header
	start int64 // of its first extension header
	data  int64
	next  int64
}

func (e *entry) name() string {
	if e.h == nil {
		return ""
	}
	return e.h.name
}

// readEntry reads the header at e.start with the extension headers before it.
// It reports true at the end marker.
func (r *reader) readEntry(e *entry) (done bool, err error) {
	var x extensions
	for off := e.start; ; {
		var b block
		if err := r.src.read(b[:], off); err != nil {
			return false, r.noHeader(err, off)
		}
		if b.zero() {
			if off != e.start {
				return false, errors.New("extension header without an entry")
			}
			return true, nil
		}
		if err := checkSum(&b); err != nil {
			return false, err
		}
		off += blockSize
		if !b.extends() {
			return false, r.finish(e, &b, &x, off)
		}
		data, err := r.special(&b, off)
		if err == nil {
			err = r.extend(&x, b.flag(), data)
		}
		if err != nil {
			return false, fmt.Errorf("extension header: %w", err)
		}
		off += padded(int64(len(data)))
	}
}

// extensions are what the headers before an entry's own say about it.
type extensions struct {
	pax          map[string]string // nil without one
	name, target string            // of GNU tar
}

// extends reports whether b is about another header.
func (b *block) extends() bool {
	switch b.flag() {
	case flagPax, flagPaxGlobal, flagGNULong, flagGNULink:
		return true
	}
	return false
}

// globalKeys are those records that make sense for all entries; others in a
// global header (git's comment, for one) are left out.
var globalKeys = []string{"uid", "gid", "mtime"}

func (r *reader) extend(x *extensions, flag byte, data []byte) error {
	switch flag {
	case flagGNULong:
		x.name = cstring(data)
	case flagGNULink:
		x.target = cstring(data)
	case flagPaxGlobal:
		all := map[string]string{}
		if err := parsePax(data, all); err != nil {
			return err
		}
		if r.global == nil {
			r.global = map[string]string{}
		}
		for _, k := range globalKeys {
			if v, ok := all[k]; ok {
				r.global[k] = v
			}
		}
	case flagPax:
		if x.pax == nil {
			x.pax = map[string]string{}
			maps.Copy(x.pax, r.global)
		}
		return parsePax(data, x.pax)
	}
	return nil
}

// finish reads the entry's own header, b, and finds its data, which begins at or
// after off, and the next entry.
func (r *reader) finish(e *entry, b *block, x *extensions, off int64) (err error) {
	pax := x.pax
	if pax == nil {
		pax = r.global
	}
	if e.h, err = parseHeader(b, pax); err != nil {
		e.h = &header{name: cstring(b.name())}
		return err
	}
	if x.name != "" {
		e.h.name = x.name
	}
	if x.target != "" {
		e.h.target = x.target
	}
	if e.h.flag == flagGNUSparse {
		for more := b[482] != 0; more; off += blockSize {
			var ext block
			if err := r.src.read(ext[:], off); err != nil {
				return err
			}
			more = ext[504] != 0
		}
	}
	switch {
	case e.h.hasData():
	case e.h.size != 0 && e.h.flag == flagLink:
		return fmt.Errorf("hard link with %d bytes of data", e.h.size)
	default:
		e.h.size = 0 // a directory's is a hint of how much space it once took
	}
	if e.h.size > r.src.size-off {
		return fmt.Errorf("%d bytes of data reach past the archive's end at byte %d: %w", e.h.size, r.src.size, io.ErrUnexpectedEOF)
	}
	e.data = off
	e.next = off + padded(e.h.size)
	return nil
}

func (r *reader) noHeader(err error, off int64) error {
	if off == r.src.size {
		return fmt.Errorf("the archive ends here without an end marker: it is cut off: %w", io.ErrUnexpectedEOF)
	}
	return err
}

func checkSum(b *block) error {
	var p numbers
	want := p.signed("checksum", b.chksum())
	if unsigned, signed := b.sums(); p.err != nil || want != unsigned && want != signed {
		return errors.New("header checksum is wrong: this is no tar header")
	}
	return nil
}

// special reads the data of an extension header, which lies at off.
func (r *reader) special(b *block, off int64) ([]byte, error) {
	var p numbers
	n := p.parse("size", b.size(), maxSpecial)
	if p.err != nil {
		return nil, p.err
	}
	if n > r.src.size-off {
		return nil, fmt.Errorf("its %d bytes reach past the archive's end: %w", n, io.ErrUnexpectedEOF)
	}
	if err := r.u.Charge(n); err != nil {
		return nil, err
	}
	data := make([]byte, n)
	return data, r.src.read(data, off)
}

func (h *header) hasData() bool {
	switch h.flag {
	case flagRegular, flagOldFile, flagReserved, flagGNUSparse, flagGNULabel:
		return true
	}
	return false
}

// place puts e into the tree.
func (r *reader) place(e *entry) error {
	switch e.h.flag {
	case flagGNULabel:
		return nil
	case flagLink:
		return r.link(e.h.target, e.h.name)
	}
	n, err := r.node(e)
	if err != nil {
		return err
	}
	return r.u.Put(e.h.name, n)
}

func (r *reader) link(target, name string) error {
	if r.linked != nil && r.u.Tree().Get(target) == nil {
		if n := r.linked(target); n != nil && !n.IsDir() {
			return r.u.Put(name, n)
		}
	}
	return r.u.Link(target, name)
}

// node makes the tree's node of an entry that is no hard link.
func (r *reader) node(e *entry) (*tree.Node, error) {
	h := e.h
	n := &tree.Node{}
	switch h.flag {
	case flagRegular, flagOldFile, flagReserved, flagGNUSparse:
		if h.flag == flagOldFile && strings.HasSuffix(h.name, "/") {
			n = tree.Dir(h.mode) // as v7 wrote directories
			break
		}
		c, err := r.content(e)
		if err != nil {
			return nil, err
		}
		n = tree.File(h.mode, c)
	case flagDir:
		n = tree.Dir(h.mode)
	case flagSymlink:
		n = tree.Symlink(h.target)
	case flagChar:
		n = tree.Device(tree.TypeChar, h.mode, h.major, h.minor)
	case flagBlock:
		n = tree.Device(tree.TypeBlock, h.mode, h.major, h.minor)
	case flagFIFO:
		n.Mode = tree.TypeFIFO | h.mode
	default:
		return nil, fmt.Errorf("entry type %q is not supported", h.flag)
	}
	n.UID, n.GID, n.ModTime, n.Xattrs = h.uid, h.gid, h.mtime, h.xattrs
	return n, nil
}

func (r *reader) content(e *entry) (tree.Content, error) {
	switch {
	case e.h.sparse:
		return r.sparse(e)
	case e.h.size == 0:
		return nil, nil
	}
	return tree.Section(r.open, e.data, e.h.size), nil
}

func padded(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// window reads small pieces of a large file that lie near each other.
type window struct {
	r    io.ReaderAt
	size int64
	off  int64 // of buf
	n    int   // bytes in buf
	buf  [8192]byte
}

// read fills p from off. It is an error to reach past the size.
func (w *window) read(p []byte, off int64) error {
	if off < 0 || int64(len(p)) > w.size-off {
		return fmt.Errorf("the archive is cut off at byte %d: %w", w.size, io.ErrUnexpectedEOF)
	}
	if len(p) > len(w.buf) {
		return readFull(w.r, p, off)
	}
	if off < w.off || off+int64(len(p)) > w.off+int64(w.n) {
		w.off, w.n = off, 0
		n := min(int64(len(w.buf)), w.size-off)
		if err := readFull(w.r, w.buf[:n], off); err != nil {
			return err
		}
		w.n = int(n)
	}
	copy(p, w.buf[off-w.off:])
	return nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes: %w", len(p), err)
	}
	return nil
}
