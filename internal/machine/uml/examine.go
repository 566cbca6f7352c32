package uml

import (
	"context"

	"wolffia/internal/machine"
)

// Examine implements [machine.Examiner].
func (m *running) Examine(context.Context) (machine.Symptom, bool) {
	return m.spec.Suspect(m.console.Tail(searchLines))
}
