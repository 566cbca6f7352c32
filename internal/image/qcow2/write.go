package qcow2

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// Options says how an image is written. The zero value is right for a disk that
// a machine works on.
type Options struct {
	// ClusterSize is the unit of allocation in bytes, a power of two from 512 to
	// 2 MiB; 0 means 64 KiB.
	ClusterSize int
	// Compression is that of the data, which a guest can read and, in new
	// clusters, overwrite.
	Compression Compression
	// Backing, for [Create], is the name of the image below, as the overlay is to
	// record it: relative to the overlay's own folder, or absolute.
	Backing string
	// BackingFormat is the format of the image below, "raw" or "qcow2". It must be
	// given with Backing: a guest could make its raw disk look like anything.
	BackingFormat string
}

func (o *Options) check() error {
	if o.ClusterSize == 0 {
		o.ClusterSize = 64 << 10
	}
	n := uint(o.ClusterSize)
	switch {
	case o.ClusterSize < 1<<minClusterBits || o.ClusterSize > 1<<maxClusterBits || bits.OnesCount(n) != 1:
		return fmt.Errorf("cluster size %d is no power of two from 512 to 2097152", o.ClusterSize)
	case o.Compression != None && o.Compression != Deflate && o.Compression != Zstd:
		return fmt.Errorf("compression %q is not known: use deflate or zstd", string(o.Compression))
	case o.Backing == "" && o.BackingFormat != "":
		return errors.New("a backing format is given, but no backing file")
	case o.Backing != "" && o.BackingFormat != "raw" && o.BackingFormat != "qcow2":
		return fmt.Errorf("backing format %q is none of raw, qcow2", o.BackingFormat)
	case len(o.Backing) > maxBackingName:
		return fmt.Errorf("the backing file's name has %d bytes, more than %d", len(o.Backing), maxBackingName)
	}
	return nil
}

// Write writes the disk of size bytes that r gives as an image into w, which
// must be empty, as a new file is. Clusters of zeros are left out. Where r is an
// [os.File], or has a method Data as [tree.Sparse] has, its holes are not read;
// a file's offset may change.
//
// A size that is not of whole sectors (512 bytes) is rounded up. After an error,
// w has no valid header.
func Write(w io.WriterAt, r io.ReaderAt, size int64, o Options) error {
	err := errors.New("a disk can't be written over a backing file: use Create")
	if o.Backing == "" {
		err = write(w, r, size, &o)
	}
	if err != nil {
		return fmt.Errorf("write qcow2: %w", err)
	}
	return nil
}

// Create writes an image into w, as [Write] does, for a disk of size bytes that
// reads as the backing file that o names, and as zeros beyond that one's end, or
// where there is none.
func Create(w io.WriterAt, size int64, o Options) error {
	if err := write(w, nil, size, &o); err != nil {
		return fmt.Errorf("create qcow2: %w", err)
	}
	return nil
}

type writer struct {
	o       *Options
	h       header
	out     output
	cluster int64
	pack    packing

	next int64 // byte offset of the first cluster that is free
	l1   []byte
	l2   []byte // the table in hand
	l2No int64  // its index in l1; -1 for none

	packed int64    // where the next compressed cluster may begin; 0 for nowhere
	refs   []uint16 // reference counts, where there are compressed clusters
}

func write(to io.WriterAt, from io.ReaderAt, size int64, o *Options) error {
	if err := o.check(); err != nil {
		return err
	}
	w, err := newWriter(to, size, o)
	if err != nil {
		return err
	}
	if from != nil {
		if err := w.data(from, size); err != nil {
			return err
		}
	}
	if err := w.endTable(); err != nil {
		return err
	}
	if err := w.out.write(w.l1, int64(w.h.L1Offset)); err != nil {
		return err
	}
	if err := w.references(); err != nil {
		return err
	}
	return w.header()
}

func newWriter(to io.WriterAt, size int64, o *Options) (*writer, error) {
	w := &writer{o: o, out: output{w: to}, cluster: int64(o.ClusterSize), l2No: -1}
	w.h = header{
		version2: version2{
			Magic: magic, Version: 3, ClusterBits: uint32(bits.TrailingZeros(uint(o.ClusterSize))),
			L1Offset: uint64(w.cluster),
		},
		RefcountOrder: 4,
		HeaderLength:  headerZ,
	}
	if o.Compression == Zstd {
		w.h.CompressionType, w.h.Incompatible = 1, incompatCompression
	}
	w.pack = packingOf(w.h.ClusterBits)
	if size < 0 || size > 1<<62 {
		return nil, fmt.Errorf("a disk of %d bytes is not possible", size)
	}
	w.h.Size = uint64(size+sector-1) &^ (sector - 1)
	entries := w.h.l1Entries()
	if entries > maxL1/8 {
		return nil, fmt.Errorf("a disk of %d bytes is too large for clusters of %d bytes", size, w.cluster)
	}
	w.h.L1Size = max(1, uint32(entries)) // a table of none would leave its cluster without an owner
	w.l1 = make([]byte, w.whole(int64(w.h.L1Size)*8))
	w.next = w.cluster + int64(len(w.l1))
	return w, nil
}

