package link

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// fileAlarm is a timerfd(2). The runtime rounds its own timers to the
// milliseconds of epoll_wait when it has nothing else to do; a file descriptor
// that becomes readable wakes it within microseconds.
type fileAlarm struct {
	fd    int // valid until close
	file  *os.File
	count [8]byte // what wait reads: how often it went off
}

// newAlarm makes the best alarm there is.
func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return newTimerAlarm() // as when there are no more descriptors
	}
	return &fileAlarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}
}

func (a *fileAlarm) arm(d time.Duration) { a.set(max(d, 1)) } // 0 would disarm
func (a *fileAlarm) disarm()             { a.set(0) }

// set can't fail: the descriptor is open and the time is in range.
func (a *fileAlarm) set(d time.Duration) {
	unix.TimerfdSettime(a.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
}

func (a *fileAlarm) wait() {
	a.file.Read(a.count[:])
}

func (a *fileAlarm) close() { a.file.Close() }
