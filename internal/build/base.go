package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/image/cpio"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/oci"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/image/tarball"
	"wolffia/internal/image/xz"
	"wolffia/internal/lab"
	"wolffia/internal/store"
	"wolffia/internal/tree"
)

// kindOCI is an image of a registry, as a layout.
const kindOCI = "oci"

// base is what an image starts from.
type base struct {
	name   string // as a person knows it
	digest string // names the content
	// open gives its tree, and what ends the reading of contents. scratch is a
	// folder for what has to be unpacked.
	open func(ctx context.Context, scratch string) (*tree.Tree, func() error, error)
}

// BaseError says what is wrong with what an image starts from.
type BaseError struct {
	Image string // the image's own name
	Base  string
	Err   error
}

func (e *BaseError) Error() string {
	return fmt.Sprintf("image %s, from %s: %v", e.Image, e.Base, e.Err)
}
func (e *BaseError) Unwrap() error { return e.Err }

// base finds what an image starts from, without reading more of it than its
// name in the store takes.
func (b *Builder) base(ctx context.Context, img *lab.Image) (*base, error) {
	var out *base
	var err error
	if ref := img.From.Reference; ref != "" {
		out, err = b.registryBase(ctx, ref, archOf(img))
	} else {
		out, err = b.pathBase(img.From.Path, archOf(img))
	}
	if err != nil {
		return nil, b.baseError(img, err)
	}
	return out, nil
}

func (b *Builder) baseError(img *lab.Image, err error) error {
	if p := b.path(img.From.Reference); img.From.Reference != "" && exists(p) {
		err = fmt.Errorf("%w; if the file of that name is meant, write ./%s", err, img.From.Reference)
	}
	return &BaseError{img.Name, img.From.String(), err}
}

func archOf(img *lab.Image) string {
	if img.Arch != "" {
		return img.Arch
	}
	return HostArch()
}

// path is where a name of the lab's file is on the host.
func (b *Builder) path(name string) string {
	if rest, ok := strings.CutPrefix(name, "~/"); ok && b.Getenv != nil {
		return filepath.Join(b.Getenv("HOME"), rest)
	}
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(b.Dir, name)
}

// opened gives a base's tree, until close is called.
func (b *Builder) opened(ctx context.Context, base *base) (t *tree.Tree, close func(), err error) {
	scratch, remove, err := store.Scratch(filepath.Join(b.Store.Dir(), ".scratch"))
	if err != nil {
		return nil, nil, err
	}
	events := event.Or(b.Events)
	e := event.Event{Kind: event.Begin, Task: "unpack", Subject: base.name}
	events.Emit(e)
	t, end, err := base.open(ctx, scratch)
	e.Kind = event.Done
	if err != nil {
		e.Kind, e.Message = event.Fail, err.Error()
	}
	events.Emit(e)
	if err != nil {
		remove()
		return nil, nil, err
	}
	return t, func() {
		if end != nil {
			end()
		}
		remove()
	}, nil
}

