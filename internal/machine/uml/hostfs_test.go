package uml

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
)

// A guest could mount any folder of the host, and write to it.
func TestHostFilesAreOutOfReach(t *testing.T) {
	f := machinetest.UML(t)
	open := t.TempDir()
	if err := os.WriteFile(filepath.Join(open, "word"), []byte("found\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `
for at in FOLDER / . ../../../../../../../../../.. ../..FOLDER; do
	mount -t hostfs none /tmp -o $at 2>/dev/null && echo "mounted $at"
done
mount -t hostfs none /tmp 2>/dev/null && cat /tmp/word
echo end
poweroff -f
`
	initramfs := f.Initramfs(t, strings.ReplaceAll(script, "FOLDER", open))
	for _, c := range []struct {
		cmdline []string
		want    string
	}{
		{nil, "end"},
		{[]string{"hostfs=" + open}, "found end"},
	} {
		m, err := Backend{}.Start(t.Context(), machine.Spec{
			Name: "nosy", Kernel: f.Kernel, Dir: t.TempDir(), Memory: f.Memory, Initramfs: []string{initramfs}, Cmdline: c.cmdline,
		})
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(m.Console())
		if err != nil {
			t.Fatal(err)
		}
		if exit := m.Wait(); !exit.Clean {
			t.Fatalf("%+v\n%s", exit, said)
		}
		got, _, _ := strings.Cut(string(said), "reboot:")
		got = strings.Join(strings.Fields(got), " ")
		if c.cmdline == nil && got != c.want || !strings.HasSuffix(got, c.want) {
			t.Errorf("with %q: %q, want %q", c.cmdline, got, c.want)
		}
	}
}
