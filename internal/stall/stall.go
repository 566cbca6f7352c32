// Package stall tells a download that has stalled from one that is slow: of an
// answer that only seems to be alive, a byte comes now and then.
//
//	rate := stall.Rate{Idle: 30 * time.Second}
//	begun := time.Now()
//	n, err := body.Read(buf)
//	if waited, came, stalled := rate.Add(time.Since(begun), n); stalled && err == nil {
//		return fmt.Errorf("only %d bytes came in %v", came, waited)
//	}
//
// That nothing comes at all is for the caller to notice, since no read returns then.
package stall

import "time"

// Least is how many bytes a second have to come, on the average: what is left of
// the slowest modem to each of six files.
const Least = 256

// Rate watches the reads of one download.
type Rate struct {
	Idle time.Duration // how long the average is taken over, which is how long nothing may come

	waited time.Duration
	came   int64 // bytes meanwhile
}

// Add notes a read that took so long, and gave n bytes. Once the reads have taken
// Idle, it says whether fewer bytes came in that time than have to, and begins
// anew; the time between the reads, which is the caller's, does not count.
func (r *Rate) Add(took time.Duration, n int) (waited time.Duration, came int64, stalled bool) {
	r.waited += took
	r.came += int64(n)
	if r.waited < r.Idle {
		return 0, 0, false
	}
	waited, came = r.waited, r.came
	r.waited, r.came = 0, 0
	return waited, came, float64(came) < Least*waited.Seconds()
}
