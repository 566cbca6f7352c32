package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"wolffia/internal/debian"
	"wolffia/internal/store"
)

// TestDamagedLockFile: the error says that Update makes a lock file anew, which
// then failed at the same place.
func TestDamagedLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wolffia.lock")
	if err := os.WriteFile(path, []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b := Builder{Store: st, LockFile: path, Client: debian.New(debian.Options{Store: st, MirrorErr: &debian.NoMirrorError{}})}
	req := debian.Request{Release: "trixie", Arch: "amd64", Packages: []string{"busybox-static"}}
	var bad *LockFileError
	if _, err := b.Lock(context.Background(), req); !errors.As(err, &bad) {
		t.Errorf("%v", err)
	}
	var none *debian.NoMirrorError
	b.Update = true
	if _, err := b.Lock(context.Background(), req); !errors.As(err, &none) {
		t.Errorf("to be made anew: %v", err)
	}
}

// TestLockFileIsNone: a FIFO by the lock file's name was waited for.
func TestLockFileIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wolffia.lock")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLocks(path); err == nil || !strings.Contains(err.Error(), "it is not a regular file") {
		t.Error(err)
	}
}
