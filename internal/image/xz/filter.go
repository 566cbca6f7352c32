package xz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// filter undoes a branch filter, section 5.3.2: compression replaces the
// relative addresses in a processor's branch instructions by absolute ones,
// which repeat. What it changed comes out of LZMA2, and must not be changed
// there, where it is the dictionary.
type filter struct {
	undo undoFunc
	at   uint32 // address of buf
	buf  []byte // out of LZMA2
	done int    // bytes of buf that were given out
}

// undoFunc changes the instructions in b, whose first byte has address at, and
// tells how many bytes are final. The others are needed again, with more after
// them.
type undoFunc func(b []byte, at uint32) int

// branchFilters are the filters by their numbers. All but x86's keep no state.
var branchFilters = map[int64]struct {
	align uint32 // of the address of the first byte
	new   func() undoFunc
}{
	0x04: {1, func() undoFunc { return new(x86).undo }},
	0x07: {4, func() undoFunc { return undoARM }},
	0x08: {2, func() undoFunc { return undoARMThumb }},
	0x0a: {4, func() undoFunc { return undoARM64 }},
}

// otherFilters are those that are known, and left out.
var otherFilters = map[int64]string{
	0x03: "the delta filter", 0x05: "the PowerPC filter", 0x06: "the IA-64 filter",
	0x09: "the SPARC filter", 0x0b: "the RISC-V filter",
}

// newFilter reads a filter's properties: none, or the address of the first
// byte.
func newFilter(id int64, props []byte) (*filter, error) {
	kind, ok := branchFilters[id]
	if !ok {
		name, known := otherFilters[id]
		if id == lzma2ID {
			return nil, errors.New("LZMA2 isn't the last filter")
		} else if !known {
			name = fmt.Sprintf("filter %#x", id)
		}
		return nil, &UnsupportedError{name}
	}
	f := &filter{undo: kind.new()}
	switch len(props) {
	case 0:
	case 4:
		f.at = binary.LittleEndian.Uint32(props)
	default:
		return nil, fmt.Errorf("the properties of filter %#x are malformed", id)
	}
	if f.at%kind.align != 0 {
		return nil, fmt.Errorf("filter %#x begins at address %#x, which isn't aligned", id, f.at)
	}
	return f, nil
}

// run gives what is final after data came out of LZMA2. At the end, the bytes
// that no instruction fits in stay as they are.
func (f *filter) run(data []byte, end bool) []byte {
	f.buf = append(f.buf[:copy(f.buf, f.buf[f.done:])], data...)
	f.done = f.undo(f.buf, f.at)
	f.at += uint32(f.done)
	if end {
		f.done = len(f.buf)
	}
	return f.buf[:f.done]
}

// undoARM changes BL: eight bits of code, and a distance in words.
func undoARM(b []byte, at uint32) int {
	n := len(b) &^ 3
	for i := 0; i < n; i += 4 {
		if b[i+3] == 0xeb {
			word := binary.LittleEndian.Uint32(b[i:])
			word -= (at + uint32(i) + 8) / 4
			binary.LittleEndian.PutUint32(b[i:], 0xeb000000|word&0xffffff)
		}
	}
	return n
}

// undoARMThumb changes BL: two half words, each five bits of code and eleven
// of a distance in half words.
func undoARMThumb(b []byte, at uint32) int {
	i := 0
	for ; i+4 <= len(b); i += 2 {
		high, low := binary.LittleEndian.Uint16(b[i:]), binary.LittleEndian.Uint16(b[i+2:])
		if high&0xf800 != 0xf000 || low&0xf800 != 0xf800 {
			continue
		}
		to := uint32(high&0x7ff)<<11 | uint32(low&0x7ff)
		to -= (at + uint32(i) + 4) / 2
		binary.LittleEndian.PutUint16(b[i:], 0xf000|uint16(to>>11&0x7ff))
		binary.LittleEndian.PutUint16(b[i+2:], 0xf800|uint16(to&0x7ff))
		i += 2
	}
	return i
}

// undoARM64 changes BL, a distance of 26 bits in words, and ADRP, one of 21
// bits in pages of 4 KiB, of which those of 512 MiB to both sides are changed.
func undoARM64(b []byte, at uint32) int {
	n := len(b) &^ 3
	for i := 0; i < n; i += 4 {
		word := binary.LittleEndian.Uint32(b[i:])
		switch pc := at + uint32(i); {
		case word>>26 == 0x25:
			word = 0x94000000 | (word-pc>>2)&0x03ffffff
		case word&0x9f000000 == 0x90000000:
			pages := word>>29&3 | word>>3&0x1ffffc
			if (pages+0x20000)&0x1c0000 != 0 {
				continue
			}
			pages -= pc >> 12
			sign := -(pages >> 17 & 1) & 0x1c0000 // bits 18 to 20 are like bit 17
			pages = pages&0x3ffff | sign
			word = word&0x9000001f | pages&3<<29 | pages&0x1ffffc<<3
		default:
			continue
		}
		binary.LittleEndian.PutUint32(b[i:], word)
	}
	return n
}

// x86 changes CALL and JMP with a distance of four bytes. Any byte may look
// like one of them, so the filter takes one only if the highest byte of its
// distance is 0 or 0xff, and it doesn't seem to lie in the distance of another.
type x86 struct {
	last     uint32 // address of the last byte that looked like CALL or JMP and was left alone
	opcodes  uint32 // bit n: the byte n before the current one was such a byte
	distance uint32 // bit n: and it had a distance with a highest byte of 0 or 0xff
}

const x86Size = 5 // bytes of the instructions

func (x *x86) undo(b []byte, at uint32) int {
	i := 0
	for i+x86Size <= len(b) {
		if b[i]&0xfe != 0xe8 {
			i++
			continue
		}
		here := at + uint32(i)
		// Only the three bytes before matter.
		x.opcodes = x.opcodes << (here - x.last) & 0xe
		x.distance = x.distance << (here - x.last) & 0xe
		x.last = here
		plausible := signByte(b[i+4])
		if !plausible || x.distance != 0 || bits.OnesCount32(x.opcodes) > 1 {
			x.opcodes |= 1
			if plausible {
				x.distance |= 1
			}
			i++
			continue
		}
		next := here + x86Size
		to := binary.LittleEndian.Uint32(b[i+1:]) - next
		if x.opcodes != 0 {
			// The filter keeps the highest byte of the other's distance from
			// becoming 0 or 0xff, where undoing would take it for plausible.
			shift := 32 - 8*(bits.Len32(x.opcodes)-1)
			if signByte(byte(to >> (shift - 8))) {
				to = to ^ (1<<shift - 1) - next
			}
		}
		binary.LittleEndian.PutUint32(b[i+1:], to&0xffffff|-(to>>24&1)<<24)
		x.opcodes, x.distance = 0, 0
		i += x86Size
	}
	return i
}

// signByte tells whether a byte may be the highest of a small signed number.
func signByte(b byte) bool { return b == 0 || b == 0xff }
