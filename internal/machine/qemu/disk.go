package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"

	"wolffia/internal/image/qcow2"
	"wolffia/internal/machine"
)

// overlays are qcow2 images ([machine.OverlayFormat]). They name the image below
// them for qemu-img and its like; the machine is told it again.
type overlays struct{}

// Overlays is the name of their format.
const Overlays = machine.QCOW2

// Name implements [machine.OverlayFormat].
func (overlays) Name() string { return Overlays }

// Create implements [machine.OverlayFormat].
func (overlays) Create(f *os.File, d machine.Disk) error {
	size, err := diskSize(d)
	if err != nil {
		return err
	}
	return qcow2.Create(f, size, qcow2.Options{Backing: d.Path, BackingFormat: d.Format})
}

// Reopen implements [machine.OverlayFormat].
func (overlays) Reopen(f *os.File, d machine.Disk) error {
	size, err := diskSize(d)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	is, err := qcow2.Stat(f, info.Size())
	switch {
	case err != nil:
		return err
	case is.Corrupt:
		return errors.New("QEMU has marked it so")
	case is.Size != size:
		return fmt.Errorf("it is a disk of %d bytes, over one of %d", is.Size, size)
	}
	return nil
}

// diskSize is the size of a disk as its guest sees it, in bytes.
func diskSize(d machine.Disk) (int64, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || d.Format == machine.Raw {
		return (size + 511) &^ 511, err
	}
	info, err := qcow2.Stat(f, size)
	return info.Size, err
}
