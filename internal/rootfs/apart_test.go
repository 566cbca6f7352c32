package rootfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// TestApart runs the little program of each architecture, as a shell would in
// the background: it gives its arguments and environment on, with default
// signals.
func TestApart(t *testing.T) {
	for arch, emulator := range map[string]string{
		"amd64": "qemu-x86_64", "i386": "qemu-i386", "arm64": "qemu-aarch64", "armhf": "qemu-arm", "riscv64": "qemu-riscv64",
	} {
		t.Run(arch, func(t *testing.T) {
			qemu := tooltest.Require(t, emulator, "qemu-user")
			program := filepath.Join(t.TempDir(), "apart")
			must(t, os.WriteFile(program, apart(machines[arch]), 0o755))
			cmd := exec.Command("/bin/sh", "-c", `"$@" & wait $!`, "sh", qemu, program,
				"/bin/sh", "-c", `grep SigIgn /proc/self/status; echo "$WOLFFIA $0 $1"`, "one", "two words")
			cmd.Env = append(os.Environ(), "WOLFFIA=leaf")
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Join(strings.Fields(string(out)), " ") != "SigIgn: 0000000000000000 leaf one two words" {
				t.Errorf("%v: %s", err, out)
			}
			cmd = exec.Command(qemu, program, "/no/such/program")
			if err := cmd.Run(); cmd.ProcessState.ExitCode() != 127 {
				t.Errorf("a missing program gave %v", err)
			}
		})
	}
	if apart(0) != nil {
		t.Error("a program for no machine")
	}
}
