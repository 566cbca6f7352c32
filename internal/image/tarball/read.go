package tarball

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"wolffia/internal/tree"
)

// ReadOptions bound what a foreign archive may make us do. The zero value is
// right for archives of distribution packages and container images.
type ReadOptions struct {
	// MaxEntries bounds the entries, the parents that the archive leaves out
	// included. 0 means 1<<20.
	MaxEntries int
	// MaxMetadata bounds, in bytes, all names, link targets and extension
	// headers together. 0 means 256 MiB.
	MaxMetadata int64
	// SpoolFile, for [Read], is the file that takes the uncompressed archive;
	// it is created or truncated with mode 0600, must stay for as long as the
	// tree's contents are read, and is the caller's to remove, after an error
	// too. Empty means memory.
	SpoolFile string
	// MaxSize bounds, for [Read], the uncompressed archive in bytes. 0 means
	// 256 MiB in memory, 64 GiB in a file.
	MaxSize int64
}

func (o ReadOptions) withDefaults() ReadOptions {
	if o.MaxEntries == 0 {
		o.MaxEntries = 1 << 20
	}
	if o.MaxMetadata == 0 {
		o.MaxMetadata = 256 << 20
	}
	if o.MaxSize == 0 && o.SpoolFile == "" {
		o.MaxSize = 256 << 20
	}
	if o.MaxSize == 0 {
		o.MaxSize = 64 << 30
	}
	return o
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
	r := &reader{src: window{r: f, size: size}, open: open, o: o.withDefaults(), t: tree.New()}
	if err := r.readAll(); err != nil {
		return nil, err
	}
	return r.t, nil
}

// reader turns one archive into a tree.
type reader struct {
	src      window
	open     func() (tree.ReaderAtCloser, error)
	o        ReadOptions
	t        *tree.Tree
	global   map[string]string // of 'g' headers, for all entries that follow
	entries  int
	metadata int64
}

