package qemu

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"wolffia/internal/machine"
)

// FindUEFI finds the UEFI firmware for an architecture where distributions of
// the host keep it. The error names the Debian package.
func FindUEFI(arch string) (UEFI, error) {
	arch = orHost(arch)
	for _, f := range boards[arch].uefi {
		if _, err := os.Stat(f.code); err != nil {
			continue
		}
		if _, err := os.Stat(f.vars); err == nil {
			return UEFI{Code: f.code, Vars: f.vars}, nil
		}
	}
	return UEFI{}, fmt.Errorf("find UEFI firmware for %s: there is none on this host", arch)
}

// checkFirmware refuses firmware that the board has not got.
func (b Backend) checkFirmware(spec machine.Spec, board board) error {
	fail := func(cause, fix string, err error) error {
		return &machine.StartError{Machine: spec.Name, Stage: "start", Cause: cause, Fix: fix, Err: err}
	}
	switch spec.Firmware {
	case machine.FirmwareNone:
	case machine.FirmwareBIOS:
		if board.bios == "" {
			return fail(fmt.Sprintf("a machine of architecture %s has no BIOS", orHost(spec.Arch)), "boot it by UEFI", nil)
		}
	case machine.FirmwareUEFI:
		if len(board.uefi) == 0 {
			return fail("the machine microvm has no UEFI", "use an ordinary machine", nil)
		}
		for _, name := range []string{b.UEFI.Code, b.UEFI.Vars} {
			if _, err := os.Stat(name); err != nil {
				return fail("the UEFI firmware is missing", "install the firmware for "+orHost(spec.Arch)+" (in Debian: ovmf, qemu-efi-aarch64, qemu-efi-arm, qemu-efi-riscv64)", err)
			}
		}
	default:
		return fmt.Errorf("machine %s: firmware %q is neither %s nor %s", spec.Name, spec.Firmware, machine.FirmwareBIOS, machine.FirmwareUEFI)
	}
	return nil
}

// copyVars gives a machine with UEFI variables of its own.
func (b Backend) copyVars(spec machine.Spec) (err error) {
	if spec.Firmware != machine.FirmwareUEFI {
		return nil
	}
	in, err := os.Open(b.UEFI.Vars)
	if err != nil {
		return fmt.Errorf("copy UEFI variables: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(spec.Dir, varsFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copy UEFI variables: %w", err)
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Close()
	} else {
		out.Close()
	}
	if err != nil {
		return fmt.Errorf("copy UEFI variables: %w", err)
	}
	return nil
}
