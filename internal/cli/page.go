package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"wolffia/internal/term"
)

// page is a result that is put together first and shown at once, so that an
// output that can't be written is an error, and foreign text harmless.
type page struct{ text bytes.Buffer }

func (p *page) printf(format string, args ...any) { fmt.Fprintf(&p.text, format, args...) }

// Write adds to the page; it never fails.
func (p *page) Write(b []byte) (int, error) { return p.text.Write(b) }

func (p *page) show(env Env) error {
	if _, err := io.WriteString(env.Stdout, term.Clean(p.text.String())); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
