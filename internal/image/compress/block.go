package compress

import (
	"encoding/binary"
	"math/bits"
)

// The alphabets of RFC 1951: bytes, the end of a block (256) and lengths; and
// distances. Of both, no more symbols than these are used.
const (
	literals   = 286
	distances  = 30
	endOfBlock = 256
)

const (
	chunkTokens = 4096             // after so many a block may end
	blockTokens = 24 * chunkTokens // after so many it does
	headerBits  = 600              // what another header costs, about
)

// emptyLastBlock ends a stream: a last block with fixed codes, and nothing in it.
var emptyLastBlock = []byte{0x03, 0x00}

// counts are how often each symbol occurs.
type counts struct {
	literal  [literals]uint32
	distance [distances]uint32
}

func (c *counts) add(t token) {
	if t&matchFlag == 0 {
		c.literal[t]++
		return
	}
	l, _, _ := lengthCode(t)
	f, _, _ := distanceCode(t)
	c.literal[l]++
	c.distance[f]++
}

func (c *counts) addAll(o *counts) {
	for i, n := range o.literal {
		c.literal[i] += n
	}
	for i, n := range o.distance {
		c.distance[i] += n
	}
}

// lengthCode is the symbol of a match's length, and the bits behind it.
func lengthCode(t token) (symbol int, extra uint32, n uint) {
	l := uint32(t >> 16 & 0xff)
	switch {
	case l == maxMatch-minMatch:
		return 285, 0, 0
	case l < 8:
		return 257 + int(l), 0, 0
	}
	n = uint(bits.Len32(l)) - 3
	return 257 + int(4*(n+1)+uint(l>>n&3)), l & (1<<n - 1), n
}

// distanceCode is the symbol of a match's distance, and the bits behind it.
func distanceCode(t token) (symbol int, extra uint32, n uint) {
	d := uint32(t & 0x7fff)
	if d < 4 {
		return int(d), 0, 0
	}
	n = uint(bits.Len32(d)) - 2
	return int(2*(n+1) + uint(d>>n&1)), d & (1<<n - 1), n
}

// blockWriter gathers tokens and writes them as blocks, each with codes of its
// own: where what comes is of another kind than what was, a block ends.
type blockWriter struct {
	bits  bitWriter
	data  []byte // what the tokens stand for
	start int    // where the block begins in it
	mark  int    // where the chunk begins
	reach int    // where the last token ends

	tokens []token
	block  counts // of the block, without its last chunk
	chunk  counts
	sure   int // tokens that block counts
}

// begin starts a stream that stands for data[at:].
func (w *blockWriter) begin(dst, data []byte, at int) {
	w.bits = bitWriter{out: dst}
	w.data, w.start, w.mark, w.reach = data, at, at, at
	w.tokens, w.sure, w.block, w.chunk = w.tokens[:0], 0, counts{}, counts{}
}

// put takes a token that reaches to end.
func (w *blockWriter) put(t token, end int) {
	w.tokens = append(w.tokens, t)
	w.chunk.add(t)
	w.reach = end
	if len(w.tokens)-w.sure == chunkTokens {
		w.decide()
	}
}

// decide whether the chunk belongs to the block.
func (w *blockWriter) decide() {
	if w.sure > 0 {
		both := w.block
		both.addAll(&w.chunk)
		if w.block.bits()+w.chunk.bits()+headerBits < both.bits() || w.sure >= blockTokens {
			w.flush()
		}
	}
	w.block.addAll(&w.chunk)
	w.chunk, w.sure, w.mark = counts{}, len(w.tokens), w.reach
}

// flush writes the block without the chunk.
func (w *blockWriter) flush() {
	w.bits.block(w.tokens[:w.sure], &w.block, w.data[w.start:w.mark])
	w.tokens = w.tokens[:copy(w.tokens, w.tokens[w.sure:])]
	w.block, w.sure, w.start = counts{}, 0, w.mark
}

