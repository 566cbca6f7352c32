package link

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
)

// TestConformance has a link be a port like any other, whatever is done to it.
func TestConformance(t *testing.T) {
	watched := func(l *Link) { l.Observe(nobody{}) }
	for name, prepare := range map[string]func(*Link){
		"plain":    func(*Link) {},
		"observed": watched,
		"shaped": func(l *Link) {
			shape(t, l, Impairment{Delay: time.Microsecond})
			watched(l)
		},
		"shaped before": func(l *Link) {
			shape(t, l, Impairment{Delay: time.Microsecond})
			shape(t, l, Impairment{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
				card, end := vnet.Pipe(vnet.PipeOptions{})
				l := New(card, Options{})
				prepare(l)
				return l, end
			})
		})
		t.Run(name+", reversed", func(t *testing.T) {
			porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
				card, end := vnet.Pipe(vnet.PipeOptions{})
				l := New(card, Options{Reversed: true})
				prepare(l)
				return end, l
			})
		})
	}
}

// prompt is a card that takes all frames at once.
type prompt struct{ sink }

func (prompt) TryWriteFrames(frames []vnet.Frame) int { return len(frames) }

// TestPrompt: frames get past a link at once only where it does nothing to them.
func TestPrompt(t *testing.T) {
	frames := []vnet.Frame{{Data: make([]byte, 60)}, {Data: make([]byte, 100)}}
	if n := New(sink{}, Options{}).TryWriteFrames(frames); n != 0 {
		t.Errorf("%d frames got past a link to a card that is not prompt", n)
	}
	l := New(prompt{}, Options{})
	defer l.Close()
	try := func(want int, state string) {
		t.Helper()
		if n := l.TryWriteFrames(frames); n != want {
			t.Errorf("%d frames got past a link that is %s, want %d", n, state, want)
		}
	}
	try(2, "plain")
	remove := l.Observe(nobody{})
	try(0, "observed")
	remove()
	l.SetUp(false)
	try(0, "down")
	l.SetUp(true)
	try(2, "up again")
	if err := l.SetImpairment(In, Impairment{Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	try(0, "impaired")
	if st := l.Stats(In); st.Frames != 4 || st.Bytes != 320 {
		t.Errorf("it counts %+v", st)
	}
}

type nobody struct{}

func (nobody) Observe(vnet.Observation) {}

// shape impairs both directions.
func shape(t testing.TB, l *Link, i Impairment) {
	t.Helper()
	for _, d := range []Direction{Out, In} {
		setImpairment(t, l, d, i)
	}
}

func setImpairment(t testing.TB, l *Link, d Direction, i Impairment) {
	t.Helper()
	if err := l.SetImpairment(d, i); err != nil {
		t.Fatal(err)
	}
}

// rig is a link between two ends in a bubble, with a reader at each.
type rig struct {
	t     *testing.T
	start time.Time
	link  *Link
	ends  map[Direction]vnet.Port // where one writes to send that way
	got   map[Direction]*inbox
}

// inbox is what arrived.
type inbox struct {
	mu     sync.Mutex
	frames []arrival
	err    error
}

type arrival struct {
	at   time.Duration // since the rig's start
	data []byte
	off  vnet.Offload
}

func (a arrival) number() uint32 { return binary.BigEndian.Uint32(a.data[14:]) }

// inBubble runs a test with a rig in virtual time, twice: its link is read, and it
// is driven. All goroutines have ended when it returns.
func inBubble(t *testing.T, o Options, f func(r *rig)) {
	t.Run("read", func(t *testing.T) { inBubbleOf(t, o, func(p vnet.Port) vnet.Port { return p }, f) })
	t.Run("driven", func(t *testing.T) { inBubbleOf(t, o, porttest.Driven, f) })
}

func inBubbleOf(t *testing.T, o Options, wrap func(vnet.Port) vnet.Port, f func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		card, machine := vnet.Pipe(vnet.PipeOptions{Offloads: true, Queue: 16 << 20})
		r := &rig{t: t, start: time.Now(), link: newLink(wrap(card), o, newTimerAlarm)}
		r.ends = map[Direction]vnet.Port{r.link.reads.dir: machine, r.link.writes.dir: r.link}
		r.got = map[Direction]*inbox{
			r.link.reads.dir: r.receive(r.link), r.link.writes.dir: r.receive(machine),
		}
		f(r)
		r.link.Close()
		machine.Close()
	})
}

