package qcow2

import (
	"encoding/binary"
	"fmt"
)

// references writes the reference counts, of 16 bits, behind all else: blocks of
// counts, then the table of the blocks. They count their own clusters too.
func (w *writer) references() error {
	perBlock := w.cluster / 2
	used := w.next / w.cluster
	var blocks, table int64
	for {
		total := used + blocks + table
		b := (total + perBlock - 1) / perBlock
		t := w.whole(b*8) / w.cluster
		if b == blocks && t == table {
			break
		}
		blocks, table = b, t
	}
	if table*w.cluster > maxRefTable {
		return fmt.Errorf("%d bytes of data are too many for clusters of %d bytes", w.next, w.cluster)
	}
	start := w.allocate(blocks * w.cluster)
	buf := make([]byte, w.cluster)
	for i := range blocks {
		for k := range perBlock {
			be.PutUint16(buf[k*2:], w.count(i*perBlock+k, used+blocks+table))
		}
		if err := w.out.write(buf, start+i*w.cluster); err != nil {
			return err
		}
	}
	entries := make([]byte, table*w.cluster)
	for i := range blocks {
		be.PutUint64(entries[i*8:], uint64(start+i*w.cluster))
	}
	w.h.RefTableOffset = uint64(w.allocate(int64(len(entries))))
	w.h.RefTableClusters = uint32(table)
	return w.out.write(entries, int64(w.h.RefTableOffset))
}

// count is the reference count of cluster c, of so many.
func (w *writer) count(c, total int64) uint16 {
	switch {
	case c >= total:
		return 0
	case c < int64(len(w.refs)) && w.refs[c] > 0:
		return w.refs[c]
	}
	return 1
}

// encode gives the first cluster.
func (h *header) encode(o *Options) ([]byte, error) {
	var ext []byte
	if o.Backing != "" {
		ext = be.AppendUint32(ext, extBackingFormat)
		ext = be.AppendUint32(ext, uint32(len(o.BackingFormat)))
		ext = append(ext, o.BackingFormat...)
		ext = append(ext, make([]byte, -len(ext)&7)...)
	}
	ext = append(ext, make([]byte, 8)...) // extEnd
	if o.Backing != "" {
		h.BackingOffset = uint64(headerZ + len(ext))
		h.BackingSize = uint32(len(o.Backing))
		ext = append(ext, o.Backing...)
	}
	if headerZ+len(ext) > o.ClusterSize {
		return nil, fmt.Errorf("the backing file's name of %d bytes doesn't fit a cluster of %d", len(o.Backing), o.ClusterSize)
	}
	b := make([]byte, 0, o.ClusterSize)
	b, err := binary.Append(b, be, h)
	if err != nil {
		return nil, err
	}
	b = append(b, ext...)
	return b[:o.ClusterSize], nil
}
