package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// gdbSocket is where QEMU's stub for gdb listens, in Spec.Dir.
const gdbSocket = "gdb.sock"

// GDBServer implements [machine.GDBServer]. QMP has no command for it; the
// monitor for people says on success what it waits for.
func (m *running) GDBServer(ctx context.Context) (string, error) {
	select {
	case <-m.began:
	case <-m.done:
		return "", fmt.Errorf("debug the kernel of machine %s: it has ended", m.spec.Name)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	m.debug.Store(true)
	var said string
	// The name is short, as those of sockets must be: QEMU runs in Spec.Dir.
	line := map[string]any{"command-line": "gdbserver unix:" + gdbSocket + ",server=on,wait=off"}
	err := m.monitor.do(ctx, "human-monitor-command", line, &said)
	if err == nil && !strings.HasPrefix(said, "Waiting for gdb connection") {
		err = fmt.Errorf("QEMU refuses: %s", strings.TrimSpace(said))
	}
	if err != nil {
		return "", fmt.Errorf("debug the kernel of machine %s: %w", m.spec.Name, err)
	}
	return filepath.Join(m.spec.Dir, gdbSocket), nil
}
