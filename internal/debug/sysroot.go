package debug

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"wolffia/internal/tree"
	"wolffia/internal/tree/hostdir"
)

// Sysroot puts the programs and libraries of an image into the empty folder dir
// of the host, for gdb: its ELF files, kernel modules aside, by the names that
// they have in the image. Links are made anew so that none leads out of dir,
// whatever the image holds, and nothing in dir can be executed. All is as old as
// now says: by the time that files have in images, gdb would take every source
// for newer than its program.
func Sysroot(ctx context.Context, dir string, t *tree.Tree, now time.Time) error {
	out, err := programs(t, now)
	if err != nil {
		return fmt.Errorf("find programs for gdb: %w", err)
	}
	w, err := hostdir.Open(dir, hostdir.Options{})
	if err != nil {
		return err
	}
	return errors.Join(w.Put(ctx, "", out.Root()), w.Close())
}

// programs is a tree of the ELF files of t, and of the links to them and to the
// folders that they are in.
func programs(t *tree.Tree, now time.Time) (*tree.Tree, error) {
	out := tree.New()
	copies := map[*tree.Node]*tree.Node{} // hard links stay
	var links []string
	err := t.Walk(func(name string, n *tree.Node) error {
		switch n.Type() {
		case tree.TypeSymlink:
			links = append(links, name)
		case tree.TypeRegular:
			made := copies[n]
			if made == nil {
				yes, err := isProgram(n)
				if err != nil || !yes {
					return err
				}
				made = tree.File(0o644, n.Content)
				made.ModTime = now
				copies[n] = made
			}
			if err := out.MkdirAll(path.Dir(name), 0o755); err != nil {
				return err
			}
			return out.Put(name, made)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Links to folders come second: there may be nothing but links in one.
	return out, errors.Join(link(out, t, links, false), link(out, t, links, true))
}

// link makes those links of t in out that lead to folders, or to files, there.
func link(out, t *tree.Tree, links []string, folders bool) error {
	for _, name := range links {
		real, n, err := t.Resolve(name)
		if err != nil || n.IsDir() != folders || out.Get(real) == nil || strings.HasPrefix(name+"/", real+"/") {
			continue // it leads to nothing that matters
		}
		dir := path.Dir(name)
		if err := out.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := out.Put(name, tree.Symlink(relative(dir, real))); err != nil {
			return err
		}
	}
	return nil
}

// relative is the way from a folder to a file, both without links.
func relative(dir, file string) string {
	up := ""
	for dir != "/" && !strings.HasPrefix(file, dir+"/") {
		dir = path.Dir(dir)
		up += "../"
	}
	return up + strings.TrimPrefix(strings.TrimPrefix(file, dir), "/")
}

// isProgram says whether a file is an ELF file of those that processes map.
func isProgram(n *tree.Node) (bool, error) {
	const head = 18 // e_ident and e_type, of the ELF header
	if n.Content == nil || n.Size() < head {
		return false, nil
	}
	r, err := n.Content.Open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	b := make([]byte, head)
	if _, err := io.ReadFull(r, b); err != nil {
		return false, err
	}
	const relocatable = 1 // ET_REL: object files and kernel modules
	return string(b[:4]) == "\x7fELF" && b[16]+b[17] != relocatable, nil
}