func (r *rig) receive(p vnet.Port) *inbox {
	in := &inbox{}
	put := func(frames []vnet.Frame, err error) {
		at := time.Since(r.start)
		in.mu.Lock()
		defer in.mu.Unlock()
		for _, f := range frames {
			in.frames = append(in.frames, arrival{at, slices.Clone(f.Data), f.Offload})
		}
		in.err = err
	}
	if d, ok := p.(vnet.Driven); ok {
		receive := func(frames []vnet.Frame) time.Duration {
			put(frames, nil)
			return 0
		}
		if d.Drive(receive, func() { put(nil, net.ErrClosed) }) {
			return in
		}
	}
	go func() {
		bufs := vnet.NewBatch(batchLen, vnet.MaxFrame)
		for {
			n, err := p.ReadFrames(bufs)
			put(bufs[:n], err)
			if err != nil {
				return
			}
		}
	}()
	return in
}

// send has frames come to the link at this moment.
func (r *rig) send(d Direction, frames ...vnet.Frame) {
	r.t.Helper()
	if n, err := r.ends[d].WriteFrames(frames); err != nil || n != len(frames) {
		r.t.Fatalf("send %d frames %v: %d, %v", len(frames), d, n, err)
	}
	synctest.Wait()
}

// sendRun sends frames of one size, numbered from first on.
func (r *rig) sendRun(d Direction, first, n, size int) {
	r.t.Helper()
	r.send(d, run(first, n, size)...)
}

func run(first, n, size int) []vnet.Frame {
	frames := make([]vnet.Frame, n)
	for i := range frames {
		frames[i].Data = porttest.Frame(uint32(first+i), size)
	}
	return frames
}

// arrived gives what has arrived until now.
func (r *rig) arrived(d Direction) []arrival {
	synctest.Wait()
	in := r.got[d]
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.frames)
}

func numbers(all []arrival) []uint32 {
	out := make([]uint32, len(all))
	for i, a := range all {
		out[i] = a.number()
	}
	return out
}

func (r *rig) wantNumbers(d Direction, want ...uint32) {
	r.t.Helper()
	if got := numbers(r.arrived(d)); !slices.Equal(got, want) {
		r.t.Fatalf("%v: frames %v arrived, want %v", d, got, want)
	}
}

// both runs a test for each direction, and for a link of either kind.
func both(t *testing.T, f func(r *rig, d Direction)) {
	for _, o := range []Options{{}, {Reversed: true}} {
		for _, d := range []Direction{Out, In} {
			name := d.String()
			if o.Reversed {
				name += ", reversed"
			}
			t.Run(name, func(t *testing.T) { inBubble(t, o, func(r *rig) { f(r, d) }) })
		}
	}
}

