package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestMadeDisk: half a copy of a disk stayed in the lab's folder when the
// supervisor was killed while it made it.
func TestMadeDisk(t *testing.T) {
	dir := t.TempDir()
	kept, made := filepath.Join(dir, "anna.data"), madeDisk{Size: 4, Format: "ext4"}
	files := func() (names []string) {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			names = append(names, e.Name())
		}
		return names
	}
	f, named, err := newDraft(filepath.Join(t.TempDir(), "x"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	left := []string{"anna.data.made"}
	if named { // the file system does not know O_TMPFILE
		left = append(left, "anna.data.new")
	}
	broken := errors.New("killed here")
	half := func(f *os.File) error {
		f.WriteString("ha")
		if got := files(); !slices.Equal(got, left) {
			t.Errorf("a kill while the disk is made leaves %q", got)
		}
		return broken
	}
	if err := made.make(kept, half); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := os.WriteFile(kept+".new", []byte("of one that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := func(f *os.File) error {
		_, err := f.WriteString("disk")
		return err
	}
	for range 2 { // the second finds it
		if err := made.make(kept, whole); err != nil {
			t.Error(err)
		}
		whole = func(*os.File) error { return errors.New("made again") }
	}
	if got := files(); !slices.Equal(got, []string{"anna.data.img", "anna.data.made"}) {
		t.Errorf("there is %q", got)
	}
	if data, _ := os.ReadFile(kept + ".img"); string(data) != "disk" {
		t.Errorf("the disk holds %q", data)
	}
}

// TestGiveName: a file's name is its own, and a file that lost its other one gets none.
func TestGiveName(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name + ".new") // as in file systems that don't know O_TMPFILE
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := giveName(f, name); err != nil {
		t.Error(err)
	}
	if err := giveName(f, name); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(name), os.Remove(f.Name())); err != nil {
		t.Error(err)
	}
	if err := giveName(f, name); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
