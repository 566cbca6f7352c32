// Package schedule tells the host's scheduler how urgent this process is.
package schedule

import (
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Policies of sched_setscheduler(2), which package unix does not name.
const (
	policyOther = 0
	policyBatch = 3
)

var batch atomic.Bool

// Batch makes this process one that waits its turn: who wakes it, by a frame to
// forward, keeps the processor until it waits itself, or its slice is over. On a busy
// host a switch that preempts every sender at every frame moves one frame at a time;
// so it moves what has gathered, which takes less of the processors for each. Where
// a processor is idle nothing changes.
//
// A policy that somebody has chosen (chrt) is left alone, and a host that refuses is
// as before. Processes that are started afterwards inherit it, but from a thread that
// is [Ordinary].
func Batch() {
	if batch.Swap(true) {
		return
	}
	// Threads inherit it from those that make them, so that one that is made
	// meanwhile shows in the next look.
	for changed := true; changed; {
		changed = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		for _, t := range tasks {
			if tid, err := strconv.Atoi(t.Name()); err == nil {
				changed = set(tid, policyOther, policyBatch) || changed
			}
		}
	}
}

// Ordinary takes that back for the calling thread, which the caller has locked and
// does not unlock: what it starts is not this process's.
func Ordinary() {
	if batch.Load() {
		set(0, policyBatch, policyOther)
	}
}

// set changes a thread's policy, and says whether it did.
func set(tid int, from, to uint32) bool {
	a, err := unix.SchedGetAttr(tid, 0)
	if err != nil || a.Policy != from {
		return false
	}
	return unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: to, Flags: a.Flags, Nice: a.Nice}, 0) == nil
}
