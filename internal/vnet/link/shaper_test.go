package link

import (
	"bytes"
	"math"
	"math/bits"
	"slices"
	"testing"
	"time"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
)

// TestRate: in virtual time the rate is exact, whatever the size and however
// the frames come.
func TestRate(t *testing.T) {
	for _, rate := range []Rate{1e6, 10e6, 100e6, 2.5e9} {
		for _, size := range []int{60, 590, 1514, 9014} {
			both(t, func(r *rig, d Direction) {
				setImpairment(t, r.link, d, Impairment{Rate: rate, Queue: MaxQueue})
				const n = 600
				for i := 0; i < n; i += 50 {
					r.sendRun(d, i, 50, size)
				}
				each := float64(size) * 8 / float64(rate)
				time.Sleep(time.Duration(each*n*float64(time.Second)) + time.Second)
				got := r.arrived(d)
				if len(got) != n {
					t.Fatalf("%v, %d bytes: %d of %d arrived", rate, size, len(got), n)
				}
				for i, a := range got {
					due := time.Duration(each * float64(i+1) * float64(time.Second))
					// They come in groups when there are many.
					if late := a.at - due; late < -time.Microsecond || late > quantum+time.Microsecond {
						t.Fatalf("%v, %d bytes: frame %d arrived after %v, want %v", rate, size, i, a.at, due)
					}
				}
			})
		}
	}
}

// TestRateSegments: a large segment is cut, and its packets come one after the
// other.
func TestRateSegments(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		setImpairment(t, r.link, d, Impairment{Rate: 1e6})
		big := segment(20*1448+100, 1448)
		r.send(d, big)
		time.Sleep(time.Second)
		got := r.arrived(d)
		if len(got) != 21 {
			t.Fatalf("%d packets, want 21", len(got))
		}
		var seg vnet.Segmenter
		if err := seg.Reset(big); err != nil {
			t.Fatal(err)
		}
		var due time.Duration
		for i, a := range got {
			due += time.Duration(len(a.data)) * 8 * time.Microsecond
			if want := seg.Next(nil); !bytes.Equal(a.data, want) || a.off != (vnet.Offload{}) {
				t.Errorf("packet %d is not the segment:\n%x\n%x", i, a.data, want)
			}
			if a.at != due {
				t.Errorf("packet %d after %v, want %v", i, a.at, due)
			}
		}
		bad := segment(5000, 1448)
		bad.Offload.HeaderLen = 60000
		r.send(d, bad)
		if s := r.link.Stats(d); s.Dropped.Offload != 1 || s.Frames != 21 {
			t.Errorf("%+v", s)
		}
	})
}

// segment makes a TCP segment with offload over IPv4.
func segment(payload, size int) vnet.Frame {
	d := make([]byte, 54+payload)
	copy(d, porttest.Frame(0, 18)[:14])
	d[12], d[13] = 8, 0
	ip := d[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	ip[20+12] = 5 << 4
	for i := range payload {
		d[54+i] = byte(i * 7)
	}
	return vnet.Frame{Data: d, Offload: vnet.Offload{
		NeedsChecksum: true, SegmentType: vnet.SegmentTCPv4, HeaderLen: 54, SegmentSize: uint16(size), ChecksumStart: 34, ChecksumOff: 16,
	}}
}

// TestOffloadPasses: without an impairment segments stay whole.
func TestOffloadPasses(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		r.link.Observe(nobody{})
		big := segment(5000, 1448)
		r.send(d, big)
		if got := r.arrived(d); len(got) != 1 || got[0].off != big.Offload || !bytes.Equal(got[0].data, big.Data) {
			t.Errorf("%d frames", len(got))
		}
	})
}

// TestQueue: what waits for the rate is limited, what is under way is not.
func TestQueue(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		setImpairment(t, r.link, d, Impairment{Rate: 8e6, Queue: 10_000, Delay: time.Second}) // 1 ms for each
		r.sendRun(d, 0, 100, 1000)
		time.Sleep(5*time.Millisecond + time.Microsecond) // five have left, half of the queue is free
		r.sendRun(d, 100, 100, 1000)
		for i := range 300 { // just as many as there is room for
			time.Sleep(time.Millisecond)
			r.sendRun(d, 200+i, 1, 1000)
		}
		time.Sleep(2 * time.Second)
		got := numbers(r.arrived(d))
		want := []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 101, 102, 103, 104}
		for i := range uint32(300) {
			want = append(want, 200+i)
		}
		if !slices.Equal(got, want) {
			t.Errorf("arrived: %v", got)
		}
		if s := r.link.Stats(d); s.Dropped.Queue != 90+95 || s.QueuedFrames != 0 || s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestMemory: an hour's delay holds no more than the bound.
