package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// OverlayFormat is how a backend writes the files of [Disk].Overlay.
type OverlayFormat interface {
	// Name is the format's, by which one backend knows that an overlay is
	// another's.
	Name() string
	// Create writes an overlay in which nothing was written, over the disk's
	// image, into an empty file.
	Create(overlay *os.File, disk Disk) error
	// Reopen looks at an overlay that was used before over the same image, open
	// for reading and writing, and makes it fit for use.
	Reopen(overlay *os.File, disk Disk) error
}

// recordSuffix ends the name of the file that lies beside an overlay: it says
// what the overlay was made over, and is locked while a machine uses it.
const recordSuffix = ".base"

// overlayRecord is the content of that file.
type overlayRecord struct {
	Format  string    `json:"format"`
	Base    string    `json:"base,omitempty"` // Disk.Base
	Path    string    `json:"path"`
	Size    int64     `json:"size"` // bytes
	Changed time.Time `json:"changed"`
}

// overlayPatience is how long an overlay may be in use before that is an error:
// a machine whose owner was killed needs an instant to die.
const overlayPatience = 2 * time.Second

// HoldDisks makes the overlays of s that are not there yet, and looks whether
// the others fit. They, and the images that s writes to, belong to the machine,
// and nobody writes to the other images, for as long as any process has the files
// open that it gives, of which there are [Spec.DiskLocks]. A disk that can't be
// used is a [*StartError].
func (s *Spec) HoldDisks(ctx context.Context, format OverlayFormat) (locks []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, l := range locks {
				l.Close()
			}
			locks = nil
		}
	}()
	for i, d := range s.Disks {
		lock, err := lockImage(ctx, d)
		if err == nil {
			locks = append(locks, lock)
		}
		if err == nil && d.Overlay != "" {
			if lock, err = lockOverlay(ctx, d.Overlay); err == nil {
				locks = append(locks, lock)
				err = readyOverlay(lock, d, format)
			}
		}
		var known *overlayError
		switch {
		case errors.As(err, &known):
			return locks, &StartError{Machine: s.Name, Stage: "start", Cause: fmt.Sprintf("disk %d: %s", i, known.cause), Fix: known.fix, Err: known.err}
		case err != nil:
			return locks, fmt.Errorf("disk %d: %w", i, err)
		}
	}
	return locks, nil
}

// DiskLocks says how many files [Spec.HoldDisks] gives.
func (s *Spec) DiskLocks() int { return len(s.Disks) + s.Overlays() }

// Overlays counts the disks of s that have one.
func (s *Spec) Overlays() (n int) {
	for _, d := range s.Disks {
		if d.Overlay != "" {
			n++
		}
	}
	return n
}

// lockImage keeps others from writing to the image of d, and from reading it if d
// itself is written to.
func lockImage(ctx context.Context, d Disk) (*os.File, error) {
	how, what := unix.LOCK_SH, "it is written to"
	if d.Persistent && !d.ReadOnly {
		how, what = unix.LOCK_EX, "it is in use"
	}
	giveUp := time.Now().Add(overlayPatience)
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOLCK): // a file system without locks
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: d.Path, Err: err}
		case time.Now().After(giveUp):
			f.Close()
			return nil, &overlayError{cause: fmt.Sprintf("the image %s can't be used: %s by another machine", d.Path, what), fix: "stop that machine first, or give this one an image of its own"}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// RemoveOverlay removes an overlay, if there is one, with what belongs to it.
// That a machine uses it is an error.
func RemoveOverlay(path string) error {
	if _, err := os.Lstat(path + recordSuffix); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	lock, err := lockOverlay(context.Background(), path)
	if err != nil {
		return fmt.Errorf("remove volume: %w", err)
	}
	defer lock.Close()
	for _, name := range []string{path, path + newSuffix, path + recordSuffix} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove volume: %w", err)
		}
	}
	return nil
}

// overlayError is an overlay, or an image, that can't be used, for a reason that the person can
// do something about.
type overlayError struct {
	cause, fix string
	err        error
}

func (e *overlayError) Error() string { return e.cause }

func (e *overlayError) Fix() string { return e.fix }

func (e *overlayError) Unwrap() error { return e.err }

const fixVolume = "go back to the image that it was made over, or drop what was written on it: wolffia down --volumes"

