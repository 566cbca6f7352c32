package cli

import (
	"errors"
	"fmt"
	"os"
	"reflect"

	"wolffia/internal/event"
	"wolffia/internal/hostnet"
	"wolffia/internal/lab"
	"wolffia/internal/supervisor"
)

// host says where it is kept what the lab changes of the host's own network.
func (d labDir) host() hostnet.Options { return hostnet.Options{Journal: d.join(labHost)} }

// recoverHost undoes what a supervisor that was killed had changed on the host's
// own network.
func recoverHost(d labDir, events event.Sink) error {
	if _, err := os.Lstat(d.join(labHost)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := hostnet.Recover(d.host())
	switch {
	case errors.Is(err, hostnet.ErrLive):
		return nil // somebody else undoes it, or has begun the lab meanwhile
	case err != nil:
		return d.notUndone(err)
	}
	events.Emit(event.Event{Kind: event.Note, Task: "undo", Subject: "the host's network", Message: "what a lab that was killed had left of it is undone"})
	return nil
}

// notUndone says why what a lab that was killed has left can't be undone.
func (d labDir) notUndone(err error) error {
	if errors.Is(err, hostnet.ErrElsewhere) {
		return fmt.Errorf("undo what a lab that was killed has left: %w; do this again in that one, or if it is gone: rm %s", err, d.join(labHost))
	}
	return fmt.Errorf("undo what a lab that was killed has left on the host's network: %w", err)
}

// planStep is a step of up --dry-run. Of the host's own network it has the
// commands that would do the same.
type planStep struct {
	lab.Step
	Commands []string `json:"commands,omitempty"`
}

// kindHost is the kind of the step that is about the host's own network, and
// actionUndo what becomes of what a lab that was killed has left there.
const (
	kindHost   = "host"
	actionUndo = lab.Action("undo")
)

func (s planStep) String() string {
	switch {
	case s.Kind != kindHost:
		return s.Step.String()
	case s.Action == actionUndo:
		return "undo what the lab that was killed has left on the host's network"
	}
	text := fmt.Sprintf("%s the lab's part of the host's network", s.Action)
	if len(s.Commands) > 0 {
		text += ", as these commands would:"
	}
	for _, c := range s.Commands {
		text += "\n  " + c
	}
	return text
}

// withHost adds to the steps from one lab to another what becomes of the host's
// own network.
func (d labDir) withHost(steps []lab.Step, before, now *lab.Spec) ([]planStep, error) {
	out := []planStep{}
	if before == nil { // else the lab lives, and has left nothing
		left, err := hostnet.Abandoned(d.host())
		if err != nil {
			return nil, d.notUndone(err)
		}
		if left {
			out = append(out, planStep{Step: lab.Step{Kind: kindHost, Name: "network", Action: actionUndo}})
		}
	}
	for _, s := range steps {
		out = append(out, planStep{Step: s})
	}
	var old hostnet.Plan
	if before != nil {
		old = supervisor.HostPlan(d.path, before)
	}
	want := supervisor.HostPlan(d.path, now)
	host := planStep{Step: lab.Step{Kind: kindHost, Name: "network", Action: lab.ActionChange}}
	switch {
	case reflect.DeepEqual(old.Taps, want.Taps) && reflect.DeepEqual(old.Bridges, want.Bridges):
		return out, nil
	case len(want.Taps) == 0:
		host.Action = lab.ActionStop
		return append(out, host), nil
	case len(old.Taps) == 0:
		host.Action = lab.ActionStart
	}
	var err error
	if host.Commands, err = hostnet.Commands(want, old, d.host()); err != nil {
		return nil, fmt.Errorf("plan the lab's part of the host's network: %w", err)
	}
	return append(out, host), nil
}