func (r *reader) readAll() error {
	if r.src.size == 0 {
		return errors.New("read tar: the archive is empty, without even an end marker")
	}
	for off := int64(0); ; {
		e := &entry{start: off}
		done, err := r.readEntry(e)
		if err == nil && !done {
			err = r.place(e)
		}
		if err != nil {
			name := ""
			if e.h != nil {
				name = e.h.name
			}
			return &EntryError{Name: name, Offset: e.start, Err: err}
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

// readEntry reads the header at e.start with the extension headers before it.
// It reports true at the end marker.
func (r *reader) readEntry(e *entry) (done bool, err error) {
	var pax map[string]string
	var longName, longLink string
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
		switch b.flag() {
		case flagPax, flagPaxGlobal, flagGNULong, flagGNULink:
			data, err := r.special(&b, off)
			if err != nil {
				return false, err
			}
			switch b.flag() {
			case flagGNULong:
				longName = cstring(data)
			case flagGNULink:
				longLink = cstring(data)
			case flagPaxGlobal:
				if r.global == nil {
					r.global = map[string]string{}
				}
				err = parsePax(data, r.global)
			case flagPax:
				if pax == nil {
					pax = map[string]string{}
					for k, v := range r.global {
						pax[k] = v
					}
				}
				err = parsePax(data, pax)
			}
			if err != nil {
				return false, err
			}
			off += padded(int64(len(data)))
			continue
		}
		if pax == nil {
			pax = r.global
		}
		if e.h, err = parseHeader(&b, pax); err != nil {
			e.h = &header{name: cstring(b.name())}
			return false, err
		}
		if longName != "" {
			e.h.name = longName
		}
		if longLink != "" {
			e.h.target = longLink
		}
		return false, r.locate(e, &b, off)
	}
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
		return nil, fmt.Errorf("extension header: %w", p.err)
	}
	if err := r.count(0, n); err != nil {
		return nil, err
	}
	if n > r.src.size-off {
		return nil, fmt.Errorf("extension header of %d bytes reaches past the archive's end: %w", n, io.ErrUnexpectedEOF)
	}
	data := make([]byte, n)
	return data, r.src.read(data, off)
}

// locate finds e's data, which begins at or after off, and the next entry.
func (r *reader) locate(e *entry, b *block, off int64) error {
	if e.h.gnuSparse {
		for more := b[482] != 0; more; off += blockSize {
			var ext block
			if err := r.src.read(ext[:], off); err != nil {
				return err
			}
			more = ext[504] != 0
		}
	}
	if !e.h.hasData() {
		if e.h.size != 0 && e.h.flag == flagLink {
			return fmt.Errorf("hard link with %d bytes of data is not supported", e.h.size)
		}
		if e.h.flag != flagGNULabel {
			e.h.size = 0 // a directory's is a hint of how much space it once took
		}
	}
	if e.h.size > r.src.size-off {
		return fmt.Errorf("%d bytes of data reach past the archive's end at byte %d: %w", e.h.size, r.src.size, io.ErrUnexpectedEOF)
	}
	e.data = off
	e.next = off + padded(e.h.size)
	return nil
}

func (h *header) hasData() bool {
	switch h.flag {
	case flagRegular, flagOldFile, flagReserved, flagGNUSparse:
		return true
	}
	return false
}

// count charges entries and bytes of metadata to the limits.
func (r *reader) count(entries int, bytes int64) error {
	r.entries += entries
	r.metadata += bytes
	if r.entries > r.o.MaxEntries {
		return fmt.Errorf("the archive has more than the limit of %d entries", r.o.MaxEntries)
	}
	if r.metadata > r.o.MaxMetadata {
		return fmt.Errorf("the archive's names and attributes take more than the limit of %d bytes", r.o.MaxMetadata)
	}
	return nil
}

// place puts e into the tree.
func (r *reader) place(e *entry) error {
	h := e.h
	if h.flag == flagGNULabel {
		return nil
	}
	name, err := tree.Clean(h.name)
	if err != nil {
		return err
	}
	if name == "/" && strings.Trim(h.name, "/.") == "" && h.name == "" {
		return errors.New("the name is empty")
	}
	if err := r.count(1, int64(len(name)+len(h.target))); err != nil {
		return err
	}
	if err := r.parents(path.Dir(name)); err != nil {
		return err
	}
	if h.flag == flagLink {
		return r.link(name, h.target)
	}
	n, err := r.node(e)
	if err != nil {
		return err
	}
	return r.t.Put(name, n)
}

// parents makes the directories that the archive left out. What is there must
// be a directory: a link in its place is never followed.
func (r *reader) parents(dir string) error {
	missing := 0
	for d := dir; ; d = path.Dir(d) {
		n := r.t.Get(d)
		if n == nil {
			missing++
			continue
		}
		if n.Type() == tree.TypeSymlink {
			return fmt.Errorf("its parent %q is a symbolic link of this archive, which is not followed", d)
		}
		if !n.IsDir() {
			return fmt.Errorf("its parent %q is not a directory", d)
		}
		break
	}
	if missing == 0 {
		return nil
	}
	if err := r.count(missing, 0); err != nil {
		return err
	}
	return r.t.MkdirAll(dir, 0o755)
}

func (r *reader) link(name, target string) error {
	to, err := tree.Clean(target)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	n := r.t.Get(to)
	switch {
	case n == nil:
		return fmt.Errorf("hard link to %q, which is not in the archive before it", target)
	case n.IsDir():
		return fmt.Errorf("hard link to the directory %q", target)
	}
	return r.t.Put(name, n)
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
		if h.target == "" || len(h.target) >= tree.MaxPath || strings.IndexByte(h.target, 0) >= 0 {
			return nil, fmt.Errorf("the link's target is empty, longer than %d bytes, or holds a NUL", tree.MaxPath-1)
		}
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
	case e.h.sparse || e.h.gnuSparse:
		return nil, errors.New("sparse files are not supported: write the archive without --sparse")
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