// registryBase is an image of a registry, by its digest.
func (b *Builder) registryBase(ctx context.Context, ref, arch string) (*base, error) {
	pinned, err := b.pinImage(ctx, ref, arch)
	if err != nil {
		return nil, err
	}
	return &base{name: pinned, digest: "registry " + pinned + " " + arch, open: func(ctx context.Context, scratch string) (*tree.Tree, func() error, error) {
		dir, release, err := b.folder(ctx, kindOCI, digest([]byte(pinned+"\n"+arch)), func(dir string) error {
			if b.Offline {
				return &debian.OfflineError{What: "image " + ref}
			}
			_, err := oci.Pull(ctx, pinned, dir, b.registry(arch))
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		t, _, err := oci.ReadTree(dir, oci.ReadOptions{Arch: arch, Scratch: scratch})
		if err != nil {
			release()
			return nil, nil, err
		}
		return t, func() error { release(); return nil }, nil
	}}, nil
}

// pathBase is something on the host, named by its content.
func (b *Builder) pathBase(name, arch string) (*base, error) {
	path := b.path(name)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir() && exists(filepath.Join(path, "oci-layout")):
		return layoutBase(name, path, arch)
	case info.IsDir():
		return folderBase(name, path)
	case !info.Mode().IsRegular():
		return nil, errors.New("it is neither a file nor a folder")
	}
	return fileBase(name, path, arch)
}

// layoutBase is an OCI image in a folder, of which the index names all else by
// its digests.
func layoutBase(name, path, arch string) (*base, error) {
	index, err := fileDigest(filepath.Join(path, "index.json"))
	if err != nil {
		return nil, err
	}
	return &base{name: name, digest: "layout " + index + " " + arch, open: func(_ context.Context, scratch string) (*tree.Tree, func() error, error) {
		t, _, err := oci.ReadTree(path, oci.ReadOptions{Arch: arch, Scratch: scratch})
		return t, nil, err
	}}, nil
}

// folderBase is a folder of the host. As with all that comes from there, owners
// and times don't come along.
func folderBase(name, path string) (*base, error) {
	sum, err := hostDigest(path, false)
	if err != nil {
		return nil, err
	}
	return &base{name: name, digest: "folder " + sum, open: func(context.Context, string) (*tree.Tree, func() error, error) {
		t, err := tree.FromDir(path, tree.DirOptions{})
		if err != nil {
			return nil, nil, err
		}
		err = t.Walk(func(_ string, n *tree.Node) error { n.ModTime = time.Time{}; return nil })
		return t, nil, err
	}}, nil
}

// fileBase is an archive, a file system or a disk.
func fileBase(name, path, arch string) (*base, error) {
	sum, err := diskDigest(path)
	if err != nil {
		return nil, err
	}
	return &base{name: name, digest: "file " + sum + " " + arch, open: func(ctx context.Context, scratch string) (*tree.Tree, func() error, error) {
		return openFile(ctx, path, arch, scratch)
	}}, nil
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// diskDigest is the digest of a file or, of QEMU's images, of the disk in it:
// it may be spread over several files.
func diskDigest(path string) (string, error) {
	f, format, err := detect(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if format != disk.QCOW2 {
		return fileDigest(path)
	}
	m, err := qcow2.OpenFile(path, qcow2.FileOptions{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	all, err := m.Data()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "disk %d\n", m.Size())
	for _, e := range all {
		fmt.Fprintf(h, "%d %d\n", e.Off, e.Len)
		if _, err := io.Copy(h, io.NewSectionReader(m, e.Off, e.Len)); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// detect opens a file and tells what it is.
func detect(path string) (*os.File, disk.Format, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	info, err := f.Stat()
	if err == nil {
		var format disk.Format
		if format, err = disk.Detect(f, info.Size()); err == nil {
			return f, format, nil
		}
	}
	f.Close()
	return nil, "", err
}

// openFile gives the tree in a file, whatever it is.
func openFile(ctx context.Context, path, arch, scratch string) (*tree.Tree, func() error, error) {
	f, format, err := detect(path)
	if err != nil {
		return nil, nil, err
	}
	keep := false
	defer func() {
		if !keep {
			f.Close()
		}
	}()
	switch format {
	case disk.Tar, disk.Gzip, disk.Zstd:
		t, err := openTar(f, path, arch, scratch)
		return t, nil, err
	case disk.XZ:
		plain, err := unpackXZ(ctx, f, scratch)
		if err != nil {
			return nil, nil, err
		}
		return openFile(ctx, plain, arch, scratch)
	case disk.QCOW2:
		m, err := qcow2.OpenFile(path, qcow2.FileOptions{})
		if err != nil {
			return nil, nil, err
		}
		t, err := openDisk(m, m.Size())
		if err != nil {
			m.Close()
			return nil, nil, err
		}
		return t, m.Close, nil
	case disk.CPIO:
		t, err := cpio.Read(f, cpio.ReadOptions{SpoolFile: filepath.Join(scratch, "base.cpio")})
		return t, nil, err
	case disk.DiskGPT, disk.DiskMBR, disk.Ext, disk.FAT:
		info, err := f.Stat()
		if err != nil {
			return nil, nil, err
		}
		t, err := openDisk(f, info.Size())
		keep = err == nil
		return t, f.Close, err
	}
	return nil, nil, fmt.Errorf("it is %s, of which no system can be read: a folder, a tar archive, an ext file system, a disk or an OCI image is wanted", format)
}

// openDisk reads the root file system of a disk, or a file system without one.
func openDisk(r io.ReaderAt, size int64) (*tree.Tree, error) {
	d, err := disk.Open(r, size)
	if err != nil {
		return nil, err
	}
	part, err := d.Part(0)
	if err != nil {
		return nil, err
	}
	fs, err := part.FileSystem()
	if err != nil {
		return nil, err
	}
	return fs.Tree(tree.Limits{})
}

// openTar reads a tar archive, which may be one of an image.
func openTar(f *os.File, path, arch, scratch string) (*tree.Tree, error) {
	t, err := tarball.Read(f, tarball.ReadOptions{SpoolFile: filepath.Join(scratch, "base.tar")})
	if err != nil {
		return nil, err
	}
	image := t.Get("/oci-layout") != nil && t.Get("/index.json") != nil || t.Get("/manifest.json") != nil && t.Get("/etc") == nil
	if !image {
		return t, nil
	}
	if err := os.Remove(filepath.Join(scratch, "base.tar")); err != nil {
		return nil, err
	}
	t, _, err = oci.ReadTree(path, oci.ReadOptions{Arch: arch, Scratch: scratch})
	return t, err
}

func unpackXZ(ctx context.Context, f *os.File, scratch string) (path string, err error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	out, err := os.OpenFile(filepath.Join(scratch, "base"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = xz.Decode(ctx, f, info.Size(), out, xz.Options{MaxSize: 64 << 30})
	return out.Name(), errors.Join(err, out.Close())
}
