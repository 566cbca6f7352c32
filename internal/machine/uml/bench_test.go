package uml

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/program"
)

// BenchmarkBoot compares a kernel started by hand, with and without this
// package's kernel parameters, with the backend; init powers off at once.
func BenchmarkBoot(b *testing.B) {
	f := machinetest.UML(b)
	image := f.Initramfs(b, "poweroff -f")
	spec := machine.Spec{Name: "bench", Kernel: f.Kernel, Initramfs: []string{image}, Dir: b.TempDir()}
	p, err := newPlan(spec)
	if err != nil {
		b.Fatal(err)
	}
	bare := func(more ...string) func(*testing.B) {
		return func(b *testing.B) {
			dir := b.TempDir()
			if err := os.Symlink(filepath.Join(filepath.Dir(f.Kernel), program.RuntimeDir), filepath.Join(dir, program.RuntimeDir)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				cmd := exec.Command(f.Kernel, append([]string{"mem=128M", "initrd=" + image, "con=null", "con0=null,fd:1", "uml_dir=./", "umid=u"}, more...)...)
				cmd.Dir, cmd.Env = dir, append(p.env, "TMPDIR=/dev/shm")
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("bare", bare())
	b.Run("bare-with-parameters", bare(defaults...))
	b.Run("backend", func(b *testing.B) {
		for b.Loop() {
			m, err := Backend{}.Start(b.Context(), spec)
			if err != nil {
				b.Fatal(err)
			}
			if exit := m.Wait(); !exit.Clean {
				b.Fatal(exit)
			}
		}
	})
}
