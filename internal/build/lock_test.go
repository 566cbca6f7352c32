package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

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
