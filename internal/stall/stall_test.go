package stall

import (
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	r := Rate{Idle: 10 * time.Second}
	for i, read := range []struct {
		took    time.Duration
		n       int
		stalled bool
	}{
		{9 * time.Second, 0, false},
		{time.Second, 10 * Least, false}, // enough on the average
		{9 * time.Second, 10*Least - 1, false},
		{2 * time.Second, 0, true},
		{9 * time.Second, 0, false}, // what was before does not count
		{11 * time.Second, 19 * Least, true},
		{time.Millisecond, 1 << 20, false},
	} {
		if _, _, stalled := r.Add(read.took, read.n); stalled != read.stalled {
			t.Errorf("read %d: stalled is %v", i, stalled)
		}
	}
	r = Rate{Idle: time.Second}
	if waited, came, stalled := r.Add(3*time.Second, 5); waited != 3*time.Second || came != 5 || !stalled {
		t.Error(waited, came, stalled)
	}
}
