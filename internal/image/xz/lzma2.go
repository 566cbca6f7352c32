package xz

import (
	"errors"
	"io"
)

// The window has room for more than the dictionary, so that what is left of it
// needs to be moved to the window's start only now and then.
const (
	minSlack = 4 << 20 // more than the 2 MiB that a chunk decompresses to at most
	maxSlack = 16 << 20
)

// lzma2 decodes the LZMA2 data of a block: a series of chunks, each compressed
// or stored as it is. They are decoded one by one into a window, where they are
// the dictionary for those that follow.
type lzma2 struct {
	src   *source
	model model
	in    chunk

	window []byte
	pos    int   // end of what was decoded into window
	start  int   // of the dictionary in window; below 0 after its first bytes are gone
	dict   int   // size of the dictionary
	limit  int   // window doesn't grow beyond this
	left   int64 // bytes that may still come
	longer error // for one more

	needDict  bool // nothing has begun the dictionary yet
	needProps bool // nothing has set lc, lp and pb yet
}

// reset makes the decoder ready for the LZMA2 data that is next in src, with a
// dictionary of dict bytes. More than size bytes that come out of it are the
// error longer.
func (d *lzma2) reset(src *source, dict, size int64, longer error) {
	d.src = src
	d.dict = int(dict)
	d.limit = int(min(dict+min(max(dict, minSlack), maxSlack), size))
	d.left, d.longer = size, longer
	d.pos, d.start = 0, 0
	d.needDict, d.needProps = true, true
}

var errControl = errors.New("an LZMA2 chunk is malformed")

// The control byte, with which a chunk begins.
const (
	endOfData   = 0x00
	storedReset = 0x01 // stored, the dictionary begins
	storedChunk = 0x02 // the last of those that aren't compressed
	compressed  = 0x80 // and 5 bits of the size
	resetState  = 0xa0
	resetProps  = 0xc0
	resetDict   = 0xe0
)

// next decodes a chunk and gives what it holds, which is valid until the next
// call. The end of the data is io.EOF.
func (d *lzma2) next() ([]byte, error) {
	control, err := d.src.ReadByte()
	if err != nil {
		return nil, err
	}
	switch {
	case control == endOfData:
		return nil, io.EOF
	case control >= resetDict || control == storedReset:
		d.needDict, d.needProps = false, true
		d.start = d.pos
	case d.needDict || control > storedChunk && control < compressed:
		return nil, errControl
	}
	if control < compressed {
		return d.stored()
	}
	return d.compressed(control)
}

// stored reads a chunk that isn't compressed.
func (d *lzma2) stored() ([]byte, error) {
	var head [2]byte
	if err := d.src.read(head[:]); err != nil {
		return nil, err
	}
	out, err := d.room(int(head[0])<<8 + int(head[1]) + 1)
	if err != nil {
		return nil, err
	}
	if err := d.src.read(out); err != nil {
		return nil, err
	}
	d.pos += len(out)
	return out, nil
}

// compressed decodes a compressed chunk.
func (d *lzma2) compressed(control byte) ([]byte, error) {
	var head [4]byte
	if err := d.src.read(head[:]); err != nil {
		return nil, err
	}
	size := int(control&0x1f)<<16 + int(head[0])<<8 + int(head[1]) + 1
	packed := int(head[2])<<8 + int(head[3]) + 1
	if control >= resetProps {
		props, err := d.src.ReadByte()
		if err != nil {
			return nil, err
		}
		if err := d.model.setProps(props); err != nil {
			return nil, err
		}
		d.needProps = false
	}
	if d.needProps {
		return nil, errControl
	}
	if control >= resetState {
		d.model.reset()
	}
	if err := d.src.read(d.in[:packed]); err != nil {
		return nil, err
	}
	out, err := d.room(size)
	if err != nil {
		return nil, err
	}
	if err := d.model.decode(&d.in, packed, d.window[:d.pos+size], d.pos, d.start, d.dict); err != nil {
		return nil, err
	}
	d.pos += size
	return out, nil
}

// room gives the place of the next n bytes in the window.
func (d *lzma2) room(n int) ([]byte, error) {
	if d.left -= int64(n); d.left < 0 {
		return nil, d.longer
	}
	if d.pos+n > len(d.window) && len(d.window) < d.limit {
		grown := make([]byte, min(max(2*len(d.window), d.pos+n), d.limit))
		copy(grown, d.window[:d.pos])
		d.window = grown
	}
	if d.pos+n > len(d.window) {
		// Only a window with slack gets here: another holds the whole block.
		by := d.pos - d.dict
		copy(d.window, d.window[by:d.pos])
		d.pos -= by
		d.start -= by
	}
	return d.window[d.pos:][:n], nil
}
