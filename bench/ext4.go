package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"wolffia/internal/image/ext4"
	"wolffia/internal/tree"
)

// ext4Features are those that wolffia's ext4 has.
const ext4Features = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,dir_nlink,extra_isize"

// ext4Time measures how a folder becomes an ext4: beside mke2fs, which makes the
// same of it, and beside the least that must be done, reading the files and
// writing their bytes.
func ext4Time(ctx context.Context, b *bench) (*result, error) {
	const floorGoal, mkfsGoal, crowdGoal, files = 1.2, 0.5, 0.1, 20_000
	root, _, err := command{argv: []string{"go", "env", "GOROOT"}}.output(ctx)
	if err != nil {
		return nil, err
	}
	sources := filepath.Join(strings.TrimSpace(string(root)), "src")
	crowd, err := os.MkdirTemp(b.dir, "crowd-")
	if err != nil {
		return nil, err
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(crowd, fmt.Sprintf("file-%05d", i)), nil, 0o644); err != nil {
			return nil, err
		}
	}
	x, err := b.alternate(ctx, b.newImage(sources, "256M"), b.readAndWrite(sources), b.mke2fs(sources, "256M"))
	if err != nil {
		return nil, err
	}
	few := *b
	few.n = (b.n + 1) / 2 // mke2fs takes long
	y, err := few.alternate(ctx, b.newImage(crowd, "64M"), b.mke2fs(crowd, "64M"))
	if err != nil {
		return nil, err
	}
	r := &result{}
	compare := func(what string, took []float64, against string, other []float64, most float64) {
		r.rows = append(r.rows, row{what: what, unit: milliseconds, wolffia: took, against: against, other: other,
			goal: fmt.Sprintf("at most %g x", most), met: ratioOf(took, other) <= most})
	}
	compare("Go's sources to an ext4", x[0][0], "read them, write one file", x[1][0], floorGoal)
	compare("Go's sources to an ext4", x[0][0], "`mke2fs -d`", x[2][0], mkfsGoal)
	compare(fmt.Sprintf("%d files in one folder to an ext4", files), y[0][0], "`mke2fs -d`", y[1][0], crowdGoal)
	note, err := describe(sources)
	r.notes = append(r.notes, note, "both file systems have the same size, blocks of 4096 bytes, a journal, no checksums of metadata")
	return r, err
}

// inside times what this process does itself.
func inside(f func() error) sampler {
	return func(context.Context) ([]float64, error) {
		runtime.GC() // what the one before left is not this one's to clean up
		start := time.Now()
		err := f()
		return []float64{ms(time.Since(start))}, err
	}
}

// newFile has f write a file that was not there before.
func (b *bench) newFile(f func(*os.File) error) error {
	out, err := os.Create(filepath.Join(b.dir, "out"))
	if err != nil {
		return err
	}
	return errors.Join(f(out), out.Close())
}

// fresh removes what newFile and the tools make before it is measured again.
func (b *bench) fresh(s sampler) sampler {
	return func(ctx context.Context) ([]float64, error) {
		if err := os.RemoveAll(filepath.Join(b.dir, "out")); err != nil {
			return nil, err
		}
		return s(ctx)
	}
}

func (b *bench) newImage(dir, size string) sampler {
	var mib int64
	fmt.Sscan(size, &mib)
	return b.fresh(inside(func() error {
		t, err := tree.FromDir(dir, tree.DirOptions{})
		if err != nil {
			return err
		}
		return b.newFile(func(f *os.File) error { return ext4.Write(f, t, ext4.Options{Size: mib << 20, Inodes: ext4Inodes}) })
	}))
}

// ext4Inodes is enough for both trees.
const ext4Inodes = 30_000

func (b *bench) mke2fs(dir, size string) sampler {
	return b.fresh(wall(command{argv: []string{
		"mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-O", ext4Features,
		"-N", strconv.Itoa(ext4Inodes), "-d", dir, filepath.Join(b.dir, "out"), size,
	}}))
}

// readAndWrite reads all files of a folder and writes them to one file, each
// padded to whole blocks.
func (b *bench) readAndWrite(dir string) sampler {
	const block, buffer = 4096, 1 << 20
	return b.fresh(inside(func() error {
		return b.newFile(func(f *os.File) error {
			out, used := make([]byte, buffer), 0
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
					used += n
					if err == io.EOF {
						used = (used + block - 1) &^ (block - 1)
					}
					if used == len(out) {
						if _, err := f.Write(out); err != nil {
							return err
						}
						used = 0
					}
					if err == io.EOF {
						return nil
					}
					if err != nil {
						return err
					}
				}
			})
			if err == nil {
				_, err = f.Write(out[:used])
			}
			return err
		})
	}))
}

// describe says how much is in a folder.
func describe(dir string) (string, error) {
	var size int64
	entries := 0
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		if d.Type().IsRegular() {
			i, err := d.Info()
			if err != nil {
				return err
			}
			size += i.Size()
		}
		return nil
	})
	return fmt.Sprintf("Go's sources: %d files and folders, %.0f MB", entries, float64(size)/1e6), err
}
