package supervisor

import (
	"context"
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
	all  chan struct{} // a token for each machine that may boot
	free chan int      // the processors on which none does, or none that was quick
}

// quickBoot is how long a machine has a processor for itself.
const quickBoot = time.Second

func newTurns() *turns {
	var cpus []int
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err == nil {
		for cpu := range len(set) * 64 {
			if set.IsSet(cpu) {
				cpus = append(cpus, cpu)
			}
		}
	}
	if len(cpus) == 0 {
		cpus = make([]int, runtime.NumCPU()) // a number that does not exist keeps nobody anywhere
		for i := range cpus {
			cpus[i] = i
		}
	}
	t := &turns{all: make(chan struct{}, max(4, 2*len(cpus))), free: make(chan int, len(cpus))}
	for _, cpu := range cpus {
		t.free <- cpu
	}
	return t
}

// take waits until a machine may boot, and says on which processor; booted lets the
// next one do so.
func (t *turns) take(ctx context.Context) (cpu int, booted func(), err error) {
	if ctx.Err() != nil {
		return 0, nil, context.Cause(ctx)
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	select {
	case cpu = <-t.free:
	case <-ctx.Done():
		<-t.all
		return 0, nil, context.Cause(ctx)
	}
	var once, all sync.Once
	next := func() { once.Do(func() { t.free <- cpu }) }
	slow := time.AfterFunc(quickBoot, next)
	return cpu, func() {
		slow.Stop()
		next()
		all.Do(func() { <-t.all })
	}, nil
}
