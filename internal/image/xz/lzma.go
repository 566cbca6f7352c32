package xz

import (
	"errors"
	"math/bits"
)

// probs are what an LZMA decoder learns: for each bit that a stream is made of,
// the probability that it is 0 the next time, in 2048ths. They are one array of
// a power of two, so that an index needs no check that it lies within.
type probs [1 << 14]uint16

const probsMask = 1<<14 - 1

const (
	probInit  = 1 << 10 // one half
	probTotal = 1 << 11
	probShift = 5 // how fast it learns
)

// Where the probabilities are in the array. Those of a tree of n bits take 1<<n
// places, of which the first isn't used.
const (
	atIsMatch    = 0                           // by state and position
	atIsRep0Long = atIsMatch + numStates<<4    // by state and position
	atIsRep      = atIsRep0Long + numStates<<4 // by state, as the next three
	atIsRepG0    = atIsRep + numStates
	atIsRepG1    = atIsRepG0 + numStates
	atIsRepG2    = atIsRepG1 + numStates
	atSlots      = atIsRepG2 + numStates // four trees of 6 bits
	atSpecial    = atSlots + 4<<6        // the slots 4 to 13 have trees that overlap
	atAlign      = atSpecial + 1<<7      // a tree of 4 bits
	atMatchLen   = atAlign + 1<<4
	atRepLen     = atMatchLen + lengthProbs
	atLiteral    = atRepLen + lengthProbs      // three trees of 8 bits for each context
	numProbs     = atLiteral + literalProbs<<4 // lc and lp are at most 4 together
)

const (
	numStates    = 12
	literalProbs = 3 << 8
)

// Where the probabilities of a length are, from where they begin.
const (
	lengthChoice  = 0
	lengthChoice2 = 1
	lengthLow     = 2                 // trees of 3 bits by position
	lengthMid     = lengthLow + 16<<3 // the same
	lengthHigh    = lengthMid + 16<<3 // a tree of 8 bits
	lengthProbs   = lengthHigh + 1<<8
)

const (
	minMatch = 2
	topValue = 1 << 24 // a range below it takes in another byte
)

// chunkSize is the most bytes that a compressed LZMA2 chunk has.
const chunkSize = 1 << 16

// chunk holds a compressed chunk. Its size makes an index of 16 bits safe, so
// that the decoder never looks for the chunk's end while it decodes: one that
// runs over the end decodes what the array happens to hold, no more than the
// bytes that the chunk claims to have, and finds out afterwards.
type chunk [chunkSize]byte

// model is the state of an LZMA decoder between two chunks.
type model struct {
	probs      probs
	state      uint32
	reps       [4]uint32 // the last distances, less one
	lc, lp, pb uint32
}