func TestMemory(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		setImpairment(t, r.link, In, Impairment{Delay: time.Hour})
		frames := run(0, 64, 9000)
		for range 200 {
			r.send(In, frames...)
		}
		s := r.link.Stats(In)
		if s.QueuedBytes > maxHeld || s.QueuedBytes < maxHeld-9000 || s.Dropped.Queue != uint64(200*64-s.QueuedFrames) {
			t.Errorf("%+v", s)
		}
		r.link.SetUp(false)
		if s := r.link.Stats(In); s.QueuedBytes != 0 || r.link.writes.shaper.bytes != 0 {
			t.Errorf("%+v, %d bytes held", s, r.link.writes.shaper.bytes)
		}
	})
}

// TestDefaultQueue has room for a tenth of a second and for what a sender has
// under way over the delay.
func TestDefaultQueue(t *testing.T) {
	for want, i := range map[int]Impairment{
		64 << 10: {Rate: 1e6},
		125_000:  {Rate: 10e6},
		250_000:  {Rate: 10e6, Delay: 50 * time.Millisecond},
		MaxQueue: {Rate: MaxRate, Delay: time.Hour},
		1:        {Rate: 10e6, Queue: 1},
	} {
		if got := i.room(); got != want {
			t.Errorf("%v: %d, want %d", i, got, want)
		}
	}
}

func TestDelay(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		setImpairment(t, r.link, d, Impairment{Delay: 50 * time.Millisecond})
		for i := range 100 {
			r.sendRun(d, i, 1, 60+i*10)
			time.Sleep(3 * time.Millisecond)
		}
		time.Sleep(time.Second)
		for i, a := range r.arrived(d) {
			if want := 50*time.Millisecond + time.Duration(i)*3*time.Millisecond; a.at != want {
				t.Errorf("frame %d after %v, want %v", i, a.at, want)
			}
		}
	})
}

// TestJitter stays within its bounds, is uniform, and keeps the order.
func TestJitter(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		const n = 4000
		i := Impairment{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Seed: 5}
		setImpairment(t, r.link, d, i)
		for i := range n { // too far apart to overtake one another
			time.Sleep(30 * time.Millisecond)
			r.sendRun(d, i, 1, 60)
		}
		time.Sleep(time.Second)
		got := r.arrived(d)
		var sum, squares float64
		for i, a := range got {
			took := a.at - time.Duration(i+1)*30*time.Millisecond
			if took < 10*time.Millisecond || took > 30*time.Millisecond {
				t.Fatalf("frame %d took %v", i, took)
			}
			x := float64(took-20*time.Millisecond) / float64(10*time.Millisecond)
			sum += x
			squares += x * x
		}
		// A uniform distribution on [-1, 1] has the variance 1/3; four standard
		// deviations of the mean and of the mean square.
		mean, variance := sum/n, squares/n
		if math.Abs(mean) > 4*math.Sqrt(1./3/n) || math.Abs(variance-1./3) > 4*math.Sqrt(4./45/n) {
			t.Errorf("mean %v, variance %v", mean, variance)
		}
		setImpairment(t, r.link, d, i)
		r.sendRun(d, n, 200, 60)
		time.Sleep(time.Second)
		if all := numbers(r.arrived(d)); len(all) != n+200 || !slices.IsSorted(all) {
			t.Error("jitter reordered frames")
		}
	})
}

// TestReorder: a frame that skips the delay overtakes those before it, but not
// on the wire.
func TestReorder(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		const n = 1000
		i := Impairment{Rate: 480e3, Queue: MaxQueue, Delay: 100 * time.Millisecond, Reorder: 0.25, Seed: 9} // 1 ms for each
		setImpairment(t, r.link, d, i)
		r.sendRun(d, 0, n, 60)
		time.Sleep(time.Minute)
		got := r.arrived(d)
		dice, early := newDice(9, d), uint64(0)
		for _, a := range got {
			at := time.Duration(a.number()+1) * time.Millisecond
			if i.fate(dice, uint64(a.number())).reordered {
				early++
			} else {
				at += i.Delay
			}
			if a.at != at {
				t.Fatalf("frame %d after %v, want %v", a.number(), a.at, at)
			}
		}
		if s := r.link.Stats(d); len(got) != n || s.Reordered != early || early < 200 || early > 300 {
			t.Errorf("%d arrived, %d early, %+v", len(got), early, s)
		}
	})
}

