package uml

import (
	"slices"
	"testing"
)

// The kernel's word that a disk of the host's is full is heard wherever the
// console's output is cut, once, and not where a log is shown.
func TestFullWatch(t *testing.T) {
	const said = "# critical space allocation error, dev ubdb, sector 62152 op 0x1:(WRITE) flags 0x4000\r\n" +
		"Nov 21 18:25:01 anna kern.err kernel: critical space allocation error, dev ubda, sector 8\r\n" +
		"critical space allocation error, dev ubd0\r\n[    1.25] critical space allocation error, dev ubdd, sector 8\r\n"
	for size := 1; size <= len(said); size++ {
		var got []int
		w := fullWatch{found: func(disk int) { got = append(got, disk) }}
		for piece := range slices.Chunk([]byte(said), size) {
			w.look(piece)
		}
		if !slices.Equal(got, []int{1, 3}) {
			t.Fatalf("in pieces of %d bytes: disks %v", size, got)
		}
	}
}
