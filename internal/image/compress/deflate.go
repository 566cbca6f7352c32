package compress

import (
	"encoding/binary"
	"math/bits"
)

// The format's bounds, RFC 1951: how far back a match may lie, and how long it
// may be.
const (
	windowSize = 1 << 15
	minMatch   = 3
	maxMatch   = 258
)

// How hard it looks for matches: for less than the size of gzip -6.
const (
	hashBits4  = 16
	hashBits3  = 14
	chainMost  = 32   // places that are tried
	chainLess  = 10   // the same when there is a good match already
	matchGood  = 16   // long enough for that
	matchNice  = 130  // long enough to look no further
	shortReach = 4096 // how far back three bytes are worth a match
)

// A token is a literal byte, or a match: bit 31, the length less 3 from bit 16
// on, and the distance less 1.
type token uint32

const matchFlag token = 1 << 31

func matchOf(length, distance int) token {
	return matchFlag | token(length-minMatch)<<16 | token(distance-1)
}

// deflater compresses blocks, by RFC 1951. It finds matches along chains of
// places where the same four bytes begin, and by one place for any three bytes;
// it takes a match only after a look whether the next byte has a better one. The
// zero value is ready. What it makes depends on the input alone.
type deflater struct {
	// The last place where bytes with a hash begin, and one more; 0 is none.
	head4 [1 << hashBits4]int32
	head3 [1 << hashBits3]int32
	chain [windowSize]int32 // the one before, by place

	w blockWriter
}

// compress appends the block data[from:] to dst. It may refer to what comes before.
// It is never the last block of a stream, and ends at a byte.
func (d *deflater) compress(dst, data []byte, from int) []byte {
	clear(d.head4[:])
	clear(d.head3[:])
	d.insert(data, 0, from)
	d.w.begin(dst, data, from)
	d.parse(data, from)
	return d.w.end()
}

// parse finds the tokens of data[at:].
func (d *deflater) parse(data []byte, at int) {
	length, distance := d.find(data, at, minMatch-1, chainMost)
	for at < len(data) {
		if length == 0 {
			d.w.put(token(data[at]), at+1)
			at++
			length, distance = d.find(data, at, minMatch-1, chainMost)
			continue
		}
		seen := at + 1
		if length < matchNice {
			tries := chainMost
			if length >= matchGood {
				tries = chainLess
			}
			seen++
			if l, far := d.find(data, at+1, length-1, tries); better(l, far, length, distance) {
				d.w.put(token(data[at]), at+1)
				at, length, distance = at+1, l, far
				continue
			}
		}
		d.w.put(matchOf(length, distance), at+length)
		at += length
		d.insert(data, seen, at)
		length, distance = d.find(data, at, minMatch-1, chainMost)
	}
}

// better says whether a match of the next byte is worth the literal that it
// costs: each byte more is worth some bits, as is each bit of the distance.
func better(length, distance, than, thanDistance int) bool {
	return length != 0 && 4*(length-than)+bits.Len(uint(thanDistance))-bits.Len(uint(distance)) > 2
}

func hash4(x uint32) uint32 { return x * 0x9e3779b1 >> (32 - hashBits4) }
func hash3(x uint32) uint32 { return x << 8 * 0x9e3779b1 >> (32 - hashBits3) }

// insert makes the places from at on known, up to end.
func (d *deflater) insert(data []byte, at, end int) {
	for end = min(end, len(data)-3); at < end; at++ {
		x := binary.LittleEndian.Uint32(data[at:])
		h := hash4(x)
		d.chain[at&(windowSize-1)] = d.head4[h]
		d.head4[h] = int32(at + 1)
		d.head3[hash3(x)] = int32(at + 1)
	}
}

// find makes a place known, and gives the best match there that is longer than
// one of a length, or 0.
func (d *deflater) find(data []byte, at, than, tries int) (length, distance int) {
	if at+4 > len(data) {
		return 0, 0
	}
	here := data[at:min(len(data), at+maxMatch)]
	x := binary.LittleEndian.Uint32(here)
	h4, h3 := hash4(x), hash3(x)
	place, short := int(d.head4[h4]), int(d.head3[h3])
	d.chain[at&(windowSize-1)] = int32(place)
	d.head4[h4], d.head3[h3] = int32(at+1), int32(at+1)

	if than < minMatch && short != 0 && at+1-short <= shortReach &&
		(binary.LittleEndian.Uint32(data[short-1:])^x)<<8 == 0 {
		length, distance, than = minMatch, at+1-short, minMatch
	}
	than = max(than, minMatch)
	if than >= len(here) {
		return length, distance
	}
	// A match that is longer has these four bytes at its end, too.
	last := binary.LittleEndian.Uint32(here[than-3:])
	for far := at - windowSize; place > 0 && place-1 >= far && tries > 0; tries-- {
		there := data[place-1:]
		if binary.LittleEndian.Uint32(there[than-3:]) == last && binary.LittleEndian.Uint32(there) == x {
			n := 4 + common(here[4:], there[4:])
			if n > than {
				length, distance, than = n, at+1-place, n
				if n >= matchNice || n == len(here) {
					break
				}
				last = binary.LittleEndian.Uint32(here[than-3:])
			}
		}
		next := int(d.chain[(place-1)&(windowSize-1)])
		if next >= place { // of another round
			break
		}
		place = next
	}
	return length, distance
}

// common is how many bytes a begins with that b begins with, too; b is no shorter.
func common(a, b []byte) int {
	n := 0
	for ; n+8 <= len(a); n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}
