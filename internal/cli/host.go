package cli

import "wolffia/internal/event"

// recoverHost undoes what a supervisor that was killed had changed on the host's
// own network.
func recoverHost(d labDir, events event.Sink) error { return nil }
