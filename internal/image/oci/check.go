package oci

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"wolffia/internal/image/finding"
	"wolffia/internal/tree"
)

// Check looks for damage in the layout or archive called name: whether each blob
// is what its name says, each document of an image can be read, and its layers are
// there, have the size and digest that the manifest says, the digest that the
// configuration says of them uncompressed, and can be laid over each other. Of o,
// Scratch, which is needed, MaxSize, for each image, and Limits count.
//
// Findings are about damage; an error, that it can't be read at all.
func Check(ctx context.Context, name string, o ReadOptions) (*finding.List, error) {
	o.defaults()
	l, err := openLayout(name, &o)
	if err != nil {
		return nil, fmt.Errorf("check image %s: %w", name, err)
	}
	c := &checker{ctx: ctx, o: &o, l: l}
	for _, step := range []func() error{c.blobs, c.images} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("check image %s: %w", name, err)
		}
	}
	return &c.list, nil
}

type checker struct {
	ctx  context.Context
	o    *ReadOptions
	l    *layout
	list finding.List
}

// blobs compares all blobs with their names, those that no image has included.
func (c *checker) blobs() error {
	dir := c.l.t.Get("/blobs/sha256")
	if dir == nil {
		return nil
	}
	for _, name := range dir.Names() {
		n := dir.Child(name)
		if n.Type() != tree.TypeRegular {
			continue
		}
		r, err := n.Open()
		if err != nil {
			return err
		}
		sum, err := c.digest(r)
		r.Close()
		switch {
		case c.ctx.Err() != nil:
			return c.ctx.Err()
		case err != nil:
			c.list.Problem("blob "+name, "%v", err)
		case sum != "sha256:"+name:
			c.list.Problem("blob "+name, "%v", errDigest)
		}
	}
	return nil
}

func (c *checker) digest(r io.Reader) (string, error) {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		if err := c.ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return fmt.Sprintf("sha256:%x", h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// images reads all images whole.
func (c *checker) images() error {
	all, err := c.l.all()
	if err != nil {
		c.list.Problem("index", "%v", err)
		return nil
	}
	if len(all) == 0 {
		c.list.Problem("index", "it has no image")
	}
	for i, n := range all {
		where := fmt.Sprintf("image %d", i+1)
		if n.ref != "" {
			where += fmt.Sprintf(" (%.200q)", n.ref)
		}
		f, err := n.find()
		if err != nil {
			c.list.Problem(where, "%v", err)
			continue
		}
		if err := c.image(where, f); err != nil {
			return err
		}
	}
	return nil
}

// image reads the layers of an image, in a folder of its own.
func (c *checker) image(where string, f *found) (err error) {
	o := *c.o
	if o.Scratch, err = os.MkdirTemp(o.Scratch, "check-*"); err != nil {
		return err
	}
	defer os.RemoveAll(o.Scratch)
	if _, err := f.flatten(&o); err != nil {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		c.list.Problem(where, "%v", err)
		return nil
	}
	ids := f.config.RootFS.DiffIDs
	if len(ids) != len(f.layers) {
		c.list.Problem(where, "its configuration is about %d layers, and it has %d", len(ids), len(f.layers))
		return nil
	}
	for i, id := range ids {
		r, err := os.Open(filepath.Join(o.Scratch, fmt.Sprintf("layer-%d.tar", i+1)))
		if err != nil {
			return err
		}
		sum, err := c.digest(r)
		r.Close()
		if err != nil {
			return err
		}
		if sum != id {
			c.list.Problem(where, "layer %d is, uncompressed, not what the configuration says", i+1)
		}
	}
	return nil
}
