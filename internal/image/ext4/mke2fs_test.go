package ext4

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// unpack makes what an ordinary user can make of tr below a new directory.
func unpack(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	dir := t.TempDir()
	first := map[*tree.Node]string{}
	times := []func() error{}
	err := tr.Walk(func(name string, n *tree.Node) error {
		at := filepath.Join(dir, name)
		if old := first[n]; old != "" {
			return os.Link(old, at)
		}
		switch n.Type() {
		case tree.TypeBlock, tree.TypeChar, tree.TypeSocket:
			return nil
		case tree.TypeSymlink:
			return os.Symlink(n.Target, at)
		case tree.TypeDir:
			if name != "/" {
				if err := os.Mkdir(at, 0o700); err != nil {
					return err
				}
			}
		case tree.TypeFIFO:
			if err := syscall.Mkfifo(at, 0o600); err != nil {
				return err
			}
		default:
			b, err := tr.ReadFile(name, 1<<24)
			if err != nil {
				return err
			}
			if err := os.WriteFile(at, b, 0o600); err != nil {
				return err
			}
		}
		if !n.IsDir() {
			first[n] = at
		}
		times = append(times, func() error { return os.Chtimes(at, n.ModTime, n.ModTime) })
		return os.Chmod(at, n.FileMode()&os.ModePerm|0o600)
	})
	for i := len(times) - 1; i >= 0 && err == nil; i-- { // children before parents
		err = times[i]()
	}
	must(t, err)
	return dir
}

// narrow keeps of the times what mke2fs does: 32 bits, and not those of the
// root.
func narrow(tr *tree.Tree) *tree.Tree {
	_ = tr.Walk(func(_ string, n *tree.Node) error {
		n.ModTime = time.Unix(int64(int32(n.ModTime.Unix())), 0).UTC()
		return nil
	})
	tr.Root().ModTime = time.Time{}
	return tr
}

// TestReadMke2fs reads what mke2fs makes of a directory, with its features.
func TestReadMke2fs(t *testing.T) {
	mke2fs := tooltest.Require(t, "mke2fs", "e2fsprogs")
	src := treetest.Random(7, treetest.Options{Entries: 500, MaxSize: 50_000})
	for i := range 800 {
		must(t, src.Put(fmt.Sprintf("/%s-%d", strings.Repeat("n", i%100), i), tree.File(0o644, nil)))
	}
	must(t, src.Put("/large", tree.File(0o644, tree.Bytes(strings.Repeat("large", 1<<20)))))
	must(t, src.Put("/holes", tree.File(0o644, tree.Bytes("a"+strings.Repeat("\x00", 5<<20)+"b"))))
	dir := unpack(t, src)
	want, err := tree.FromDir(dir, tree.DirOptions{KeepOwners: true})
	must(t, err)
	narrow(want)
	for _, args := range []string{
		"-t ext2 -b 1024", "-t ext2 -b 4096 -I 128", "-t ext2 -O ^filetype,^sparse_super,^resize_inode", "-t ext2 -r 0 -b 1024", "-t ext3 -b 1024", "-t ext3 -b 2048 -O sparse_super2",
		"-t ext4", "-t ext4 -b 1024", "-t ext4 -b 2048 -O ^metadata_csum,uninit_bg", "-t ext4 -O ^64bit,metadata_csum_seed",
		"-t ext4 -O meta_bg,^resize_inode -b 1024", "-t ext4 -O ^extent,^64bit", "-t ext4 -O large_dir,mmp -I 512", "-t ext4 -b 65536 -N 3000 -O ^has_journal", "-t ext4 -O orphan_file,quota",
	} {
		t.Run(args, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "fs")
			must(t, mkfs(mke2fs, name, dir, "64M", strings.Fields(args)...))
			treetest.Equal(t, narrow(read(t, name)), want)
		})
	}
}
