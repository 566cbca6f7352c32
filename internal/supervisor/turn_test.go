package supervisor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestTurns: one machine boots on each processor; who is done first takes the next
// one, and who takes long keeps nobody waiting, up to a bound.
func TestTurns(t *testing.T) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	n := set.Count()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		take := func(patience time.Duration) (int, func(), error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return turns.take(ctx)
		}
		var cpus []int
		var booted []func()
		for range n {
			cpu, done, err := take(0 + time.Nanosecond)
			if err != nil || !set.IsSet(cpu) || slices.Contains(cpus, cpu) {
				t.Fatalf("processor %d after %v, %v", cpu, cpus, err)
			}
			cpus, booted = append(cpus, cpu), append(booted, done)
		}
		if _, _, err := take(quickBoot / 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more than there are processors: %v", err)
		}
		last := n - 1
		booted[last]()
		booted[last]()
		cpu, done, err := take(time.Nanosecond)
		if err != nil || cpu != cpus[last] {
			t.Errorf("processor %d, %v; %d was free", cpu, err, cpus[last])
		}
		booted[last] = done
		if _, _, err := take(time.Nanosecond); err == nil {
			t.Error("a processor was given away twice")
		}

		time.Sleep(2 * quickBoot) // all of these are slow
		for len(booted) < cap(turns.all) {
			_, done, err := take(quickBoot + time.Nanosecond)
			if err != nil {
				t.Fatalf("%d boot, and no other may: %v", len(booted), err)
			}
			booted = append(booted, done)
		}
		if _, _, err := take(time.Hour); err == nil {
			t.Error("there is no bound")
		}
		for _, done := range booted {
			done()
		}
		if len(turns.free) != n || len(turns.all) != 0 {
			t.Errorf("%d processors are free, and %d machines boot", len(turns.free), len(turns.all))
		}
	})
}
