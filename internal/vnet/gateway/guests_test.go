package gateway

import (
	"net/netip"
	"testing"
	"time"
)

func TestShare(t *testing.T) {
	s := newShare(100)
	grab := func(g guest) (n int) {
		for s.take(g) {
			n++
		}
		return n
	}
	if n := grab(1); n != 50 {
		t.Errorf("one guest took %d of 100", n)
	}
	if n := grab(2); n != 25 {
		t.Errorf("the next took %d of 50", n)
	}
	if !s.take(3) {
		t.Error("nothing was left for a third")
	}
	if n := grab(nobody); n != 24 {
		t.Errorf("where nobody can be told apart, %d of 24 were left", n)
	}
	for range 50 {
		s.give(1)
	}
	if n := grab(2); n != 13 || s.holds(1) != 0 || s.holds(2) != 38 {
		t.Errorf("a guest with 25 took %d of 50", n) // until it has more than are free
	}
}

type testFlow struct{ used int64 }

func (f *testFlow) lastUsed() int64 { return f.used }

func TestFlows(t *testing.T) {
	f := newFlows[int, *testFlow](10)
	victim := &testFlow{}
	f.put(-1, victim, 2)
	for i := range 1000 {
		out, full := f.put(i, &testFlow{int64(i)}, 1)
		if full != (i >= 9) || full && out.used != int64(i-9) {
			t.Fatalf("flow %d pushed out %v", i, out)
		}
	}
	if _, ok := f.get(-1); !ok || f.len() != 10 {
		t.Errorf("the other guest's flow is gone; %d are left", f.len())
	}
	// One that is in use stays longer than one that is not.
	old, _ := f.get(991)
	old.used = 5000
	out, _ := f.put(2000, &testFlow{}, 1)
	if out.used != 992 {
		t.Errorf("pushed out %v", out)
	}
	f.remove(2000, func(*testFlow) bool { return false })
	f.remove(-1, func(o *testFlow) bool { return o == victim })
	if f.len() != 9 || len(f.byGuest) != 1 {
		t.Errorf("%d flows of %d guests", f.len(), len(f.byGuest))
	}
}

// A guest that makes up addresses leaves the others theirs, and gets new ones
// once the old ones have been idle for long.
func TestNeighbours(t *testing.T) {
	n := newNeighbours()
	addr := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
	}
	own := netip.MustParseAddr("10.0.2.15")
	mac := [6]byte{2, 0, 0, 0, 0, 5}
	now := int64(1000)
	if !n.admit(2, mac, own, now) || !n.admit(2, mac, addr(1<<20), now) {
		t.Fatal("a guest was not heard")
	}
	heard := 0
	for i := range 5000 {
		if n.admit(1, [6]byte{6, byte(i)}, addr(i), now+int64(i)/1000) {
			heard++
		}
	}
	if heard < maxNeighbours/2-1 || heard > maxNeighbours/2 {
		t.Errorf("one guest was heard with %d addresses of %d", heard, maxNeighbours)
	}
	if got, _ := n.macOf(own); got != mac || n.of(own) != 2 {
		t.Error("the other guest's address is gone")
	}
	if a, ok := n.address6(mac, netip.MustParsePrefix("fd00::/64")); !ok || a != addr(1<<20) {
		t.Errorf("the other guest's IPv6 address is %v", a)
	}
	now += int64(neighbourIdle/time.Second) + 10
	if !n.admit(1, [6]byte{6}, addr(9999), now) {
		t.Error("no address takes the place of one that is idle")
	}
	// An address that moves to another port counts there.
	before := n.room6.holds(1)
	if !n.admit(3, mac, addr(9999), now) || n.of(addr(9999)) != 3 || n.room6.holds(1) != before-1 || n.room6.holds(3) != 1 {
		t.Error("an address that moved is still where it was")
	}
}
