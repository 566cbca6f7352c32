package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Folders are the places that a person's wolffia keeps things in, by the XDG
// Base Directory Specification. They need not exist.
type Folders struct {
	Cache   string // can be made again from the network; WOLFFIA_CACHE overrides
	State   string // labs, journals, keys: survives a reboot
	Runtime string // sockets and locks: gone with the session or a reboot
}

// FoldersOf works out the folders from an environment, given as a lookup such
// as os.Getenv. It touches no file.
func FoldersOf(getenv func(string) string) (Folders, error) {
	cache, err := xdg(getenv, "WOLFFIA_CACHE", "XDG_CACHE_HOME", ".cache")
	if err != nil {
		return Folders{}, err
	}
	state, err := xdg(getenv, "WOLFFIA_STATE", "XDG_STATE_HOME", ".local/state")
	if err != nil {
		return Folders{}, err
	}
	runtime := filepath.Join(tempDir(getenv), fmt.Sprintf("wolffia-%d", os.Getuid()))
	if d := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		runtime = filepath.Join(d, "wolffia")
	}
	return Folders{Cache: cache, State: state, Runtime: runtime}, nil
}

// xdg gives the folder named by the variable own as it stands, else "wolffia"
// below the folder named by base, else below $HOME/rel. Relative base folders
// are ignored, as the specification asks.
func xdg(getenv func(string) string, own, base, rel string) (string, error) {
	if d := getenv(own); d != "" {
		if !filepath.IsAbs(d) {
			return "", fmt.Errorf("%s is %q: it must be an absolute path", own, d)
		}
		return filepath.Clean(d), nil
	}
	if d := getenv(base); filepath.IsAbs(d) {
		return filepath.Join(d, "wolffia"), nil
	}
	if d := getenv("HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, rel, "wolffia"), nil
	}
	return "", errors.New("no home folder is known: set HOME, or both WOLFFIA_CACHE and WOLFFIA_STATE to folders that can be written")
}

func tempDir(getenv func(string) string) string {
	if d := getenv("TMPDIR"); filepath.IsAbs(d) {
		return d
	}
	return "/tmp"
}

// PrivateDir makes the folder dir and its missing parents, and sees to it that
// dir is a folder of this user that nobody else can enter (mode 0700). It is
// meant for the runtime folder, which may lie in a place where everybody
// writes: somebody else's folder, or a link, of that name is an error. So is one
// inside a folder of somebody else, who could put another in its place later.
func PrivateDir(dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("make private folder: %w; set TMPDIR to a folder that can be written", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(parent, &st); err != nil {
		return fmt.Errorf("check private folder: %w", &os.PathError{Op: "stat", Path: parent, Err: err})
	}
	if !trusted(int(st.Uid), os.Getuid()) {
		return fmt.Errorf("check private folder: %s belongs to user %d, not to you (%d); set XDG_RUNTIME_DIR to a folder of your own", parent, st.Uid, os.Getuid())
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make private folder: %w; set TMPDIR to a folder that can be written", err)
	}
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("check private folder: %w", &os.PathError{Op: "lstat", Path: dir, Err: err})
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("check private folder: %s is not a folder; remove it, or set XDG_RUNTIME_DIR", dir)
	case int(st.Uid) != os.Getuid():
		return fmt.Errorf("check private folder: %s belongs to user %d, not to you (%d); remove it, or set XDG_RUNTIME_DIR", dir, st.Uid, os.Getuid())
	case st.Mode&0o077 != 0:
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("close private folder to others: %w", err)
		}
	}
	return nil
}

// trusted says whether a folder's owner may decide about what a user keeps in
// it: the user, root, or, in a user namespace, whoever has no number there, such
// as the real root who owns /tmp.
func trusted(owner, user int) bool {
	const overflow = 65534 // /proc/sys/kernel/overflowuid
	return owner == user || owner == 0 || owner == overflow
}