// reset forgets what was learned, and keeps lc, lp and pb.
func (m *model) reset() {
	for i := range m.probs[:atLiteral+literalProbs<<(m.lc+m.lp)] {
		m.probs[i] = probInit
	}
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

// choose decodes a bit without a branch, because it can't be foretold: zero is
// all ones when the bit is 0, and v becomes what p is to be afterwards.
func choose(rng, code, p uint32) (r, c, zero, v uint32) {
	bound := rng >> 11 * p
	d := int64(code) - int64(bound)
	zero = uint32(d >> 63)
	r = rng - bound
	return r ^ (r^bound)&zero, uint32(d) + bound&zero, zero, p - uint32(int32(p-zero&2017)>>5)
}

// bit decodes a bit that a branch depends on.
func bit(rng, code uint32, m *probs, i uint32) (uint32, uint32, bool) {
	p := uint32(m[i&probsMask])
	bound := rng >> 11 * p
	if code < bound {
		m[i&probsMask] = uint16(p + (probTotal-p)>>probShift)
		return bound, code, false
	}
	m[i&probsMask] = uint16(p - p>>probShift)
	return rng - bound, code - bound, true
}

// matched decodes a byte.
func matched(rng, code, at uint32, in *chunk, m *probs, base, match uint32) (uint32, uint32, uint32, uint32) {
	t := (*[1024]uint16)(m[base&probsMask:])
	symbol := uint32(1<<31)>>8 | 1
	match <<= 1
	same := uint32(0x100)
	bit := match & same
	p := uint32(t[(same+bit+1)&1023])
	for int32(symbol) >= 0 {
		i := same + bit + symbol
		same0 := same ^ bit
		match <<= 1
		p1 := uint32(t[(symbol<<1+1+bit+match&bit)&1023])
		x := uint32(t[(symbol<<1+same0+match&same0)&1023]) ^ p1
		rng, code, at = normalize(rng, code, at, in)
		bound := rng >> 11 * p
		d := int64(code) - int64(bound)
		zero := uint32(d >> 63)
		old := uint32(t[i&1023])
		t[i&1023] = uint16(old - uint32(int32(old-zero&2017)>>5))
		symbol = symbol<<1 + 1 + zero
		p = p1 ^ x&zero
		same = bit ^ same&zero
		bit = match & same
		rng -= bound
		rng ^= (rng ^ bound) & zero
		code = uint32(d) + bound&zero
	}
	return rng, code, at, symbol &^ (1 << 31)
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

	ps := &m.probs
	for pos < len(out) {
		total := uint32(pos - start)
		posState := total & pbMask
		var one bool
		rng, code, at = normalize(rng, code, at, in)
		if rng, code, one = bit(rng, code, ps, atIsMatch+(state<<4|posState)); !one {
			lit := atLiteral + literalProbs*((total&lpMask)<<lc|prev>>(8-lc))
			var symbol uint32
			if state < 7 {
				rng, code, at, symbol = tree(rng, code, at, in, ps, lit, 8)
				if state < 4 {
					state = 0
				} else {
					state -= 3
				}
			} else {
				match := uint32(out[pos-int(rep0)-1])
				rng, code, at, symbol = matched(rng, code, at, in, ps, lit, match)
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

		var count uint32
		rng, code, at = normalize(rng, code, at, in)
		if rng, code, one = bit(rng, code, ps, atIsRep+state); !one {
			rng, code, at, count = length(rng, code, at, in, ps, atMatchLen, posState)
			rep3, rep2, rep1 = rep2, rep1, rep0
			rng, code, at, rep0 = distance(rng, code, at, in, ps, min(count-minMatch, 3))
			if state < 7 {
				state = 7
			} else {
				state = 10
			}
		} else {
			rng, code, at = normalize(rng, code, at, in)
			if rng, code, one = bit(rng, code, ps, atIsRepG0+state); !one {
				rng, code, at = normalize(rng, code, at, in)
				if rng, code, one = bit(rng, code, ps, atIsRep0Long+(state<<4|posState)); !one {
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
				if rng, code, one = bit(rng, code, ps, atIsRepG1+state); !one {
					rep0, rep1 = rep1, rep0
				} else {
					rng, code, at = normalize(rng, code, at, in)
					if rng, code, one = bit(rng, code, ps, atIsRepG2+state); !one {
						rep0, rep1, rep2 = rep2, rep0, rep1
					} else {
						rep0, rep1, rep2, rep3 = rep3, rep0, rep1, rep2
					}
				}
			}
			rng, code, at, count = length(rng, code, at, in, ps, atRepLen, posState)
			if state < 7 {
				state = 8
			} else {
				state = 11
			}
		}
		if int(rep0) >= min(pos-start, dict) {
			return errDistance
		}
		n := int(count)
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

// length decodes a length.
func length(rng, code, at uint32, in *chunk, m *probs, base, posState uint32) (uint32, uint32, uint32, uint32) {
	var one bool
	var symbol uint32
	rng, code, at = normalize(rng, code, at, in)
	if rng, code, one = bit(rng, code, m, base+lengthChoice); !one {
		rng, code, at, symbol = tree(rng, code, at, in, m, base+lengthLow+posState<<3, 3)
		return rng, code, at, symbol - 8 + minMatch
	}
	rng, code, at = normalize(rng, code, at, in)
	if rng, code, one = bit(rng, code, m, base+lengthChoice2); !one {
		rng, code, at, symbol = tree(rng, code, at, in, m, base+lengthMid+posState<<3, 3)
		return rng, code, at, symbol - 8 + minMatch + 8
	}
	rng, code, at, symbol = tree(rng, code, at, in, m, base+lengthHigh, 8)
	return rng, code, at, symbol - 256 + minMatch + 16
}

// tree decodes n bits, the highest first, which follow a 1 in the result.
func tree(rng, code, at uint32, in *chunk, m *probs, base uint32, n int) (uint32, uint32, uint32, uint32) {
	t := (*[256]uint16)(m[base&probsMask:])
	symbol := uint32(1<<31)>>n | 1
	p := uint32(t[1])
	for int32(symbol) >= 0 {
		p1 := uint32(t[uint8(symbol<<1+1)])
		x := uint32(t[uint8(symbol<<1)]) ^ p1
		rng, code, at = normalize(rng, code, at, in)
		bound := rng >> 11 * p
		d := int64(code) - int64(bound)
		zero := uint32(d >> 63)
		old := uint32(t[uint8(symbol)])
		t[uint8(symbol)] = uint16(old - uint32(int32(old-zero&2017)>>5))
		symbol = symbol<<1 + 1 + zero
		p = p1 ^ x&zero
		rng -= bound
		rng ^= (rng ^ bound) & zero
		code = uint32(d) + bound&zero
	}
	return rng, code, at, symbol &^ (1 << 31)
}

// distance decodes the distance of a match of length bytes, less one.
func distance(rng, code, at uint32, in *chunk, m *probs, lengthState uint32) (uint32, uint32, uint32, uint32) {
	var slot, low uint32
	rng, code, at, slot = tree(rng, code, at, in, m, atSlots+lengthState<<6, 6)
	slot -= 64
	if slot < 4 {
		return rng, code, at, slot
	}
	n := int(slot>>1 - 1)
	dist := (2 | slot&1) << n
	if slot < 14 {
		rng, code, at, low = tree(rng, code, at, in, m, atSpecial+dist-slot, n)
		return rng, code, at, dist + bits.Reverse32(low<<(32-n))
	}
	high := uint32(0)
	for range n - 4 {
		rng, code, at = normalize(rng, code, at, in)
		rng >>= 1
		code -= rng
		less := -(code >> 31)
		code += rng & less
		high = high<<1 + 1 + less
	}
	rng, code, at, low = tree(rng, code, at, in, m, atAlign, 4)
	return rng, code, at, dist + high<<4 + bits.Reverse32(low<<28)
}
