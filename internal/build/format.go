package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"wolffia/internal/image/compress"
	"wolffia/internal/image/cpio"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/oci"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/image/tarball"
	"wolffia/internal/lab"
	"wolffia/internal/store"
)

// Room is how many bytes a file system or a disk without a size has left for
// new files, at least.
const Room = 64 << 20

// Format is how an image is written.
type Format struct {
	// Name is one of [Formats]. "qcow2" is a disk with QCOW2.
	Name string
	// Compression is one of [Compressions]; empty means what the format has
	// unless told otherwise: gzip for the layer of an OCI image, none for all
	// others. That of a disk or a file system in a qcow2 is within that file,
	// which a machine can work on.
	Compression string
	// QCOW2 writes a disk or a file system as QEMU's own kind of file.
	QCOW2 bool
	// Table is the kind of a disk's partition table; empty means GPT.
	Table disk.Table
}

// Formats are the names that [Format] knows.
func Formats() []string {
	return []string{"cpio", "tar", "ext2", "ext3", "ext4", "disk", "qcow2", "oci"}
}

// Compressions are the compressions that [Format] knows.
func Compressions() []string { return []string{"none", "gzip", "zstd"} }

// Sized reports whether the format has a size that can be chosen.
func (f Format) Sized() bool { return f.Name == "disk" || f.Name == "qcow2" || f.fileSystem() }

func (f Format) fileSystem() bool { return f.Name == "ext2" || f.Name == "ext3" || f.Name == "ext4" }

// Check fills in what is left open, and refuses what does not go together.
func (f *Format) Check() error {
	if f.Name == "qcow2" {
		f.Name, f.QCOW2 = "disk", true
	}
	if err := lab.OneOf("format", f.Name, Formats()); err != nil {
		return err
	}
	switch {
	case f.Compression == "" && f.Name == "oci":
		f.Compression = "gzip"
	case f.Compression == "":
		f.Compression = "none"
	}
	if err := lab.OneOf("compression", f.Compression, Compressions()); err != nil {
		return err
	}
	if f.Name == "disk" && f.Table == "" {
		f.Table = disk.GPT
	}
	if f.Name == "disk" {
		if err := lab.OneOf("partition table", string(f.Table), []string{string(disk.GPT), string(disk.MBR)}); err != nil {
			return err
		}
	}
	switch {
	case f.QCOW2 && !f.Sized():
		return fmt.Errorf("a qcow2 holds a disk or a file system, and %s is neither", f.Name)
	case f.Table != "" && f.Name != "disk":
		return fmt.Errorf("a partition table is for a disk, and %s is none", f.Name)
	case f.Name == "oci" && f.Compression == "none":
		return errors.New("the layers of an OCI image are compressed: with gzip or zstd")
	}
	return nil
}

// kind is f's compression as package compress has it.
func (f Format) kind() compress.Kind {
	if f.Compression == "none" {
		return compress.None
	}
	return compress.Kind(f.Compression)
}

// plain is the format that f is packed out of, if it is: a disk or a file
// system that is no QCOW2, and not compressed.
func (f Format) plain() (Format, bool) {
	p := f
	p.QCOW2, p.Compression = false, "none"
	return p, f.Sized() && p != f
}

// TooSmallError says that an image does not fit in the size that was asked for.
type TooSmallError struct {
	Image      string
	Size, Need int64 // bytes
}

func (e *TooSmallError) Error() string {
	return fmt.Sprintf("image %s does not fit in %s: it needs %dM", e.Image, lab.Size(e.Size), e.megabytes())
}

func (e *TooSmallError) megabytes() int64 { return (e.Need + 1<<20 - 1) >> 20 }

// Fix is what a person can do.
func (e *TooSmallError) Fix() string {
	return fmt.Sprintf("give it a size of at least %dM, by the key size or --size, or none: then there are %dM of room", e.megabytes(), Room>>20)
}

// Image makes an image in a format, or finds it in the store. What there is to
// say about it is said when it is made; see [Builder.Report].
func (b *Builder) Image(ctx context.Context, img *lab.Image, format Format) (*Artifact, error) {
	if err := format.Check(); err != nil {
		return nil, err
	}
	d, err := b.describe(ctx, img)
	if err != nil {
		return nil, err
	}
	m := &making{Builder: b, img: img, d: d}
	if format.Name == "disk" {
		b.warnNoLogin(img)
		if m.system, err = b.systemOf(ctx, img); err != nil {
			return nil, err
		}
	}
	a, err := m.image(ctx, format)
	if err != nil {
		return nil, err
	}
	a.Base, a.report = d.baseName(), d.key("")
	return a, nil
}

