package deb

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wolffia/internal/tooltest"
)

// kernelPackage is a package of many xz blocks, for benchmarks.
func kernelPackage(b *testing.B) string {
	dir := stage(b, 60)
	noise := make([]byte, 40<<20)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range noise {
		noise[i] = byte(rnd.IntN(40))
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/bin/noise"), noise, 0o644); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "kernel.deb")
	run(b, ".", "dpkg-deb", "--root-owner-group", "-Zxz", "-b", dir, file)
	return file
}

func BenchmarkExtractXZ(b *testing.B) {
	tooltest.Require(b, "dpkg-deb", "dpkg")
	file := kernelPackage(b)
	b.Run("wolffia", func(b *testing.B) {
		out, err := os.Create(filepath.Join(b.TempDir(), "data.tar"))
		if err != nil {
			b.Fatal(err)
		}
		defer out.Close()
		for b.Loop() {
			n, err := openFile(b, file, Options{}).ExtractData(context.Background(), out)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n)
		}
	})
	b.Run("dpkg-deb", func(b *testing.B) {
		for b.Loop() {
			out, err := os.Create(filepath.Join(b.TempDir(), "data.tar"))
			if err != nil {
				b.Fatal(err)
			}
			cmd := exec.Command("dpkg-deb", "--fsys-tarfile", file)
			cmd.Stdout = out
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
			info, err := out.Stat()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(info.Size())
			out.Close()
		}
	})
}
