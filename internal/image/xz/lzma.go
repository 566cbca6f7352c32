package xz

import "errors"

// Sizes of the model, from the LZMA specification.
const (
	numStates    = 12
	maxPosStates = 1 << 4 // pb is at most 4
	literalSize  = 0x300  // probabilities of one literal coder: three trees of 256
	maxLiteral   = 1 << 4 // literal coders: lc+lp is at most 4 in LZMA2
	minMatch     = 2
	maxMatch     = 273
)

const (
	probInit = 1 << 10 // of 1 << 11: one half
	topValue = 1 << 24 // a range below it takes in another byte
)

// chunkSize is the most bytes that a compressed LZMA2 chunk has.
const chunkSize = 1 << 16

// chunk holds a compressed chunk. Its size makes an index of 16 bits safe, so
// that the decoder never looks for the chunk's end while it decodes: one that
// runs over the end decodes what the array happens to hold, no more than the
// bytes that the chunk claims to have, and finds out afterwards.
type chunk [chunkSize]byte

// lengths is the model of a match's length.
type lengths struct {
	choice  uint16
	choice2 uint16
	low     [maxPosStates][8]uint16
	mid     [maxPosStates][8]uint16
	high    [256]uint16
}

// model is what an LZMA decoder learns: the probabilities that the next bit is
// 0, in 2048ths, and the last distances.
type model struct {
	isMatch    [numStates << 4]uint16
	isRep0Long [numStates << 4]uint16
	isRep      [numStates]uint16
	isRepG0    [numStates]uint16
	isRepG1    [numStates]uint16
	isRepG2    [numStates]uint16
	slots      [4][64]uint16
	special    [128]uint16 // the slots 4 to 13 have a tree each in here
	align      [16]uint16
	match      lengths
	rep        lengths
	literal    [maxLiteral * literalSize]uint16

	state uint32
	reps  [4]uint32 // distances, less one

	lc, lp, pb uint32
}

func fill(p []uint16) {
	for i := range p {
		p[i] = probInit
	}
}

func (l *lengths) reset() {
	l.choice, l.choice2 = probInit, probInit
	for i := range l.low {
		fill(l.low[i][:])
		fill(l.mid[i][:])
	}
	fill(l.high[:])
}

// reset forgets what was learned, and keeps lc, lp and pb.
func (m *model) reset() {
	for _, p := range [][]uint16{
		m.isMatch[:], m.isRep0Long[:], m.isRep[:], m.isRepG0[:], m.isRepG1[:], m.isRepG2[:],
		m.special[:], m.align[:], m.literal[:literalSize<<(m.lc+m.lp)],
	} {
		fill(p)
	}
	for i := range m.slots {
		fill(m.slots[i][:])
	}
	m.match.reset()
	m.rep.reset()
	m.state, m.reps = 0, [4]uint32{}
}

// setProps sets lc, lp and pb from the byte that tells them.
func (m *model) setProps(b byte) error {
	if b >= 9*5*5 {
		return errors.New("the LZMA properties are malformed")
	}
	n := uint32(b)
	m.lc, m.lp, m.pb = n%9, n/9%5, n/45
	if m.lc+m.lp > 4 {
		return errors.New("the LZMA properties are malformed: lc and lp are more than 4 together")
	}
	return nil
}

var (
	errChunk    = errors.New("the compressed data is corrupt")
	errDistance = errors.New("the compressed data is corrupt: a match begins before the data")
	errLength   = errors.New("the compressed data is corrupt: a match goes on after the chunk")
)

// rangeDecoder is the arithmetic decoder's state between two bits: code is
// the place in the range of rng, at the place of the next byte in the chunk.
// The hot loop keeps the three in local variables.

// normalize takes in the next byte when the range has become small.
func normalize(rng, code, at uint32, in *chunk) (uint32, uint32, uint32) {
	if rng < topValue {
		return rng << 8, code<<8 | uint32(in[at&(chunkSize-1)]), at + 1
	}
	return rng, code, at
}

