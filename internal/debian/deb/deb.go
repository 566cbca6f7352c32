package deb

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"

	"wolffia/internal/debian/control"
	"wolffia/internal/image/xz"
)

// Options bound what a package may hold. The zero value suits real packages.
type Options struct {
	MaxData    int64  // bytes of data.tar, decompressed; 0 means 4 GiB
	MaxControl int64  // bytes of control.tar, decompressed; 0 means 32 MiB
	MaxDict    uint32 // bytes of an xz or zstd window, for each worker; 0 means 128 MiB
	Workers    int    // xz blocks decoded at once; 0 means GOMAXPROCS
}

func (o Options) withDefaults() Options {
	if o.MaxData == 0 {
		o.MaxData = 4 << 30
	}
	if o.MaxControl == 0 {
		o.MaxControl = 32 << 20
	}
	if o.MaxDict == 0 {
		o.MaxDict = 128 << 20
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o
}

// LimitError says that a package is larger than Options allow.
type LimitError struct {
	What  string // "data.tar.xz"
	Limit int64  // bytes
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s unpacks to more than the limit of %d bytes", e.What, e.Limit)
}

// Archive is an open .deb. Its methods may be used side by side.
type Archive struct {
	ra      io.ReaderAt
	opts    Options
	control member
	data    member
}

// Open reads the members' headers of the package of size bytes in ra. ra is
// used as long as the Archive is, and stays the caller's to close.
func Open(ra io.ReaderAt, size int64, opts Options) (*Archive, error) {
	members, err := readMembers(ra, size)
	if err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	a := &Archive{ra: ra, opts: opts.withDefaults()}
	if err := a.sort(members); err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	return a, nil
}

// sort finds the members that deb(5) wants in the order it wants them. Names
// that begin with an underscore and what follows data.tar are for others.
func (a *Archive) sort(members []member) error {
	if len(members) == 0 || members[0].name != "debian-binary" {
		return errors.New("the first member is not debian-binary")
	}
	if err := a.checkFormat(members[0]); err != nil {
		return err
	}
	for _, m := range members[1:] {
		base, _, _ := strings.Cut(m.name, ".")
		switch {
		case base == "control" && a.control.name == "" && a.data.name == "":
			a.control = m
		case base == "data" && a.data.name == "" && a.control.name != "":
			a.data = m
		case base == "control" || base == "data" || m.name == "debian-binary":
			return fmt.Errorf("member %s stands twice or out of order", m.name)
		case a.data.name == "" && !strings.HasPrefix(m.name, "_"):
			return fmt.Errorf("member %q is unknown", m.name)
		}
	}
	for _, want := range []struct {
		m    member
		name string
	}{{a.control, "control.tar"}, {a.data, "data.tar"}} {
		if want.m.name == "" {
			return fmt.Errorf("member %s is missing", want.name)
		}
		suffix, ok := strings.CutPrefix(want.m.name, want.name)
		if _, known := decoders[suffix]; !ok || !known {
			return fmt.Errorf("member %s is compressed in an unknown way: want .gz, .xz, .zst, .bz2 or nothing after %s", want.m.name, want.name)
		}
	}
	return nil
}

// checkFormat wants the format version, 2.0; a higher minor number is
// compatible by definition.
func (a *Archive) checkFormat(m member) error {
	text, err := io.ReadAll(io.NewSectionReader(a.ra, m.offset, min(m.size, 16)))
	if err != nil {
		return fmt.Errorf("read debian-binary: %w", err)
	}
	line, _, ok := strings.Cut(string(text), "\n")
	minor, two := strings.CutPrefix(line, "2.")
	if !ok || !two || minor == "" || strings.Trim(minor, "0123456789") != "" {
		return fmt.Errorf("package format %q is unknown, want 2.0", line)
	}
	return nil
}

// DataName is the name of the data member, such as "data.tar.xz".
func (a *Archive) DataName() string { return a.data.name }

// ExtractData writes the decompressed data.tar to w from offset 0 on and gives
// its length in bytes. Writes come from several goroutines, to disjoint
// ranges and in any order. After an error w holds an unknown part.
func (a *Archive) ExtractData(ctx context.Context, w io.WriterAt) (int64, error) {
	n, err := a.extract(ctx, w)
	if err != nil {
		return 0, fmt.Errorf("unpack %s: %w", a.data.name, err)
	}
	return n, nil
}

func (a *Archive) extract(ctx context.Context, w io.WriterAt) (int64, error) {
	section := io.NewSectionReader(a.ra, a.data.offset, a.data.size)
	if path.Ext(a.data.name) == ".xz" {
		n, err := xz.Decode(ctx, section, a.data.size, w, xz.Options{MaxSize: a.opts.MaxData, MaxDict: a.opts.MaxDict, Workers: a.opts.Workers})
		if large, ok := errors.AsType[*xz.SizeError](err); ok {
			err = &LimitError{a.data.name, large.Limit}
		}
		return n, err
	}
	r, err := a.open(a.data, section)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	limited := &limitReader{r: r, left: a.opts.MaxData, err: &LimitError{a.data.name, a.opts.MaxData}}
	return copyContext(ctx, io.NewOffsetWriter(w, 0), limited)
}

// copyContext is io.Copy that stops when ctx does.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (n int64, err error) {
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		got := 0
		// Not io.ReadFull, which hides whether a decoder met its proper end.
		for got < len(buf) && err == nil {
			var m int
			m, err = r.Read(buf[got:])
			got += m
		}
		if _, werr := w.Write(buf[:got]); werr != nil {
			return n, werr
		}
		n += int64(got)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// limitReader gives err instead of more than left bytes.
type limitReader struct {
	r    io.Reader
	left int64
	err  error
}

func (l *limitReader) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, l.err
	}
	if int64(len(p)) > l.left {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n - 1, l.err
	}
	return n, err
}

