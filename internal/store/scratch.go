package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// inWork holds the paths of this process' own folders, which need no look: a lab has
// one for each of its machines.
var inWork sync.Map

// Scratch makes a private folder below dir, usually [Folders.Runtime], for
// what a process needs while it runs: sockets, logs, keys. release removes it
// with all that is in it. Those of processes that died without are removed by
// the next call; a lock that the kernel drops tells them.
func Scratch(dir string) (path string, release func(), err error) {
	if err := PrivateDir(dir); err != nil {
		return "", nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil, fmt.Errorf("look for what is left over: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if _, mine := inWork.Load(path); e.IsDir() && !mine {
			sweepOne(path)
		}
	}
	for {
		path := filepath.Join(dir, rand.Text()[:10])
		if err := os.Mkdir(path, 0o700); err != nil {
			return "", nil, fmt.Errorf("make a folder to work in: %w", err)
		}
		fd, err := openRaw(path, unix.O_RDONLY|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) { // swept before it was locked
			continue
		}
		if err != nil {
			return "", nil, err
		}
		got, err := tryFlock(fd, unix.LOCK_EX)
		if err == nil && got && isAt(fd, path) {
			inWork.Store(path, nil)
			return path, func() {
				removeAll(path)
				unix.Close(fd)
				inWork.Delete(path)
			}, nil
		}
		unix.Close(fd)
		if err != nil {
			return "", nil, err
		}
	}
}
