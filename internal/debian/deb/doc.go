// Package deb reads binary Debian packages.
package deb

import (
	"context"
	"io"

	"wolffia/internal/debian/control"
)

// Options bound what a package may hold. The zero value suits real packages.
type Options struct {
	MaxData    int64 // bytes of data.tar, decompressed; 0 means 4 GiB
	MaxControl int64 // bytes of control.tar, decompressed; 0 means 32 MiB
	Workers    int   // xz blocks decoded at once; 0 means GOMAXPROCS
}

// Archive is an open .deb.
type Archive struct{}

// Control is the contents of control.tar.
type Control struct {
	Paragraph *control.Paragraph
	Files     map[string][]byte // by name, without "control"
}

// Scripts lists the maintainer scripts and triggers that are there, sorted.
func (c *Control) Scripts() []string { panic("being written") }

// Open reads the members' headers. ra is used until the Archive is no longer.
func Open(ra io.ReaderAt, size int64, opts Options) (*Archive, error) { panic("being written") }

// Control unpacks control.tar into memory.
func (a *Archive) Control() (*Control, error) { panic("being written") }

// ExtractData writes the decompressed data.tar to w from offset 0 and gives
// its length in bytes.
func (a *Archive) ExtractData(ctx context.Context, w io.WriterAt) (int64, error) {
	panic("being written")
}
