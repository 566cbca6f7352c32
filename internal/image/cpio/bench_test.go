package cpio

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// goSources is a tree of some tens of MB that every developer has.
func goSources(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

// BenchmarkWrite is to be read beside [BenchmarkTools]: the same files to the
// same place, with the compressed size as a share of the plain one.
func BenchmarkWrite(b *testing.B) {
	dir := goSources(b)
	plain := plainSize(b, dir)
	for _, c := range compressions {
		b.Run("compression="+string(c), func(b *testing.B) {
			benchmark(b, plain, func(f *os.File) error {
				t, err := tree.FromDir(dir, tree.DirOptions{})
				if err != nil {
					return err
				}
				return Write(f, t, Options{Compression: c})
			})
		})
	}
}

// BenchmarkTools does with the classic tools what [BenchmarkWrite] does.
func BenchmarkTools(b *testing.B) {
	dir := goSources(b)
	plain := plainSize(b, dir)
	for name, filter := range map[string]string{"compression=": "cat", "compression=gzip": "gzip -6n", "compression=zstd": "zstd -q -3 -T0"} {
		b.Run(name, func(b *testing.B) {
			benchmark(b, plain, func(f *os.File) error {
				cmd := exec.Command("sh", "-c", "find . | LC_ALL=C sort | cpio -o -H newc --quiet | "+filter)
				cmd.Dir, cmd.Stdout, cmd.Stderr = dir, f, os.Stderr
				return cmd.Run()
			})
		})
	}
}

func plainSize(b *testing.B, dir string) int64 {
	b.Helper()
	t, err := tree.FromDir(dir, tree.DirOptions{})
	if err != nil {
		b.Fatal(err)
	}
	c := &counter{w: io.Discard}
	if err := Write(c, t, Options{}); err != nil {
		b.Fatal(err)
	}
	return c.n
}

func benchmark(b *testing.B, plain int64, write func(*os.File) error) {
	name := filepath.Join(b.TempDir(), "out")
	b.SetBytes(plain)
	before := cpuTime(b)
	for b.Loop() {
		f, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		if err := write(f); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	fi, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(fi.Size())/float64(plain), "size")
	b.ReportMetric((cpuTime(b)-before).Seconds()/float64(b.N), "cpu-s/op")
}

// cpuTime is what this process and its children have used, which tells more
// than the clock on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var sum int64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if err := syscall.Getrusage(who, &r); err != nil {
			b.Fatal(err)
		}
		sum += r.Utime.Nano() + r.Stime.Nano()
	}
	return time.Duration(sum)
}

// BenchmarkWriteSmall is an initramfs of 10 MB that is already in memory, to a
// file.
func BenchmarkWriteSmall(b *testing.B) {
	t := treetest.Random(1, treetest.Options{Entries: 1500, MaxSize: 60_000})
	c := &counter{w: io.Discard}
	if err := Write(c, t, Options{}); err != nil {
		b.Fatal(err)
	}
	benchmark(b, c.n, func(f *os.File) error { return Write(f, t, Options{}) })
}

func BenchmarkRead(b *testing.B) {
	t := treetest.Random(1, treetest.Options{Entries: 1500, MaxSize: 60_000})
	for _, c := range compressions {
		data := string(write(b, t, Options{Compression: c}))
		b.Run("compression="+string(c), func(b *testing.B) {
			b.SetBytes(int64(len(write(b, t, Options{}))))
			for b.Loop() {
				if _, err := Read(strings.NewReader(data), ReadOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
