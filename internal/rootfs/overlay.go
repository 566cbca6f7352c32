package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// File puts one thing at Path in the image: a copy of From, a symbolic link,
// a folder, or else a file with the text Content.
type File struct {
	Path      string // in the image; a copied file goes into Path where that is a folder or ends in a slash
	From      string // file or folder on the host; a relative name starts at Recipe.Dir
	Libraries bool   // with From: bring the shared libraries that the program needs, too
	Link      string // target of a symbolic link
	Directory bool   // an empty folder
	Content   string
	Mode      uint32 // permission bits, of each file of a copied folder; 0: 0755 for folders and for what is executable on the host, else 0644
	Owner     string // user by name or number; empty means root
	Group     string // group by name or number; empty means root
}

// overlay lays the recipe's files over the tree.
func (b *builder) overlay() error {
	for _, f := range b.Files {
		if err := b.file(f); err != nil {
			return &Error{Part: "file", Name: f.Path, Err: err}
		}
	}
	return nil
}

func (b *builder) file(f File) error {
	var uid, gid uint32
	var err error
	if f.Owner != "" {
		if uid, err = b.owner(f.Owner); err != nil {
			return err
		}
	}
	if f.Group != "" {
		if gid, err = b.ownerGroup(f.Group); err != nil {
			return err
		}
	}
	own := func(n *tree.Node) *tree.Node {
		n.UID, n.GID = uid, gid
		if f.Mode != 0 && n.Type() != tree.TypeSymlink {
			n.Mode = n.Type() | f.Mode&0o7777
		}
		return n
	}
	switch {
	case !path.IsAbs(f.Path):
		return errors.New("is not an absolute path")
	case slices.Contains(strings.Split(f.Path, "/"), ".."):
		return errors.New("holds \"..\"")
	case f.From != "":
		return b.fromHost(f, own)
	case f.Link != "":
		return b.lay(f.Path, own(tree.Symlink(f.Link)))
	case f.Directory:
		if err := b.mkdir(f.Path); err != nil {
			return err
		}
		return b.put(f.Path, own(tree.Dir(0o755)))
	}
	return b.lay(f.Path, own(tree.File(0o644, tree.Bytes(f.Content))))
}

// lay places a file or link, in the place of what is there, and remembers that.
func (b *builder) lay(name string, n *tree.Node) error {
	if err := b.put(name, n); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return errors.New("is a folder in the image")
		}
		return err
	}
	return nil
}

// fromHost copies a file or a folder of the host. Owners and times of the
// host don't matter, and of the permissions only whether it is a program: they
// would differ from one checkout to the next.
func (b *builder) fromHost(f File, own func(*tree.Node) *tree.Node) error {
	from := f.From
	if !filepath.IsAbs(from) {
		from = filepath.Join(b.Dir, from)
	}
	info, err := os.Stat(from)
	if err != nil {
		return plain(err)
	}
	to := f.Path
	if !info.IsDir() {
		if _, n, err := b.t.Resolve(to); strings.HasSuffix(to, "/") || err == nil && n.IsDir() {
			to = path.Join(to, filepath.Base(from))
		}
		if err := b.hostFile(from, to, info, own); err != nil {
			return err
		}
		if f.Libraries {
			return b.hostLibraries(from)
		}
		return nil
	}
	return filepath.WalkDir(from, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return plain(err)
		}
		info, err := os.Lstat(name)
		if err != nil {
			return plain(err)
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		return b.hostFile(name, path.Join(to, filepath.ToSlash(rel)), info, own)
	})
}

// plain drops the operation from an error of package os: the reason is what counts.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}

func (b *builder) hostFile(from, to string, info fs.FileInfo, own func(*tree.Node) *tree.Node) error {
	switch {
	case info.IsDir():
		if err := b.mkdir(to); err != nil {
			return err
		}
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return plain(err)
		}
		return b.lay(to, own(tree.Symlink(target)))
	case info.Mode().IsRegular():
		perm := uint32(0o644)
		if info.Mode()&0o111 != 0 {
			perm = 0o755
		}
		if n := b.t.Get(real(b.t, to)); n != nil && n.Type() == tree.TypeRegular {
			b.rep.Replaced = append(b.rep.Replaced, to)
		}
		return b.lay(to, own(tree.File(perm, hostContent{from, info.Size()})))
	}
	return fmt.Errorf("%s is neither a file, a folder nor a link (%s)", from, info.Mode().Type())
}

// hostLibraries brings the libraries that the host's program needs. One that
// the image has already stays: it belongs with the image's loader.
func (b *builder) hostLibraries(program string) error {
	if _, o, err := (hostPlace{}).find(program); err != nil {
		return plain(err)
	} else if want := machines[b.Arch]; want != 0 && o.machine != 0 && o.machine != want {
		return fmt.Errorf("%s is a program for another architecture than %s", program, b.Arch)
	}
	libs, err := HostLibraries(program)
	if err != nil {
		return err
	}
	for _, m := range libs.Missing {
		b.rep.Missing = append(b.rep.Missing, program+" needs "+m)
	}
	for _, name := range libs.Files {
		info, err := os.Lstat(name)
		if err != nil {
			return plain(err)
		}
		to := filepath.ToSlash(name)
		if b.has(to) {
			continue
		}
		if err := b.hostFile(name, to, info, func(n *tree.Node) *tree.Node { return n }); err != nil {
			return err
		}
	}
	// Programs name their loader by a link of merged /usr, such as /lib64.
	for _, dir := range []string{"lib64", "lib32", "libx32"} {
		if b.t.Get("/usr/"+dir) != nil && b.t.Get("/"+dir) == nil {
			if err := b.put("/"+dir, tree.Symlink("usr/"+dir)); err != nil {
				return err
			}
		}
	}
	return nil
}

// machines gives e_machine of ELF headers for Debian's architectures.
var machines = map[string]uint16{"amd64": 62, "i386": 3, "arm64": 183, "armhf": 40, "riscv64": 243}

// hostContent is a file of the host, which must not change its size.
type hostContent struct {
	name string
	size int64
}

func (c hostContent) Size() int64 { return c.size }

func (c hostContent) Open() (io.ReadCloser, error) {
	f, err := os.Open(c.name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != c.size {
		err = fmt.Errorf("%s had %d bytes when the image was described and has %d now", c.name, c.size, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return hostFileReader{io.NewSectionReader(f, 0, c.size), f}, nil
}

type hostFileReader struct {
	*io.SectionReader
	io.Closer
}
