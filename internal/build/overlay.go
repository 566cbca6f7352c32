package build

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// overlays names what an image brings from the host by its content.
func (b *Builder) overlays(img *lab.Image) ([]string, error) {
	var out []string
	for _, f := range img.Files {
		if f.From == "" {
			continue
		}
		from := f.From
		if !filepath.IsAbs(from) {
			from = filepath.Join(b.Dir, from)
		}
		d, err := hostDigest(from, f.Libraries)
		if err != nil {
			return nil, &rootfs.Error{Part: "file", Name: f.Path, Err: err}
		}
		out = append(out, d)
	}
	return out, nil
}

// hostDigest names a file or folder of the host, and the libraries that a
// program needs, by content, names and permissions.
func hostDigest(from string, libraries bool) (string, error) {
	info, err := os.Stat(from)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		t, err := tree.FromDir(from, tree.DirOptions{})
		if err != nil {
			return "", err
		}
		// Times don't come along; they must not make the same folder another.
		t.Walk(func(_ string, n *tree.Node) error { n.ModTime = time.Unix(0, 0); return nil })
		sum, err := tree.Digest(t)
		return hex.EncodeToString(sum[:]), err
	}
	if !info.Mode().IsRegular() { // a pipe would never end
		return "", fmt.Errorf("%s is neither a file nor a folder", from)
	}
	h := sha256.New()
	if err := hashFile(h, from, info.Mode()); err != nil {
		return "", err
	}
	if libraries {
		libs, err := rootfs.HostLibraries(from)
		if err != nil {
			return "", err
		}
		for _, f := range libs.Files {
			if err := hashFile(h, f, 0); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hashFile(h io.Writer, path string, mode os.FileMode) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(h, "%s %v\n", filepath.Base(path), mode.Perm()&0o111 != 0)
	n, err := io.Copy(h, f)
	fmt.Fprintf(h, "\n%d\n", n)
	return err
}
