package qemu

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wolffia/internal/image/qcow2"
	"wolffia/internal/machine"
	"wolffia/internal/tooltest"
)

// An overlay is an image that QEMU's own tools find no fault with, over images of
// both formats.
func TestOverlayFiles(t *testing.T) {
	tool := tooltest.Require(t, "qemu-img", "qemu-utils")
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, make([]byte, 1<<20+100), 0o600); err != nil { // no whole number of sectors
		t.Fatal(err)
	}
	packed := filepath.Join(dir, "packed")
	f, err := os.Create(packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := qcow2.Create(f, 5<<20, qcow2.Options{}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, d := range []machine.Disk{{Path: raw, Format: machine.Raw}, {Path: packed, Format: machine.QCOW2}} {
		d.Overlay = filepath.Join(dir, "over-"+d.Format)
		spec := machine.Spec{Name: "alice", Disks: []machine.Disk{d}}
		for range 2 { // made, and opened again
			locks, err := spec.HoldDisks(t.Context(), overlays{})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range locks {
				l.Close()
			}
		}
		if out, err := exec.Command(tool, "check", d.Overlay).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		out, err := exec.Command(tool, "info", "--output=json", d.Overlay).Output()
		if err != nil {
			t.Fatal(err)
		}
		var info struct {
			Size    int64  `json:"virtual-size"`
			Backing string `json:"backing-filename"`
			Format  string `json:"backing-filename-format"`
		}
		if err := json.Unmarshal(out, &info); err != nil {
			t.Fatal(err)
		}
		want := map[string]int64{machine.Raw: 1<<20 + 512, machine.QCOW2: 5 << 20}[d.Format]
		if info.Size != want || info.Backing != d.Path || info.Format != d.Format {
			t.Errorf("%+v over %+v", info, d)
		}
	}
}