// Control is what control.tar holds.
type Control struct {
	Paragraph *control.Paragraph // the file "control"
	Files     map[string][]byte  // the others by name, such as "md5sums" or "postinst"
}

// scripts are the files that dpkg runs or acts on when it installs a package.
var scripts = []string{"config", "postinst", "postrm", "preinst", "prerm", "triggers"}

// Scripts lists the maintainer scripts and the triggers file, if they are
// there, sorted: what installing would have done beyond unpacking.
func (c *Control) Scripts() []string {
	var have []string
	for _, name := range scripts {
		if _, ok := c.Files[name]; ok {
			have = append(have, name)
		}
	}
	return have
}

// Conffiles lists the configuration files that the package declares, as
// absolute paths in the order of the file.
func (c *Control) Conffiles() []string {
	var list []string
	for line := range strings.Lines(string(c.Files["conffiles"])) {
		// A line may begin with flags: "remove-on-upgrade /etc/gone".
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
			list = append(list, line)
		}
	}
	return list
}

// Names lists the files but "control", sorted.
func (c *Control) Names() []string { return slices.Sorted(maps.Keys(c.Files)) }

// Control unpacks control.tar into memory.
func (a *Archive) Control() (*Control, error) {
	c, err := a.readControl()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", a.control.name, err)
	}
	return c, nil
}

const maxControlFiles = 1024

func (a *Archive) readControl() (*Control, error) {
	r, err := a.open(a.control, io.NewSectionReader(a.ra, a.control.offset, a.control.size))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	tooLarge := &LimitError{a.control.name, a.opts.MaxControl}
	// Bounded twice: what is read, and what comes out, which a sparse file of
	// a few bytes can make huge.
	tr := tar.NewReader(&limitReader{r: r, left: a.opts.MaxControl, err: tooLarge})
	files := map[string][]byte{}
	left := a.opts.MaxControl
	for range maxControlFiles {
		h, err := tr.Next()
		if err == io.EOF {
			return newControl(files)
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeDir && name == "." {
			continue
		}
		if h.Typeflag != tar.TypeReg || strings.Contains(name, "/") || name == ".." || name == "." {
			return nil, fmt.Errorf("entry %q is not a plain file at the top", h.Name)
		}
		if _, twice := files[name]; twice {
			return nil, fmt.Errorf("entry %q stands twice", name)
		}
		content, err := io.ReadAll(&limitReader{r: tr, left: left, err: tooLarge})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		left -= int64(len(content))
		files[name] = content
	}
	return nil, fmt.Errorf("more than %d entries", maxControlFiles)
}

// newControl takes the file "control" out of files and reads it.
func newControl(files map[string][]byte) (*Control, error) {
	text, ok := files["control"]
	if !ok {
		return nil, errors.New("file control is missing")
	}
	delete(files, "control")
	r := control.NewReader(bytes.NewReader(text), control.ReaderOptions{})
	p, err := r.Next()
	if err != nil {
		return nil, fmt.Errorf("parse control: %w", noEOF(err))
	}
	if _, err := r.Next(); err != io.EOF {
		return nil, errors.New("control holds more than one paragraph")
	}
	return &Control{Paragraph: p, Files: files}, nil
}