// Key is the [Artifact].Key that [Builder.Image] would give, found without asking
// the archive, and without making or writing anything: empty where that does not
// tell. An image whose packages the lock file does not pin has none yet, and will
// have one that no image had before: then fresh is true.
func (b *Builder) Key(img *lab.Image, format Format) (key string, fresh bool, err error) {
	if !img.From.IsZero() || b.LockFile == "" || b.Update || format.Name == "disk" {
		return "", false, nil
	}
	locks, err := readLocks(b.LockFile)
	if err != nil {
		return "", false, &LockFileError{err}
	}
	d := &description{lock: locks.packages.Find(Request(img))}
	if d.lock == nil {
		return "", len(locks.packages) > 0, nil
	}
	if err := b.name(img, d); err != nil {
		return "", false, err
	}
	m := &making{Builder: b, img: img, d: d}
	return m.key(format), false, nil
}

// making is one image being made.
type making struct {
	*Builder
	img    *lab.Image
	d      *description
	system *system // of a disk
}

// image makes the image in a format that has been checked.
func (m *making) image(ctx context.Context, f Format) (*Artifact, error) {
	return m.artifact(ctx, kindImage, m.key(f), m.d.lock, func(out *os.File) error {
		if p, ok := f.plain(); ok {
			return m.pack(ctx, out, p, f)
		}
		t, err := m.tree(ctx, m.img, m.d)
		if err != nil {
			return err
		}
		defer t.close()
		m.Tell(m.img, t.report)
		return m.write(ctx, out, t, f)
	})
}

// key names what is made in the store: an archive has no size, and only a disk
// a kernel.
func (m *making) key(f Format) string {
	parts := map[string]any{"format": f}
	if f.Sized() {
		parts["size"] = m.img.Size
	}
	if m.system != nil {
		parts["system"] = m.system.id()
	}
	return m.d.key(parts)
}

// pack writes the image out of its plain form, which is made or found.
func (m *making) pack(ctx context.Context, out *os.File, from, to Format) error {
	a, err := m.image(ctx, from)
	if err != nil {
		return err
	}
	defer a.Release()
	in, err := os.Open(a.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if to.QCOW2 {
		packing := map[string]qcow2.Compression{"none": qcow2.None, "gzip": qcow2.Deflate, "zstd": qcow2.Zstd}
		return qcow2.Write(out, in, st.Size(), qcow2.Options{Compression: packing[to.Compression]})
	}
	z, end, err := compress.Writer(out, to.kind())
	if err != nil {
		return err
	}
	_, err = io.Copy(z, in)
	return errors.Join(err, end())
}

// write writes the tree in a format that is not packed. Times later than the
// image's become that.
func (m *making) write(ctx context.Context, f *os.File, t *built, format Format) error {
	limit := m.d.limit()
	switch {
	case format.Name == "cpio":
		return cpio.Write(f, t.tree, cpio.Options{Time: limit, Compression: format.kind()})
	case format.Name == "tar":
		return tarball.Write(f, t.tree, tarball.WriteOptions{Time: limit, Compression: format.kind()})
	case format.Name == "oci":
		scratch, remove, err := store.Scratch(filepath.Join(m.Store.Dir(), ".scratch"))
		if err != nil {
			return err
		}
		defer remove()
		_, err = oci.WriteArchive(f, []oci.Image{{
			Tree: t.tree, Arch: m.d.recipe.Arch, Time: limit, Compression: format.kind(),
			Config: oci.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"/bin/sh"}},
		}}, oci.WriteOptions{Ref: m.img.Name + ":latest", Scratch: scratch})
		return err
	case format.fileSystem():
		return m.fileSystem(f, t, ext4.Options{Type: ext4.Type(format.Name), Label: "root", Time: limit})
	}
	return m.writeSystem(ctx, f, t, format)
}

func (m *making) fileSystem(f *os.File, t *built, o ext4.Options) error {
	need, err := ext4.Size(t.tree, o)
	if err != nil {
		return err
	}
	size := int64(m.img.Size)
	switch {
	case size == 0:
		o.Free = Room
	case size < need:
		return &TooSmallError{m.img.Name, size, need}
	}
	o.Size = size
	return ext4.Write(f, t.tree, o)
}
