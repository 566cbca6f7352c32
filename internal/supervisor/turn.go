package supervisor

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// turns says which machines of a lab boot, and on which processor of the host. A
// User-Mode Linux that boots keeps one busy, from its start until it is ready, and
// stays on it: so one boots on each, and whichever processor is done first takes
// the next machine. More at a time would come up no sooner, and leave a processor
// without work at the end, while two machines share another.
//
// A machine that takes long is not like that: it is an emulator, or waits for
// something. It does not keep others from its processor any longer; but there is a
// bound to how many boot at all, since all of them become slower by that.
type turns struct {
	all   chan struct{} // a token for each machine that may boot
	quick chan struct{} // and for each that may do so within quickBoot

	mu     sync.Mutex
	places []processor
	first  int // of places, the one to look at first; other labs begin elsewhere
}

// processor is one of the host.
type processor struct {
	cpu     int // its number
	booting int // machines that boot on it, and have not done so for quickBoot
	living  int // machines that stay on it
}

// turn is a machine's, from before it boots until it has ended.
type turn struct {
	of          *turns
	place       *processor
	slow        *time.Timer
	quick, done sync.Once
	ended       sync.Once
}

// quickBoot is how long a machine that boots has a processor for itself.
const quickBoot = time.Second

func newTurns() *turns {
	t := &turns{}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err == nil {
		for cpu := range len(set) * 64 {
			if set.IsSet(cpu) {
				t.places = append(t.places, processor{cpu: cpu})
			}
		}
	}
	if len(t.places) == 0 { // it can't be told: a number that does not exist keeps nobody anywhere
		for cpu := range runtime.NumCPU() {
			t.places = append(t.places, processor{cpu: cpu})
		}
	}
	n := len(t.places)
	t.all, t.quick, t.first = make(chan struct{}, max(4, 2*n)), make(chan struct{}, n), rand.IntN(n)
	return t
}

// take waits until a machine may boot.
func (t *turns) take(ctx context.Context) (*turn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case t.quick <- struct{}{}:
	case <-ctx.Done():
		<-t.all
		return nil, context.Cause(ctx)
	}
	u := &turn{of: t, place: t.choose()}
	u.slow = time.AfterFunc(quickBoot, u.leave)
	return u, nil
}

// choose gives the processor on which the fewest machines boot, and of those the one
// on which the fewest live.
func (t *turns) choose() *processor {
	t.mu.Lock()
	defer t.mu.Unlock()
	best := &t.places[t.first]
	for i := range t.places {
		p := &t.places[(t.first+i)%len(t.places)]
		if p.booting < best.booting || p.booting == best.booting && p.living < best.living {
			best = p
		}
	}
	best.booting++
	best.living++
	return best
}

// leave lets another machine boot on the processor.
func (u *turn) leave() {
	u.quick.Do(func() {
		u.of.mu.Lock()
		u.place.booting--
		u.of.mu.Unlock()
		<-u.of.quick
	})
}

// booted lets another machine boot.
func (u *turn) booted() {
	u.slow.Stop()
	u.leave()
	u.done.Do(func() { <-u.of.all })
}

// over says that the machine has ended, or never ran.
func (u *turn) over() {
	u.booted()
	u.ended.Do(func() {
		u.of.mu.Lock()
		u.place.living--
		u.of.mu.Unlock()
	})
}
