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
		take := func(patience time.Duration) (*turn, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return turns.take(ctx)
		}
		var cpus []int
		var taken []*turn
		for range n {
			u, err := take(time.Nanosecond)
			if err != nil || !set.IsSet(u.place.cpu) || slices.Contains(cpus, u.place.cpu) {
				t.Fatalf("%+v after %v, %v", u, cpus, err)
			}
			cpus, taken = append(cpus, u.place.cpu), append(taken, u)
		}
		if _, err := take(quickBoot / 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more than there are processors: %v", err)
		}
		last := n - 1
		taken[last].booted()
		taken[last].booted()
		u, err := take(time.Nanosecond)
		if err != nil || u.place.cpu != cpus[last] {
			t.Fatalf("%+v, %v; processor %d was free", u, err, cpus[last])
		}
		taken = append(taken, u)
		if _, err := take(time.Nanosecond); err == nil {
			t.Error("a processor was given away twice")
		}

		time.Sleep(2 * quickBoot) // all of these are slow, but the one that has booted
		for boot := n; boot < cap(turns.all); boot++ {
			u, err := take(quickBoot + time.Nanosecond)
			if err != nil {
				t.Fatalf("%d boot, and no other may: %v", boot, err)
			}
			taken = append(taken, u)
		}
		if _, err := take(time.Hour); err == nil {
			t.Error("there is no bound")
		}
		for _, u := range taken {
			u.over()
			u.over()
		}
		if len(turns.quick) != 0 || len(turns.all) != 0 {
			t.Errorf("%d and %d machines boot", len(turns.quick), len(turns.all))
		}
		for _, p := range turns.places {
			if p.booting != 0 || p.living != 0 {
				t.Errorf("%+v, with no machine", p)
			}
		}

		// A machine that starts again goes where it is missing.
		first := make([]*turn, n)
		for i := range first {
			if first[i], err = take(time.Nanosecond); err != nil {
				t.Fatal(err)
			}
			first[i].booted()
		}
		for _, u := range slices.Backward(first) {
			where := u.place.cpu
			u.over()
			again, err := take(time.Nanosecond)
			if err != nil || again.place.cpu != where {
				t.Errorf("%+v, %v; processor %d has no machine", again, err, where)
			}
			again.booted()
		}
	})
}
