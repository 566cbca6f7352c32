package qemu

import (
	"fmt"
	"slices"
	"strings"

	"wolffia/internal/machine"
)

// Script implements [machine.Scripter]: the machine with its console on the
// terminal, on QEMU's networks. What wolffia talks over is left out; all
// else is as Command has it.
func (b Backend) Script(spec machine.Spec) (string, error) {
	p, err := b.newPlan(spec)
	if err != nil {
		return "", err
	}
	hand := &plan{spec: p.spec, board: p.board, byHand: true}
	hand.spec.Dir = "" // the script works in a folder of its own
	hand.spec.Disks = slices.Clone(hand.spec.Disks)
	for i := range hand.spec.Disks {
		hand.spec.Disks[i].Overlay = ""
	}
	hand.arguments(b)

	s := &strings.Builder{}
	fmt.Fprintf(s, `#!/bin/sh
# The machine %s as wolffia starts it, but with its console on this terminal
# (Ctrl-a x ends it, Ctrl-a h shows more keys), and its network cards on QEMU's
# own user network. A QEMU that was built without it wants -netdev and the
# -device behind it left out.
set -eu
dir=$(mktemp -d "${TMPDIR:-/tmp}/machine.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir"
`, strings.Map(wordOnly, spec.Name))
	if hand.join {
		s.WriteString("\n# The initramfs: these archives, each beginning at a multiple of four bytes.\n")
		s.WriteString("for archive in")
		for _, a := range spec.Initramfs {
			s.WriteString(" \\\n\t" + quote(a))
		}
		fmt.Fprintf(s, `
do
	cat "$archive"
	head -c $(((4 - $(wc -c <"$archive") %% 4) %% 4)) /dev/zero
done >%s
`, joinedFile)
	}
	if spec.Firmware == machine.FirmwareUEFI {
		fmt.Fprintf(s, "\n# UEFI's variables, which it writes to.\ncat %s >%s\n", quote(b.UEFI.Vars), varsFile)
	}
	if p.spec.Overlays() > 0 {
		s.WriteString("\n# Disks are as they were at first: what the machine has written on them is left\n# alone, and what it writes here is gone at the end.\n")
	}
	s.WriteString("\nenv TMPDIR=\"$dir\"")
	for _, e := range b.Program.Env {
		s.WriteString(" " + quote(e))
	}
	for _, a := range hand.argv {
		sep := " "
		if strings.HasPrefix(a, "-") {
			sep = " \\\n\t"
		}
		s.WriteString(sep + quote(a))
	}
	s.WriteString("\n")
	return s.String(), nil
}

// joinedFile is the initramfs of a script.
const joinedFile = "initramfs"

// wordOnly keeps a comment on its line.
func wordOnly(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}

// quote makes text one word of the shell.
func quote(text string) string {
	plain := func(r rune) bool {
		return strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:=@_", r)
	}
	if text != "" && strings.TrimFunc(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
