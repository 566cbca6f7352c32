package link

import "time"

// alarm wakes a goroutine at a time. One goroutine waits; arm, disarm and close
// are called under one lock.
type alarm interface {
	// arm has wait return after d, or at once, instead of when it would have.
	arm(d time.Duration)
	// disarm has wait not return.
	disarm()
	// wait returns once for an alarm that went off, and always after close.
	wait()
	close()
}

// timerAlarm is an alarm of the Go runtime, which may be a millisecond late
// when the process is idle.
type timerAlarm struct {
	timer *time.Timer
	done  chan struct{}
}

func newTimerAlarm() alarm {
	a := &timerAlarm{timer: time.NewTimer(time.Hour), done: make(chan struct{})}
	a.timer.Stop()
	return a
}

func (a *timerAlarm) arm(d time.Duration) { a.timer.Reset(d) }
func (a *timerAlarm) disarm()             { a.timer.Stop() }

func (a *timerAlarm) wait() {
	select {
	case <-a.timer.C:
	case <-a.done:
	}
}

func (a *timerAlarm) close() {
	a.timer.Stop()
	close(a.done)
}
