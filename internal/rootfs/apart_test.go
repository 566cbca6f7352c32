package rootfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// TestApart runs the little programs of each architecture, as a shell would in
// the background: they give their arguments and environment on, with default
// signals, and one of them begins a session.
func TestApart(t *testing.T) {
	for arch, emulator := range map[string]string{
		"amd64": "qemu-x86_64", "i386": "qemu-i386", "arm64": "qemu-aarch64", "armhf": "qemu-arm", "riscv64": "qemu-riscv64",
	} {
		t.Run(arch, func(t *testing.T) {
			qemu := tooltest.Require(t, emulator, "qemu-user")
			programs := map[string][]byte{"apart": apart(machines[arch]), "leader": leader(machines[arch])}
			for name, text := range programs {
				program := filepath.Join(t.TempDir(), name)
				must(t, os.WriteFile(program, text, 0o755))
				cmd := exec.Command("/bin/sh", "-c", `"$@" & wait $!`, "sh", qemu, program, "/bin/sh", "-c",
					`grep SigIgn /proc/self/status; echo "$WOLFFIA $0 $1"; read -r pid _ _ _ _ session _ </proc/self/stat; [ $pid = $session ] && echo leads`, "one", "two words")
				cmd.Env = append(os.Environ(), "WOLFFIA=leaf")
				want := "SigIgn: 0000000000000000 leaf one two words"
				if name == "leader" {
					want += " leads"
				}
				if out, _ := cmd.CombinedOutput(); strings.Join(strings.Fields(string(out)), " ") != want {
					t.Errorf("%s: %s", name, out)
				}
				cmd = exec.Command(qemu, program, "/no/such/program")
				if err := cmd.Run(); cmd.ProcessState.ExitCode() != 127 {
					t.Errorf("%s: a missing program gave %v", name, err)
				}
			}
		})
	}
	if apart(0) != nil || leader(0) != nil {
		t.Error("a program for no machine")
	}
}
