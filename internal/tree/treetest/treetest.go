// Package treetest makes random trees and compares trees, for the tests of
// everything that stores them.
//
//	t := treetest.Random(seed, treetest.Options{Entries: 200})
//	... write, read back ...
//	treetest.Equal(tb, got, want)
package treetest

import (
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tree"
)

// Options says what a random tree may hold. All kinds of file, hard links and
// whole seconds are always in it.
type Options struct {
	Entries     int  // names, about
	MaxSize     int  // bytes of a file; 0 means 10000
	Xattrs      bool // extended attributes
	LinkedLinks bool // symbolic links with several names
	Sockets     bool
}

// Random makes a tree that depends on nothing but its arguments. Its names are
// of any bytes that a name may have, its times lie between 1970 and 2106, its
// devices within what Linux has.
func Random(seed uint64, o Options) *tree.Tree {
	if o.MaxSize == 0 {
		o.MaxSize = 10000
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), o: o, t: tree.New(), dirs: []string{"/"}}
	g.attributes(g.t.Root())
	for range o.Entries {
		g.entry()
	}
	return g.t
}

type generator struct {
	*rand.Rand
	o     Options
	t     *tree.Tree
	dirs  []string
	files []string // what can be linked
}

func (g *generator) entry() {
	dir := g.dirs[g.IntN(len(g.dirs))]
	name := path.Join(dir, g.name())
	if len(name) > 1000 || g.t.Get(name) != nil {
		return
	}
	kinds := 11
	if g.o.Sockets {
		kinds++
	}
	kind := g.IntN(kinds)
	if kind < 2 && len(g.files) > 0 {
		must(g.t.Link(g.files[g.IntN(len(g.files))], name))
		return
	}
	n := g.node(kind)
	g.attributes(n)
	must(g.t.Put(name, n))
	switch {
	case n.IsDir():
		g.dirs = append(g.dirs, name)
	case n.Type() != tree.TypeSymlink || g.o.LinkedLinks:
		g.files = append(g.files, name)
	}
}

func (g *generator) node(kind int) *tree.Node {
	perm := g.Uint32N(0o10000)
	switch kind {
	case 2, 3:
		return tree.Dir(perm)
	case 4:
		return tree.Symlink(strings.ReplaceAll(g.name(), "\n", "/") + "/..")
	case 5:
		return tree.Device(tree.TypeBlock, perm, g.Uint32N(1<<12), g.Uint32N(1<<20))
	case 6:
		return tree.Device(tree.TypeChar, perm, g.Uint32N(1<<12), g.Uint32N(1<<20))
	case 7:
		return &tree.Node{Mode: tree.TypeFIFO | perm}
	case 11:
		return &tree.Node{Mode: tree.TypeSocket | perm}
	}
	size := g.IntN(1 + g.IntN(g.o.MaxSize))
	if g.IntN(8) == 0 {
		size = size &^ 511 // the ends of blocks are where writers go wrong
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(g.Uint32() >> (g.IntN(4) * 7))
	}
	if size == 0 {
		return tree.File(perm, nil)
	}
	return tree.File(perm, tree.Bytes(b))
}

func (g *generator) attributes(n *tree.Node) {
	n.ModTime = time.Unix(g.Int64N(1<<32), 0).UTC()
	for _, id := range []*uint32{&n.UID, &n.GID} {
		switch g.IntN(4) {
		case 0:
			*id = g.Uint32()
		case 1:
			*id = g.Uint32N(70000)
		}
	}
	if g.o.Xattrs && g.IntN(4) == 0 {
		n.Xattrs = map[string][]byte{}
		for range 1 + g.IntN(3) {
			n.Xattrs["user."+g.name()] = []byte(g.name() + "\x00=\n")
		}
	}
}

// name is of letters mostly, else of any bytes, and at times as long as can be.
func (g *generator) name() string {
	length := 1 + g.IntN(12)
	if g.IntN(30) == 0 {
		length = 90 + g.IntN(tree.MaxName-100)
	}
	b := make([]byte, length)
	wild := g.IntN(5) == 0
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz-_. "[g.IntN(30)]
		if wild {
			b[i] = byte(1 + g.IntN(255))
		}
	}
	s := strings.ReplaceAll(string(b), "/", "\n")
	if s == "." || s == ".." {
		return "dots" + s
	}
	return s
}

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("treetest: %v", err))
	}
}

// Equal fails tb where the trees differ in names, metadata or contents, and
// shows the first lines of their manifests that do.
func Equal(tb testing.TB, got, want *tree.Tree) {
	tb.Helper()
	g, w := manifest(tb, got), manifest(tb, want)
	shown := 0
	for i := 0; i < max(len(g), len(w)) && shown < 5; i++ {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			shown++
			tb.Errorf("trees differ at line %d:\n got %.400s\nwant %.400s", i+1, a, b)
		}
	}
}

func manifest(tb testing.TB, t *tree.Tree) []string {
	tb.Helper()
	var b strings.Builder
	if err := tree.Manifest(&b, t); err != nil {
		tb.Fatal(err)
	}
	return strings.Split(b.String(), "\n")
}
