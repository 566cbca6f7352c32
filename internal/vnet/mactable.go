package vnet

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// macTable remembers behind which port a station lives: an address in a VLAN,
// since one address may be behind different ports in different VLANs. It has a
// fixed number of places, is read without a lock, and can't be filled by one
// port: a port that floods the switch with source addresses gets at most
// portShare of them, in all VLANs together, and never pushes out a station that
// lives behind another port. A station that finds no place is not learned, and
// frames to it are flooded.
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

// macPlace holds tag<<slotBits | slot+1, or 0, and when the station was last
// seen, in seconds of the switch's clock.
type macPlace struct {
	entry atomic.Uint64
	seen  atomic.Int64
}

// A station's number is too long to be kept beside a slot's. So it is mixed, by
// a function that can be inverted, and of the result setBits say in which set
// the station is, and only the other tagBits are kept.
const (
	stationBits = 48 + 12
	setBits     = 11 // of tableSets
	tagBits     = stationBits - setBits
	slotBits    = 13 // of maxPorts+1
	slotMask    = 1<<slotBits - 1
)

func newMACTable() *macTable {
	return &macTable{seed: rand.Uint64() | 1, sets: make([]macSet, tableSets)}
}

// stations gives the numbers of a frame's destination and source: the VLAN and
// the address.
func stations(d []byte, vlan int) (dst, src uint64) {
	const address = 1<<48 - 1
	_ = d[11]
	id := uint64(vlan) << 48
	return id | binary.BigEndian.Uint64(d)>>16, id | binary.BigEndian.Uint64(d[4:])&address
}

// find gives a station's set, and what tells it from others there.
func (t *macTable) find(station uint64) (set *macSet, tag uint64) {
	const mask = 1<<stationBits - 1
	h := station * t.seed & mask
	h ^= h >> 29
	h = h * t.seed & mask
	return &t.sets[h>>tagBits], h & (1<<tagBits - 1)
}

func slotOf(entry uint64) int { return int(entry&slotMask) - 1 }

// lookup says behind which slot a station was seen since the time oldest.
func (t *macTable) lookup(station uint64, oldest int64) (slot int, ok bool) {
	set, tag := t.find(station)
	for i := range set {
		if e := set[i].entry.Load(); e>>slotBits == tag && e != 0 && set[i].seen.Load() >= oldest {
			return slotOf(e), true
		}
	}
	return 0, false
}

// learn notes that a station was seen behind slot.
func (t *macTable) learn(station uint64, slot int, now, oldest int64) {
	set, tag := t.find(station)
	want := tag<<slotBits | uint64(slot+1)
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
	place := t.place(set, tag, slot, oldest)
	if place == nil {
		return
	}
	if old := place.entry.Load(); old != 0 {
		t.owned[slotOf(old)]--
	}
	t.owned[slot]++
	place.seen.Store(now)
	place.entry.Store(want)
}

// place finds where a station may go: its own place when it has moved, else a
// free or outdated one, else the oldest of the same port.
func (t *macTable) place(set *macSet, tag uint64, slot int, oldest int64) *macPlace {
	var free, own *macPlace
	for i := range set {
		p := &set[i]
		e := p.entry.Load()
		switch {
		case e != 0 && e>>slotBits == tag:
			return p
		case e == 0 || p.seen.Load() < oldest:
			free = p
		case slotOf(e) == slot && (own == nil || p.seen.Load() < own.seen.Load()):
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
			if e := p.entry.Load(); e != 0 && slotOf(e) == slot {
				p.entry.Store(0)
			}
		}
	}
	t.owned[slot] = 0
}
