package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"wolffia/internal/api"
	"wolffia/internal/supervisor"
)

// tellStates says to a person who looks at a console why it is silent, until ctx
// ends: the machine has stopped, or waits for another one.
func tellStates(ctx context.Context, c *api.Client, name string, out io.Writer, newline string) {
	told := ""
	for ctx.Err() == nil {
		machines, err := c.Machines(ctx)
		if err != nil {
			return
		}
		var m supervisor.MachineStatus
		for _, other := range machines {
			if other.Name == name {
				m = other
			}
		}
		if note := silence(m); note != "" && note != told {
			fmt.Fprintf(out, "%s[wolffia: %s]%s", newline, note, newline)
			told = note
		} else if note == "" {
			told = ""
		}
		if _, err := c.Wait(ctx, name, m.State); err != nil {
			return
		}
	}
}

// silence is why a machine's console says nothing; empty while it may.
func silence(m supervisor.MachineStatus) string {
	switch m.State {
	case supervisor.StateStopped:
		return fmt.Sprintf("machine %s is stopped; start it with: wolffia restart %[1]s; until then this waits for it", m.Name)
	case supervisor.StateFailed:
		why, _, _ := strings.Cut(m.Error, "\n")
		return fmt.Sprintf("machine %s failed: %s; to start it again: wolffia restart %[1]s; until then this waits for it", m.Name, why)
	case supervisor.StateWaiting:
		if m.WaitsFor != "" {
			return fmt.Sprintf("machine %s starts after %s, which is not ready yet", m.Name, m.WaitsFor)
		}
	}
	return ""
}
