package qcow2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Compression is how clusters are compressed.
type Compression string

// The compressions. Zstd is newer (QEMU 5.1), smaller, and faster both ways.
const (
	None    Compression = ""
	Deflate Compression = "deflate" // what QEMU calls zlib
	Zstd    Compression = "zstd"
)

// compressionTypes are the header's numbers.
var compressionTypes = []Compression{Deflate, Zstd}

// deflateWindow is the history that QEMU's inflater is set up for.
const deflateWindow = 4 << 10

// encoder compresses clusters; it belongs to one goroutine.
type encoder struct {
	kind  Compression
	flate *flate.Writer
	zstd  *zstd.Encoder
	out   bytes.Buffer
}

func newEncoder(kind Compression) (e *encoder, err error) {
	e = &encoder{kind: kind}
	switch kind {
	case Deflate:
		e.flate, err = flate.NewWriterWindow(&e.out, deflateWindow)
	case Zstd:
		// QEMU stops at the last byte of a cluster, and a checksum would be left over.
		e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<maxClusterBits))
	default:
		err = fmt.Errorf("compression %q is not known: use deflate or zstd", string(kind))
	}
	return e, err
}

// encode gives cluster compressed, or nil where that makes it no smaller.
func (e *encoder) encode(cluster []byte) ([]byte, error) {
	var b []byte
	if e.kind == Zstd {
		b = e.zstd.EncodeAll(cluster, nil)
	} else {
		e.out.Reset()
		e.flate.Reset(&e.out)
		if _, err := e.flate.Write(cluster); err != nil {
			return nil, err
		}
		if err := e.flate.Close(); err != nil {
			return nil, err
		}
		b = bytes.Clone(e.out.Bytes())
	}
	if len(b) >= len(cluster) {
		return nil, nil
	}
	return b, nil
}

// decoder decompresses the clusters of an image, in several goroutines.
type decoder struct {
	kind   Compression
	flates sync.Pool // of io.ReadCloser
	zstd   *zstd.Decoder
}

func newDecoder(kind Compression) (*decoder, error) {
	d := &decoder{kind: kind}
	if kind != Zstd {
		return d, nil
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderMaxMemory(1<<maxClusterBits))
	d.zstd = z
	return d, err
}

func (d *decoder) close() {
	if d.zstd != nil {
		d.zstd.Close()
	}
}

// decode fills cluster from b, which may be longer than what was compressed.
func (d *decoder) decode(cluster, b []byte) error {
	if d.kind == Zstd {
		return d.decodeZstd(cluster, b)
	}
	r, _ := d.flates.Get().(io.ReadCloser)
	if r == nil {
		r = flate.NewReader(bytes.NewReader(b))
	} else if err := r.(flate.Resetter).Reset(bytes.NewReader(b), nil); err != nil {
		return err
	}
	defer d.flates.Put(r)
	_, err := io.ReadFull(r, cluster)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (d *decoder) decodeZstd(cluster, b []byte) error {
	n, err := frameLength(b)
	if err != nil {
		return err
	}
	out, err := d.zstd.DecodeAll(b[:n], cluster[:0])
	if err == nil && len(out) != len(cluster) {
		err = fmt.Errorf("%d bytes where a cluster has %d", len(out), len(cluster))
	}
	return err // DecodeAll has filled cluster: it doesn't grow what is large enough
}

// frameLength finds the end of the zstd frame with which b begins (RFC 8878,
// section 3.1.1).
func frameLength(b []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return 0, err
	}
	if h.Skippable {
		return 0, errors.New("a zstd frame to be skipped")
	}
	n := h.HeaderSize
	for last := false; !last; {
		if n+3 > len(b) {
			return 0, io.ErrUnexpectedEOF
		}
		block := int(b[n]) | int(b[n+1])<<8 | int(b[n+2])<<16
		last = block&1 != 0
		n += 3
		if size := block >> 3; block>>1&3 == 1 { // RLE: one byte, however often
			n++
		} else {
			n += size
		}
	}
	if h.HasCheckSum {
		n += 4
	}
	if n > len(b) {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}
