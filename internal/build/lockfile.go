package build

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/image/oci"
	"wolffia/internal/store"
)

// imagePin is which image of a registry a name stands for. In wolffia.lock it is a
// paragraph like those of the packages:
//
//	Image: debian:trixie
//	Architecture: amd64
//	Pinned: registry.example/library/debian@sha256:...
type imagePin struct{ image, arch, pinned string }

// locks are what a lock file holds.
type locks struct {
	packages debian.Locks
	images   []imagePin // sorted
}

const (
	imageField    = "Image: "
	imagePreamble = "\n# Images of registries, by the digests of their manifests.\n"
	maxLockFile   = 64 << 20
)

// readLocks reads a lock file. One that is missing holds none.
func readLocks(path string) (locks, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0) // not waiting for a FIFO's other end
	if errors.Is(err, os.ErrNotExist) {
		return locks{}, nil
	}
	if err != nil {
		return locks{}, fmt.Errorf("read lock file: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return locks{}, fmt.Errorf("read lock file %s: it is not a regular file; remove it", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxLockFile+1))
	if err == nil && len(data) > maxLockFile {
		err = fmt.Errorf("it has more than %d bytes", maxLockFile)
	}
	var l locks
	if err == nil {
		l, err = parseLocks(string(data))
	}
	if err != nil {
		return locks{}, fmt.Errorf("read lock file %s: %w; remove it, or make it anew with --update", path, err)
	}
	return l, nil
}

// parseLocks sorts the paragraphs.
func parseLocks(text string) (locks, error) {
	var l locks
	var rest strings.Builder
	for i, p := range strings.Split(text, "\n\n") {
		fields, ok := parsePin(p)
		if !ok {
			if i > 0 {
				rest.WriteString("\n\n")
			}
			rest.WriteString(p)
			continue
		}
		if fields.image == "" || fields.arch == "" || !strings.Contains(fields.pinned, "@sha256:") {
			return locks{}, fmt.Errorf("image %q has no architecture, or is not pinned by a digest", fields.image)
		}
		l.images = append(l.images, fields)
	}
	var err error
	l.packages, err = debian.ParseLocks([]byte(rest.String()))
	return l, err
}

// parsePin reads a paragraph about an image; others it leaves alone.
func parsePin(paragraph string) (p imagePin, ok bool) {
	for line := range strings.SplitSeq(strings.TrimSpace(paragraph), "\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case strings.HasPrefix(line, "#"):
		case name == "Image":
			p.image, ok = value, true
		case name == "Architecture":
			p.arch = value
		case name == "Pinned":
			p.pinned = value
		}
	}
	return p, ok
}

func (l locks) bytes() []byte {
	b := bytes.NewBuffer(l.packages.Bytes())
	if len(l.images) > 0 {
		b.WriteString(imagePreamble)
	}
	for i, p := range l.images {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(p.text())
	}
	return b.Bytes()
}

func (p imagePin) text() string {
	return fmt.Sprintf("%s%s\nArchitecture: %s\nPinned: %s\n", imageField, p.image, p.arch, p.pinned)
}

// find gives what an image is pinned to, or "".
func (l locks) find(image, arch string) string {
	for _, p := range l.images {
		if p.image == image && p.arch == arch {
			return p.pinned
		}
	}
	return ""
}

// put pins an image, in the place of what it was pinned to.
func (l locks) put(add imagePin) locks {
	l.images = slices.DeleteFunc(slices.Clone(l.images), func(p imagePin) bool { return p.image == add.image && p.arch == add.arch })
	l.images = append(l.images, add)
	slices.SortFunc(l.images, func(a, b imagePin) int { return cmp.Or(cmp.Compare(a.image, b.image), cmp.Compare(a.arch, b.arch)) })
	return l
}

// pinImage says which image of a registry a name stands for: as the lock file
// has it, else as the registry has it now. A name with a digest stands for
// itself.
func (b *Builder) pinImage(ctx context.Context, image, arch string) (string, error) {
	if strings.Contains(image, "@sha256:") {
		return image, nil
	}
	if b.LockFile == "" {
		return b.storedPin(ctx, image, arch)
	}
	l, err := readLocks(b.LockFile)
	if err != nil && !b.Update {
		return "", &LockFileError{err}
	}
	if pinned := l.find(image, arch); pinned != "" && !b.Update {
		return pinned, nil
	}
	pinned, err := b.resolveImage(ctx, image, arch)
	if err != nil {
		return "", err
	}
	b.writeLocks(l.put(imagePin{image, arch, pinned}))
	return pinned, nil
}

// writeLocks writes the lock file. A folder that can't be written to is no reason
// not to go on.
func (b *Builder) writeLocks(l locks) {
	if err := debian.WriteLockFile(b.LockFile, l.bytes()); err != nil {
		event.Or(b.Events).Emit(event.Event{Kind: event.Warn, Task: "pin packages", Message: fmt.Sprintf("packages are not pinned: %v", err)})
	}
}

func (b *Builder) resolveImage(ctx context.Context, image, arch string) (string, error) {
	if b.Offline {
		return "", &debian.OfflineError{What: "image " + image}
	}
	events := event.Or(b.Events)
	e := event.Event{Kind: event.Begin, Task: "resolve", Subject: image}
	events.Emit(e)
	pinned, err := oci.Resolve(ctx, image, b.registry(arch))
	e.Kind = event.Done
	if err != nil {
		e.Kind, e.Message = event.Fail, err.Error()
	}
	events.Emit(e)
	return pinned, err
}

func (b *Builder) registry(arch string) oci.RegistryOptions {
	return oci.RegistryOptions{Arch: arch, Getenv: b.Getenv, Events: b.Events}
}

// storedPin keeps the pin of those who keep no file, for a day, as
// [Builder.storedLock] does for packages.
func (b *Builder) storedPin(ctx context.Context, image, arch string) (string, error) {
	key := digest([]byte("image\n" + image + "\n" + arch))
	old, checked := b.readStoredPin(key, image, arch)
	if old != "" && !b.Update && b.now().Sub(checked) < lockAge && b.now().After(checked) {
		return old, nil
	}
	pinned, err := b.resolveImage(ctx, image, arch)
	if err != nil && old != "" && !b.Update && ctx.Err() == nil {
		event.Or(b.Events).Emit(event.Event{Kind: event.Warn, Task: "resolve", Subject: image, Message: fmt.Sprintf("taking the image that %s was on %s: %v", image, checked.Format(time.DateOnly), err)})
		return old, nil
	}
	if err != nil {
		return "", err
	}
	_, err = b.Store.Replace(ctx, kindLock, key, func(f *os.File) error {
		_, err := fmt.Fprintf(f, "%s\n%s", b.now().UTC().Format(time.RFC3339), imagePin{image, arch, pinned}.text())
		return err
	})
	if errors.As(err, new(*store.ReadOnlyError)) {
		err = nil // the next run asks again
	}
	return pinned, err
}

func (b *Builder) readStoredPin(key, image, arch string) (string, time.Time) {
	f, ok := b.Store.Open(kindLock, key)
	if !ok {
		return "", time.Time{}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err != nil {
		return "", time.Time{}
	}
	stamp, rest, _ := strings.Cut(string(data), "\n")
	checked, err := time.Parse(time.RFC3339, stamp)
	p, ok := parsePin(rest)
	if err != nil || !ok || p.image != image || p.arch != arch || p.pinned == "" {
		return "", time.Time{}
	}
	return p.pinned, checked
}
