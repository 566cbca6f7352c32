package gateway

import (
	"testing"
	"time"
)

func TestPolice(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := newPolice(nil, now)
	p.tick(now)
	paid := 0
	for range 10 * policeBurst {
		if p.pays(7, costFlow) {
			paid++
		}
	}
	if paid != policeBurst/costFlow || !p.pays(8, costFlow) {
		t.Errorf("one guest paid for %d flows", paid)
	}
	p.tick(now.Add(time.Second / 100))
	if !p.pays(7, policeRate/100) || p.pays(7, 1) {
		t.Error("a bucket fills at another rate")
	}
}

// TestPoliceLate: when the gateway can't keep up, the guest that asks most is the
// one that gets less, and gets everything again when it can.
func TestPoliceLate(t *testing.T) {
	looks := 0
	now := time.Unix(1e9, 0)
	p := newPolice(func() bool { looks++; return true }, now)
	// asks is what the hostile guest can pay for in 100 ms.
	asks := func() (paid int) {
		now = now.Add(100 * time.Millisecond)
		p.tick(now)
		for p.pays(7, costPacket) {
			paid++
		}
		return paid
	}
	p.tick(now)
	for range policeLeast {
		p.pays(8, costPacket)
	}
	if looks != 0 {
		t.Error("the police looks at one that asks for little")
	}
	asks()
	if looks != 1 {
		t.Fatal("nobody looks at one that asks for much")
	}
	for range 5 {
		p.pays(8, costPacket)
		if !p.gauge(10 * gaugeLate) {
			t.Fatal("nobody looks any more")
		}
		asks()
	}
	if n := asks(); n != policeLeast/10 {
		t.Errorf("a gateway that can't keep up does %d for the hostile guest, want %d", n, policeLeast/10)
	}
	p.tick(now.Add(time.Second))
	for range policeBurst {
		if !p.pays(8, costPacket) {
			t.Fatal("the other guest gets less")
		}
	}
	for end := 0; p.gauge(0); end++ {
		if end == 1000 {
			t.Fatal("the police looks for ever")
		}
	}
	if n := asks(); n < policeRate/10 {
		t.Errorf("a gateway that keeps up does %d for the guest", n)
	}
	if looks != 2 {
		t.Errorf("the police began to look %d times", looks)
	}
}

// TestPoliceAsked: one that goes on asking for much, and gets little, is still
// the one that gets less, and not one that asks for less but gets more. When the
// former has come down to the least and that did not help, the latter is next.
func TestPoliceAsked(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := newPolice(func() bool { return true }, now)
	slow := func(g guest) float64 { return p.buckets[g].slow }
	p.tick(now)
	p.pays(9, 0)
	reading := func(late time.Duration) {
		now = now.Add(gaugeEvery)
		p.tick(now)
		for range 1000 { // 100,000 a second
			p.pays(7, costPacket)
		}
		for range 20 { // 2,000 a second
			p.pays(8, costPacket)
		}
		p.pays(9, costPacket) // 100 a second
		p.gauge(late)
	}
	for slow(7) < maxSlow {
		if reading(2 * gaugeLate); slow(8) > 1 {
			t.Fatalf("the other guest gets less as long as the hostile one is at %v", slow(7))
		}
	}
	for slow(8) < maxSlow {
		reading(2 * gaugeLate)
	}
	if slow(9) > 1 {
		t.Error("one that asks for next to nothing gets less")
	}
	for slow(8) > 1 {
		reading(0)
	}
}

// TestPoliceNobody: where guests can't be told apart, a slow machine does not make
// the gateway drop what they ask for.
func TestPoliceNobody(t *testing.T) {
	p := newPolice(func() bool { return true }, time.Unix(1e9, 0))
	p.pays(nobody, policeLeast+1)
	for range 10 {
		p.pays(nobody, policeLeast)
		p.gauge(time.Second)
	}
	if !p.pays(nobody, policeBurst/2) {
		t.Error("nobody gets less")
	}
}

// TestPoliceLong: who asks for a long answer pays for all of its fragments.
func TestPoliceLong(t *testing.T) {
	b := newBench(t, Config{})
	gw := b.g.cfg.Gateway()
	paid := 0
	for b.g.affords(7, protoICMP, gw, make([]byte, 60000)) {
		paid++
	}
	if most := policeBurst / 40; paid == 0 || paid > most {
		t.Errorf("a guest gets %d long answers at once, want %d at most", paid, most)
	}
}

// TestPoliceRuns: the reading is taken by itself, and ends.
func TestPoliceRuns(t *testing.T) {
	done := make(chan struct{})
	p := newPolice(nil, time.Now())
	p.watch = func() bool {
		go func() {
			defer close(done)
			p.run(t.Context())
		}()
		return true
	}
	// A batch that was begun long ago and has not ended.
	p.tick(time.Now().Add(-time.Hour))
	p.pays(7, policeLeast+1)
	for slow := 0.0; slow <= 1; time.Sleep(gaugeEvery) {
		p.pays(7, policeLeast)
		p.mu.Lock()
		slow = p.buckets[7].slow
		p.mu.Unlock()
	}
	p.idle()
	<-done
}