// end writes what is left, and gives the stream up to a byte's end.
func (w *blockWriter) end() []byte {
	if len(w.tokens) > 0 {
		w.decide()
		w.flush()
	}
	w.data = nil
	return w.bits.sync()
}

// bits estimates the length of what is counted, when its codes are the best.
func (c *counts) bits() uint64 { return entropy(c.literal[:]) + entropy(c.distance[:]) }

// entropy is the sum of each count times the logarithm of its share: the same
// on all processors, hence without floating point.
func entropy(count []uint32) uint64 {
	var total uint32
	for _, n := range count {
		total += n
	}
	if total == 0 {
		return 0
	}
	var sum uint64
	whole := uint64(log2(total))
	for _, n := range count {
		if n > 0 {
			sum += uint64(n) * (whole - uint64(log2(n)))
		}
	}
	return sum >> logBits
}

const logBits = 8

// log2 is the logarithm of x, which is not 0, with logBits bits behind the point.
func log2(x uint32) uint32 {
	whole := uint(bits.Len32(x)) - 1
	m := uint64(x) << 31 >> whole // from 2^31 on, below 2^32
	result := uint32(whole)
	for range logBits {
		m = m * m >> 31
		result <<= 1
		if m >= 1<<32 {
			m >>= 1
			result |= 1
		}
	}
	return result
}

// bitWriter writes bits, the lowest first.
type bitWriter struct {
	out []byte
	acc uint64
	n   uint
}

// write appends the n lowest bits of v, which has no others; n is at most 32.
func (b *bitWriter) write(v uint32, n uint) {
	b.acc |= uint64(v) << b.n
	if b.n += n; b.n >= 32 {
		b.out = binary.LittleEndian.AppendUint32(b.out, uint32(b.acc))
		b.acc >>= 32
		b.n -= 32
	}
}

// align fills the last byte.
func (b *bitWriter) align() {
	for ; b.n > 0; b.n -= min(b.n, 8) {
		b.out = append(b.out, byte(b.acc))
		b.acc >>= 8
	}
	b.acc = 0
}

// sync ends at a byte, by an empty block without compression, and gives all.
func (b *bitWriter) sync() []byte {
	b.stored(nil)
	return b.out
}

// stored writes bytes as they are.
func (b *bitWriter) stored(data []byte) {
	for {
		n := min(len(data), 0xffff)
		b.write(0, 3)
		b.align()
		b.out = binary.LittleEndian.AppendUint16(b.out, uint16(n))
		b.out = binary.LittleEndian.AppendUint16(b.out, ^uint16(n))
		b.out = append(b.out, data[:n]...)
		if data = data[n:]; len(data) == 0 {
			return
		}
	}
}

// block writes tokens with codes of their own, or what they stand for as it is
// where that is shorter.
func (b *bitWriter) block(tokens []token, c *counts, data []byte) {
	c.literal[endOfBlock]++
	var literal, distance code
	literal.build(c.literal[:], 15)
	distance.build(c.distance[:], 15)
	h := newHeader(&literal, &distance)
	size := h.bits() + literal.cost(c.literal[:]) + distance.cost(c.distance[:])
	for i, n := range c.literal[265:285] {
		size += int(n) * (i/4 + 1)
	}
	for i, n := range c.distance[4:] {
		size += int(n) * (i/2 + 1)
	}
	if stored := 8*len(data) + (len(data)/0xffff+1)*42; stored < size {
		b.stored(data)
		return
	}
	h.write(b)
	for _, t := range tokens {
		if t&matchFlag == 0 {
			b.write(uint32(literal.word[t]), uint(literal.length[t]))
			continue
		}
		s, extra, n := lengthCode(t)
		b.write(uint32(literal.word[s])|extra<<literal.length[s], uint(literal.length[s])+n)
		s, extra, n = distanceCode(t)
		b.write(uint32(distance.word[s])|extra<<distance.length[s], uint(distance.length[s])+n)
	}
	b.write(uint32(literal.word[endOfBlock]), uint(literal.length[endOfBlock]))
}
