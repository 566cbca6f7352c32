package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"wolffia/internal/tree"
)

// archive writes newc archives, enough for a kernel to boot from.
func archive(t testing.TB, trees ...*tree.Tree) []byte {
	t.Helper()
	var out bytes.Buffer
	pad := func() {
		for out.Len()%4 != 0 {
			out.WriteByte(0)
		}
	}
	ino := 0
	entry := func(name string, n *tree.Node, body []byte) {
		ino++
		fmt.Fprintf(&out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			ino, n.Mode, n.UID, n.GID, 1, 0, len(body), 0, 0, n.Major, n.Minor, len(name)+1, 0)
		out.WriteString(name + "\x00")
		pad()
		out.Write(body)
		pad()
	}
	for _, tr := range trees {
		must(t, tr.Walk(func(name string, n *tree.Node) error {
			if name == "/" {
				return nil
			}
			body := []byte(n.Target)
			if n.Type() == tree.TypeRegular {
				r, err := n.Open()
				if err != nil {
					return err
				}
				defer r.Close()
				if body, err = io.ReadAll(r); err != nil {
					return err
				}
			}
			entry(strings.TrimPrefix(name, "/"), n, body)
			return nil
		}))
		entry("TRAILER!!!", &tree.Node{}, nil)
	}
	return out.Bytes()
}
