package cpio

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"wolffia/internal/image/compress"
	"wolffia/internal/tree"
)

// Options says how an archive is written. The zero value is a plain archive
// with the tree's own times.
type Options struct {
	// Time, where set, is the latest time that a file may have: later ones
	// become this, as SOURCE_DATE_EPOCH asks.
	Time time.Time
	// Compression is that of the whole archive.
	Compression compress.Kind
	// BlockSize is what the archive's length, before compression, is padded
	// with zeros to a multiple of. It is a multiple of 4 itself. 0 means 512,
	// as other tools do.
	BlockSize int
	// More says that another archive follows in the same file: then a
	// compressed one, too, is padded with zeros to a multiple of 4, as the
	// kernel wants it.
	More bool
	// Dropped, where set, is called for each name whose extended attributes,
	// of that number, the form can't hold.
	Dropped func(name string, xattrs int)
}

const bufferSize = 256 << 10

// Write writes t to w as one newc archive.
//
// Nothing is buffered in w afterwards; w is not closed. Errors name the file of
// the tree that they are about.
func Write(w io.Writer, t *tree.Tree, o Options) (err error) {
	if o.BlockSize == 0 {
		o.BlockSize = 512
	}
	if o.BlockSize < 0 || o.BlockSize%4 != 0 {
		return fmt.Errorf("write cpio: block size %d is no multiple of 4", o.BlockSize)
	}
	out := &counter{w: w}
	z, end, err := compress.Writer(out, o.Compression)
	if err != nil {
		return fmt.Errorf("write cpio: %w", err)
	}
	wr := &writer{o: o, out: bufio.NewWriterSize(struct{ io.Writer }{z}, bufferSize), inodes: map[*tree.Node]*inode{}}
	if o.Compression == compress.None {
		wr.file, _ = w.(*os.File)
	}
	err = wr.archive(t)
	if e := end(); err == nil {
		err = e
	}
	if err == nil && o.More && o.Compression != compress.None {
		_, err = w.Write(make([]byte, pad4(out.n)))
	}
	if err != nil {
		return fmt.Errorf("write cpio: %w", err)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// inode is what several names of one node share.
type inode struct{ number, names, written uint32 }

type writer struct {
	o      Options
	out    *bufio.Writer
	file   *os.File // what out writes to, where that is an uncompressed file
	n      int64    // bytes of the archive so far
	inodes map[*tree.Node]*inode
	last   uint32 // inode number given out
	header []byte // reused
}

func (w *writer) archive(t *tree.Tree) error {
	if err := t.Walk(w.count); err != nil {
		return err
	}
	err := t.Walk(func(name string, n *tree.Node) error {
		if err := w.entry(name, n); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := w.record(&header{Nlink: 1}, trailerName); err != nil {
		return err
	}
	if rest := w.n % int64(w.o.BlockSize); rest > 0 {
		if _, err := w.out.Write(make([]byte, int64(w.o.BlockSize)-rest)); err != nil {
			return err
		}
	}
	return w.out.Flush()
}

// count counts a node's names.
func (w *writer) count(_ string, n *tree.Node) error {
	if w.inodes[n] == nil {
		w.inodes[n] = &inode{}
	}
	w.inodes[n].names++
	return nil
}

func (w *writer) entry(name string, n *tree.Node) error {
	if len(n.Xattrs) > 0 && w.o.Dropped != nil {
		w.o.Dropped(name, len(n.Xattrs))
	}
	h, err := w.describe(n)
	if err != nil {
		return err
	}
	if err := w.record(h, entryName(name)); err != nil {
		return err
	}
	if h.Size == 0 {
		return nil
	}
	if n.Type() == tree.TypeSymlink {
		_, err = w.out.WriteString(n.Target)
	} else {
		err = w.content(n)
	}
	w.n += int64(h.Size)
	if err != nil {
		return err
	}
	return w.pad()
}

// entryName is the form's: relative, and never taken for the end of the archive.
func entryName(name string) string {
	switch name {
	case "/":
		return "."
	case "/" + trailerName:
		return "./" + trailerName
	}
	return name[1:]
}

func (w *writer) describe(n *tree.Node) (*header, error) {
	i := w.inodes[n]
	if i.number == 0 || n.Type() == tree.TypeSymlink {
		if w.last == math.MaxUint32 {
			return nil, errors.New("newc has no inode numbers left")
		}
		w.last++
		i.number = w.last
	}
	h := &header{Ino: i.number, Mode: n.Mode, UID: n.UID, GID: n.GID, Nlink: i.names, MTime: w.seconds(n.ModTime)}
	size := n.Size()
	switch n.Type() {
	case tree.TypeDir:
		h.Nlink = 2
	case tree.TypeSymlink:
		h.Nlink = 1 // each name is a link of its own
	case tree.TypeRegular:
		if i.written++; i.written < i.names {
			size = 0 // the last name has the content
		}
	case tree.TypeBlock, tree.TypeChar:
		if n.Major > maxMajor || n.Minor > maxMinor {
			return nil, fmt.Errorf("device %d:%d is beyond the kernel's last, %d:%d", n.Major, n.Minor, maxMajor, maxMinor)
		}
		h.RdevMajor, h.RdevMinor = n.Major, n.Minor
	}
	if size > math.MaxUint32 {
		return nil, fmt.Errorf("%d bytes are more than a newc archive holds in one file, 4 GiB less 1", size)
	}
	h.Size = uint32(size)
	return h, nil
}

// seconds clamps a time to the options' and to the form's range.
func (w *writer) seconds(t time.Time) uint32 {
	if !w.o.Time.IsZero() && t.After(w.o.Time) {
		t = w.o.Time
	}
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// record writes a header with its name.
func (w *writer) record(h *header, name string) error {
	h.NameSize = uint32(len(name) + 1)
	w.header = h.encode(w.header[:0])
	w.header = append(append(w.header, name...), 0)
	w.header = append(w.header, zeros[:pad4(int64(len(w.header)))]...)
	w.n += int64(len(w.header))
	_, err := w.out.Write(w.header)
	return err
}

var zeros [4]byte

func (w *writer) pad() error {
	p := pad4(w.n)
	w.n += int64(p)
	_, err := w.out.Write(zeros[:p])
	return err
}

// content copies a file of the tree into the archive. From file to file the
// kernel does it (copy_file_range).
func (w *writer) content(n *tree.Node) error {
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	var copied int64
	if f, ok := r.(*os.File); ok && w.file != nil && n.Size() >= bufferSize {
		if err := w.out.Flush(); err != nil {
			return err
		}
		copied, err = w.file.ReadFrom(io.LimitReader(f, n.Size()))
	} else {
		copied, err = w.out.ReadFrom(io.LimitReader(r, n.Size()))
	}
	if err == nil && copied != n.Size() {
		err = fmt.Errorf("content ends after %d of %d bytes: %w", copied, n.Size(), io.ErrUnexpectedEOF)
	}
	return err
}
