package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// dockerImage is one image of a manifest.json, which "docker save" writes.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// addDocker adds the manifest.json for the image top to the layout t.
func addDocker(t *tree.Tree, top descriptor, ref string) error {
	l := &layout{t: t, name: "the layout"}
	m, err := l.manifest(top)
	if err != nil {
		return err
	}
	d := dockerImage{Config: blobName(m.Config.Digest)}
	if isName(ref) {
		d.RepoTags = []string{ref}
	}
	for _, layer := range m.Layers {
		d.Layers = append(d.Layers, blobName(layer.Digest))
	}
	b, err := encode([]dockerImage{d})
	if err != nil {
		return err
	}
	return t.Put("/manifest.json", tree.File(0o644, tree.Bytes(b)))
}

func blobName(digest string) string {
	return path.Join("blobs", strings.Replace(digest, ":", "/", 1))
}

// docker reads an image out of what "docker save" wrote: it names its files by
// their paths, and has no digests of them.
func (l *layout) docker(o *ReadOptions) (*found, error) {
	all, err := l.dockerImages()
	if err != nil {
		return nil, err
	}
	var images []candidate
	byName := map[string]*dockerImage{}
	for i := range all {
		d := &all[i]
		if o.Ref != "" && !slices.Contains(d.RepoTags, o.Ref) {
			continue
		}
		c := candidate{descriptor: descriptor{Digest: d.Config}, ref: strings.Join(d.RepoTags, ", ")}
		images = append(images, c)
		byName[d.Config] = d
	}
	c, err := choose(l.name, o.Arch, images, func(d descriptor) (platform, error) {
		c, err := l.dockerConfig(d.Digest)
		if err != nil {
			return platform{}, err
		}
		return c.platform, nil
	})
	if err != nil {
		return nil, err
	}
	return l.dockerFound(byName[c.Digest])
}

func (l *layout) dockerImages() ([]dockerImage, error) {
	b, err := l.t.ReadFile("/manifest.json", maxDocument)
	if err != nil {
		return nil, err
	}
	all, err := document[[]dockerImage](b)
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	return *all, nil
}

// dockerFound finds the configuration and the layers of an image.
func (l *layout) dockerFound(d *dockerImage) (*found, error) {
	config, err := l.dockerConfig(d.Config)
	if err != nil {
		return nil, err
	}
	f := &found{config: config, digest: digestOfName(d.Config)}
	for _, name := range d.Layers {
		_, n, err := l.t.Resolve(name) // a layer that is there twice may be a link
		if err != nil {
			return nil, err
		}
		f.layers = append(f.layers, layer{name: name, node: n})
	}
	return f, nil
}

func (l *layout) dockerConfig(name string) (*configuration, error) {
	b, err := l.t.ReadFile(name, maxDocument)
	if err != nil {
		return nil, err
	}
	c, err := document[configuration](b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// digestOfName gives the digest that a configuration's name is made of.
func digestOfName(name string) string {
	digest := "sha256:" + strings.TrimSuffix(path.Base(name), ".json")
	if _, err := digestHex(digest); err != nil {
		return ""
	}
	return digest
}
