package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"wolffia/internal/build"
	"wolffia/internal/event"
	"wolffia/internal/image/oci"
	"wolffia/internal/store"
)

// builtImage is the result's JSON form.
type builtImage struct {
	Image  string `json:"image"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // in bytes
	Path   string `json:"path"`
}

// deliver copies a built image to where it was asked for, whole or not at all.
func (o *buildVerb) deliver(env Env, art *build.Artifact, name string, format build.Format, folder bool) error {
	in, err := os.Open(art.Path)
	if err != nil {
		return fmt.Errorf("read the built image: %w", err)
	}
	defer in.Close()
	if o.out == "-" {
		if _, err := io.Copy(env.Stdout, in); err != nil {
			return fmt.Errorf("write the image to standard output: %w", err)
		}
		return nil
	}
	shown := o.out
	if folder {
		shown = filepath.Join(o.out, name+extension(format))
	}
	var sum string
	var size int64
	if format.Name == "oci" && !folder && wantsLayout(o.out) {
		sum, size, err = writeLayout(inDir(env.Dir, shown), in)
	} else {
		sum, size, err = writeWhole(inDir(env.Dir, shown), in)
	}
	if err != nil {
		return fmt.Errorf("write image %s to %s: %w", name, shown, err)
	}
	if o.json {
		return json.NewEncoder(env.Stdout).Encode(builtImage{name, sum, size, shown})
	}
	var out page
	out.printf("%s  %d  %s\n", sum, size, shown)
	return out.show(env)
}

// publish sends an OCI image to a registry.
func (o *buildVerb) publish(ctx context.Context, env Env, art *build.Artifact, name string, events event.Sink) error {
	folders, err := store.FoldersOf(env.Getenv)
	if err != nil {
		return err
	}
	// Not the folder of sockets, which is in memory: images are large.
	scratch, release, err := store.Scratch(filepath.Join(folders.State, "scratch"))
	if err != nil {
		return err
	}
	defer release()
	in, err := os.Open(art.Path)
	if err != nil {
		return fmt.Errorf("read the built image: %w", err)
	}
	defer in.Close()
	layout := filepath.Join(scratch, "layout")
	_, size, err := writeLayout(layout, in)
	if err != nil {
		return err
	}
	digest, err := oci.Push(ctx, layout, o.push, oci.RegistryOptions{Getenv: env.Getenv, Events: events})
	if err != nil {
		return err
	}
	sum := strings.TrimPrefix(digest, "sha256:")
	if o.json {
		return json.NewEncoder(env.Stdout).Encode(builtImage{name, sum, size, o.push})
	}
	var out page
	out.printf("%s  %d  %s\n", sum, size, o.push)
	return out.show(env)
}

// writeWhole copies in to a file that appears complete or not at all. A link
// is followed, and what is no regular file, such as a device, is written as it is.
func writeWhole(path string, in *os.File) (sum string, size int64, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return "", 0, err
		}
		// All of it: what is there already is not zeros.
		_, err = io.Copy(f, in)
		return finish(f, in, err)
	}
	// Nobody else's: two at once must not write to one file.
	temp := filepath.Join(filepath.Dir(path), ".wolffia-"+rand.Text()[:10])
	f, named, err := newDraft(temp, 0o666)
	if err != nil {
		return "", 0, err
	}
	err = copyData(f, in)
	if err == nil && !named {
		err = giveName(f, temp)
	}
	if sum, size, err = finish(f, in, err); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
		return "", 0, err
	}
	return sum, size, nil
}

// newDraft opens a new file to write to and to read. It has no name until
// [giveName] gives it one, so that nothing is left of it by whatever ends this
// process; in a file system that can't do that it is called temp.
func newDraft(temp string, mode os.FileMode) (f *os.File, named bool, err error) {
	if f, err = os.OpenFile(filepath.Dir(temp), unix.O_TMPFILE|os.O_RDWR, mode); err == nil {
		return f, false, nil
	}
	if err = os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	f, err = os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	return f, true, err
}

// giveName gives a file another name, which is not taken.
func giveName(f *os.File, path string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: path, Err: err}
	}
	return nil
}

// finish closes the copy f of in, and gives the digest and size of in. It is
// read twice, because the kernel copies faster than we do.
func finish(f, in *os.File, err error) (sum string, size int64, _ error) {
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	h := sha256.New()
	if _, err = in.Seek(0, io.SeekStart); err == nil {
		size, err = io.Copy(h, in)
	}
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// copyData copies in to a new file, but for its holes, so that a disk takes no
// more room than what is on it.
func copyData(f, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := f.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		start, err := in.Seek(off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return nil // a hole, to the end
		case errors.Is(err, unix.EINVAL):
			start, off = off, size // a file system that knows of none
		case err != nil:
			return err
		}
		if off < size {
			if off, err = in.Seek(start, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		if _, err := in.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(f, in, off-start); err != nil {
			return err
		}
	}
	return nil
}
