package xz

import "math/bits"

// chunkSize is the most bytes that a compressed LZMA2 chunk has.
const chunkSize = 1 << 16

// chunk holds a compressed chunk. Its size makes an index of 16 bits safe, so
// that the decoder never looks for the chunk's end while it decodes: one that
// runs over the end decodes what the array happens to hold, no more than the
// bytes that the chunk claims to have, and finds out afterwards.
type chunk [chunkSize]byte

// rangeDecoder decodes bits by their probabilities. It is a value, and its
// methods give the next one, so that it stays in registers.
type rangeDecoder struct {
	rng  uint32 // the range
	code uint32 // the place in the range
	at   uint32 // of the next byte in the chunk
}

const (
	topValue = 1 << 24 // a range below it takes in another byte
	minMatch = 2
)

// newRangeDecoder begins a chunk of five bytes at least, of which the first is
// 0.
func newRangeDecoder(in *chunk) rangeDecoder {
	code := uint32(in[1])<<24 | uint32(in[2])<<16 | uint32(in[3])<<8 | uint32(in[4])
	return rangeDecoder{rng: 1<<32 - 1, code: code, at: 5}
}

// normalize takes in the next byte when the range has become small, as it must
// before each bit.
func (r rangeDecoder) normalize(in *chunk) rangeDecoder {
	if r.rng < topValue {
		r.rng <<= 8
		r.code = r.code<<8 | uint32(in[r.at&(chunkSize-1)])
		r.at++
	}
	return r
}

// bit decodes a bit on which a branch depends.
func (r rangeDecoder) bit(m *probs, i uint32) (rangeDecoder, bool) {
	p := uint32(m[i&probsMask])
	bound := r.rng >> 11 * p
	if r.code < bound {
		m[i&probsMask] = uint16(p + (probTotal-p)>>probShift)
		r.rng = bound
		return r, false
	}
	m[i&probsMask] = uint16(p - p>>probShift)
	r.rng -= bound
	r.code -= bound
	return r, true
}

// tree decodes n bits, eight at most, the highest first, each with a
// probability that depends on those before it. In the result they follow a 1.
//
// These bits can't be foretold, so there is no branch that depends on them:
// zero is all ones when a bit is 0, and chooses between two values. While a bit
// is decoded the probabilities for both of its values are looked up already.
// The loop ends when the bit that is shifted into the sign gets there.
func (r rangeDecoder) tree(in *chunk, m *probs, base uint32, n int) (rangeDecoder, uint32) {
	t := (*[256]uint16)(m[base&probsMask:])
	symbol := uint32(1<<31)>>n | 1
	p := uint32(t[1])
	for int32(symbol) >= 0 {
		p1 := uint32(t[uint8(symbol<<1+1)])
		x := uint32(t[uint8(symbol<<1)]) ^ p1
		r = r.normalize(in)
		bound := r.rng >> 11 * p
		d := int64(r.code) - int64(bound)
		zero := uint32(d >> 63)
		t[uint8(symbol)] = learn(t[uint8(symbol)], zero)
		symbol = symbol<<1 + 1 + zero
		p = p1 ^ x&zero
		r.rng -= bound
		r.rng ^= (r.rng ^ bound) & zero
		r.code = uint32(d) + bound&zero
	}
	return r, symbol &^ (1 << 31)
}

// learn gives a probability after a bit, for which zero is all ones when it was
// 0. Its shift rounds a negative number down, as the growing probability of
// method bit is rounded.
func learn(p uint16, zero uint32) uint16 {
	const grow = probTotal - (1<<probShift - 1)
	return uint16(uint32(p) - uint32(int32(uint32(p)-zero&grow)>>probShift))
}

