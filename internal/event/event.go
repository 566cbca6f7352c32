// Package event is what library code says about its progress: typed, small,
// and rendered elsewhere (package term), so that a terminal gets bars, a log
// gets lines and a program gets JSON from the same source.
//
//	sink.Emit(event.Event{Kind: event.Begin, Task: "download", Subject: "busybox", Total: 928188, Unit: event.Bytes})
package event

// Kind says what happened to a task.
type Kind string

// The kinds. A task that began always ends with Done or Fail.
const (
	Begin Kind = "begin" // a task starts; Total may be known
	Step  Kind = "step"  // Current of Total is reached
	Done  Kind = "done"
	Fail  Kind = "fail" // Message says why; the error itself is returned, not only emitted
	Note  Kind = "note" // something worth saying once that is no failure
	Warn  Kind = "warn" // something the person should look into
)

// Unit says what Current and Total count.
type Unit string

// The units.
const (
	Bytes Unit = "bytes"
	Items Unit = "items"
)

// Event is one piece of news. Task and Subject together identify a task.
type Event struct {
	Kind    Kind   `json:"kind"`
	Task    string `json:"task"`              // a verb phrase: "download", "unpack", "boot"
	Subject string `json:"subject,omitempty"` // what it is done to
	Current int64  `json:"current,omitempty"`
	Total   int64  `json:"total,omitempty"` // 0 while unknown
	Unit    Unit   `json:"unit,omitempty"`
	Message string `json:"message,omitempty"` // of Note, Warn and Fail
}

// Sink takes events. Emit may be called from several goroutines and must not
// block for long.
type Sink interface{ Emit(Event) }

// Discard drops every event.
var Discard Sink = discard{}

type discard struct{}

func (discard) Emit(Event) {}

// Func makes a Sink of a function.
type Func func(Event)

// Emit calls f.
func (f Func) Emit(e Event) { f(e) }

// Or gives s, or [Discard] where s is nil, so that a zero options struct works.
func Or(s Sink) Sink {
	if s == nil {
		return Discard
	}
	return s
}