func TestDuplicate(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		setImpairment(t, r.link, d, Impairment{Duplicate: 0.3, Corrupt: 0.5, Seed: 1})
		const n = 400
		r.sendRun(d, 0, n, 100)
		got := r.arrived(d)
		twice := 0
		for i := 1; i < len(got); i++ {
			if bytes.Equal(got[i].data, got[i-1].data) {
				twice++
			}
		}
		if s := r.link.Stats(d); s.Duplicated != uint64(twice) || len(got) != n+twice || s.Frames != uint64(n+twice) || twice < 80 || twice > 160 {
			t.Errorf("%d frames, %d twice, %+v", len(got), twice, s)
		}
	})
}

// TestCorrupt flips one bit, and not in the sender's buffer.
func TestCorrupt(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		setImpairment(t, r.link, d, Impairment{Corrupt: 1, Seed: 1})
		const n = 300
		sent := run(0, n, 200)
		r.send(d, sent...)
		places := map[int]bool{}
		for i, a := range r.arrived(d) {
			if want := porttest.Frame(uint32(i), 200); !bytes.Equal(sent[i].Data, want) {
				t.Fatal("the sender's buffer changed")
			}
			flipped := 0
			for j := range a.data {
				if x := a.data[j] ^ sent[i].Data[j]; x != 0 {
					flipped += bits.OnesCount8(x)
					places[j] = true
				}
			}
			if flipped != 1 {
				t.Errorf("frame %d: %d bits flipped", i, flipped)
			}
		}
		if s := r.link.Stats(d); s.Corrupted != n || len(places) < 100 {
			t.Errorf("%+v, at %d places", s, len(places))
		}
	})
}

// TestReplay: the same frames meet the same fate, however they are spread over
// time and batches and whatever goes the other way; and another probability
// does not change it.
func TestReplay(t *testing.T) {
	const n = 2000
	base := Impairment{Loss: 0.1, Corrupt: 0.05, Duplicate: 0.05, Seed: 42}
	play := func(i Impairment, d Direction, step int, gap time.Duration, opposite bool) (out []arrival) {
		inBubble(t, Options{}, func(r *rig) {
			shape(t, r.link, i)
			for at := 0; at < n; at += step {
				r.sendRun(d, at, min(step, n-at), 100)
				if opposite {
					r.sendRun(Out+In-d, at, 3, 60)
				}
				time.Sleep(gap)
			}
			time.Sleep(time.Minute)
			out = r.arrived(d)
		})
		return out
	}
	content := func(all []arrival) (out []string) {
		for _, a := range all {
			out = append(out, string(a.data))
		}
		return out
	}
	for _, d := range []Direction{Out, In} {
		want := content(play(base, d, n, 0, false))
		for name, got := range map[string][]arrival{
			"one by one":       play(base, d, 1, time.Millisecond, true),
			"in batches of 64": play(base, d, 64, time.Microsecond, false),
		} {
			if !slices.Equal(content(got), want) {
				t.Errorf("%v: other frames arrived when sent %s", d, name)
			}
		}
		// Timing and order have no influence on what is lost.
		slow := base
		slow.Rate, slow.Queue, slow.Delay, slow.Reorder = 10e6, MaxQueue, 10*time.Millisecond, 0.2
		got := content(play(slow, d, 100, time.Millisecond, true))
		slices.Sort(got)
		sorted := slices.Sorted(slices.Values(want))
		if !slices.Equal(got, sorted) {
			t.Errorf("%v: other frames arrived over a slow link", d)
		}
		other := base
		other.Seed++
		if slices.Equal(content(play(other, d, n, 0, false)), want) {
			t.Errorf("%v: another seed makes no difference", d)
		}
	}
	out, in := play(base, Out, n, 0, false), play(base, In, n, 0, false)
	if slices.Equal(content(out), content(in)) {
		t.Error("both directions lose the same frames")
	}
	// A higher loss loses the same frames, and more.
	worse := base
	worse.Loss, worse.Corrupt, worse.Duplicate = 0.2, 0, 0
	base.Corrupt, base.Duplicate = 0, 0
	few, many := numbers(play(worse, Out, n, 0, false)), numbers(play(base, Out, n, 0, false))
	for _, x := range few {
		if !slices.Contains(many, x) {
			t.Fatalf("frame %d is lost at 10%% and not at 20%%", x)
		}
	}
}

