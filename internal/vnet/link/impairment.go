package link

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Direction is a way along the link, from the machine's view.
type Direction uint8

// The directions.
const (
	Out Direction = iota // from the machine to the network
	In                   // from the network to the machine
)

func (d Direction) String() string {
	if d == In {
		return "in"
	}
	return "out"
}

// Impairment is what a link does to the frames of one direction. The zero value
// does nothing.
type Impairment struct {
	// Rate is what the wire carries; 0 means all.
	Rate Rate `json:"rate,omitempty"`
	// Queue is the room for frames that wait for Rate, in bytes; 0 means what
	// Rate carries in 100 ms and twice Delay, and at least 64 KiB. A frame that
	// finds no room is dropped. One frame always has room.
	Queue int `json:"queue,omitempty"`
	// Delay is how long a frame is under way once it is on the wire.
	Delay time.Duration `json:"delay,omitempty"`
	// Jitter is how far that differs either way, uniformly distributed; at most
	// Delay. Frames stay in order.
	Jitter time.Duration `json:"jitter,omitempty"`
	// Loss is the part of the frames that disappears.
	Loss Probability `json:"loss,omitempty"`
	// Duplicate is the part that arrives twice. The copy follows at once, takes
	// its own time on the wire and has its own jitter.
	Duplicate Probability `json:"duplicate,omitempty"`
	// Corrupt is the part that has one bit flipped, anywhere in the frame.
	Corrupt Probability `json:"corrupt,omitempty"`
	// Reorder is the part that skips the delay, and so overtakes others.
	Reorder Probability `json:"reorder,omitempty"`
	// Seed chooses which frames meet which fate; 0 is a seed like any other.
	Seed uint64 `json:"seed,omitempty"`
}

// Rate is a number of bits per second.
type Rate uint64

// Probability is a number from 0 to 1.
type Probability float64

// Limits of an Impairment.
const (
	MinRate  Rate = 1e3
	MaxRate  Rate = 1e12
	MaxQueue      = 64 << 20 // bytes
	MaxDelay      = time.Hour
)

// What Queue is if not given.
const (
	defaultQueueTime = 100 * time.Millisecond
	minDefaultQueue  = 64 << 10
)

// Check says what is wrong with the values.
func (i Impairment) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if i.Rate != 0 && (i.Rate < MinRate || i.Rate > MaxRate) {
		bad("rate %v is not between %v and %v", i.Rate, MinRate, MaxRate)
	}
	switch {
	case i.Queue < 0 || i.Queue > MaxQueue:
		bad("queue of %d bytes is not between 0 and %s", i.Queue, formatBytes(MaxQueue))
	case i.Queue > 0 && i.Rate == 0:
		bad("queue without a rate: only what waits for the rate is queued")
	}
	if i.Delay < 0 || i.Delay > MaxDelay {
		bad("delay %v is not between 0s and %v", i.Delay, MaxDelay)
	}
	switch {
	case i.Jitter < 0:
		bad("jitter %v is negative", i.Jitter)
	case i.Jitter > i.Delay:
		bad("jitter %v is more than the delay %v: a frame would arrive before it was sent", i.Jitter, i.Delay)
	}
	for _, p := range []struct {
		name  string
		value Probability
	}{{"loss", i.Loss}, {"duplicate", i.Duplicate}, {"corrupt", i.Corrupt}, {"reorder", i.Reorder}} {
		if !(p.value >= 0 && p.value <= 1) { // nor is NaN
			bad("%s %v is not between 0%% and 100%%", p.name, float64(p.value))
		}
	}
	if i.Reorder > 0 && i.Delay == 0 {
		bad("reorder without a delay: a frame that skips the delay overtakes nothing")
	}
	return errors.Join(errs...)
}

// none says that frames pass as they are.
func (i Impairment) none() bool {
	return i.Rate == 0 && i.Delay == 0 && i.Jitter == 0 &&
		i.Loss == 0 && i.Duplicate == 0 && i.Corrupt == 0 && i.Reorder == 0
}

// room is how many bytes may wait for the rate.
func (i Impairment) room() int {
	if i.Queue > 0 {
		return i.Queue
	}
	seconds := (defaultQueueTime + 2*i.Delay).Seconds()
	room := math.Min(float64(i.Rate)/8*seconds, MaxQueue)
	return max(int(room), minDefaultQueue)
}
