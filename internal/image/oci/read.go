package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"wolffia/internal/image/tarball"
	"wolffia/internal/tree"
)

// ReadOptions says which image is read, and bounds what it may make us do.
type ReadOptions struct {
	// Arch is the architecture that is wanted, by Debian's name. Empty takes the
	// only image that there is.
	Arch string
	// Ref is the name that the image has in its layout; empty takes any.
	Ref string
	// Digest is that of an image or an index in the layout; empty takes any.
	Digest string
	// Scratch is an existing folder that takes the layers, uncompressed; it must
	// stay for as long as the tree's contents are read, and is the caller's to
	// remove, after an error too. Empty means memory.
	Scratch string
	// MaxSize bounds all uncompressed layers together, in bytes. 0 means 1 GiB in
	// memory, 64 GiB in a folder.
	MaxSize int64
	// Limits bound each layer's entries and their metadata.
	Limits tree.Limits
}

// Info is what an image says of itself.
type Info struct {
	Digest  string // of the manifest, or of the configuration where there is none
	Arch    string // by Debian's name, or OS/ARCH/VARIANT where it has none
	Config  Config
	Created time.Time // zero where it doesn't say
	Layers  int
}

// ReadTree reads an image out of name, which is a layout, as a folder or as a
// tar archive (plain, gzip or zstd), or an archive of "docker save".
func ReadTree(name string, o ReadOptions) (*tree.Tree, Info, error) {
	t, info, err := readTree(name, &o)
	if err != nil {
		return nil, Info{}, fmt.Errorf("read image %s: %w", name, err)
	}
	return t, info, nil
}

func readTree(name string, o *ReadOptions) (*tree.Tree, Info, error) {
	o.defaults()
	l, err := openLayout(name, o)
	if err != nil {
		return nil, Info{}, err
	}
	f, err := l.find(o)
	if err != nil {
		return nil, Info{}, err
	}
	t, err := f.flatten(o)
	if err != nil {
		return nil, Info{}, err
	}
	info := Info{Digest: f.digest, Arch: debianArch(f.config.platform), Config: f.config.Config, Layers: len(f.layers)}
	if f.config.Created != nil {
		info.Created = *f.config.Created
	}
	return t, info, nil
}

func (o *ReadOptions) defaults() {
	if o.MaxSize == 0 {
		o.MaxSize = 1 << 30
		if o.Scratch != "" {
			o.MaxSize = 64 << 30
		}
	}
}

// layout is an image layout as a tree: of a folder, or of an archive.
type layout struct {
	t    *tree.Tree
	name string // for errors
}

// openLayout reads the names of what is in a layout.
func openLayout(name string, o *ReadOptions) (*layout, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	l := &layout{name: name}
	switch {
	case fi.IsDir():
		l.t, err = tree.FromDir(name, tree.DirOptions{Limits: o.Limits})
	case !fi.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("neither a folder nor a regular file")}
	default:
		l.t, err = openArchive(name, fi.Size(), o)
	}
	return l, err
}

// openArchive leaves an archive's contents where they are, if they aren't
// compressed.
func openArchive(name string, size int64, o *ReadOptions) (*tree.Tree, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte("\x1f\x8b")) || bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		r := tarball.ReadOptions{Limits: o.Limits, MaxSize: o.MaxSize}
		if o.Scratch != "" {
			r.SpoolFile = filepath.Join(o.Scratch, "archive.tar")
		}
		return tarball.Read(f, r)
	}
	return tarball.ReadAt(func() (tree.ReaderAtCloser, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		return f, nil
	}, size, tarball.ReadOptions{Limits: o.Limits})
}

// found is the image that was asked for.
type found struct {
	config *configuration
	digest string
	layers []layer
}

// layer is a blob that is a layer.
type layer struct {
	name string // for errors
	node *tree.Node
	want *descriptor // nil where nothing says what it has to be
}

