package tree

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Manifest writes one line of text for each name in [Tree.Walk]'s order, with
// everything that the tree holds about it, contents as their SHA-256:
//
//	"/bin/busybox" -0755 0:0 1700000000 928188 sha256:03ac67...
//	"/bin/busybox.old" -0755 0:0 1700000000 928188 sha256:03ac67... links="/bin/busybox"
//	"/bin/sh" l0777 0:0 0 -> "busybox"
//
// The further names of a hard link repeat its attributes and give, as links=,
// the first name. Two trees have the same manifest exactly if they have the
// same names, metadata and contents. The form may change between versions.
//
// A content of more than 16 MiB is listed as sha256-blocks: the SHA-256 of those
// of its blocks of 64 KiB that are not all zeros, each after its number (8 bytes,
// big endian), so that the holes of a [Sparse] content are never read.
func Manifest(w io.Writer, t *Tree) error {
	out := bufio.NewWriterSize(w, 64<<10)
	first := map[*Node]string{}
	sums := map[*Node]string{}
	err := t.Walk(func(name string, n *Node) error {
		if !n.IsDir() && first[n] == "" {
			first[n] = name
			sum, err := contentSum(n)
			if err != nil {
				return fmt.Errorf("read %q: %w", name, err)
			}
			sums[n] = sum
		}
		writeLine(out, name, n, sums[n])
		if link := first[n]; link != "" && link != name {
			fmt.Fprintf(out, " links=%q", link)
		}
		return out.WriteByte('\n')
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// Digest is the SHA-256 of the tree's [Manifest].
func Digest(t *Tree) ([sha256.Size]byte, error) {
	h := sha256.New()
	err := Manifest(h, t)
	return [sha256.Size]byte(h.Sum(nil)), err
}

var typeLetters = map[uint32]byte{
	TypeDir: 'd', TypeSymlink: 'l', TypeBlock: 'b', TypeChar: 'c',
	TypeFIFO: 'p', TypeSocket: 's', TypeRegular: '-',
}

func writeLine(out *bufio.Writer, name string, n *Node, sum string) {
	fmt.Fprintf(out, "%q %c%04o %d:%d %s", name, typeLetters[n.Type()], n.Mode&0o7777, n.UID, n.GID, timestamp(n.ModTime))
	switch n.Type() {
	case TypeRegular:
		fmt.Fprintf(out, " %d %s", n.Size(), sum)
	case TypeSymlink:
		fmt.Fprintf(out, " -> %q", n.Target)
	case TypeBlock, TypeChar:
		fmt.Fprintf(out, " %d,%d", n.Major, n.Minor)
	}
	for _, k := range slices.Sorted(maps.Keys(n.Xattrs)) {
		fmt.Fprintf(out, " %q=%q", k, n.Xattrs[k])
	}
}

// timestamp is seconds since the epoch, with nanoseconds where there are any.
func timestamp(t time.Time) string {
	switch {
	case t.IsZero():
		return "0"
	case t.Nanosecond() == 0:
		return fmt.Sprint(t.Unix())
	}
	return fmt.Sprintf("%d+%dns", t.Unix(), t.Nanosecond())
}