// TestCarrier: nothing passes a cable that is pulled out, nor what was under
// way; and it is good again afterwards.
func TestCarrier(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		l := r.link
		if !l.Up() {
			t.Fatal("a new link is down")
		}
		r.sendRun(d, 0, 2, 60)
		l.SetUp(false)
		r.sendRun(d, 2, 3, 60)
		if l.Up() {
			t.Fatal("the link is up")
		}
		setImpairment(t, l, d, Impairment{Delay: time.Second})
		r.sendRun(d, 5, 1, 60)
		l.SetUp(true)
		r.sendRun(d, 6, 1, 60)
		time.Sleep(time.Second / 2)
		r.sendRun(d, 7, 4, 60)
		time.Sleep(time.Second * 3 / 4) // 6 is there, the others are under way
		if q := l.Stats(d); q.QueuedFrames != 4 || q.QueuedBytes != 4*60 {
			t.Errorf("queued: %+v", q)
		}
		l.SetUp(false)
		time.Sleep(time.Second)
		l.SetUp(true)
		r.sendRun(d, 11, 1, 60)
		time.Sleep(2 * time.Second)
		r.wantNumbers(d, 0, 1, 6, 11)
		want := Stats{Frames: 4, Bytes: 4 * 60, Dropped: Drops{Down: 8}}
		if got := l.Stats(d); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// TestCarrierFlips: under load, every frame either arrives in order or is
// counted as dropped.
func TestCarrierFlips(t *testing.T) {
	for name, i := range map[string]Impairment{"plain": {}, "shaped": {Rate: 1e9, Queue: MaxQueue, Delay: time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			both(t, func(r *rig, d Direction) {
				setImpairment(t, r.link, d, i)
				const n = 5000
				var wg sync.WaitGroup
				wg.Go(func() {
					for at := range n {
						if _, err := r.ends[d].WriteFrames(run(at, 1, 60)); err != nil {
							t.Error(err)
						}
						if at%10 == 0 {
							time.Sleep(100 * time.Microsecond)
						}
					}
				})
				wg.Go(func() {
					for flip := range 201 {
						r.link.SetUp(flip%2 == 0)
						time.Sleep(200 * time.Microsecond)
					}
				})
				wg.Wait()
				time.Sleep(time.Second)
				got := numbers(r.arrived(d))
				if !slices.IsSorted(got) {
					t.Error("frames arrived out of order")
				}
				s := r.link.Stats(d)
				if s.Dropped.Down == 0 || s.Dropped.Down+uint64(len(got)) != n || s.Frames != uint64(len(got)) {
					t.Errorf("%d of %d arrived; %+v", len(got), n, s)
				}
			})
		})
	}
}

// TestLiveChange: impairments come and go under load, and no frame is lost or
// overtaken by it.
func TestLiveChange(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		const n = 5000
		var wg sync.WaitGroup
		wg.Go(func() {
			for at := range n {
				if _, err := r.ends[d].WriteFrames(run(at, 1, 60)); err != nil {
					t.Error(err)
				}
				if at%5 == 0 {
					time.Sleep(40 * time.Microsecond)
				}
			}
		})
		wg.Go(func() {
			for round := range 100 {
				i := []Impairment{{Delay: 3 * time.Millisecond}, {}, {Rate: 10e6, Queue: MaxQueue}, {Delay: time.Millisecond, Jitter: time.Millisecond, Seed: 3}}[round%4]
				setImpairment(t, r.link, d, i)
				time.Sleep(400 * time.Microsecond)
			}
			setImpairment(t, r.link, d, Impairment{})
		})
		wg.Wait()
		time.Sleep(time.Second)
		got := numbers(r.arrived(d))
		if len(got) != n || !slices.IsSorted(got) {
			t.Errorf("%d of %d arrived, in order: %v", len(got), n, slices.IsSorted(got))
		}
		// One more has the reading half go back to plain reads.
		r.sendRun(d, n, 2, 60)
		if m := r.link.half(d).mode.Load(); m != nil {
			t.Errorf("the link is still special: %+v", *m)
		}
	})
}

// TestLift: a link that was very slow is as good as new at once.
func TestLift(t *testing.T) {
	both(t, func(r *rig, d Direction) {
		setImpairment(t, r.link, d, Impairment{Rate: MinRate, Delay: time.Minute})
		r.sendRun(d, 0, 40, 1000) // 8 s each
		time.Sleep(time.Second)
		setImpairment(t, r.link, d, Impairment{Rate: 80e3})
		time.Sleep(time.Second) // 0.1 s each
		if got := len(r.arrived(d)); got != 10 {
			t.Errorf("%d frames arrived in a second, want 10", got)
		}
		setImpairment(t, r.link, d, Impairment{})
		r.sendRun(d, 40, 1, 60)
		got := r.arrived(d)
		if len(got) != 41 || !slices.IsSorted(numbers(got)) || got[40].at != 2*time.Second {
			t.Errorf("%d frames, the last after %v", len(got), got[len(got)-1].at)
		}
	})
}

