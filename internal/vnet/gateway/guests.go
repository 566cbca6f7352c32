package gateway

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// guest tells whom a frame came from: the port of the switch that it came in
// by, which a guest can't choose, as [vnet.Frame.Source] has it. Where there is
// no switch to say so it is nobody.
//
// Hardware and IP addresses tell nothing here, since a guest can make them up.
// So what is shared among guests is shared among ports: a port with a whole
// network behind it counts as one guest.
type guest uint16

const nobody guest = 0

// share divides a table with so many places among guests. A guest gets a place
// as long as it holds fewer than are free. So a guest that takes all that it can
// get takes half of the table, the next one half of the rest, and there always
// is a place for one that holds none, until a dozen guests are at it.
type share struct {
	mu        sync.Mutex
	max, used int
	held      map[guest]int
}

func newShare(places int) *share { return &share{max: places} }

// take gives the guest one more place, if it may have it. Nobody may have all.
func (s *share) take(g guest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used >= s.max || g != nobody && s.held[g] >= s.max-s.used {
		return false
	}
	if s.held == nil {
		s.held = map[guest]int{}
	}
	s.held[g]++
	s.used++
	return true
}

// give takes a place back.
func (s *share) give(g guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.held[g]--; s.held[g] == 0 {
		delete(s.held, g)
	}
}

// holds says how many places the guest has.
func (s *share) holds(g guest) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[g]
}

func (s *share) resize(places int) {
	s.mu.Lock()
	s.max = places
	s.mu.Unlock()
}

// neighbours are the guests' addresses that the stack hears from. It learns
// them and keeps the latest 512 of each version, whoever they are: a guest that
// made up addresses would make it forget those of the others. So an address is
// heard only when it has a place here, which is shared fairly.
type neighbours struct {
	mu     sync.Mutex
	byAddr map[netip.Addr]*neighbour
	room4  *share
	room6  *share
	swept  int64 // when idle ones were last looked for
	recent [64]*neighbour
}

// neighbour is a guest's address. All but used are only changed by the
// receiving goroutine, with mu held.
type neighbour struct {
	addr netip.Addr
	mac  [6]byte
	from guest
	used atomic.Int64 // Unix seconds
}

func newNeighbours() *neighbours {
	return &neighbours{byAddr: map[netip.Addr]*neighbour{}, room4: newShare(maxNeighbours), room6: newShare(maxNeighbours)}
}

func (n *neighbours) room(a netip.Addr) *share {
	if a.Is4() {
		return n.room4
	}
	return n.room6
}

// admit says whether the guest's address is to be heard, and remembers it. Only
// the receiving goroutine calls it.
func (n *neighbours) admit(from guest, mac [6]byte, a netip.Addr, now int64) bool {
	b := a.As16()
	recent := &n.recent[(b[15]^b[8]^mac[5])%64]
	if e := *recent; e != nil && e.addr == a && e.mac == mac && e.from == from {
		if e.used.Load() != now {
			e.used.Store(now)
		}
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.byAddr[a]
	if e == nil || e.from != from {
		room := n.room(a)
		if !room.take(from) && !(n.sweep(now) && room.take(from)) {
			return false
		}
		if e != nil { // the address has moved
			n.forget(e)
		}
		e = &neighbour{addr: a, from: from}
		n.byAddr[a] = e
	}
	e.mac = mac
	e.used.Store(now)
	*recent = e
	return true
}

// sweep makes room of the addresses that have been idle for long, if it has not
// looked for them just now.
func (n *neighbours) sweep(now int64) (found bool) {
	if n.swept == now {
		return false
	}
	n.swept = now
	for _, e := range n.byAddr {
		if now-e.used.Load() > int64(neighbourIdle/time.Second) {
			n.forget(e)
			found = true
		}
	}
	return found
}

func (n *neighbours) forget(e *neighbour) {
	delete(n.byAddr, e.addr)
	n.room(e.addr).give(e.from)
	for i, r := range n.recent {
		if r == e {
			n.recent[i] = nil
		}
	}
}

// of says whose an address is, as far as it is known.
func (n *neighbours) of(a netip.Addr) guest {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.byAddr[a]; e != nil {
		return e.from
	}
	return nobody
}

// macOf gives the card that uses an address.
func (n *neighbours) macOf(a netip.Addr) (mac [6]byte, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.byAddr[a]
	if e == nil {
		return mac, false
	}
	return e.mac, true
}

// address6 gives the IPv6 address of a network that a card used last.
func (n *neighbours) address6(mac [6]byte, in netip.Prefix) (a netip.Addr, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	latest := int64(-1)
	for _, e := range n.byAddr {
		if used := e.used.Load(); e.mac == mac && in.Contains(e.addr) &&
			(used > latest || used == latest && e.addr.Less(a)) {
			a, latest = e.addr, used
		}
	}
	return a, latest >= 0
}
