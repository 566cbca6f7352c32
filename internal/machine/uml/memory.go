package uml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"wolffia/internal/machine"
)

// memoryDir finds a folder for the machine's memory, which is an unlinked file
// that the kernel maps, also for execution.
func (p *plan) memoryDir() (string, error) {
	candidates := []string{"/dev/shm"}
	for _, e := range p.spec.Env {
		if dir, ok := strings.CutPrefix(e, "TMPDIR="); ok && dir != "" {
			candidates = append(candidates, dir)
		}
	}
	candidates = append(candidates, p.spec.Dir)
	var why []error
	for _, dir := range candidates {
		err := takesMemory(dir, p.spec.Memory)
		if err == nil {
			return dir, nil
		}
		why = append(why, fmt.Errorf("%s: %w", dir, err))
	}
	e := &machine.StartError{
		Machine: p.spec.Name, Stage: "start",
		Cause: fmt.Sprintf("no folder takes the machine's memory (%d MiB)", p.spec.Memory>>20),
		Fix:   "ask for less memory, or set TMPDIR to a folder with room that is not mounted noexec",
		Err:   errors.Join(why...),
	}
	if errors.Is(e.Err, unix.EFBIG) {
		e.Fix = "raise the limit on the size of files (ulimit -f), or ask for less memory"
	}
	return "", e
}

// takesMemory tries what the kernel will do in dir.
func takesMemory(dir string, size int64) error {
	f, err := nameless(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	page, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map for execution: %w", err)
	}
	_ = unix.Munmap(page)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	if free := int64(fs.Bavail) * fs.Bsize; fs.Blocks > 0 && free < size {
		return fmt.Errorf("%d MiB are free", free>>20)
	}
	return nil
}

// nameless makes a file in dir that has no name, so that nothing is left of it
// whenever this process is killed; where the file system can't, it loses its name at
// once.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(dir, "wolffia-memory")), nil
	}
	f, err := os.CreateTemp(dir, "wolffia-memory-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