// TestPeerGone: what was under way still arrives when the machine is gone, and
// then the link says that it ended.
func TestPeerGone(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		shape(t, r.link, Impairment{Delay: time.Second})
		r.sendRun(Out, 0, 3, 60)
		r.ends[Out].Close()
		time.Sleep(2 * time.Second)
		r.wantNumbers(Out, 0, 1, 2)
		if !errors.Is(r.got[Out].err, net.ErrClosed) {
			t.Errorf("reading ended with %v", r.got[Out].err)
		}
		r.sendRun(In, 0, 1, 60)
		time.Sleep(2 * time.Second)
		if _, err := r.link.WriteFrames(run(1, 1, 60)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
}

// TestClose: it ends everything, with frames under way in both directions and
// nobody about to read.
func TestClose(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		shape(t, r.link, Impairment{Delay: time.Minute})
		r.sendRun(Out, 0, 3, 60)
		r.sendRun(In, 0, 3, 60)
		if err := errors.Join(r.link.Close(), r.link.Close()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		r.wantNumbers(Out)
		r.wantNumbers(In)
		if out, in := r.link.Stats(Out), r.link.Stats(In); out.Dropped.Down != 3 || in.Dropped.Down != 3 {
			t.Errorf("dropped: %+v, %+v", out.Dropped, in.Dropped)
		}
		if err := r.link.SetImpairment(In, Impairment{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("impair a closed link: %v", err)
		}
	})
}

// TestNoDescriptorsLeft: the timers of impaired links are given back, by Close
// and when the impairment is lifted.
func TestNoDescriptorsLeft(t *testing.T) {
	count := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := count()
	for i := range 20 {
		card, machine := vnet.Pipe(vnet.PipeOptions{})
		l := New(card, Options{})
		shape(t, l, Impairment{Delay: time.Hour})
		if i%2 == 0 {
			shape(t, l, Impairment{})
			for range 2 { // the first one ends the pump
				machine.WriteFrames(run(0, 1, 60))
				l.ReadFrames(vnet.NewBatch(1, 100))
			}
		}
		l.Close()
	}
	if after := count(); after > before+2 { // the poller's own
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestRefused: what the machine's card had no room for is counted.
func TestRefused(t *testing.T) {
	card, machine := vnet.Pipe(vnet.PipeOptions{Queue: 1})
	l := New(card, Options{})
	defer machine.Close()
	defer l.Close()
	const n = 1000
	took, err := l.WriteFrames(run(0, n, 1514))
	if s := l.Stats(In); err != nil || took == n || s.Frames != uint64(took) || s.Dropped.Refused != uint64(n-took) {
		t.Errorf("%d taken, %v, %+v", took, err, s)
	}
	if l.Stats(In).Dropped.Total() != uint64(n-took) {
		t.Error("the total is not the sum")
	}
	// A reader with short buffers loses frames of a shaper as of a port.
	setImpairment(t, l, Out, Impairment{Delay: time.Microsecond})
	machine.WriteFrames(append(run(0, 1, 900), run(1, 1, 60)...))
	if n, err := l.ReadFrames(vnet.NewBatch(4, 100)); n != 1 || err != nil {
		t.Errorf("%d frames, %v", n, err)
	}
	if s := l.Stats(Out); s.Dropped.Refused != 1 || s.Frames != 1 {
		t.Errorf("%+v", s)
	}
}

// waiting is a port that is not Direct and does not take offloads.
type waiting struct{ vnet.Port }

func TestCapabilities(t *testing.T) {
	card, _ := vnet.Pipe(vnet.PipeOptions{Offloads: true})
	l := New(card, Options{})
	if !l.Direct() || !l.Offloads() {
		t.Error("the link hides what its port can do")
	}
	shape(t, l, Impairment{Delay: time.Second})
	if !l.Direct() || !l.Offloads() {
		t.Error("the answers changed")
	}
	l.Close()
	if l := New(waiting{card}, Options{}); l.Direct() || l.Offloads() {
		t.Error("the link promises what its port can't do")
	}
}

// TestPlug: a gateway's end of a plugged port is a link, too.
func TestPlug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := vnet.NewSwitch(vnet.SwitchOptions{})
		defer sw.Close()
		plug, err := sw.Plug(vnet.PortOptions{Name: "gateway"})
		if err != nil {
			t.Fatal(err)
		}
		gw := newLink(plug, Options{Reversed: true}, newTimerAlarm)
		card, machine := vnet.Pipe(vnet.PipeOptions{})
		if _, err := sw.Attach(newLink(card, Options{}, newTimerAlarm), vnet.PortOptions{Name: "a/eth0"}); err != nil {
			t.Fatal(err)
		}
		setImpairment(t, gw, Out, Impairment{Delay: 2 * time.Second})
		setImpairment(t, gw, In, Impairment{Delay: 3 * time.Second})
		buf := vnet.NewBatch(1, vnet.MaxFrame)
		for _, way := range []struct {
			from, to vnet.Port
			delay    time.Duration
		}{{gw, machine, 2 * time.Second}, {machine, gw, 3 * time.Second}} {
			start := time.Now()
			if _, err := way.from.WriteFrames(run(0, 1, 60)); err != nil {
				t.Fatal(err)
			}
			if n, err := way.to.ReadFrames(buf); n != 1 || err != nil || time.Since(start) != way.delay {
				t.Errorf("%d, %v, after %v; want %v", n, err, time.Since(start), way.delay)
			}
		}
		gw.Close()
	})
}

