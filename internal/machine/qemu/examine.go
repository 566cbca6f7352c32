package qemu

import (
	"context"
	"io"
	"strings"

	"wolffia/internal/machine"
)

// heardStatus notes that a status line came.
type heardStatus struct {
	m *running
	r io.ReadCloser
}

func (h heardStatus) Close() error { return h.r.Close() }

func (h heardStatus) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if n > 0 {
		h.m.heard.Store(true)
	}
	return n, err
}

// Examine implements [machine.Examiner]. A kernel that boots quietly says
// nothing for seconds, and a wrong one says nothing ever; but a living one finds
// the devices that every machine has.
func (m *running) Examine(ctx context.Context) (machine.Symptom, bool) {
	select {
	case <-m.began:
	case <-m.done:
		return machine.Symptom{}, false
	case <-ctx.Done():
		return machine.Symptom{Stage: "start", Cause: "QEMU does not get ready to start the machine", Fix: fixQEMU}, true
	}
	if x, ok := m.spec.Suspect(m.console.Tail(searchLines)); ok {
		return x, true
	}
	if m.spec.Firmware != machine.FirmwareNone || m.heard.Load() || len(m.console.Tail(1)) > 0 {
		return machine.Symptom{}, false
	}
	touched, err := m.touched(ctx)
	if touched || err != nil { // older or newer QEMUs may not tell
		return machine.Symptom{}, false
	}
	return machine.Symptom{
		Stage: "kernel", Cause: "the kernel gives no sign of life: it says nothing on its console and has not looked at the machine's devices",
		Fix: fixSilence,
	}, true
}

// touched says whether the guest has done anything with the source of random
// numbers, which no firmware uses.
func (m *running) touched(ctx context.Context) (bool, error) {
	var devices []struct {
		Path string `json:"path"`
		Name string `json:"name"`
	}
	if err := m.monitor.do(ctx, "x-query-virtio", nil, &devices); err != nil {
		return false, err
	}
	for _, d := range devices {
		if !strings.Contains(d.Name, "rng") {
			continue
		}
		var state struct {
			Status struct {
				Statuses []string `json:"statuses"`
			} `json:"status"`
		}
		if err := m.monitor.do(ctx, "x-query-virtio-status", map[string]string{"path": d.Path}, &state); err != nil {
			return false, err
		}
		if len(state.Status.Statuses) > 0 {
			return true, nil
		}
	}
	return false, nil
}
