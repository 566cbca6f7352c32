package compress

import (
	"cmp"
	"math/bits"
	"slices"
)

// code is a Huffman code, RFC 1951, 3.2.2: a length for each symbol, 0 for those
// that do not occur, and the words that follow from these, the first bit lowest.
type code struct {
	length [literals]uint8
	word   [literals]uint16
	size   int // of the alphabet
}

// build makes the best code for counts whose words have at most so many bits,
// and nearly the best where that bound counts. At least two symbols get words:
// not all decoders take a code of one.
func (c *code) build(count []uint32, most int) {
	c.size = len(count)
	type symbol struct {
		n  uint32
		id int
	}
	used := make([]symbol, 0, literals)
	for id, n := range count {
		if n > 0 {
			used = append(used, symbol{n, id})
		}
	}
	for id := 0; len(used) < 2; id++ {
		if count[id] == 0 {
			used = append(used, symbol{0, id})
		}
	}
	slices.SortFunc(used, func(a, b symbol) int { return cmp.Or(cmp.Compare(a.n, b.n), a.id-b.id) })

	// The tree: leaves in their order, then inner nodes in the order of their
	// making, which is that of their weights.
	leaves := len(used)
	weight, parent := make([]uint32, 0, 2*leaves), make([]int, 2*leaves)
	for _, s := range used {
		weight = append(weight, s.n)
	}
	leaf, inner := 0, leaves
	lightest := func() int {
		if leaf < leaves && (inner == len(weight) || weight[leaf] <= weight[inner]) {
			leaf++
			return leaf - 1
		}
		inner++
		return inner - 1
	}
	for len(weight) < 2*leaves-1 {
		a, b := lightest(), lightest()
		parent[a], parent[b] = len(weight), len(weight)
		weight = append(weight, weight[a]+weight[b])
	}
	depth := make([]int, 2*leaves-1)
	var have [16]int // words by their length
	for i := 2*leaves - 3; i >= 0; i-- {
		if depth[i] = depth[parent[i]] + 1; i < leaves {
			have[min(depth[i], most)]++
		}
	}
	shorten(have[:most+1])
	i := 0
	for l := most; l > 0; l-- { // the rarest have the longest
		for range have[l] {
			c.length[used[i].id] = uint8(l)
			i++
		}
	}
	c.words()
}

// shorten makes a code of lengths some of which were cut to the last one: a word
// of that length goes, and one that is shorter becomes two, until there is room.
func shorten(have []int) {
	most := len(have) - 1
	room := 0
	for l := 1; l <= most; l++ {
		room += have[l] << (most - l)
	}
	for ; room > 1<<most; room-- {
		have[most]--
		for l := most - 1; l > 0; l-- {
			if have[l] > 0 {
				have[l]--
				have[l+1] += 2
				break
			}
		}
	}
}

// words follow from lengths.
func (c *code) words() {
	var have, next [17]uint16
	for _, l := range c.length[:c.size] {
		have[l]++
	}
	have[0] = 0
	for l := 1; l < len(next); l++ {
		next[l] = (next[l-1] + have[l-1]) << 1
	}
	for i, l := range c.length[:c.size] {
		if l > 0 {
			c.word[i] = bits.Reverse16(next[l]) >> (16 - l)
			next[l]++
		}
	}
}

// cost is how many bits the words have.
func (c *code) cost(count []uint32) (n int) {
	for i, k := range count {
		n += int(k) * int(c.length[i])
	}
	return n
}

// used is how much of the alphabet has words, at least so much.
func (c *code) used(least int) int {
	n := c.size
	for n > least && c.length[n-1] == 0 {
		n--
	}
	return n
}

// lengthOrder is that in which the lengths of the header's own code come.
var lengthOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// header is what tells the codes of a block, RFC 1951, 3.2.7: their lengths, runs
// of them as one symbol, with a code of its own.
type header struct {
	literals, distances int
	symbols             []headerSymbol
	count               [19]uint32
	code                code
	lengths             int // of that code that are told
}

type headerSymbol struct{ symbol, extra uint8 }

// headerExtra are the bits behind the symbols 16, 17 and 18.
var headerExtra = [19]uint{16: 2, 17: 3, 18: 7}

func newHeader(literal, distance *code) *header {
	h := &header{literals: literal.used(257), distances: distance.used(1)}
	lengths := append(slices.Clone(literal.length[:h.literals]), distance.length[:h.distances]...)
	for len(lengths) > 0 {
		l, run := lengths[0], 1
		for run < len(lengths) && lengths[run] == l {
			run++
		}
		lengths = lengths[run:]
		if l > 0 {
			h.add(l, 0)
			run--
		}
		for run > 0 {
			switch {
			case l == 0 && run >= 11:
				n := min(run, 138)
				h.add(18, uint8(n-11))
				run -= n
			case l == 0 && run >= 3:
				h.add(17, uint8(run-3))
				run = 0
			case run >= 3:
				n := min(run, 6)
				h.add(16, uint8(n-3))
				run -= n
			default:
				h.add(l, 0)
				run--
			}
		}
	}
	h.code.build(h.count[:], 7)
	h.lengths = len(lengthOrder)
	for h.lengths > 4 && h.code.length[lengthOrder[h.lengths-1]] == 0 {
		h.lengths--
	}
	return h
}

func (h *header) add(symbol, extra uint8) {
	h.symbols = append(h.symbols, headerSymbol{symbol, extra})
	h.count[symbol]++
}

// bits is the header's length.
func (h *header) bits() int {
	n := 3 + 5 + 5 + 4 + 3*h.lengths + h.code.cost(h.count[:])
	for s, extra := range headerExtra {
		n += int(h.count[s]) * int(extra)
	}
	return n
}

// write writes the header of a block that is not the last.
func (h *header) write(b *bitWriter) {
	b.write(2<<1, 3)
	b.write(uint32(h.literals-257), 5)
	b.write(uint32(h.distances-1), 5)
	b.write(uint32(h.lengths-4), 4)
	for _, s := range lengthOrder[:h.lengths] {
		b.write(uint32(h.code.length[s]), 3)
	}
	for _, s := range h.symbols {
		b.write(uint32(h.code.word[s.symbol]), uint(h.code.length[s.symbol]))
		b.write(uint32(s.extra), headerExtra[s.symbol])
	}
}