// whole rounds n up to whole clusters.
func (w *writer) whole(n int64) int64 { return (n + w.cluster - 1) &^ (w.cluster - 1) }

// allocate takes n bytes of whole clusters from the file's end.
func (w *writer) allocate(n int64) int64 {
	off := w.next
	w.next += n
	return off
}

// batchSize is how much is read at once, at least.
const batchSize = 1 << 20

// data writes what r has that is not zeros.
func (w *writer) data(r io.ReaderAt, size int64) error {
	batch := max(batchSize, w.cluster)
	var encoders []*encoder
	if w.o.Compression != None {
		n := runtime.GOMAXPROCS(0)
		batch = max(batch, 2*w.cluster) * int64(n)
		for range n {
			e, err := newEncoder(w.o.Compression)
			if err != nil {
				return err
			}
			encoders = append(encoders, e)
		}
	}
	buf := make([]byte, min(batch, w.whole(size)))
	done := int64(0)
	for e, err := range extents(r, size) {
		if err != nil {
			return err
		}
		for done = max(done, e.Off&^(w.cluster-1)); done < e.Off+e.Len; {
			b := buf[:min(int64(len(buf)), w.whole(e.Off+e.Len)-done)]
			n := min(int64(len(b)), size-done)
			if err := readFull(r, b[:n], done); err != nil {
				return err
			}
			clear(b[n:])
			if err := w.batch(done, b, encoders); err != nil {
				return err
			}
			done += int64(len(b))
		}
	}
	return nil
}

// batch writes the clusters b, which begin at byte off of the disk.
func (w *writer) batch(off int64, b []byte, encoders []*encoder) error {
	packed, err := compress(b, int(w.cluster), encoders)
	if err != nil {
		return err
	}
	for i := int64(0); i*w.cluster < int64(len(b)); i++ {
		c, at := b[i*w.cluster:][:w.cluster], off+i*w.cluster
		if allZero(c) {
			continue
		}
		if err := w.table(at); err != nil {
			return err
		}
		var entry, host uint64
		if packed != nil && packed[i] != nil {
			c = packed[i]
			host = uint64(w.allocatePacked(int64(len(c))))
			entry = w.pack.entry(int64(host), len(c))
		} else {
			host = uint64(w.allocate(w.cluster))
			entry = host | entryCopied
		}
		be.PutUint64(w.l2[at/w.cluster*8%w.cluster:], entry)
		if err := w.out.write(c, int64(host)); err != nil {
			return err
		}
	}
	return nil
}

// compress compresses the clusters of b side by side. What has no gain, or is
// all zeros, is nil.
func compress(b []byte, cluster int, encoders []*encoder) ([][]byte, error) {
	if len(encoders) == 0 {
		return nil, nil
	}
	out := make([][]byte, len(b)/cluster)
	var g errgroup.Group
	for k, e := range encoders {
		g.Go(func() error {
			for i := k; i < len(out); i += len(encoders) {
				c := b[i*cluster:][:cluster]
				if allZero(c) {
					continue
				}
				var err error
				if out[i], err = e.encode(c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return out, g.Wait()
}

// table takes the L2 table for byte off of the disk in hand.
func (w *writer) table(off int64) error {
	no := off / w.cluster / (w.cluster / 8)
	if no == w.l2No {
		return nil
	}
	if err := w.endTable(); err != nil {
		return err
	}
	if w.l2 == nil {
		w.l2 = make([]byte, w.cluster)
	}
	clear(w.l2)
	w.l2No = no
	be.PutUint64(w.l1[no*8:], uint64(w.allocate(w.cluster))|entryCopied)
	return nil
}

func (w *writer) endTable() error {
	if w.l2No < 0 {
		return nil
	}
	return w.out.write(w.l2, int64(be.Uint64(w.l1[w.l2No*8:])&entryOffset))
}

// allocatePacked finds room for n bytes, at most a cluster, behind those that
// were compressed before, and counts them in the clusters that they touch.
func (w *writer) allocatePacked(n int64) int64 {
	room := w.whole(w.packed) - w.packed
	switch {
	case n <= room && w.refs[w.packed/w.cluster] < 1<<16-1:
	case room > 0 && n > room && w.whole(w.packed) == w.next && w.refs[w.packed/w.cluster] < 1<<16-1:
		w.allocate(w.cluster)
	default:
		w.packed = w.allocate(w.cluster)
	}
	off := w.packed
	w.packed += n
	first, last := off/w.cluster, (w.packed-1)/w.cluster
	for int64(len(w.refs)) <= last {
		w.refs = append(w.refs, 0)
	}
	for c := first; c <= last; c++ {
		w.refs[c]++
	}
	return off
}

func (w *writer) header() error {
	b, err := w.h.encode(w.o)
	if err != nil {
		return err
	}
	if err := w.out.write(b, 0); err != nil {
		return err
	}
	return w.out.flush()
}
