package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"wolffia/internal/image/compress"
	"wolffia/internal/image/cpio"
	"wolffia/internal/tree"
)

// initramfsTime measures how a folder becomes a compressed initramfs.
func initramfsTime(ctx context.Context, b *bench) (*result, error) {
	const most, size = 0.5, 1.01
	dir, err := os.MkdirTemp(b.dir, "initramfs-")
	if err != nil {
		return nil, err
	}
	root, archive := filepath.Join(dir, "root"), filepath.Join(dir, "root.tar")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	for _, c := range []command{
		{argv: []string{b.wolffia, "build", "-q", "--deps", "packages", "-p", "strace", "-p", "gdbserver", "-p", "tcpdump", "-o", archive}, dir: dir},
		{argv: []string{"tar", "-xf", archive, "-C", root, "--no-same-owner", "--exclude=./dev/*"}},
	} {
		if _, err := c.run(ctx); err != nil {
			return nil, err
		}
	}
	out := filepath.Join(b.dir, "out")
	ours := b.sized(inside(func() error {
		t, err := tree.FromDir(root, tree.DirOptions{})
		if err != nil {
			return err
		}
		return b.newFile(func(f *os.File) error { return cpio.Write(f, t, cpio.Options{Compression: compress.Gzip}) })
	}))
	theirs := b.sized(wall(command{
		argv: []string{"sh", "-c", `find . | cpio -o -H newc --quiet | gzip -6 >"$OUT"`},
		env:  []string{"OUT=" + out}, dir: root,
	}))
	x, err := b.alternate(ctx, ours, theirs)
	if err != nil {
		return nil, err
	}
	took, other := x[0][0], x[1][0]
	return &result{rows: []row{
		{what: "a folder to a cpio.gz", unit: milliseconds, wolffia: took, against: "find, cpio, `gzip -6`", other: other,
			goal: fmt.Sprintf("at most %g x", most), met: ratioOf(took, other) <= most},
		{what: "its size", unit: megabytes, wolffia: x[0][1], against: "find, cpio, `gzip -6`", other: x[1][1],
			goal: fmt.Sprintf("at most %g x", size), met: ratioOf(x[0][1], x[1][1]) <= size},
	}, notes: []string{"the folder: the default image with strace, gdbserver, tcpdump and all that they depend on"}}, nil
}

// sized adds the length of the file out, in MB, to what s measures.
func (b *bench) sized(s sampler) sampler {
	s = b.fresh(s)
	return func(ctx context.Context) ([]float64, error) {
		x, err := s(ctx)
		if err != nil {
			return nil, err
		}
		fi, err := os.Stat(filepath.Join(b.dir, "out"))
		if err != nil {
			return nil, err
		}
		return append(x, float64(fi.Size())/1e6), nil
	}
}
