package vnet

import "time"

// Observer sees the frames that pass somewhere, such as a link. Observe is
// called by the goroutines that move the frames: it must be quick, and never
// wait.
type Observer interface{ Observe(o Observation) }

// Observation is one frame that passed, or that would have.
type Observation struct {
	Time time.Time
	// In says that it was on its way from the network to the machine, or to
	// whatever else is at the end of the link; otherwise it came from there.
	In bool
	// Dropped is empty for a frame that went on, or else why it did not: "loss",
	// "queue", "link down".
	Dropped string
	// Frame is valid during the call only.
	Frame Frame
}
