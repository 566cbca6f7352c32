package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

const (
	wholeSum = 16 << 20 // bytes that are hashed as they are, at most
	sumBlock = 64 << 10
)

// contentSum is the digest that a [Manifest] lists for a regular file.
func contentSum(n *Node) (string, error) {
	switch {
	case n.Type() != TypeRegular:
		return "", nil
	case n.Size() > wholeSum:
		return sumBlocks(n)
	}
	r, err := n.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	size, err := io.Copy(h, r)
	if err == nil && size != n.Size() {
		err = fmt.Errorf("content has %d bytes where %d were promised", size, n.Size())
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil)), err
}

func sumBlocks(n *Node) (string, error) {
	b := blockSum{h: sha256.New(), size: n.Size()}
	var err error
	if s, ok := n.Content.(Sparse); ok {
		err = b.sparse(s)
	} else {
		err = b.whole(n)
	}
	return fmt.Sprintf("sha256-blocks:%x", b.h.Sum(nil)), err
}

type blockSum struct {
	h    hash.Hash
	size int64
	next int64 // the first block that was not looked at
	buf  [sumBlock]byte
}

// whole reads everything.
func (b *blockSum) whole(n *Node) error {
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := b.until(b.size, r); err != nil {
		return err
	}
	if extra, _ := io.ReadFull(r, b.buf[:1]); extra > 0 {
		return fmt.Errorf("content has more than the %d bytes that were promised", b.size)
	}
	return nil
}

// sparse reads the blocks that have data.
func (b *blockSum) sparse(s Sparse) error {
	list, err := s.Data()
	if err != nil {
		return fmt.Errorf("find the holes: %w", err)
	}
	r, err := s.OpenAt()
	if err != nil {
		return err
	}
	defer r.Close()
	for _, e := range list {
		b.next = max(b.next, e.Off/sumBlock)
		at := b.next * sumBlock
		if err := b.until(e.Off+e.Len, io.NewSectionReader(r, at, b.size-at)); err != nil {
			return err
		}
	}
	return nil
}

// until adds the blocks from next on that begin before end; r is at the first.
func (b *blockSum) until(end int64, r io.Reader) error {
	for ; b.next*sumBlock < end; b.next++ {
		p := b.buf[:min(sumBlock, b.size-b.next*sumBlock)]
		if _, err := io.ReadFull(r, p); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("content ends before its size of %d: %w", b.size, err)
		}
		if p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) { // all zeros
			continue
		}
		b.h.Write(binary.BigEndian.AppendUint64(nil, uint64(b.next)))
		b.h.Write(p)
	}
	return nil
}
