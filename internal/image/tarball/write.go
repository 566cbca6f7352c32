package tarball

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"wolffia/internal/image/compress"
	"wolffia/internal/tree"
)

// WriteOptions says how an archive is written. The zero value is a plain
// archive with the tree's own times.
type WriteOptions struct {
	// Time, where set, is the latest time that a file may have: later ones
	// become this, as SOURCE_DATE_EPOCH asks.
	Time time.Time
	// Compression is that of the whole archive.
	Compression compress.Kind
}

const (
	bufferSize = 256 << 10

	maxMajor = 1<<12 - 1 // MAJOR and MINOR of a Linux dev_t
	maxMinor = 1<<20 - 1
)

// Write writes t to w as one archive with its end marker.
//
// Nothing is buffered in w afterwards; w is not closed. Errors name the file of
// the tree that they are about.
func Write(w io.Writer, t *tree.Tree, o WriteOptions) error {
	z, end, err := compress.Writer(w, o.Compression)
	if err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	out := bufio.NewWriterSize(struct{ io.Writer }{z}, bufferSize)
	wr := &writer{o: o, tw: tar.NewWriter(out), first: map[*tree.Node]string{}, buf: make([]byte, bufferSize)}
	err = t.Walk(func(name string, n *tree.Node) error {
		if err := wr.entry(name, n); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return nil
	})
	if err == nil {
		err = wr.tw.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if e := end(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	return nil
}

type writer struct {
	o     WriteOptions
	tw    *tar.Writer
	first map[*tree.Node]string // name in the archive of what was written
	buf   []byte
}

func (w *writer) entry(name string, n *tree.Node) error {
	h, err := w.describe(name, n)
	if err != nil {
		return err
	}
	if err := w.tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Size == 0 {
		return nil
	}
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	copied, err := io.CopyBuffer(struct{ io.Writer }{w.tw}, struct{ io.Reader }{io.LimitReader(r, h.Size)}, w.buf)
	if err == nil && copied != h.Size {
		err = fmt.Errorf("content ends after %d of %d bytes: %w", copied, h.Size, io.ErrUnexpectedEOF)
	}
	return err
}

// typeFlags are those of all nodes but regular files and directories.
var typeFlags = map[uint32]byte{
	tree.TypeSymlink: tar.TypeSymlink,
	tree.TypeChar:    tar.TypeChar,
	tree.TypeBlock:   tar.TypeBlock,
	tree.TypeFIFO:    tar.TypeFifo,
}

func (w *writer) describe(name string, n *tree.Node) (*tar.Header, error) {
	h := &tar.Header{
		Name:    name[1:],
		Mode:    int64(n.Mode & 0o7777),
		Uid:     int(n.UID),
		Gid:     int(n.GID),
		ModTime: w.time(n.ModTime),
	}
	switch kind := n.Type(); kind {
	case tree.TypeDir:
		h.Typeflag = tar.TypeDir
		if h.Name += "/"; h.Name == "/" {
			h.Name = "./"
		}
	case tree.TypeRegular:
		h.Typeflag = tar.TypeReg
		h.Size = n.Size()
	default:
		flag, ok := typeFlags[kind]
		if !ok {
			return nil, errors.New("tar can't hold a socket: take it out of the tree")
		}
		h.Typeflag, h.Linkname = flag, n.Target
		if n.Major > maxMajor || n.Minor > maxMinor {
			return nil, fmt.Errorf("device %d:%d is beyond the kernel's last, %d:%d", n.Major, n.Minor, maxMajor, maxMinor)
		}
		if kind == tree.TypeChar || kind == tree.TypeBlock {
			h.Devmajor, h.Devminor = int64(n.Major), int64(n.Minor)
		}
	}
	h.PAXRecords = xattrRecords(n)
	if first, ok := w.first[n]; ok {
		h.Typeflag, h.Linkname, h.Size, h.Devmajor, h.Devminor = tar.TypeLink, first, 0, 0, 0
		h.PAXRecords = nil // the first name has them
	} else if !n.IsDir() {
		w.first[n] = h.Name
	}
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) {
		// Pax names are UTF-8 unless a record says otherwise, of which GNU tar
		// warns; GNU's own headers take any bytes, but no records.
		h.Format = tar.FormatGNU
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
			h.PAXRecords["hdrcharset"] = "BINARY"
		}
	}
	return h, nil
}

func (w *writer) time(t time.Time) time.Time {
	if !w.o.Time.IsZero() && t.After(w.o.Time) {
		t = w.o.Time
	}
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return time.Unix(t.Unix(), 0)
}

// xattrEscapes are what GNU tar does to names of extended attributes, which
// must not hold the "=" that ends a pax key.
var (
	escapeXattr   = strings.NewReplacer("%", "%25", "=", "%3D")
	unescapeXattr = strings.NewReplacer("%25", "%", "%3D", "=")
)

func xattrRecords(n *tree.Node) map[string]string {
	if len(n.Xattrs) == 0 {
		return nil
	}
	out := map[string]string{}
	for k, v := range n.Xattrs {
		out[xattrPrefix+escapeXattr.Replace(k)] = string(v)
	}
	return out
}
