package cli

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"wolffia/internal/lab"
)

var update = flag.Bool("update", false, "write docs/ anew")

// TestDocs holds the pages that are made from the code to the code.
func TestDocs(t *testing.T) {
	for path, want := range map[string][]byte{
		"../../docs/commands.md": Manual(),
		"../../docs/file.md":     lab.Manual(),
	} {
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is out of date; run: go test ./internal/cli -run TestDocs -update", path)
		}
	}
}
