package debug

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Symbols is the folder in which gdb has to look for what was found in dir:
// usr/lib/debug below it, where packages with debug symbols were unpacked there
// (deb: NAME-dbgsym), or dir itself.
func Symbols(dir string) string {
	if below := filepath.Join(dir, "usr/lib/debug"); isFolder(below) {
		return below
	}
	return dir
}

// KernelSymbols finds the vmlinux of a kernel of that release ("6.12.0-amd64")
// in dir: a file itself, the folder that the kernel was built in, or one with
// the package linux-image-RELEASE-dbg unpacked. Where there is none, the error
// wraps [fs.ErrNotExist].
func KernelSymbols(dir, release string) (string, error) {
	if info, err := os.Stat(dir); err != nil {
		return "", err
	} else if info.Mode().IsRegular() {
		return dir, nil
	}
	for _, name := range []string{
		"vmlinux", "vmlinux-" + release,
		"usr/lib/debug/boot/vmlinux-" + release, "usr/lib/debug/lib/modules/" + release + "/vmlinux",
		"boot/vmlinux-" + release, "lib/modules/" + release + "/vmlinux",
	} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", &fs.PathError{Op: "find the vmlinux of kernel " + release + " in", Path: dir, Err: fs.ErrNotExist}
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
