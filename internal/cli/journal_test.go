package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/event"
)

// TestJournal: a guest that complains in each of its lives filled the disk with
// the supervisor's log, and what it wrote there drove terminals.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := &journal{path: path}
	f, err := j.open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	j.files = []*os.File{f}
	for range 2 * maxJournal / 4000 * 2 {
		j.note(event.Event{Kind: event.Warn, Task: "boot", Subject: "anna", Message: "a\nb\x1b[2J" + strings.Repeat("x", 4000)})
	}
	for _, name := range []string{path, path + ".1"} {
		data, err := os.ReadFile(name)
		if err != nil || len(data) == 0 || len(data) > maxJournal+8000 {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		if strings.ContainsRune(string(data), 0x1b) || !strings.Contains(string(data), "warn boot anna: a b\ufffd[2J") {
			t.Errorf("%.100q", data)
		}
	}
}
