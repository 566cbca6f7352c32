package cli

import (
	"fmt"
	"os"

	"wolffia/internal/lab"
)

// roomBesides is what a machine wants besides its root: a kernel, and what runs.
const roomBesides = 64 * lab.MiB

// enoughMemory is what a machine has whose root is in memory, where nobody says
// how much: the archive lies there twice, as it came and unpacked.
func enoughMemory(archive string) (lab.Size, error) {
	info, err := os.Stat(archive)
	if err != nil {
		return 0, fmt.Errorf("look at the image: %w", err)
	}
	const step = 16 * lab.MiB
	n := roomBesides + 2*lab.Size(info.Size())
	return max(lab.DefaultMemory, (n+step-1)/step*step), nil
}
