package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"wolffia/internal/debian"
	"wolffia/internal/program"
	"wolffia/internal/store"
)

// UMLRequest asks for what [InstallLockedUML] needs from a suite of
// [UMLSuites]. Its answer is the lock.
func UMLRequest(suite, arch string) debian.Request {
	return debian.Request{Release: suite, Arch: arch, Packages: UMLPackages[:]}
}

// InstalledUML is a user-mode-linux in the store.
type InstalledUML struct {
	Path    string // of the executable, for machine.Spec.Kernel
	Release string // as uname -r prints it
}

const releaseFile = "release" // beside the executable

// InstallLockedUML gives the user-mode-linux that a lock has pinned, fetching
// and installing what the store does not have.
func InstallLockedUML(ctx context.Context, c *debian.Client, st *store.Store, lock *debian.Lock) (InstalledUML, error) {
	dir, err := st.CreateDir(ctx, "uml", lockKey(lock), func(dir string) error {
		u, err := c.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true})
		if err != nil {
			return err
		}
		defer u.Close()
		k, err := FromPackage(u.Tree)
		if err != nil {
			return err
		}
		if err := k.InstallUML(dir, u.Tree); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, releaseFile), []byte(k.Release+"\n"), 0o644)
	})
	if err != nil {
		return InstalledUML{}, fmt.Errorf("get user-mode-linux: %w", err)
	}
	release, err := os.ReadFile(filepath.Join(dir, releaseFile))
	if err != nil {
		return InstalledUML{}, fmt.Errorf("get user-mode-linux: %w", err)
	}
	return InstalledUML{Path: filepath.Join(dir, UMLName), Release: strings.TrimSpace(string(release))}, nil
}

// lockKey is a digest of the pinned packages and of how they are installed.
func lockKey(lock *debian.Lock) string {
	h := sha256.New()
	fmt.Fprintln(h, "uml 2", program.RuntimeLoader, lock.Digest())
	return hex.EncodeToString(h.Sum(nil))[:32]
}
