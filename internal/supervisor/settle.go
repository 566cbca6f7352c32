package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"wolffia/internal/access"
	"wolffia/internal/event"
)

// Settle has what the machine wrote to images of the person's, in place, reach
// them, and leaves the file systems there clean, so that the machine can be killed.
// It does so by way of a client of this machine, or by a shutdown if that is nil.
// Without such images it does nothing.
func (s *Guest) Settle(ctx context.Context, c *access.Client) {
	script, any := "sync", false
	var places []string
	for _, k := range s.cfg.Machine.Disks {
		if any = any || k.InPlace; k.InPlace && k.Mount != "" {
			places = append(places, k.Mount)
		}
	}
	if !any {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, StopPatience)
	defer cancel()
	if c == nil {
		_ = s.machine.Stop(ctx) // one that had to be killed has ended, too
		return
	}
	slices.Sort(places) // folders before what is in them
	for _, p := range slices.Backward(places) {
		script += fmt.Sprintf("; umount %s 2>/dev/null || mount -o remount,ro %[1]s", p)
	}
	st, err := c.Run(ctx, access.Command{Argv: []string{"sh", "-c", script}, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil && st.Code != 0 {
		err = errors.New("something in the machine still has it open")
	}
	if err != nil {
		event.Or(s.cfg.Events).Emit(event.Event{Kind: event.Warn, Task: "unmount", Subject: s.Name(),
			Message: fmt.Sprintf("a disk that is written to in place was not unmounted, and is checked by the next machine that mounts it: %v", err)})
	}
}
