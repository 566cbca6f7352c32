package ext4

import (
	"bytes"
	"os"
	"testing"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// open opens an image for as long as the test runs.
func open(t testing.TB, name string) *FS {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := Open(f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// read reads an image's tree.
func read(t testing.TB, name string) *tree.Tree {
	t.Helper()
	tr, err := open(t, name).Tree(TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestRandomRoundTrip(t *testing.T) {
	kinds(t, func(t *testing.T, o Options) {
		for seed := range uint64(3) {
			tr := treetest.Random(seed, treetest.Options{Entries: 700, Xattrs: true, LinkedLinks: true, Sockets: true, MaxSize: 30000})
			name := image(t, tr, o)
			fsck(t, name)
			treetest.Equal(t, read(t, name), tr)
		}
	})
}

func TestReproducible(t *testing.T) {
	tr := func() *tree.Tree {
		return treetest.Random(1, treetest.Options{Entries: 500, Xattrs: true, MaxSize: 100000})
	}
	one, err := os.ReadFile(image(t, tr(), Options{Checksums: true}))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(image(t, tr(), Options{Checksums: true}))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same tree gave other bytes")
	}
}

func TestMonsterRoundTrip(t *testing.T) {
	sizes(t, func(t *testing.T, o Options) {
		tr := monster(t, o)
		name := image(t, tr, o)
		fsck(t, name)
		got := read(t, name)
		sameMonster(t, got, tr)
		for _, name := range []string{"/reaches", "/comb", "/hole"} {
			got.Remove(name)
			tr.Remove(name)
		}
		treetest.Equal(t, got, tr)
	})
}

func TestCrowdRoundTrip(t *testing.T) {
	tr := crowd(t)
	want, err := tree.Digest(tr)
	must(t, err)
	sizes(t, func(t *testing.T, o Options) {
		name := image(t, tr, o)
		fsck(t, name)
		if got, err := tree.Digest(read(t, name)); err != nil || got != want {
			t.Errorf("another tree is read back, %v", err)
		}
		must(t, os.Remove(name)) // they are large
	})
}