// step decodes a bit of a tree without a branch, because it can't be foretold:
// miss is all ones when the bit is 0.
func step(rng, code uint32, p *uint16, symbol uint32) (uint32, uint32, uint32) {
	v := uint32(*p)
	bound := rng >> 11 * v
	zero := uint32((int64(code) - int64(bound)) >> 63)
	*p = uint16(v - uint32(int32(v-zero&2017)>>5))
	return rng - bound + zero&(2*bound-rng), code - bound&^zero, symbol<<1 + 1 + zero
}

// bit decodes a bit that a branch depends on.
func bit(rng, code uint32, p *uint16) (uint32, uint32, bool) {
	v := uint32(*p)
	bound := rng >> 11 * v
	if code < bound {
		*p = uint16(v + (2048-v)>>5)
		return bound, code, false
	}
	*p = uint16(v - v>>5)
	return rng - bound, code - bound, true
}

// decode decodes a chunk of size bytes into out[pos:], which it fills. The
// dictionary began at out[start] (before out, if start is below 0), and matches
// may reach back for dict bytes.
func (m *model) decode(in *chunk, size int, out []byte, pos, start, dict int) error {
	if size < 5 || in[0] != 0 {
		return errChunk
	}
	rng := ^uint32(0)
	code := uint32(in[1])<<24 | uint32(in[2])<<16 | uint32(in[3])<<8 | uint32(in[4])
	at := uint32(5)
	state := m.state
	rep0, rep1, rep2, rep3 := m.reps[0], m.reps[1], m.reps[2], m.reps[3]
	lc := m.lc
	lpMask, pbMask := uint32(1)<<m.lp-1, uint32(1)<<m.pb-1
	var prev uint32
	if pos > start {
		prev = uint32(out[pos-1])
	}

	for pos < len(out) {
		total := uint32(pos - start)
		posState := total & pbMask
		var one bool
		rng, code, at = normalize(rng, code, at, in)
		if rng, code, one = bit(rng, code, &m.isMatch[state<<4|posState]); !one {
			ctx := ((total&lpMask)<<lc | prev>>(8-lc)) * literalSize
			lit := (*[literalSize]uint16)(m.literal[ctx:])
			symbol := uint32(1)
			if state < 7 {
				for range 8 {
					rng, code, at = normalize(rng, code, at, in)
					rng, code, symbol = step(rng, code, &lit[symbol], symbol)
				}
				if state < 4 {
					state = 0
				} else {
					state -= 3
				}
			} else {
				match := uint32(out[pos-int(rep0)-1])
				offset := uint32(0x100)
				for range 8 {
					match <<= 1
					b := match & offset
					rng, code, at = normalize(rng, code, at, in)
					rng, code, symbol = step(rng, code, &lit[offset+b+symbol], symbol)
					// The trees of matched literals are used as long as the bits are the same.
					if (b != 0) != (symbol&1 != 0) {
						offset = 0
					}
				}
				if state < 10 {
					state -= 3
				} else {
					state -= 6
				}
			}
			prev = symbol & 0xff
			out[pos] = byte(symbol)
			pos++
			continue
		}

		var length uint32
		rng, code, at = normalize(rng, code, at, in)
		if rng, code, one = bit(rng, code, &m.isRep[state]); !one {
			rng, code, at, length = m.match.decode(rng, code, at, posState, in)
			rep3, rep2, rep1 = rep2, rep1, rep0
			rng, code, at, rep0 = m.distance(rng, code, at, length, in)
			if state < 7 {
				state = 7
			} else {
				state = 10
			}
		} else {
			rng, code, at = normalize(rng, code, at, in)
			if rng, code, one = bit(rng, code, &m.isRepG0[state]); !one {
				rng, code, at = normalize(rng, code, at, in)
				if rng, code, one = bit(rng, code, &m.isRep0Long[state<<4|posState]); !one {
					if int(rep0) >= min(pos-start, dict) {
						return errDistance
					}
					b := out[pos-int(rep0)-1]
					out[pos] = b
					prev = uint32(b)
					pos++
					if state < 7 {
						state = 9
					} else {
						state = 11
					}
					continue
				}
			} else {
				rng, code, at = normalize(rng, code, at, in)
				if rng, code, one = bit(rng, code, &m.isRepG1[state]); !one {
					rep0, rep1 = rep1, rep0
				} else {
					rng, code, at = normalize(rng, code, at, in)
					if rng, code, one = bit(rng, code, &m.isRepG2[state]); !one {
						rep0, rep1, rep2 = rep2, rep0, rep1
					} else {
						rep0, rep1, rep2, rep3 = rep3, rep0, rep1, rep2
					}
				}
			}
			rng, code, at, length = m.rep.decode(rng, code, at, posState, in)
			if state < 7 {
				state = 8
			} else {
				state = 11
			}
		}
		if int(rep0) >= min(pos-start, dict) {
			return errDistance
		}
		n := int(length)
		if n > len(out)-pos {
			return errLength
		}
		from := pos - int(rep0) - 1
		if n <= 16 && rep0 >= 15 && pos+16 <= len(out) {
			*(*[16]byte)(out[pos:]) = *(*[16]byte)(out[from:])
		} else {
			copyMatch(out, pos, from, n)
		}
		pos += n
		prev = uint32(out[pos-1])
	}
	rng, code, at = normalize(rng, code, at, in)
	if int(at) != size || code != 0 {
		return errChunk
	}
	m.state = state
	m.reps = [4]uint32{rep0, rep1, rep2, rep3}
	return nil
}