// TestSeedsMeanTheSame: what a seed chooses may not change between versions.
func TestSeedsMeanTheSame(t *testing.T) {
	i := Impairment{Loss: 0.1, Duplicate: 0.1, Corrupt: 0.1, Reorder: 0.1, Delay: time.Second, Jitter: time.Second}
	var lost, twice, bad, early []uint64
	d := newDice(7, In)
	for n := range uint64(60) {
		f := i.fate(d, n)
		for _, x := range []struct {
			yes bool
			to  *[]uint64
		}{{f.lost, &lost}, {f.duplicated, &twice}, {f.corrupted, &bad}, {f.reordered, &early}} {
			if x.yes {
				*x.to = append(*x.to, n)
			}
		}
	}
	for _, x := range []struct {
		name string
		got  []uint64
		want []uint64
	}{
		{"lost", lost, []uint64{4, 5, 6, 16, 34, 38, 52, 58}},
		{"duplicated", twice, []uint64{3, 18, 24, 32, 51}},
		{"corrupted", bad, []uint64{0, 10, 16, 32, 35, 38, 55}},
		{"reordered", early, []uint64{12, 36, 40, 52}},
	} {
		if !slices.Equal(x.got, x.want) {
			t.Errorf("%s: %v, want %v", x.name, x.got, x.want)
		}
	}
	if f := i.fate(d, 3); f.bit != 12599926143502109607 || f.jitter != -656363184 || f.copyJitter != -699321413 {
		t.Errorf("%+v", f)
	}
}

// TestFateIsFair: each decision has its probability within four standard
// deviations, at any seed, and two have nothing to do with one another.
func TestFateIsFair(t *testing.T) {
	const n = 20000
	for seed := range uint64(50) {
		for _, p := range []Probability{0.001, 0.1, 0.5, 0.99} {
			i := Impairment{Loss: p, Duplicate: p, Corrupt: p, Reorder: p}
			var lost, twice, bad, early, pair, row int
			d := newDice(seed, Direction(seed%2))
			before := false
			for n := range uint64(n) {
				f := i.fate(d, n)
				lost += one(f.lost)
				twice += one(f.duplicated)
				bad += one(f.corrupted)
				early += one(f.reordered)
				pair += one(f.lost && f.corrupted)
				row += one(f.lost && before)
				before = f.lost
			}
			for name, got := range map[string]int{"lost": lost, "duplicated": twice, "corrupted": bad, "reordered": early} {
				binomial(t, name, seed, got, n, float64(p))
			}
			binomial(t, "lost and corrupted", seed, pair, n, float64(p*p))
			binomial(t, "lost twice in a row", seed, row, n, float64(p*p))
		}
	}
	for _, p := range []Probability{0, 1} {
		i := Impairment{Loss: p}
		for n := range uint64(n) {
			if f := i.fate(newDice(1, Out), n); f.lost != (p == 1) {
				t.Fatalf("probability %v, frame %d: lost is %v", p, n, f.lost)
			}
		}
	}
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

func binomial(t *testing.T, name string, seed uint64, got, n int, p float64) {
	t.Helper()
	if dev := math.Sqrt(float64(n) * p * (1 - p)); math.Abs(float64(got)-float64(n)*p) > 5*dev+1 {
		t.Errorf("seed %d: %d of %d %s, expected %v ± %v", seed, got, n, name, float64(n)*p, dev)
	}
}

// TestLoss is the same as seen at the end of a link.
func TestLoss(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		setImpairment(t, r.link, d, Impairment{Loss: 0.1, Seed: 3})
		const n = 10000
		for i := 0; i < n; i += 500 {
			r.sendRun(d, i, 500, 60)
		}
		s := r.link.Stats(d)
		binomial(t, "lost", 3, int(s.Dropped.Loss), n, 0.1)
		if int(s.Frames+s.Dropped.Loss) != n || len(r.arrived(d)) != int(s.Frames) {
			t.Errorf("%+v", s)
		}
	})
}
