package xz

import (
	"errors"
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
	endOfProbs   = atLiteral + literalProbs<<4 // lc and lp are at most 4 together
)

const (
	numStates    = 12
	literalProbs = 3 << 8
)

// A tree is taken as an array of up to 1024, which ends within the probs.
const _ = uint(probsMask + 1 - 1024 - endOfProbs)

// Where the probabilities of a length are, from where they begin.
const (
	lengthChoice  = 0
	lengthChoice2 = 1
	lengthLow     = 2                 // trees of 3 bits by position
	lengthMid     = lengthLow + 16<<3 // the same
	lengthHigh    = lengthMid + 16<<3 // a tree of 8 bits
	lengthProbs   = lengthHigh + 1<<8
)

// model is the state of an LZMA decoder between two chunks.
type model struct {
	probs      probs
	state      uint32
	last       distances
	lc, lp, pb uint32
}

// distances are those of the last four matches, less one.
type distances struct{ d0, d1, d2, d3 uint32 }

// reset forgets what was learned, and keeps lc, lp and pb.
func (m *model) reset() {
	for i := range m.probs[:atLiteral+literalProbs<<(m.lc+m.lp)] {
		m.probs[i] = probInit
	}
	m.state, m.last = 0, distances{}
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

// decode decodes a chunk of size bytes into out[pos:], which it fills. The
// dictionary began at out[start] (before out, if start is below 0), and matches
// may reach back for dict bytes.
func (m *model) decode(in *chunk, size int, out []byte, pos, start, dict int) error {
	if size < 5 || in[0] != 0 {
		return errChunk
	}
	r := newRangeDecoder(in)
	p, state, last := &m.probs, m.state, m.last
	lc, lpMask, pbMask := m.lc, uint32(1)<<m.lp-1, uint32(1)<<m.pb-1
	var prev uint32
	if pos > start {
		prev = uint32(out[pos-1])
	}
	for pos < len(out) {
		total := uint32(pos - start)
		position := total & pbMask
		var one bool
		r = r.normalize(in)
		if r, one = r.bit(p, atIsMatch+(state<<4|position)); !one {
			base := atLiteral + literalProbs*((total&lpMask)<<lc|prev>>(8-lc))
			if state < firstMatch {
				r, prev = r.tree(in, p, base, 8)
			} else {
				r, prev = r.matched(in, p, base, uint32(out[pos-int(last.d0)-1]))
			}
			prev &= 0xff
			out[pos] = byte(prev)
			pos++
			state = afterLiteral(state)
			continue
		}
		var n uint32
		r = r.normalize(in)
		if r, one = r.bit(p, atIsRep+state); !one {
			r, n = r.length(in, p, atMatchLen, position)
			last = distances{0, last.d0, last.d1, last.d2}
			r, last.d0 = r.distance(in, p, min(n-minMatch, 3))
			state = after(state, 7, 10)
		} else if r, last, one = r.repeated(in, p, state, position, last); one {
			n = 1
			state = after(state, 9, 11)
		} else {
			r, n = r.length(in, p, atRepLen, position)
			state = after(state, 8, 11)
		}
		if int(last.d0) >= min(pos-start, dict) {
			return errDistance
		}
		if int(n) > len(out)-pos {
			return errLength
		}
		copyMatch(out, pos, int(last.d0)+1, int(n))
		pos += int(n)
		prev = uint32(out[pos-1])
	}
	if r = r.normalize(in); int(r.at) != size || r.code != 0 {
		return errChunk
	}
	m.state, m.last = state, last
	return nil
}

// firstMatch is the first state in which the last symbol was no literal.
const firstMatch = 7

// after gives the state after a match: one of two, by the symbol before it.
func after(state, literal, match uint32) uint32 {
	if state < firstMatch {
		return literal
	}
	return match
}

// afterLiteral gives the state after a literal.
func afterLiteral(state uint32) uint32 {
	switch {
	case state < 4:
		return 0
	case state < 10:
		return state - 3
	default:
		return state - 6
	}
}

// copyMatch copies n bytes to out[pos:] from dist bytes before, where they may
// be what is just being written.
func copyMatch(out []byte, pos, dist, n int) {
	from := pos - dist
	if n <= 16 && dist >= 16 && pos+16 <= len(out) {
		// What is copied too much is overwritten later.
		*(*[16]byte)(out[pos:]) = *(*[16]byte)(out[from:])
		return
	}
	for n > 0 {
		k := copy(out[pos:pos+n], out[from:pos])
		pos += k
		n -= k
	}
}
