package vnet

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// macTable remembers behind which port an address lives. It has a fixed number
// of places, is read without a lock, and can't be filled by one port: a port
// that floods the switch with source addresses gets at most portShare of them
// and never pushes out an address that lives behind another port. An address
// that finds no place is not learned, and frames to it are flooded.
type macTable struct {
	seed uint64 // odd and secret, so that nobody can aim at one set
	sets []macSet

	mu    sync.Mutex
	owned [maxPorts]int // places in use by each slot
}

const (
	tableSets = 2048
	tableWays = 4
	portShare = tableSets * tableWays / 4
	maxPorts  = 4096
)

type macSet [tableWays]macPlace

// macPlace holds address<<16 | slot+1, or 0, and when the address was last
// seen, in seconds of the switch's clock.
type macPlace struct {
	entry atomic.Uint64
	seen  atomic.Int64
}

func newMACTable() *macTable {
	return &macTable{seed: rand.Uint64() | 1, sets: make([]macSet, tableSets)}
}

// mac48 reads an address as a number.
func mac48(b []byte) uint64 {
	_ = b[5]
	return uint64(b[0])<<40 | uint64(b[1])<<32 | uint64(b[2])<<24 | uint64(b[3])<<16 | uint64(b[4])<<8 | uint64(b[5])
}

func (t *macTable) set(mac uint64) *macSet {
	h := mac * t.seed
	h ^= h >> 29
	h *= t.seed
	return &t.sets[h>>(64-11)] // 2^11 sets
}

// lookup says behind which slot an address was seen since the time oldest.
func (t *macTable) lookup(mac uint64, oldest int64) (slot int, ok bool) {
	set := t.set(mac)
	for i := range set {
		if e := set[i].entry.Load(); e>>16 == mac && e != 0 && set[i].seen.Load() >= oldest {
			return int(e&0xffff) - 1, true
		}
	}
	return 0, false
}

// learn notes that an address was seen behind slot.
func (t *macTable) learn(mac uint64, slot int, now, oldest int64) {
	want := mac<<16 | uint64(slot+1)
	set := t.set(mac)
	for i := range set {
		if set[i].entry.Load() == want {
			if set[i].seen.Load() != now {
				set[i].seen.Store(now)
			}
			return
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	place := t.place(set, mac, slot, oldest)
	if place == nil {
		return
	}
	if old := place.entry.Load(); old != 0 {
		t.owned[int(old&0xffff)-1]--
	}
	t.owned[slot]++
	place.seen.Store(now)
	place.entry.Store(want)
}

// place finds where an address may go: its own place when it has moved, else a
// free or outdated one, else the oldest of the same port.
func (t *macTable) place(set *macSet, mac uint64, slot int, oldest int64) *macPlace {
	var free, own *macPlace
	for i := range set {
		p := &set[i]
		e := p.entry.Load()
		switch {
		case e != 0 && e>>16 == mac:
			return p
		case e == 0 || p.seen.Load() < oldest:
			free = p
		case int(e&0xffff)-1 == slot && (own == nil || p.seen.Load() < own.seen.Load()):
			own = p
		}
	}
	if own != nil && (free == nil || t.owned[slot] >= portShare) {
		return own
	}
	if t.owned[slot] >= portShare {
		return nil
	}
	return free
}

// forget drops every address behind slot.
func (t *macTable) forget(slot int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.sets {
		for j := range t.sets[i] {
			p := &t.sets[i][j]
			if e := p.entry.Load(); e != 0 && int(e&0xffff)-1 == slot {
				p.entry.Store(0)
			}
		}
	}
	t.owned[slot] = 0
}
