package imagefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"wolffia/internal/image/cpio"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/oci"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/image/tarball"
	"wolffia/internal/image/uki"
	"wolffia/internal/store"
	"wolffia/internal/tree"
)

// OCI is the format of container images, beside those of package disk.
const OCI disk.Format = "oci"

// Options says how an image is opened.
type Options struct {
	// Scratch is the folder in which a private one is made for what has to be
	// unpacked, as [store.Scratch] does. It is needed only then.
	Scratch string
	// Arch chooses one of several images of an OCI layout, by Debian's name.
	Arch string
	// MaxSize bounds what is unpacked, in bytes. 0 means 64 GiB.
	MaxSize int64
	// Limits bound each tree.
	Limits tree.Limits
}

// File is an open image.
type File struct {
	Path string // of the file, or the folder of an OCI layout
	Size int64  // of the file, in bytes; 0 of a folder
	// Packed are the compressions that were undone, the outer ones first.
	Packed []disk.Format
	// Format is what it is, compression and qcow2 taken off.
	Format disk.Format
	// Length is that of what Format is about, in bytes: of the unpacked file, or
	// of the disk in a qcow2.
	Length int64
	// QCOW2 is what the header of a qcow2 says; nil of anything else.
	QCOW2 *qcow2.Info
	// Disk has the partitions, or the one part that is all of it; nil of an
	// archive, an OCI image and a UEFI program.
	Disk *disk.Image
	// UEFI is a UEFI program's; nil of anything else.
	UEFI *uki.File
	// Damage is why nothing in it can be read, though it is known what it is.
	Damage error

	o       Options
	source  string // the file with the format: Path, or what was unpacked of it
	tree    *tree.Tree
	qcow2   *qcow2.Image
	scratch string
	close   []func() error
}

// Open opens the image in the file or folder called path. An error is about the
// file; what is wrong with its content is [File.Damage].
func Open(ctx context.Context, path string, o Options) (*File, error) {
	if o.MaxSize == 0 {
		o.MaxSize = 64 << 30
	}
	f := &File{Path: path, o: o, source: path}
	if err := f.open(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *File) open(ctx context.Context) error {
	info, err := os.Stat(f.Path)
	if err != nil {
		return err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return f.openFolder()
	case !mode.IsRegular() && mode.Type() != fs.ModeDevice:
		return &fs.PathError{Op: "open image", Path: f.Path, Err: errors.New("it is no regular file")}
	}
	r, size, err := f.openSource(f.Path)
	if err != nil {
		return err
	}
	f.Size = size
	err = f.content(ctx, r, size)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e := (*hostError)(nil); errors.As(err, &e) {
		return err
	}
	f.Damage = err
	return nil
}

// hostError is one that has nothing to do with the image.
type hostError struct{ error }

func (e *hostError) Unwrap() error { return e.error }

// openSource opens a file, or a block device, until [File.Close].
func (f *File) openSource(path string) (*os.File, int64, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	f.close = append(f.close, r.Close)
	size, err := r.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = r.Seek(0, io.SeekStart)
	}
	f.source = path
	return r, size, err
}

func (f *File) openFolder() error {
	for _, name := range []string{"oci-layout", "index.json", "manifest.json"} {
		if _, err := os.Stat(filepath.Join(f.Path, name)); err == nil {
			f.Format = OCI
			return nil
		}
	}
	return &fs.PathError{Op: "open image", Path: f.Path, Err: errors.New("it is a folder, and no OCI layout")}
}

// content opens the size bytes of r, once they are unpacked.
func (f *File) content(ctx context.Context, r *os.File, size int64) error {
	for range maxPacked {
		f.Length = size
		var err error
		if f.Format, err = disk.Detect(r, size); err != nil {
			return err
		}
		switch f.Format {
		case disk.Gzip, disk.Zstd, disk.XZ:
		default:
			return f.plain(r, size)
		}
		f.Packed = append(f.Packed, f.Format)
		if f.Format, err = f.within(r); err != nil {
			return err
		}
		if f.Format == disk.CPIO {
			return f.openCPIO(r)
		}
		if r, size, err = f.unpack(ctx, r, size); err != nil {
			return err
		}
	}
	return fmt.Errorf("it is compressed more than %d times over", maxPacked)
}

// maxPacked bounds compression within compression.
const maxPacked = 3

