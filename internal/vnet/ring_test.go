package vnet

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestRingTurns: whoever sends less does not wait behind one that has filled the
// queue, and loses nothing, however much more than a packet it is.
func TestRingTurns(t *testing.T) {
	r := newRing(1 << 20)
	flood := make([]Frame, 20000)
	for i := range flood {
		flood[i] = Frame{Data: make([]byte, 60), Source: 1}
	}
	if n, _ := r.push(flood); n < 10000 || n == len(flood) {
		t.Fatalf("%d of %d frames fitted", n, len(flood))
	}
	const others = 20 // 30,000 bytes
	for range others {
		if n, _ := r.push([]Frame{{Data: make([]byte, 1500), Source: 2}}); n != 1 {
			t.Fatal("another sender's frames found no room")
		}
	}
	views := make([]Frame, 64)
	got := 0
	for range 3 {
		n, _ := r.peek(views)
		for _, f := range views[:n] {
			if f.Source == 2 {
				got++
			}
		}
		r.release()
	}
	if got != others {
		t.Errorf("%d of the other sender's %d frames are among the first", got, others)
	}
}

// TestRingFlooded: what a sender has to say to stations that are known does not
// wait behind, and is not lost for, what it says to unknown ones.
func TestRingFlooded(t *testing.T) {
	r := newRing(1 << 20)
	for {
		if n, _ := r.push([]Frame{{Data: make([]byte, 1500), Source: 1, Flooded: true}}); n == 0 {
			break
		}
	}
	if n, _ := r.push([]Frame{{Data: make([]byte, 300), Source: 1}}); n != 1 {
		t.Fatal("a frame for a known station found no room")
	}
	views := make([]Frame, 64)
	n, _ := r.peek(views)
	known := 0
	for _, f := range views[:n] {
		if f.Source != 1 || f.Flooded != (len(f.Data) == 1500) {
			t.Fatalf("a frame of %d bytes has source %d, flooded %v", len(f.Data), f.Source, f.Flooded)
		}
		if !f.Flooded {
			known++
		}
	}
	if known != 1 {
		t.Error("a frame for a known station is not among the first")
	}
}

// TestRingMemory: senders that take the queue one after the other leave it with
// little more memory than it holds, and what the reader has stays as it is while
// lanes move.
func TestRingMemory(t *testing.T) {
	r := newRing(1 << 18)
	views := make([]Frame, 64)
	for source := range 50 {
		frame := Frame{Data: make([]byte, 1000), Source: uint16(source + 1)}
		for i := range frame.Data {
			frame.Data[i] = byte(source)
		}
		push := func() (n int) {
			for ; ; n++ {
				if got, _ := r.push([]Frame{frame}); got == 0 {
					return n
				}
			}
		}
		if n := push(); n < 100 {
			t.Fatalf("sender %d found room for %d frames", source, n)
		}
		n, _ := r.peek(views)
		push()
		r.mu.Lock()
		for i := range r.lanes {
			r.resize(&r.lanes[i], 2*r.size)
		}
		r.mu.Unlock()
		for _, f := range views[:n] {
			if len(f.Data) != 1000 || f.Data[0] != byte(source) || f.Data[999] != byte(source) {
				t.Fatal("a frame changed while the reader had it")
			}
		}
		r.release()
		for r.used > 0 {
			_, _ = r.peek(views)
			r.release()
		}
		if r.trim(); r.memory != 0 {
			t.Fatalf("an empty queue has %d bytes", r.memory)
		}
	}
	for source := range 50 {
		for range 300 {
			_, _ = r.push([]Frame{{Data: make([]byte, 800), Source: uint16(source + 1)}})
		}
		for r.used > 0 {
			_, _ = r.peek(views)
			r.release()
		}
		if r.memory > 5*r.size {
			t.Fatalf("after sender %d an empty queue has %d bytes", source, r.memory)
		}
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
	if r.used != 0 || len(r.turns) != 0 {
		t.Errorf("%d bytes and %d turns are left", r.used, len(r.turns))
	}
}
