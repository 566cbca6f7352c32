package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"wolffia/internal/debian/control"
	"wolffia/internal/debian/deb"
	"wolffia/internal/image/tarball"
	"wolffia/internal/tree"
)

// An unpacked package is one file in the store: data.tar as it is when it is
// not compressed, then what control.tar holds as JSON, then a footer:
//
//	length of data.tar, length of the JSON (8 bytes each, little endian),
//	CRC-32C of the JSON (4 bytes), unpackedMagic
//
// The contents of files are read from it in place.
const (
	kindUnpacked   = "unpacked"
	unpackedMagic  = "wolffia unpacked 1\n"
	unpackedFooter = 8 + 8 + 4 + len(unpackedMagic)
	maxControl     = 64 << 20
)

// controlInfo is the JSON.
type controlInfo struct {
	Paragraph []control.Field   `json:"paragraph"`
	Files     map[string][]byte `json:"files,omitempty"`
}

func unpackedKey(p *Pin) string { return "1-" + p.Key() }

func (c *Client) haveUnpacked(p *Pin) bool {
	_, ok := c.store.Get(kindUnpacked, unpackedKey(p))
	return ok
}

// openPackage gives a package's tree and control files, unpacking it into the
// store when it is not there, or damaged there.
func (c *Client) openPackage(ctx context.Context, p *Pin) (*pkg, error) {
	for range 2 {
		if f, ok := c.store.Open(kindUnpacked, unpackedKey(p)); ok {
			out, err := readUnpacked(f)
			if err == nil {
				out.pin = p
				return out, out.checkName()
			}
			f.Close()
			if !errors.Is(err, errUnpacked) {
				return nil, fmt.Errorf("unpack %s: %w", p, err)
			}
			c.store.Remove(kindUnpacked, unpackedKey(p))
		}
		if err := c.unpackDeb(ctx, p); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("unpack %s: what was written can't be read back: %w", p, errUnpacked)
}

// unpackDeb decompresses a package into the store. When that fails because the
// package changed after it was checked, it is fetched once more.
func (c *Client) unpackDeb(ctx context.Context, p *Pin) error {
	for again := true; ; again = false {
		if err := c.fetchPins(ctx, []Pin{*p}); err != nil {
			return err
		}
		_, err := c.store.Create(ctx, kindUnpacked, unpackedKey(p), func(out *os.File) error {
			in, ok := c.store.Open(kindDeb, p.Key())
			if !ok {
				return errors.New("the package was removed from the cache meanwhile")
			}
			defer in.Close()
			err := writeUnpacked(ctx, out, in, p.Size)
			if err != nil && ctx.Err() == nil && !isDeb(in, p) {
				c.store.Remove(kindDeb, p.Key())
				err = errChanged
			}
			return err
		})
		switch {
		case err == nil:
			return nil
		case !again || !errors.Is(err, errChanged):
			return fmt.Errorf("unpack %s: %w", p, err)
		}
	}
}

var errChanged = errors.New("the package changed in the cache")

// isDeb reports whether a file is the package that p pins.
func isDeb(f *os.File, p *Pin) bool {
	h := sha256.New()
	_, err := io.Copy(h, io.NewSectionReader(f, 0, p.Size+1))
	return err == nil && [32]byte(h.Sum(nil)) == p.SHA256
}

func writeUnpacked(ctx context.Context, out *os.File, in io.ReaderAt, size int64) error {
	a, err := deb.Open(in, size, deb.Options{})
	if err != nil {
		return err
	}
	ctl, err := a.Control()
	if err != nil {
		return err
	}
	n, err := a.ExtractData(ctx, out)
	if err != nil {
		return err
	}
	info, err := json.Marshal(controlInfo{ctl.Paragraph.Fields, ctl.Files})
	if err != nil {
		return err
	}
	end := binary.LittleEndian.AppendUint64(info, uint64(n))
	end = binary.LittleEndian.AppendUint64(end, uint64(len(info)))
	end = binary.LittleEndian.AppendUint32(end, crc32.Checksum(info, castagnoli))
	_, err = out.WriteAt(append(end, unpackedMagic...), n)
	return err
}

// pkg is a package that is open for reading.
type pkg struct {
	pin     *Pin
	file    *os.File
	tree    *tree.Tree
	control *deb.Control
}

var errUnpacked = errors.New("unpacked package is damaged")

// readUnpacked reads an unpacked package; f stays open as long as the tree's
// contents are read.
func readUnpacked(f *os.File) (*pkg, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	footer := make([]byte, unpackedFooter)
	if st.Size() < int64(len(footer)) {
		return nil, errUnpacked
	}
	if _, err := f.ReadAt(footer, st.Size()-int64(len(footer))); err != nil {
		return nil, err
	}
	data, info := binary.LittleEndian.Uint64(footer), binary.LittleEndian.Uint64(footer[8:])
	rest := uint64(st.Size()) - uint64(len(footer))
	if string(footer[20:]) != unpackedMagic || info > maxControl || data > rest || rest-data != info {
		return nil, errUnpacked
	}
	text := make([]byte, info)
	if _, err := f.ReadAt(text, int64(data)); err != nil {
		return nil, err
	}
	var ci controlInfo
	if crc32.Checksum(text, castagnoli) != binary.LittleEndian.Uint32(footer[16:]) || json.NewDecoder(bytes.NewReader(text)).Decode(&ci) != nil {
		return nil, errUnpacked
	}
	open := func() (tree.ReaderAtCloser, error) { return keepOpen{f}, nil }
	t, err := tarball.ReadAt(open, int64(data), tarball.ReadOptions{})
	if err != nil {
		return nil, err
	}
	return &pkg{file: f, tree: t, control: &deb.Control{Paragraph: &control.Paragraph{Fields: ci.Paragraph}, Files: ci.Files}}, nil
}

// keepOpen is a file that many read and its owner closes.
type keepOpen struct{ io.ReaderAt }

func (keepOpen) Close() error { return nil }

// checkName sees whether the package is what its pin calls it.
func (p *pkg) checkName() error {
	f := p.control.Paragraph
	if f.Get("Package") != p.pin.Name || f.Get("Architecture") != p.pin.Arch || f.Get("Version") != p.pin.Version.String() {
		return fmt.Errorf("unpack %s: the package says that it is %s:%s=%s", p.pin, f.Get("Package"), f.Get("Architecture"), f.Get("Version"))
	}
	return nil
}
