package ext4

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"wolffia/internal/tree"
)

// sources is a tree of some hundred MB that every developer has.
func sources(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

// benchmark measures what write does to a new file, with the time of all
// processors, which tells more than the clock on a busy machine.
func benchmark(b *testing.B, write func(*os.File) error) {
	name := filepath.Join(b.TempDir(), "out")
	before := cpuTime(b)
	for b.Loop() {
		f, err := os.Create(name)
		must(b, err)
		must(b, write(f))
		must(b, f.Close())
	}
	fi, err := os.Stat(name)
	must(b, err)
	b.ReportMetric(float64(fi.Size())/1e6, "MB")
	b.ReportMetric((cpuTime(b)-before).Seconds()/float64(b.N), "cpu-s/op")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var sum int64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		must(b, syscall.Getrusage(who, &r))
		sum += r.Utime.Nano() + r.Stime.Nano()
	}
	return time.Duration(sum)
}

// BenchmarkWrite is to be read beside [BenchmarkFloor] and [BenchmarkMke2fs].
func BenchmarkWrite(b *testing.B) {
	dir := sources(b)
	for _, o := range []Options{{Type: Ext2}, {Type: Ext4, NoJournal: true}, {Type: Ext4}, {Type: Ext4, Checksums: true}} {
		b.Run(fmt.Sprintf("%s journal=%t checksums=%t", o.Type, o.journaled(), o.Checksums), func(b *testing.B) {
			benchmark(b, func(f *os.File) error {
				t, err := tree.FromDir(dir, tree.DirOptions{})
				if err != nil {
					return err
				}
				return Write(f, t, o)
			})
		})
	}
}

// BenchmarkFloor reads the same tree and writes one padded file.
func BenchmarkFloor(b *testing.B) {
	dir := sources(b)
	benchmark(b, func(f *os.File) error {
		out, used := make([]byte, 1<<20), 0
		err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			in, err := os.Open(name)
			if err != nil {
				return err
			}
			defer in.Close()
			for {
				n, err := in.Read(out[used:])
				if used += n; err == io.EOF {
					used = min((used+4095)&^4095, len(out))
					return nil
				}
				if err != nil {
					return err
				}
				if used == len(out) {
					if _, err := f.Write(out); err != nil {
						return err
					}
					used = 0
				}
			}
		})
		if err == nil {
			_, err = f.Write(out[:used])
		}
		return err
	})
}

// BenchmarkMke2fs does with mke2fs what [BenchmarkWrite] does.
func BenchmarkMke2fs(b *testing.B) {
	dir := sources(b)
	mke2fs := tooltest.Require(b, "mke2fs", "e2fsprogs")
	for name, args := range map[string][]string{
		"ext4 journal=false": {"-t", "ext4", "-O", "^has_journal,^metadata_csum,^64bit,^resize_inode"},
		"ext4 journal=true":  {"-t", "ext4"},
	} {
		b.Run(name, func(b *testing.B) {
			benchmark(b, func(f *os.File) error {
				return mkfs(mke2fs, f.Name(), dir, "256M", args...)
			})
		})
	}
}

func mkfs(mke2fs, image, dir, size string, args ...string) error {
	args = append(args, "-q", "-F", "-d", dir, image, size)
	out, err := exec.Command(mke2fs, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", args, err, out)
	}
	return nil
}

// BenchmarkCrowd is one directory of 20,000 files.
func BenchmarkCrowd(b *testing.B) {
	dir := b.TempDir()
	for i := range 20_000 {
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%05d", i)), nil, 0o600))
	}
	mke2fs := tooltest.Require(b, "mke2fs", "e2fsprogs")
	b.Run("write", func(b *testing.B) {
		benchmark(b, func(f *os.File) error {
			t, err := tree.FromDir(dir, tree.DirOptions{})
			if err != nil {
				return err
			}
			return Write(f, t, Options{})
		})
	})
	b.Run("mke2fs", func(b *testing.B) {
		benchmark(b, func(f *os.File) error { return mkfs(mke2fs, f.Name(), dir, "64M", "-N", "30000") })
	})
}
