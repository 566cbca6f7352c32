package fat

import (
	"errors"
	"fmt"
)

// run is clusters of a file that lie in a row.
type run struct {
	first uint32
	count uint32
}

// chain reads entries of the FAT, through a window that slides over it.
type chain struct {
	f      *FS
	from   int64 // in the FAT, in bytes
	window []byte
}

const windowSize = 4096

// entry is the n-th of the FAT.
func (c *chain) entry(n uint32) (uint32, error) {
	bits := c.f.kind.bits
	at := int64(n) * bits / 8
	size := (bits + 7) / 8
	if c.window == nil || at < c.from || at+size > c.from+int64(len(c.window)) {
		from := at &^ 511
		end := min(from+windowSize, (int64(c.f.clusters+firstCluster)*bits+7)/8)
		c.window = make([]byte, end-from)
		c.from = from
		if err := readFull(c.f.r, c.window, c.f.table+from); err != nil {
			c.window = nil
			return 0, err
		}
	}
	b := c.window[at-c.from:]
	switch {
	case bits == 32:
		return le.Uint32(b) & 0x0FFFFFFF, nil
	case bits == 16:
		return uint32(le.Uint16(b)), nil
	case n%2 == 1:
		return uint32(le.Uint16(b) >> 4), nil
	}
	return uint32(le.Uint16(b) & 0xFFF), nil
}

// claims knows which clusters belong to a file already: no two files can share
// one, and no file can have one twice.
type claims struct {
	chain
	taken []uint64
}

func newClaims(f *FS) *claims { return &claims{chain: chain{f: f}} }

func (c *claims) claim(n uint32) error {
	if n < firstCluster || n-firstCluster >= c.f.clusters {
		return fmt.Errorf("its chain leads to cluster %d, which is none", n)
	}
	word, bit := int((n-firstCluster)/64), uint64(1)<<((n-firstCluster)%64)
	if word >= len(c.taken) {
		// Grown as needed, since most of a large disk is never looked at.
		c.taken = append(c.taken, make([]uint64, word+1-len(c.taken))...)
	}
	if c.taken[word]&bit != 0 {
		return fmt.Errorf("its chain meets itself or another at cluster %d", n)
	}
	c.taken[word] |= bit
	return nil
}

// follow claims the chain that begins at first, up to so many clusters. It
// gives an error where the chain is shorter than want.
func (c *claims) follow(first uint32, want, limit int64) ([]run, error) {
	var runs []run
	n := first
	for count := int64(1); ; count++ {
		if err := c.claim(n); err != nil {
			return nil, err
		}
		if k := len(runs) - 1; k >= 0 && runs[k].first+runs[k].count == n {
			runs[k].count++
		} else {
			runs = append(runs, run{n, 1})
		}
		next, err := c.entry(n)
		if err != nil {
			return nil, fmt.Errorf("read FAT: %w", err)
		}
		switch end := next >= c.f.kind.eoc&^7; {
		case end && count < want:
			return nil, fmt.Errorf("its chain has %d clusters where its size needs %d", count, want)
		case end:
			return runs, nil
		case count >= limit:
			return nil, errors.New("its chain is longer than its size")
		}
		n = next
	}
}
