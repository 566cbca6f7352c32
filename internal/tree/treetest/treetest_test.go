package treetest

import (
	"testing"

	"wolffia/internal/tree"
)

func TestRandomIsReproducible(t *testing.T) {
	o := Options{Entries: 300, Xattrs: true, LinkedLinks: true, Sockets: true}
	Equal(t, Random(1, o), Random(1, o))
	one, err := tree.Digest(Random(1, o))
	if err != nil {
		t.Fatal(err)
	}
	if two, _ := tree.Digest(Random(2, o)); one == two {
		t.Error("two seeds give one tree")
	}
}
