// Package api is how commands talk to a lab that runs in the background: HTTP
// over a unix socket in a folder that only its owner can enter.
//
//	c, err := api.Dial(socket, version)
//	machines, err := c.Machines(ctx)
//	client, err := c.Enter(ctx, "alice")
//
// Requests and answers are JSON. Three kinds of answer are streams instead:
// news of something that takes time is one JSON object a line, the last of
// which says how it ended; a console and a connection to a machine's ssh server
// take over the connection (101 Switching Protocols); logs and captures are
// bytes until the end.
//
// Whoever is neither the lab's owner nor root is refused, whatever the socket's
// mode came to be. Deliberately absent: the network. Who wants a lab from afar
// has ssh.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/supervisor"
)

// Info says what runs behind a socket.
type Info struct {
	Name    string    `json:"name"`
	File    string    `json:"file"` // absolute path
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
}

// LinkChange says what becomes of a link; what is nil stays.
type LinkChange struct {
	Up  *bool       `json:"up,omitempty"`
	Out *Impairment `json:"out,omitempty"`
	In  *Impairment `json:"in,omitempty"`
}

// news is a line of a stream: an event, or, as the last one, the end.
type news struct {
	Event *event.Event `json:"event,omitempty"`
	End   *end         `json:"end,omitempty"`
}

type end struct {
	Error *Error `json:"error,omitempty"`
}

// Error is a failure, as it goes over the wire.
type Error struct {
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
	Usage   bool   `json:"usage,omitempty"`   // what was asked for makes no sense
	Closed  bool   `json:"closed,omitempty"`  // the lab is going down
	Stopped bool   `json:"stopped,omitempty"` // it wants a machine that runs
	// Starts are the machines that did not come up, or did not stay up.
	Starts []*machine.StartError `json:"starts,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the machines that failed.
func (e *Error) Unwrap() []error {
	var out []error
	for _, s := range e.Starts {
		out = append(out, s)
	}
	return out
}

// usage is an error about what was asked for.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// Usage marks an error as a mistake of who asks.
func Usage(err error) error { return usage{err} }

// isUsage says whether an error is a mistake of who asks.
func isUsage(err error) bool {
	var unknown *lab.UnknownError
	return errors.As(err, new(usage)) || errors.As(err, &unknown)
}

// wireError makes the form of an error that goes over the wire.
func wireError(err error) *Error {
	if err == nil {
		return nil
	}
	e := &Error{Message: err.Error(), Usage: isUsage(err), Closed: errors.As(err, new(supervisor.ClosedError)), Stopped: errors.As(err, new(*supervisor.NotRunningError))}
	var fixed interface{ Fix() string }
	if errors.As(err, &fixed) {
		e.Fix = fixed.Fix()
	}
	e.Starts = starts(err)
	return e
}

// starts collects the machines that failed, each as plain data.
func starts(err error) (out []*machine.StartError) {
	switch x := err.(type) {
	case *machine.StartError:
		flat := *x
		if x.Err != nil {
			flat.Cause, flat.Err = flat.Cause+": "+x.Err.Error(), nil
		}
		return []*machine.StartError{&flat}
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			out = append(out, starts(e)...)
		}
	case interface{ Unwrap() error }:
		if inner := x.Unwrap(); inner != nil {
			return starts(inner)
		}
	}
	return out
}

// reply writes an answer.
func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		status := http.StatusInternalServerError
		var notRunning *supervisor.NotRunningError
		switch {
		case errors.As(err, new(*unservedError)):
			status = http.StatusNotFound
		case isUsage(err):
			status = http.StatusBadRequest
		case errors.As(err, &notRunning):
			status = http.StatusConflict
		}
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(wireError(err))
		return
	}
	json.NewEncoder(w).Encode(v)
}

// Bounds of what is read from the other side, in bytes.
const (
	maxRequest = 1 << 20
	maxAnswer  = 16 << 20
	maxNews    = 4 << 20 // of one line
)

func unexpected(what string) error {
	return fmt.Errorf("the lab's supervisor gave an answer that makes no sense: %s", what)
}
