package uki

import (
	"fmt"
	"io"

	"wolffia/internal/tree"
)

// joined is contents one after the other, with zeros between them.
type joined struct {
	pieces []piece
	size   int64
}

// piece is a content and the zeros after it.
type piece struct {
	content tree.Content
	zeros   int64
}

func (j *joined) add(c tree.Content) {
	j.pieces = append(j.pieces, piece{content: c})
	j.size += c.Size()
}

func (j *joined) append(more *joined) {
	j.pieces = append(j.pieces, more.pieces...)
	j.size += more.size
}

// pad adds zeros up to a multiple of unit. Something was added before.
func (j *joined) pad(unit int64) {
	n := roundUp(j.size, unit) - j.size
	j.pieces[len(j.pieces)-1].zeros += n
	j.size += n
}

// Size implements [tree.Content].
func (j *joined) Size() int64 { return j.size }

// Open implements [tree.Content].
func (j *joined) Open() (io.ReadCloser, error) { return &joinedReader{rest: j.pieces}, nil }

// joinedReader has at most one content open.
type joinedReader struct {
	rest  []piece
	open  io.ReadCloser
	left  int64 // bytes of the open content
	zeros int64 // bytes of zeros before the next content
}

func (r *joinedReader) Read(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case r.open != nil && r.left == 0:
			err := r.open.Close()
			r.open = nil
			if err != nil {
				return 0, err
			}
		case r.open != nil:
			n, err := r.open.Read(p[:min(int64(len(p)), r.left)])
			r.left -= int64(n)
			if err == io.EOF && r.left > 0 {
				return n, fmt.Errorf("content is %d bytes shorter than it was: %w", r.left, io.ErrUnexpectedEOF)
			}
			if n > 0 || err != nil && err != io.EOF {
				if err == io.EOF {
					err = nil
				}
				return n, err
			}
		case r.zeros > 0:
			n := min(int64(len(p)), r.zeros)
			clear(p[:n])
			r.zeros -= n
			return int(n), nil
		case len(r.rest) == 0:
			return 0, io.EOF
		default:
			next := r.rest[0]
			f, err := next.content.Open()
			if err != nil {
				return 0, err
			}
			r.open, r.left, r.zeros, r.rest = f, next.content.Size(), next.zeros, r.rest[1:]
		}
	}
}

func (r *joinedReader) Close() error {
	if r.open == nil {
		return nil
	}
	f := r.open
	r.open, r.rest = nil, nil
	return f.Close()
}
