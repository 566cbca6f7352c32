package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Summary is what one image of a layout says of itself.
type Summary struct {
	Ref     string    `json:"ref,omitempty"` // its name in the layout
	Digest  string    `json:"digest"`        // of the manifest, or of the configuration where there is none
	Arch    string    `json:"arch"`          // by Debian's name, or OS/ARCH/VARIANT where it has none
	Created time.Time `json:"created,omitzero"`
	Config  Config    `json:"config"`
	Layers  []Layer   `json:"layers"`
}

// Layer is one layer of an image.
type Layer struct {
	Name string `json:"name"` // its digest, or what "docker save" called it
	Size int64  `json:"size"` // in bytes, as it is stored
}

// List tells of all images in a layout or archive, of which [ReadTree] reads
// one. It reads no layers. Of o, Scratch, MaxSize and Limits count.
func List(name string, o ReadOptions) ([]Summary, error) {
	all, err := list(name, &o)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", name, err)
	}
	return all, nil
}

func list(name string, o *ReadOptions) ([]Summary, error) {
	o.defaults()
	l, err := openLayout(name, o)
	if err != nil {
		return nil, err
	}
	all, err := l.all()
	if err != nil {
		return nil, err
	}
	var out []Summary
	for _, n := range all {
		f, err := n.find()
		if err != nil {
			return nil, err
		}
		s := Summary{Ref: n.ref, Digest: f.digest, Arch: debianArch(f.config.platform), Config: f.config.Config}
		if f.config.Created != nil {
			s.Created = *f.config.Created
		}
		for _, y := range f.layers {
			s.Layers = append(s.Layers, Layer{y.name, y.node.Size()})
		}
		out = append(out, s)
	}
	return out, nil
}

// named is an image of a layout that was not looked at so far.
type named struct {
	ref  string
	find func() (*found, error)
}

// all lists the images of a layout, each once.
func (l *layout) all() ([]named, error) {
	b, err := l.t.ReadFile("/index.json", maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return l.allDocker()
	}
	if err != nil {
		return nil, err
	}
	candidates, err := collect(b, "", "", l.document)
	if err != nil {
		return nil, err
	}
	var out []named
	for _, c := range candidates {
		out = append(out, named{c.ref, func() (*found, error) { return l.found(c.descriptor) }})
	}
	return out, nil
}

func (l *layout) allDocker() ([]named, error) {
	all, err := l.dockerImages()
	if err != nil {
		return nil, err
	}
	if len(all) > maxManifests {
		return nil, fmt.Errorf("manifest.json has more than %d images", maxManifests)
	}
	var out []named
	for i, d := range all {
		same := func(o dockerImage) bool { return o.Config == d.Config && slices.Equal(o.Layers, d.Layers) }
		if !slices.ContainsFunc(all[:i], same) {
			out = append(out, named{strings.Join(d.RepoTags, ", "), func() (*found, error) { return l.dockerFound(&d) }})
		}
	}
	return out, nil
}