// copyMatch copies n bytes inside of out to pos, where what is copied may be
// what was just written.
func copyMatch(out []byte, pos, from, n int) {
	for n > 0 {
		k := copy(out[pos:pos+n], out[from:pos])
		pos += k
		n -= k
	}
}

// decode decodes a length.
func (l *lengths) decode(rng, code, at, posState uint32, in *chunk) (uint32, uint32, uint32, uint32) {
	var one bool
	rng, code, at = normalize(rng, code, at, in)
	if rng, code, one = bit(rng, code, &l.choice); !one {
		tree := &l.low[posState&15]
		symbol := uint32(1)
		for range 3 {
			rng, code, at = normalize(rng, code, at, in)
			rng, code, symbol = step(rng, code, &tree[symbol], symbol)
		}
		return rng, code, at, symbol - 8 + minMatch
	}
	rng, code, at = normalize(rng, code, at, in)
	if rng, code, one = bit(rng, code, &l.choice2); !one {
		tree := &l.mid[posState&15]
		symbol := uint32(1)
		for range 3 {
			rng, code, at = normalize(rng, code, at, in)
			rng, code, symbol = step(rng, code, &tree[symbol], symbol)
		}
		return rng, code, at, symbol - 8 + minMatch + 8
	}
	symbol := uint32(1)
	for range 8 {
		rng, code, at = normalize(rng, code, at, in)
		rng, code, symbol = step(rng, code, &l.high[symbol], symbol)
	}
	return rng, code, at, symbol - 256 + minMatch + 16
}

// distance decodes the distance of a match of length bytes, less one.
func (m *model) distance(rng, code, at, length uint32, in *chunk) (uint32, uint32, uint32, uint32) {
	tree := &m.slots[min(length-minMatch, 3)]
	slot := uint32(1)
	for range 6 {
		rng, code, at = normalize(rng, code, at, in)
		rng, code, slot = step(rng, code, &tree[slot], slot)
	}
	slot -= 64
	if slot < 4 {
		return rng, code, at, slot
	}
	bits := slot>>1 - 1
	dist := (2 | slot&1) << bits
	if slot < 14 {
		tree := m.special[dist-slot:]
		symbol := uint32(1)
		for i := range bits {
			rng, code, at = normalize(rng, code, at, in)
			rng, code, symbol = step(rng, code, &tree[symbol], symbol)
			dist += symbol & 1 << i
		}
		return rng, code, at, dist
	}
	high := uint32(0)
	for range bits - 4 {
		rng, code, at = normalize(rng, code, at, in)
		rng >>= 1
		code -= rng
		less := -(code >> 31)
		code += rng & less
		high = high<<1 + 1 + less
	}
	dist += high << 4
	symbol := uint32(1)
	for i := range 4 {
		rng, code, at = normalize(rng, code, at, in)
		rng, code, symbol = step(rng, code, &m.align[symbol], symbol)
		dist += symbol & 1 << i
	}
	return rng, code, at, dist
}