// matched decodes a literal after a match, in which it is likely to differ from
// the byte match, the one that follows what was copied. It is a tree as above,
// where the probabilities also depend on match's bit, as long as all bits
// before were the same: same is then 0x100, and 0 afterwards.
func (r rangeDecoder) matched(in *chunk, m *probs, base, match uint32) (rangeDecoder, uint32) {
	const mask = 1<<10 - 1
	t := (*[mask + 1]uint16)(m[base&probsMask:])
	symbol := uint32(1<<31)>>8 | 1
	match <<= 1
	same := uint32(0x100)
	bit := match & same
	p := uint32(t[(same+bit+1)&mask])
	for int32(symbol) >= 0 {
		i := same + bit + symbol
		same0 := same ^ bit
		match <<= 1
		p1 := uint32(t[(symbol<<1+1+bit+match&bit)&mask])
		x := uint32(t[(symbol<<1+same0+match&same0)&mask]) ^ p1
		r = r.normalize(in)
		bound := r.rng >> 11 * p
		d := int64(r.code) - int64(bound)
		zero := uint32(d >> 63)
		t[i&mask] = learn(t[i&mask], zero)
		symbol = symbol<<1 + 1 + zero
		p = p1 ^ x&zero
		same = bit ^ same&zero
		bit = match & same
		r.rng -= bound
		r.rng ^= (r.rng ^ bound) & zero
		r.code = uint32(d) + bound&zero
	}
	return r, symbol &^ (1 << 31)
}

// length decodes the length of a match.
func (r rangeDecoder) length(in *chunk, m *probs, base, position uint32) (rangeDecoder, uint32) {
	var one bool
	var n uint32
	r = r.normalize(in)
	if r, one = r.bit(m, base+lengthChoice); !one {
		r, n = r.tree(in, m, base+lengthLow+position<<3, 3)
		return r, n - 1<<3 + minMatch
	}
	r = r.normalize(in)
	if r, one = r.bit(m, base+lengthChoice2); !one {
		r, n = r.tree(in, m, base+lengthMid+position<<3, 3)
		return r, n - 1<<3 + minMatch + 8
	}
	r, n = r.tree(in, m, base+lengthHigh, 8)
	return r, n - 1<<8 + minMatch + 16
}

// distance decodes the distance of a match, less one: a slot, which tells the
// two highest bits and how many follow, and those.
func (r rangeDecoder) distance(in *chunk, m *probs, lengthState uint32) (rangeDecoder, uint32) {
	var slot, low uint32
	r, slot = r.tree(in, m, atSlots+lengthState<<6, 6)
	slot -= 1 << 6
	if slot < 4 {
		return r, slot
	}
	n := int(slot>>1 - 1)
	dist := (2 | slot&1) << n
	if slot < 14 {
		r, low = r.tree(in, m, atSpecial+dist-slot, n)
		return r, dist + bits.Reverse32(low<<(32-n))
	}
	// All but the last four have no probability.
	high := uint32(0)
	for range n - 4 {
		r = r.normalize(in)
		r.rng >>= 1
		r.code -= r.rng
		zero := -(r.code >> 31)
		r.code += r.rng & zero
		high = high<<1 + 1 + zero
	}
	r, low = r.tree(in, m, atAlign, 4)
	return r, dist + high<<4 + bits.Reverse32(low<<28)
}

// repeated decodes which of the last distances a match has, and puts it first.
// A short one has a length of one byte.
func (r rangeDecoder) repeated(in *chunk, m *probs, state, position uint32, last distances) (next rangeDecoder, d distances, short bool) {
	var one bool
	r = r.normalize(in)
	if r, one = r.bit(m, atIsRepG0+state); !one {
		r = r.normalize(in)
		r, one = r.bit(m, atIsRep0Long+(state<<4|position))
		return r, last, !one
	}
	r = r.normalize(in)
	if r, one = r.bit(m, atIsRepG1+state); !one {
		return r, distances{last.d1, last.d0, last.d2, last.d3}, false
	}
	r = r.normalize(in)
	if r, one = r.bit(m, atIsRepG2+state); !one {
		return r, distances{last.d2, last.d0, last.d1, last.d3}, false
	}
	return r, distances{last.d3, last.d0, last.d1, last.d2}, false
}
