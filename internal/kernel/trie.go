package kernel

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// trie is an index as kmod's modprobe reads it: a radix tree of keys, each with
// values of a priority.
//
// The file is a magic number, a version and the place of the root, all numbers
// big endian and of 32 bits, and the nodes, children before their parents. A
// node has, each where a flag in its place says so, a prefix that ends in NUL,
// the first and the last letter of its children and their places, and a count
// of values, each a priority and a text that ends in NUL. It is what depmod
// writes; there is no other specification than kmod's libkmod-index.c.
type trie struct {
	entries []trieEntry
}

type trieEntry struct {
	key, value string
	priority   int
}

// Of the file and the places in it.
const (
	trieMagic, trieVersion = 0xb007f457, 0x00020001
	triePrefix             = 1 << 31
	trieValues             = 1 << 30
	trieChildren           = 1 << 29
)

// add puts in a value. Keys are ASCII: others can't be looked up, and are left
// out.
func (t *trie) add(key, value string, priority int) {
	for _, c := range []byte(key) {
		if c == 0 || c >= 0x80 {
			return
		}
	}
	t.entries = append(t.entries, trieEntry{key, value, priority})
}

// bytes gives the file.
func (t *trie) bytes() []byte {
	slices.SortFunc(t.entries, func(a, b trieEntry) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.priority, b.priority), cmp.Compare(a.value, b.value))
	})
	t.entries = slices.Compact(t.entries)
	b := binary.BigEndian.AppendUint32(nil, trieMagic)
	b = binary.BigEndian.AppendUint32(b, trieVersion)
	b = append(b, 0, 0, 0, 0)
	b, root := appendTrie(b, t.entries, 0)
	binary.BigEndian.PutUint32(b[8:], root)
	return b
}

// appendTrie writes the node of entries, which are sorted and have their first
// at bytes in common, and gives its place with its flags.
func appendTrie(b []byte, entries []trieEntry, at int) ([]byte, uint32) {
	end := at
	if len(entries) > 0 {
		first, last := entries[0].key, entries[len(entries)-1].key // all between have what these two have in common
		for end < len(first) && end < len(last) && first[end] == last[end] {
			end++
		}
	}
	if at == 0 {
		end = 0 // the root never has a prefix
	}
	own := 0 // entries whose key ends here
	for own < len(entries) && len(entries[own].key) == end {
		own++
	}
	var children []uint32
	var low, high byte
	if rest := entries[own:]; len(rest) > 0 {
		low, high = rest[0].key[end], rest[len(rest)-1].key[end]
		children = make([]uint32, int(high-low)+1)
		for len(rest) > 0 {
			c, n := rest[0].key[end], 0
			for n < len(rest) && rest[n].key[end] == c {
				n++
			}
			b, children[c-low] = appendTrie(b, rest[:n], end+1)
			rest = rest[n:]
		}
	}
	place := uint32(len(b))
	if end > at {
		b = append(append(b, entries[0].key[at:end]...), 0)
		place |= triePrefix
	}
	if len(children) > 0 {
		b = append(b, low, high)
		for _, c := range children {
			b = binary.BigEndian.AppendUint32(b, c)
		}
		place |= trieChildren
	}
	if own > 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(own))
		for _, e := range entries[:own] {
			b = binary.BigEndian.AppendUint32(b, uint32(e.priority))
			b = append(append(b, e.value...), 0)
		}
		place |= trieValues
	}
	return b, place
}
