package cli

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// wantsLayout reports whether an OCI image is to become a folder: a name that
// ends in a slash, of one that is not there yet.
func wantsLayout(out string) bool { return strings.HasSuffix(out, "/") }

// writeLayout unpacks the archive in, an OCI layout that was made here, into a
// new folder, which appears complete or not at all. It gives the digest of the
// image in it and the size of its files.
func writeLayout(path string, in io.Reader) (sum string, size int64, err error) {
	path = filepath.Clean(path)
	temp, err := os.MkdirTemp(filepath.Dir(path), ".wolffia-*")
	if err != nil {
		return "", 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if size, err = untar(temp, in); err != nil {
		return "", 0, err
	}
	text, err := os.ReadFile(filepath.Join(temp, "index.json"))
	if err != nil {
		return "", 0, err
	}
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err = json.Unmarshal(text, &index); err == nil && len(index.Manifests) != 1 {
		err = fmt.Errorf("the layout has %d images, not one", len(index.Manifests))
	}
	if err != nil {
		return "", 0, err
	}
	if err = os.Chmod(temp, 0o755); err == nil {
		err = os.Rename(temp, path)
	}
	return strings.TrimPrefix(index.Manifests[0].Digest, "sha256:"), size, err
}

// untar unpacks an archive of files and folders that was made here.
func untar(dir string, in io.Reader) (size int64, err error) {
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return 0, err
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(name, 0o755); err != nil {
				return 0, err
			}
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return 0, err
		}
		n, err := io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return 0, err
		}
		size += n
	}
}
