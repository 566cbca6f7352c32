package qcow2

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// FileOptions says which files an image may be made of.
type FileOptions struct {
	// Within is the folder that every file of the chain must lie in, symbolic
	// links followed. Empty means the image's own.
	Within string
}

// OpenFile opens the image file called name with the backing files that it
// names, each relative to the folder of the file that names it. They must be
// regular files within the folder that o says, whatever the names are.
func OpenFile(name string, o FileOptions) (*Image, error) {
	if o.Within == "" {
		o.Within = filepath.Dir(name)
	}
	within, err := filepath.Abs(o.Within)
	if err != nil {
		return nil, err
	}
	if name, err = filepath.Abs(name); err != nil {
		return nil, err
	}
	c := chain{within}
	s, err := c.open(name)
	if err != nil {
		return nil, err
	}
	m, err := Open(s)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return m, nil
}

// chain opens the files of an image within a folder.
type chain struct{ within string }

// EscapeError says that an image wants to be read over a file outside of the
// folder that its files are to lie in.
type EscapeError struct{ Name, Within string }

func (e *EscapeError) Error() string {
	return fmt.Sprintf("%.200q lies outside of %s, where the files of this image have to be; %s", e.Name, e.Within, e.Fix())
}

// Fix is what a person can do.
func (e *EscapeError) Fix() string {
	return "make one image of the chain: qemu-img convert -O qcow2 OLD NEW"
}

// open opens the file of an absolute name.
func (c chain) open(name string) (Source, error) {
	rel, err := filepath.Rel(c.within, name)
	if err != nil || !filepath.IsLocal(rel) {
		return Source{}, &EscapeError{name, c.within}
	}
	root, err := os.OpenRoot(c.within)
	if err != nil {
		return Source{}, err
	}
	defer root.Close()
	f, err := root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0) // so that a FIFO doesn't keep us
	if err != nil {
		return Source{}, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return Source{}, err
	}
	return Source{
		R: f, Size: fi.Size(), Close: f.Close,
		Open: func(below string) (Source, error) {
			if scheme, _, ok := strings.Cut(below, ":"); ok && !strings.Contains(scheme, "/") {
				return Source{}, &UnsupportedError{Feature: fmt.Sprintf("a backing file by way of %.20q", scheme)}
			}
			if !filepath.IsAbs(below) {
				below = filepath.Join(filepath.Dir(name), below)
			}
			return c.open(filepath.Clean(below))
		},
	}, nil
}
