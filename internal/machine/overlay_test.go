package machine

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// plainFormat is an overlay of one word.
type plainFormat struct{ made *atomic.Int32 }

func (plainFormat) Name() string { return "plain" }

func (p plainFormat) Create(f *os.File, d Disk) error {
	p.made.Add(1)
	_, err := f.WriteString("good")
	return err
}

func (plainFormat) Reopen(f *os.File, d Disk) error {
	if b, err := io.ReadAll(f); string(b) != "good" {
		return errors.Join(err, errors.New("no good"))
	}
	return nil
}

func overlaySpec(t *testing.T) Spec {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, []byte("base"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Spec{Name: "alice", Disks: []Disk{{Path: image}, {Path: image, Format: Raw, Overlay: filepath.Join(t.TempDir(), "volume")}}}
}

// Of many that want an overlay at once each has it alone, whoever makes or
// removes it meanwhile.
func TestOverlayIsHeldByOne(t *testing.T) {
	spec := overlaySpec(t)
	var made, holders atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				locks, err := spec.HoldDisks(t.Context(), plainFormat{&made})
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) != 1 {
					t.Error("two have it")
				}
				holders.Add(-1)
				for _, l := range locks {
					l.Close()
				}
				if i == 0 {
					if err := RemoveOverlay(spec.Disks[1].Overlay); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := made.Load(); n < 1 || n > 21 {
		t.Errorf("made %d times", n)
	}
}

// An image that is written to has nobody else, and one that is read has any
// number, none of whom writes.
func TestImageHasOneWriter(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second Disk
		cause         string
	}{
		{"two writers", Disk{Persistent: true}, Disk{Persistent: true}, "it is in use by another machine"},
		{"a writer behind a reader", Disk{ReadOnly: true, Persistent: true}, Disk{Persistent: true}, "it is in use by another machine"},
		{"a copy behind a writer", Disk{Persistent: true}, Disk{}, "it is written to by another machine"},
		{"two readers", Disk{}, Disk{ReadOnly: true}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			image := overlaySpec(t).Disks[0].Path
			hold := func(d Disk) (func(), error) {
				d.Path = image
				spec := Spec{Name: "alice", Disks: []Disk{d}}
				locks, err := spec.HoldDisks(t.Context(), plainFormat{})
				if err == nil && len(locks) != spec.DiskLocks() {
					t.Errorf("%d locks of %d", len(locks), spec.DiskLocks())
				}
				return func() {
					for _, l := range locks {
						l.Close()
					}
				}, err
			}
			first, err := hold(c.first)
			if err != nil {
				t.Fatal(err)
			}
			second, err := hold(c.second)
			var e *StartError
			if errors.As(err, &e) != (c.cause != "") || e != nil && (!strings.Contains(e.Cause, c.cause) || e.Fix == "") {
				t.Errorf("%v", err)
			}
			second()
			first()
			again, err := hold(Disk{Persistent: true})
			if err != nil {
				t.Error(err)
			}
			again()
		})
	}
}

// What was left half-made is made again; what was not made here is not touched.
func TestOverlayLeftovers(t *testing.T) {
	spec := overlaySpec(t)
	at := spec.Disks[1].Overlay
	var made atomic.Int32
	for _, name := range []string{at + newSuffix, at + recordSuffix} {
		if err := os.WriteFile(name, []byte("{half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hold := func() error {
		locks, err := spec.HoldDisks(t.Context(), plainFormat{&made})
		for _, l := range locks {
			l.Close()
		}
		return err
	}
	if err := hold(); err != nil || made.Load() != 1 {
		t.Errorf("%v, made %d times", err, made.Load())
	}
	if err := hold(); err != nil || made.Load() != 1 {
		t.Errorf("%v, made %d times", err, made.Load())
	}
	for content, cause := range map[string]string{
		"":        "it can't be told what",
		"{half":   "it can't be told what",
		`{"x":1}`: "by another backend",
		"[" + strings.Repeat(" ", maxRecord) + "]": "it can't be told what",
	} {
		if err := os.WriteFile(at+recordSuffix, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var e *StartError
		if err := hold(); !errors.As(err, &e) || !strings.Contains(e.Cause, cause) || !strings.Contains(e.Fix, "--volumes") {
			t.Errorf("record %.20q: %v", content, err)
		}
	}
	if b, _ := os.ReadFile(at); string(b) != "good" {
		t.Errorf("the overlay holds %q", b)
	}
	if err := RemoveOverlay(at); err != nil {
		t.Error(err)
	}
	if err := RemoveOverlay(at); err != nil { // there is none
		t.Error(err)
	}
	spec.Disks[1].Overlay = filepath.Join(at, "in", "no", "folder")
	if err := hold(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
