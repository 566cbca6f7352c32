package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// lz4Block is how much a block of the legacy lz4 format unpacks to at most.
const lz4Block = 8 << 20

var errLZ4 = errors.New("lz4 data is damaged")

// unpackLZ4 undoes lz4 in its legacy frame format, in which kernels are packed
// (lz4 -l): a magic number, then blocks, each with its compressed length. See
// https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md, "Legacy frame".
func unpackLZ4(r io.Reader, limit int64) ([]byte, error) {
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return nil, err
	}
	var out []byte
	for {
		_, err := io.ReadFull(r, word[:])
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		n := binary.LittleEndian.Uint32(word[:])
		if n == 0x184c2102 { // another frame begins
			continue
		}
		if n > lz4Block+lz4Block/255+16 { // the worst that lz4 makes of a block
			return nil, errLZ4
		}
		block, err := io.ReadAll(io.LimitReader(r, int64(n)))
		if err != nil {
			return nil, err
		}
		if len(block) != int(n) {
			return nil, io.ErrUnexpectedEOF
		}
		if out, err = appendLZ4(out, block); err != nil {
			return nil, err
		}
		if int64(len(out)) > limit {
			return nil, fmt.Errorf("it has more than %d bytes", limit)
		}
	}
}

// appendLZ4 unpacks one block, a list of sequences: a token, literals, and a
// distance and a length of what is to be repeated; the last has literals only.
func appendLZ4(out, b []byte) ([]byte, error) {
	start := len(out)
	number := func(n int) (int, error) { // 15 goes on in bytes, up to one below 255
		if n < 15 {
			return n, nil
		}
		for {
			if len(b) == 0 || n > lz4Block {
				return 0, errLZ4
			}
			c := b[0]
			b = b[1:]
			if n += int(c); c < 255 {
				return n, nil
			}
		}
	}
	for len(b) > 0 {
		token := b[0]
		b = b[1:]
		literals, err := number(int(token >> 4))
		if err != nil || literals > len(b) || len(out)-start+literals > lz4Block {
			return nil, errLZ4
		}
		out, b = append(out, b[:literals]...), b[literals:]
		if len(b) == 0 {
			return out, nil
		}
		if len(b) < 2 {
			return nil, errLZ4
		}
		distance := int(binary.LittleEndian.Uint16(b))
		b = b[2:]
		length, err := number(int(token & 15))
		length += 4
		if err != nil || distance == 0 || distance > len(out)-start || len(out)-start+length > lz4Block {
			return nil, errLZ4
		}
		for range length { // byte by byte: what is copied may overlap what it makes
			out = append(out, out[len(out)-distance])
		}
	}
	return out, nil
}