func (l *layout) find(o *ReadOptions) (*found, error) {
	b, err := l.t.ReadFile("/index.json", maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		if l.t.Get("/manifest.json") != nil {
			return l.docker(o)
		}
		return nil, errors.New("this is no image: it has neither index.json, as an OCI layout has, nor manifest.json, as docker save writes it")
	}
	if err != nil {
		return nil, err
	}
	all, err := collect(b, o.Ref, o.Digest, l.document)
	if err != nil {
		return nil, err
	}
	c, err := choose(l.name, o.Arch, all, l.platform)
	if err != nil {
		return nil, err
	}
	return l.found(c.descriptor)
}

// collect lists the images of the index b, those of the indexes in it included,
// that have the name ref and are, or are within, what has the digest; both may be
// empty. get reads what a descriptor leads to.
func collect(b []byte, ref, digest string, get func(descriptor) ([]byte, error)) ([]candidate, error) {
	c := collector{ref: ref, get: get, seen: map[string]bool{}}
	err := c.index(b, digest, "", 0)
	return c.all, err
}

type collector struct {
	ref  string
	get  func(descriptor) ([]byte, error)
	seen map[string]bool // by digest, so that what is there many times is read once
	all  []candidate
}

func (c *collector) index(b []byte, digest, ref string, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("indexes lie in each other more than %d deep", maxDepth)
	}
	i, err := document[index](b)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	for _, d := range i.Manifests {
		if err := d.check(); err != nil {
			return err
		}
		if d.MediaType == "" {
			d.MediaType = typeManifest
		}
		if depth == 0 {
			ref = d.Annotations[annotationRef]
			if c.ref != "" && c.ref != ref && c.ref != d.Annotations[annotationName] {
				continue
			}
		}
		if c.seen[d.Digest] {
			continue
		}
		if c.seen[d.Digest] = true; len(c.seen) > maxManifests {
			return fmt.Errorf("the index has more than %d entries", maxManifests)
		}
		if err := c.entry(d, digest, ref, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) entry(d descriptor, digest, ref string, depth int) error {
	if d.Digest == digest {
		digest = "" // this one, and all that is in it
	}
	switch {
	case d.isIndex():
		b, err := c.get(d)
		if err != nil {
			return err
		}
		return c.index(b, digest, ref, depth+1)
	case d.image() && digest == "":
		c.all = append(c.all, candidate{d, ref})
	}
	return nil
}

// found reads the manifest and the configuration of an image.
func (l *layout) found(d descriptor) (*found, error) {
	m, err := l.manifest(d)
	if err != nil {
		return nil, err
	}
	b, err := l.document(m.Config)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	f := &found{digest: d.Digest}
	if f.config, err = document[configuration](b); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for i := range m.Layers {
		d := &m.Layers[i]
		n, err := l.blob(*d)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		f.layers = append(f.layers, layer{name: d.Digest, node: n, want: d})
	}
	return f, nil
}

func (l *layout) platform(d descriptor) (platform, error) {
	f, err := l.found(d)
	if err != nil {
		return platform{}, err
	}
	return f.config.platform, nil
}

func (l *layout) manifest(d descriptor) (*manifest, error) {
	b, err := l.document(d)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return parseManifest(b)
}

// parseManifest reads an image's manifest and refuses one that we can't use.
func parseManifest(b []byte) (*manifest, error) {
	m, err := document[manifest](b)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return nil, fmt.Errorf("a manifest of schema version %d is not supported", m.SchemaVersion)
	}
	if len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("%d layers are more than the limit of %d", len(m.Layers), maxLayers)
	}
	if err := m.Config.check(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for i, d := range m.Layers {
		err := d.check()
		if err == nil {
			err = d.checkLayer()
		}
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return m, nil
}

// blob finds the file that d leads to.
func (l *layout) blob(d descriptor) (*tree.Node, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	_, n, err := l.t.Resolve(blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	if n.Size() != d.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, not %d", d.Digest, n.Size(), d.Size)
	}
	return n, nil
}

// document reads the JSON that d leads to.
func (l *layout) document(d descriptor) ([]byte, error) {
	n, err := l.blob(d)
	if err != nil {
		return nil, err
	}
	if n.Size() > maxDocument {
		return nil, fmt.Errorf("blob %s: %d bytes are more than the limit of %d", d.Digest, n.Size(), maxDocument)
	}
	r, err := n.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(verify(r, d))
}
