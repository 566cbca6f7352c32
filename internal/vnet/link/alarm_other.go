//go:build !linux

package link

// newAlarm makes the best alarm there is.
func newAlarm() alarm { return newTimerAlarm() }
