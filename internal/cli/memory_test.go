package cli

import (
	"os"
	"path/filepath"
	"testing"

	"wolffia/internal/lab"
)

// TestEnoughMemory: a machine with a few packages more, as in the README, ran out
// of memory while it unpacked its root.
func TestEnoughMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	for size, want := range map[int64]lab.Size{7 << 20: 128 * lab.MiB, 32 << 20: 128 * lab.MiB, 32<<20 + 1: 144 * lab.MiB, 56 << 20: 176 * lab.MiB, 1 << 30: 2112 * lab.MiB} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if got, err := enoughMemory(path); got != want || err != nil {
			t.Errorf("%d bytes: %v, %v; want %v", size, got, err, want)
		}
	}
}
