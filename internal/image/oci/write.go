package oci

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wolffia/internal/image/compress"
	"wolffia/internal/image/tarball"
	"wolffia/internal/tree"
)

// Image is an image to be written.
type Image struct {
	Tree *tree.Tree
	// Arch is the architecture, by Debian's name.
	Arch string
	// Config is what a container of it runs, by default.
	Config Config
	// Time, where set, is the image's date, and the latest time that a file may
	// have: later ones become this.
	Time time.Time
	// Compression is the layer's; empty means gzip, which every reader knows.
	Compression compress.Kind
}

// WriteOptions says how a layout is written.
type WriteOptions struct {
	// Ref is the name of what is written in its layout: a tag such as "latest",
	// or a whole name such as "wolffia/base:latest", which "docker load" takes.
	Ref string
	// Scratch is the folder for temporary files of [WriteArchive]; empty means
	// the system's own.
	Scratch string
}

// WriteLayout writes images as a layout into the folder dir, which must be empty
// or not be there, and gives the digest that the layout's name stands for: of
// the image, or of an index where there are several, for several architectures.
// After an error, dir holds no index.json.
func WriteLayout(dir string, images []Image, o WriteOptions) (digest string, err error) {
	d, err := writeLayout(dir, images, o)
	if err != nil {
		return "", fmt.Errorf("write OCI layout: %w", err)
	}
	return d.Digest, nil
}

func writeLayout(dir string, images []Image, o WriteOptions) (descriptor, error) {
	if len(images) == 0 {
		return descriptor{}, errors.New("there is no image to write")
	}
	l, err := newFolder(dir)
	if err != nil {
		return descriptor{}, err
	}
	var all []descriptor
	for i := range images {
		d, err := l.image(&images[i])
		if err != nil {
			return descriptor{}, err
		}
		all = append(all, d)
	}
	top := all[0]
	if len(all) > 1 {
		if top, err = l.document(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: all}, typeIndex); err != nil {
			return descriptor{}, err
		}
	}
	return top, l.finish(top, o.Ref)
}

// WriteArchive writes images as [WriteLayout] does, but as one tar archive.
func WriteArchive(w io.Writer, images []Image, o WriteOptions) (digest string, err error) {
	digest, err = writeArchive(w, images, o)
	if err != nil {
		return "", fmt.Errorf("write OCI archive: %w", err)
	}
	return digest, nil
}

func writeArchive(w io.Writer, images []Image, o WriteOptions) (digest string, err error) {
	dir, err := os.MkdirTemp(o.Scratch, "oci-*")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	top, err := writeLayout(dir, images, o)
	if err != nil {
		return "", err
	}
	t, err := tree.FromDir(dir, tree.DirOptions{})
	if err != nil {
		return "", err
	}
	if len(images) == 1 {
		if err := addDocker(t, top, o.Ref); err != nil {
			return "", err
		}
	}
	err = t.Walk(func(_ string, n *tree.Node) error {
		n.Mode = n.Type() | 0o644 // whatever the umask is
		if n.IsDir() {
			n.Mode |= 0o111
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return top.Digest, tarball.Write(w, t, tarball.WriteOptions{Time: time.Unix(0, 0)})
}

// folder is a layout that is being written.
type folder struct{ dir string }

func newFolder(dir string) (*folder, error) {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return nil, &fs.PathError{Op: "create", Path: dir, Err: errors.New("the folder is not empty")}
	}
	return &folder{dir}, os.MkdirAll(blobs, 0o755)
}

// finish makes the folder a layout, of what top leads to.
func (f *folder) finish(top descriptor, ref string) error {
	if ref != "" {
		top.Annotations = map[string]string{annotationRef: ref}
		if isName(ref) {
			top.Annotations[annotationName] = ref
		}
	}
	b, err := encode(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{top}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.dir, "index.json"), b, 0o644)
}

// isName reports whether ref is a repository's name with a tag, not a tag alone.
func isName(ref string) bool {
	_, tag, ok := strings.Cut(ref[strings.LastIndexByte(ref, '/')+1:], ":")
	return ok && tag != ""
}

// image writes an image's layer, configuration and manifest.
func (f *folder) image(i *Image) (descriptor, error) {
	can, err := platformsOf(i.Arch)
	if err != nil {
		return descriptor{}, err
	}
	layer, diffID, err := f.layer(i)
	if err != nil {
		return descriptor{}, err
	}
	c := configuration{platform: can[0], Config: i.Config}
	if !i.Time.IsZero() {
		created := i.Time.UTC().Truncate(time.Second)
		c.Created = &created
	}
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{diffID}
	c.History = []history{{Created: c.Created, CreatedBy: "wolffia"}}
	config, err := f.document(c, typeConfig)
	if err != nil {
		return descriptor{}, err
	}
	d, err := f.document(manifest{SchemaVersion: 2, MediaType: typeManifest, Config: config, Layers: []descriptor{layer}}, typeManifest)
	d.Platform = &can[0]
	return d, err
}

// layer writes the tree as a layer, and gives the digest of its plain form, too.
func (f *folder) layer(i *Image) (d descriptor, diffID string, err error) {
	kind := i.Compression
	if kind == compress.None {
		kind = compress.Gzip
	}
	if err := checkNames(i.Tree); err != nil {
		return descriptor{}, "", err
	}
	plain := sha256.New()
	d, err = f.blob(func(w io.Writer) error {
		z, end, err := compress.Writer(w, kind)
		if err != nil {
			return err
		}
		err = tarball.Write(io.MultiWriter(z, plain), i.Tree, tarball.WriteOptions{Time: i.Time})
		return errors.Join(err, end())
	})
	d.MediaType = typeLayer + "+" + string(kind)
	return d, fmt.Sprintf("sha256:%x", plain.Sum(nil)), err
}

// checkNames refuses files whose names mean something else in a layer.
func checkNames(t *tree.Tree) error {
	return t.Walk(func(name string, _ *tree.Node) error {
		if strings.HasPrefix(name[strings.LastIndexByte(name, '/')+1:], whiteout) {
			return fmt.Errorf("%q: a layer can't hold a file of a name that begins with %q", name, whiteout)
		}
		return nil
	})
}

// document writes v as a blob.
func (f *folder) document(v any, mediaType string) (descriptor, error) {
	b, err := encode(v)
	if err != nil {
		return descriptor{}, err
	}
	d, err := f.blob(func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	d.MediaType = mediaType
	return d, err
}

// blob writes what fill gives as a blob.
func (f *folder) blob(fill func(io.Writer) error) (d descriptor, err error) {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, "blobs"), "new-*")
	if err != nil {
		return descriptor{}, err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	h := sha256.New()
	if err := fill(io.MultiWriter(tmp, h)); err != nil {
		return descriptor{}, err
	}
	if d.Size, err = tmp.Seek(0, io.SeekCurrent); err != nil {
		return descriptor{}, err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return descriptor{}, err
	}
	if err := tmp.Close(); err != nil {
		return descriptor{}, err
	}
	digits := fmt.Sprintf("%x", h.Sum(nil))
	d.Digest = "sha256:" + digits
	return d, os.Rename(tmp.Name(), filepath.Join(f.dir, "blobs", "sha256", digits))
}
