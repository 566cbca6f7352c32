package vnet

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestRingExpress: whoever sends little does not wait behind one that has filled
// the queue, and loses nothing.
func TestRingExpress(t *testing.T) {
	r := newRing(1 << 20)
	flood := make([]Frame, 20000)
	for i := range flood {
		flood[i] = Frame{Data: make([]byte, 60), Source: 1}
	}
	if n, _ := r.push(flood); n < 10000 || n == len(flood) {
		t.Fatalf("%d of %d frames fitted", n, len(flood))
	}
	if n, _ := r.push([]Frame{{Data: make([]byte, 1500), Source: 2}, {Data: make([]byte, 1500), Source: 2}}); n != 2 {
		t.Fatal("another sender's frames found no room")
	}
	views := make([]Frame, 64)
	n, _ := r.peek(views)
	ahead := 0
	for _, f := range views[:n] {
		if f.Source == 2 {
			ahead++
		}
	}
	if ahead != 2 {
		t.Errorf("%d of the other sender's 2 frames are among the first %d", ahead, n)
	}
}

// TestRingOrder: frames of one source stay in order, and none is lost or made up,
// whatever the lanes do.
func TestRingOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	r := newRing(0)
	var pushed, read [6]uint32
	views := make([]Frame, 64)
	take := func() {
		n, _ := r.tryPeek(views[:1+rng.IntN(len(views))])
		for _, f := range views[:n] {
			if got := binary.BigEndian.Uint32(f.Data); got != read[f.Source] {
				t.Fatalf("source %d: frame %d comes where %d is due", f.Source, got, read[f.Source])
			}
			read[f.Source]++
		}
		r.release()
	}
	for range 20000 {
		if rng.IntN(3) == 0 {
			take()
			continue
		}
		source := rng.IntN(len(pushed))
		// Some send much, some little, some both.
		batch := make([]Frame, 1+rng.IntN(1+8*source))
		for i := range batch {
			batch[i] = Frame{Data: make([]byte, 4+rng.IntN(3000)), Source: uint16(source)}
			binary.BigEndian.PutUint32(batch[i].Data, pushed[source]+uint32(i))
		}
		n, _ := r.push(batch)
		pushed[source] += uint32(n)
	}
	for range 20000 {
		take()
	}
	if pushed != read {
		t.Errorf("pushed %v, read %v", pushed, read)
	}
	for source, q := range r.queued {
		if q != (queuedOf{}) {
			t.Errorf("source %d still counts %+v", source, q)
		}
	}
}