// seen is an observer that keeps what it sees.
type seen struct {
	r   *rig
	mu  sync.Mutex
	all []string // "out 3 at 1s", "in 4 at 2s loss"
}

func (s *seen) Observe(o vnet.Observation) {
	word := "out"
	if o.In {
		word = "in"
	}
	text := word + " " + string('0'+rune(arrival{data: o.Frame.Data}.number())) + " at " + o.Time.Sub(s.r.start).String()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, strings.TrimSpace(text+" "+o.Dropped))
}

func (s *seen) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.all, want) {
		t.Fatalf("observed:\n%s\nwant:\n%s", strings.Join(s.all, "\n"), strings.Join(want, "\n"))
	}
	s.all = nil
}

// TestObserve: frames are seen when the machine would see them, with what
// became of them.
func TestObserve(t *testing.T) {
	for _, o := range []Options{{}, {Reversed: true}} {
		inBubble(t, o, func(r *rig) {
			s := &seen{r: r}
			remove := r.link.Observe(s)
			r.sendRun(Out, 0, 1, 60)
			r.sendRun(In, 1, 1, 60)
			s.want(t, "out 0 at 0s", "in 1 at 0s")

			shape(t, r.link, Impairment{Delay: time.Second})
			r.sendRun(Out, 2, 1, 60)
			r.sendRun(In, 3, 1, 60)
			time.Sleep(time.Second)
			s.want(t, "out 2 at 0s", "in 3 at 1s")

			shape(t, r.link, Impairment{Loss: 1})
			r.sendRun(Out, 4, 1, 60)
			r.sendRun(In, 5, 1, 60)
			s.want(t, "out 4 at 1s loss", "in 5 at 1s loss")

			shape(t, r.link, Impairment{Duplicate: 1, Delay: time.Second})
			r.sendRun(Out, 6, 1, 60)
			r.sendRun(In, 7, 1, 60)
			time.Sleep(time.Second)
			s.want(t, "out 6 at 1s", "out 6 at 1s", "in 7 at 2s", "in 7 at 2s")

			shape(t, r.link, Impairment{Rate: MinRate, Queue: 1})
			r.sendRun(Out, 0, 2, 125) // 1 s each
			r.sendRun(In, 2, 2, 125)
			s.want(t, "out 0 at 2s", "out 1 at 2s queue", "in 3 at 2s queue")
			r.link.SetUp(false) // the one that was on the wire was seen in one direction only
			s.want(t, "in 2 at 2s link down")
			r.sendRun(Out, 8, 1, 60)
			r.sendRun(In, 9, 1, 60)
			s.want(t, "out 8 at 2s link down", "in 9 at 2s link down")
			r.link.SetUp(true)

			shape(t, r.link, Impairment{})
			r.sendRun(Out, 0, 1, 60)
			r.sendRun(In, 1, 1, 60)
			s.want(t, "out 0 at 2s", "in 1 at 2s")
			remove()
			remove()
			r.sendRun(Out, 0, 1, 60)
			r.sendRun(In, 1, 1, 60)
			s.want(t)
		})
	}
}