// lockOverlay opens the record of an overlay, and keeps others from it.
func lockOverlay(ctx context.Context, path string) (*os.File, error) {
	giveUp := time.Now().Add(overlayPatience)
	for {
		f, err := os.OpenFile(path+recordSuffix, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		switch err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil && isAt(f, path+recordSuffix):
			return f, nil
		case err == nil: // it was removed meanwhile
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		case time.Now().After(giveUp):
			f.Close()
			return nil, &overlayError{cause: "the volume " + path + " is in use by another machine", fix: "stop that machine first, or give this one a volume of its own"}
		}
		f.Close()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// isAt reports whether f is still the file called name.
func isAt(f *os.File, name string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(name)
	return err == nil && os.SameFile(mine, there)
}

// readyOverlay makes the overlay of d, whose record is locked, or looks whether
// the one that is there fits.
func readyOverlay(record *os.File, d Disk, format OverlayFormat) error {
	now, err := describeBase(d, format.Name())
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.Overlay, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return createOverlay(record, now, d, format)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	was, err := readRecord(record)
	if err != nil {
		return &overlayError{cause: "it can't be told what the volume " + d.Overlay + " was made over", fix: fixVolume, err: err}
	}
	if err := was.fits(d.Overlay, now); err != nil {
		return err
	}
	if err := format.Reopen(f, d); err != nil {
		return &overlayError{cause: "the volume " + d.Overlay + " is damaged", fix: "drop what was written on it: wolffia down --volumes", err: err}
	}
	return nil
}

// CheckOverlay foresees what [Spec.HoldDisks] would refuse of the overlay of d, if
// there is one. It touches nothing, and of a disk with a Base it needs no image:
// Path is only shown. format is the backend's [OverlayFormat].Name; where it is
// empty that is not looked at, and neither is an empty Base with an empty Path.
func CheckOverlay(d Disk, format string) error {
	if _, err := os.Lstat(d.Overlay); err != nil {
		return nil
	}
	f, err := os.Open(d.Overlay + recordSuffix)
	if err != nil {
		return nil // HoldDisks says what becomes of that
	}
	defer f.Close()
	was, err := readRecord(f)
	if err != nil {
		return nil
	}
	now := was
	switch {
	case d.Base != "":
		now.Base, now.Path = d.Base, d.Path
	case d.Path != "":
		if now, err = describeBase(d, was.Format); err != nil {
			return err
		}
	}
	if format != "" {
		now.Format = format
	}
	return was.fits(d.Overlay, now)
}

// fits refuses an overlay that was made over r, and would be used over now.
func (r overlayRecord) fits(overlay string, now overlayRecord) error {
	why := r.differs(now)
	if why == "" {
		return nil
	}
	e := &overlayError{cause: "the volume " + overlay + " " + why, fix: fixVolume}
	if r.Format != now.Format {
		e.fix = "use that backend again, or drop what was written on it: wolffia down --volumes"
	}
	return e
}

// differs says what keeps an overlay that was made over r from being used over
// now.
func (r overlayRecord) differs(now overlayRecord) string {
	switch {
	case r.Format != now.Format:
		return fmt.Sprintf("was written by another backend, as a file of format %s, not %s", r.Format, now.Format)
	case r.Base != now.Base || r.Base == "" && r.Path != now.Path:
		return fmt.Sprintf("was made over another image (%s) than the machine has now (%s)", r.Path, now.Path)
	case r.Size != now.Size || r.Base == "" && !r.Changed.Equal(now.Changed):
		return fmt.Sprintf("was made over %s, which has changed since", r.Path)
	}
	return ""
}

func describeBase(d Disk, format string) (overlayRecord, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return overlayRecord{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return overlayRecord{}, err
	}
	size, err := f.Seek(0, io.SeekEnd) // of a block device, too
	if err != nil {
		return overlayRecord{}, err
	}
	return overlayRecord{Format: format, Base: d.Base, Path: d.Path, Size: size, Changed: info.ModTime().UTC()}, nil
}

// newSuffix ends the name of an overlay that is being made.
const newSuffix = ".new"

// createOverlay makes an overlay. The record comes first: while there is no
// overlay, nobody minds what it says.
func createOverlay(record *os.File, now overlayRecord, d Disk, format OverlayFormat) (err error) {
	text, err := json.MarshalIndent(now, "", "\t")
	if err != nil {
		return err
	}
	if err := record.Truncate(0); err != nil {
		return err
	}
	if _, err := record.WriteAt(append(text, '\n'), 0); err != nil {
		return err
	}
	if err := record.Sync(); err != nil {
		return err
	}
	f, err := os.OpenFile(d.Overlay+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(format.Create(f, d), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), d.Overlay)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("make the volume %s: %w", d.Overlay, err)
	}
	return nil
}

// maxRecord bounds a record, in bytes; it holds a path and a key.
const maxRecord = 64 << 10

func readRecord(f *os.File) (r overlayRecord, err error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxRecord))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return r, nil
}