func (f *File) plain(r *os.File, size int64) error {
	var err error
	switch f.Format {
	case disk.QCOW2:
		return f.openQCOW2(r, size)
	case disk.CPIO:
		return f.openCPIO(r)
	case disk.Tar:
		return f.openTar(size)
	case disk.UEFI:
		f.UEFI, err = uki.Open(r, size)
	default:
		f.Disk, err = disk.Open(r, size)
	}
	return err
}

func (f *File) openQCOW2(r *os.File, size int64) error {
	info, err := qcow2.Stat(r, size)
	if err != nil {
		return err
	}
	f.QCOW2, f.Length = &info, info.Size
	m, err := qcow2.OpenFile(f.source, qcow2.FileOptions{})
	if err != nil {
		return err
	}
	f.close, f.qcow2 = append(f.close, m.Close), m
	if f.Disk, err = disk.Open(m, m.Size()); err == nil {
		f.Format = f.Disk.Format
	}
	return err
}

func (f *File) openCPIO(r io.Reader) error {
	dir, err := f.dir()
	if err != nil {
		return err
	}
	f.tree, err = cpio.Read(r, cpio.ReadOptions{Limits: f.o.Limits, MaxSize: f.o.MaxSize, SpoolFile: filepath.Join(dir, "contents")})
	return err
}

// openTar reads a tar archive, which may be one of an OCI image.
func (f *File) openTar(size int64) error {
	name := f.source
	open := func() (tree.ReaderAtCloser, error) {
		r, err := os.Open(name)
		if err != nil {
			return nil, err // not a nil *os.File in an interface
		}
		return r, nil
	}
	t, err := tarball.ReadAt(open, size, tarball.ReadOptions{Limits: f.o.Limits})
	if err != nil {
		return err
	}
	if t.Get("/oci-layout") != nil && t.Get("/index.json") != nil || t.Get("/manifest.json") != nil && t.Get("/etc") == nil {
		f.Format = OCI
		return nil
	}
	f.tree = t
	return nil
}

// Tree gives the names and metadata of all files: of an archive, an OCI image,
// or the file system in the partition of that number, 0 being the root as
// [disk.Image.Part] has it. Contents can be read until [File.Close].
func (f *File) Tree(part int) (*tree.Tree, error) {
	switch {
	case f.Damage != nil:
		return nil, f.Damage
	case f.Disk != nil:
		p, err := f.Disk.Part(part)
		if err != nil {
			return nil, err
		}
		s, err := p.FileSystem()
		if err != nil {
			return nil, err
		}
		return s.Tree(f.o.Limits)
	case part != 0:
		return nil, fmt.Errorf("it is %s, which has no partitions", f.Format)
	case f.Format == OCI:
		return f.openOCI()
	case f.tree == nil:
		return nil, fmt.Errorf("it is %s, which holds no files", f.Format)
	}
	return f.tree, nil
}

func (f *File) openOCI() (*tree.Tree, error) {
	if f.tree != nil {
		return f.tree, nil
	}
	dir, err := f.dir()
	if err != nil {
		return nil, err
	}
	f.tree, _, err = oci.ReadTree(f.source, oci.ReadOptions{Arch: f.o.Arch, Scratch: dir, MaxSize: f.o.MaxSize, Limits: f.o.Limits})
	return f.tree, err
}

// dir is the scratch folder, made when it is first needed.
func (f *File) dir() (string, error) {
	if f.scratch != "" {
		return f.scratch, nil
	}
	dir, release, err := store.Scratch(f.o.Scratch)
	if err != nil {
		return "", &hostError{err}
	}
	f.scratch = dir
	f.close = append(f.close, func() error { release(); return nil })
	return dir, nil
}

// Close ends the reading of the image and of all trees of it.
func (f *File) Close() error {
	var errs []error
	for _, end := range f.close {
		errs = append(errs, end())
	}
	f.close = nil
	return errors.Join(errs...)
}

// Containers tells of all images in an OCI layout or archive.
func (f *File) Containers() ([]oci.Summary, error) {
	dir, err := f.dir() // a compressed archive was unpacked already
	if err != nil {
		return nil, err
	}
	return oci.List(f.source, oci.ReadOptions{Scratch: dir, MaxSize: f.o.MaxSize, Limits: f.o.Limits})
}

// Allocated is how many bytes of a qcow2's disk may be other than zeros, backing
// files included; -1 where that can't be found out.
func (f *File) Allocated() int64 {
	if f.qcow2 == nil {
		return -1
	}
	all, err := f.qcow2.Data()
	if err != nil {
		return -1
	}
	var n int64
	for _, e := range all {
		n += e.Len
	}
	return n
}
