// Package rootfs turns a recipe (packages, files, users, services) and a tree
// of unpacked packages into the tree of a small system that boots.
//
// Packages are unpacked, never installed: no maintainer script runs, here or
// anywhere, and no program of the image is run to build it, so that an image
// for any architecture is made on any other. What scripts would have done that
// matters is done by [Build]: accounts, busybox's applets as links, the files
// in /etc, device nodes, services. The applets are read from the table inside
// busybox's own program; the libraries that programs need ([Prune],
// [HostLibraries]) are read from their ELF headers.
//
// The result has a readable /init, a shell script for busybox (see
// files/init), and boots in three ways:
//
//   - as an initramfs, of a machine of wolffia's. What belongs to one machine
//     rather than to the image comes from a second tree, [Identity], which is
//     appended when the machine starts; so no secret is ever in an image, and
//     many machines share one.
//   - as a disk of such a machine. The initramfs is a small one then, [Initrd],
//     with the identity appended; it mounts the disk, leaves the identity in
//     memory under /run/wolffia, and goes over to the disk's /init.
//   - as a disk by itself, in any computer, with [Initrd] or with a kernel that
//     needs none: busybox's init runs /init first, by /etc/inittab. There are
//     login prompts on the kernel's consoles and on the screen's terminals
//     (files/terminal), mdev and the modules of all devices there are
//     (files/disk), and leases on all cards unless /etc/network/interfaces
//     says otherwise.
//
// Random numbers: a machine of wolffia's has a device for them or a seed. A
// disk by itself waits for none, either: what its processor (RDRAND, RNDR), its
// firmware (EFI, the device tree) or virtio-rng give counts from the first
// moment, and without any of these Linux makes its own within a second.
//
// Further files in files/ are the DHCP client's script, the control link's,
// the quick power off, and an init that is a single script ([InitScript]).
//
//	image, report, err := rootfs.Build(rootfs.Recipe{
//		Arch: "amd64", Release: "trixie", Time: released,
//		Packages: []string{"busybox-static", "dropbear-bin"}, Deps: rootfs.DepsELF,
//	}, packages)
//	id, err := rootfs.Identity(rootfs.IdentityConfig{Hostname: "alice", HostKey: key, ...})
//
// The same recipe, base and host files give the same tree: there is no clock
// and no random number in it.
//
// Deliberately absent: boot loaders and partitions (see image/disk), checks of
// file systems (ext3 and ext4 heal by their journals), systemd and other inits,
// stopping services one by one, alternatives.
package rootfs

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"wolffia/internal/tree"
)

//go:embed files
var files embed.FS

// Deps says what stays of the packages that only came in as dependencies.
type Deps string

// The kinds of dependency.
const (
	DepsPackages Deps = "packages" // all of their files
	DepsELF      Deps = "elf"      // what the programs of the wanted packages need to run; see [Prune]
)

// Recipe describes the root file system of an image. The zero value, with the
// package busybox-static in the base tree, makes a system that boots to a shell.
type Recipe struct {
	Arch     string   // Debian's name, such as "amd64": programs of the host must be of it; empty: not checked
	Release  string   // Debian's code name, for /etc/os-release when no package brings one
	Hostname string   // in /etc/hostname; empty means "wolffia"
	Root     string   // the device of / in /etc/fstab, such as "LABEL=root"; empty means /dev/root, which /init makes
	Packages []string // the wanted packages by name, for Deps
	Deps     Deps     // empty means DepsPackages
	Users    []User   // further users, or changes to root
	Groups   []Group  // further groups
	// SystemUsers are what packages' scripts would have made: see [ScriptUsers].
	// Those that sysusers.d asks for are made anyway.
	SystemUsers []SystemUser `json:"-"`
	Files       []File       // laid over everything else, in this order
	Dir         string       // folder on the host that relative File.From names start at
	Services    []string     // started by /init in this order; see [KnownServices]
	Init        Init         // empty means InitBusybox
	Time        time.Time    // of everything made here, and the latest time anything may have
	// Tools, where set, says that the base tree is a system from elsewhere, of
	// which all that can stays as it is: accounts, programs and times. It holds
	// the unpacked ToolPackages, with what they need; they lie apart in the
	// system. Deps counts for nothing then.
	Tools *tree.Tree `json:"-"`
}

// Init is what keeps a system going once /init has brought it up.
type Init string

// The kinds of init.
const (
	InitBusybox Init = "busybox" // busybox's own, which does as /etc/inittab says
	InitScript  Init = "script"  // one readable script, files/single, that keeps one terminal
)

// Report says what Build did that the person may want to know.
type Report struct {
	Applets  []string // paths of the links to busybox that were made
	Users    []string // names in /etc/passwd that the recipe made or changed
	Pruned   int      // files of dependencies that were left out
	Kept     []string // files of dependencies that stayed, with DepsELF
	Missing  []string // "PATH needs WHAT": interpreters and libraries that the tree lacks
	Replaced []string // files of packages that the recipe's files replaced
}

// Error is a recipe that can't be followed.
type Error struct {
	Part string // "user", "group", "file", "service", "package"
	Name string // which one
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Part, e.Name, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Build makes the root file system that r describes out of base, a tree of
// unpacked packages whose /bin, /lib and /sbin are links into /usr. It does
// not change base; contents are shared.
func Build(r Recipe, base *tree.Tree) (*tree.Tree, *Report, error) {
	rep := &Report{}
	if err := r.checkArch(base); err != nil {
		return nil, nil, err
	}
	t := clone(base)
	if r.Deps == DepsELF && r.Tools == nil {
		wanted, err := PackageFiles(t, r.Packages)
		if err != nil {
			return nil, nil, err
		}
		pruned, p, err := Prune(t, wanted)
		if err != nil {
			return nil, nil, fmt.Errorf("prune dependencies: %w", err)
		}
		t, rep.Pruned, rep.Kept, rep.Missing = pruned, p.Pruned, p.Kept, p.Missing
	}
	b := &builder{Recipe: r, t: t, rep: rep}
	for _, step := range []func() error{b.skeleton, b.etc, b.tools, b.applets, b.boot, b.starters, b.accounts, b.overlay, b.services, b.interfaces, b.ldCache} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	if r.Tools != nil {
		stamp(t, r.Time)
		return t, rep, nil
	}
	b.missingInterpreters()
	clamp(t, r.Time)
	return t, rep, nil
}

// builder carries one Build through its steps.
type builder struct {
	Recipe
	t     *tree.Tree
	rep   *Report
	users []account // in the order of /etc/passwd
	group []group   // in the order of /etc/group
}

// clone copies t's nodes, so that their attributes may change. Names that
// shared a node still do.
func clone(t *tree.Tree) *tree.Tree {
	out := tree.New()
	seen := map[*tree.Node]*tree.Node{}
	// The walk can't fail: every path was a valid one, and parents come first.
	_ = t.Walk(func(name string, n *tree.Node) error {
		if n.IsDir() {
			return out.Put(name, attributes(tree.Dir(0), n))
		}
		c := seen[n]
		if c == nil {
			copied := tree.Node{
				Mode: n.Mode, UID: n.UID, GID: n.GID, ModTime: n.ModTime,
				Major: n.Major, Minor: n.Minor, Target: n.Target, Content: n.Content, Xattrs: n.Xattrs,
			}
			c = &copied
			seen[n] = c
		}
		return out.Put(name, c)
	})
	return out
}

// attributes gives the directory d everything of n but its entries.
func attributes(d, n *tree.Node) *tree.Node {
	d.Mode, d.UID, d.GID, d.ModTime, d.Xattrs = n.Mode, n.UID, n.GID, n.ModTime, n.Xattrs
	return d
}

// clamp gives nodes without a time, or with one after limit, the time limit.
func clamp(t *tree.Tree, limit time.Time) {
	_ = t.Walk(func(_ string, n *tree.Node) error {
		if n.ModTime.IsZero() || n.ModTime.After(limit) {
			n.ModTime = limit
		}
		return nil
	})
}

// stamp gives nodes without a time one.
func stamp(t *tree.Tree, now time.Time) {
	_ = t.Walk(func(_ string, n *tree.Node) error {
		if n.ModTime.IsZero() {
			n.ModTime = now
		}
		return nil
	})
}

// real is the path that name has once the links in its folder are followed,
// its last component aside.
func real(t *tree.Tree, name string) string {
	dir, _, err := t.Resolve(path.Dir(name))
	if err != nil {
		return name
	}
	return path.Join(dir, path.Base(name))
}

// put places n at name, through links in its folder, making folders as needed.
func (b *builder) put(name string, n *tree.Node) error {
	if err := b.mkdir(path.Dir(name)); err != nil {
		return err
	}
	return b.t.Put(real(b.t, name), n)
}

// mkdir makes the folder name and those above it, through links.
func (b *builder) mkdir(name string) error {
	p, n, err := b.t.Resolve(name)
	switch {
	case err == nil && n.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: p, Err: errors.New("is not a directory")}
	case name == "/" || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := b.mkdir(path.Dir(name)); err != nil {
		return err
	}
	return b.t.Put(real(b.t, name), tree.Dir(0o755))
}

// has reports whether name leads somewhere.
func (b *builder) has(name string) bool {
	_, _, err := b.t.Resolve(name)
	return err == nil
}

// write places a file with that text, unless a package brought one and keep is set.
func (b *builder) write(name string, perm uint32, text string, keep bool) error {
	if keep && b.has(name) {
		return nil
	}
	return b.put(name, tree.File(perm, tree.Bytes(text)))
}

// embedded is the text of one of the files in files/.
func embedded(name string) string {
	data, err := files.ReadFile("files/" + name)
	if err != nil {
		panic(err) // it was there when this was compiled
	}
	return string(data)
}

// missingInterpreters adds to the report the scripts whose interpreter the
// finished tree lacks.
func (b *builder) missingInterpreters() {
	b.rep.Missing = slices.DeleteFunc(b.rep.Missing, func(m string) bool {
		_, what, ok := strings.Cut(m, " needs ")
		return ok && strings.HasPrefix(what, "/") && b.has(what)
	})
	if b.Deps == DepsELF {
		return // Prune looked at every script
	}
	_ = b.t.Walk(func(name string, n *tree.Node) error {
		if n.Type() != tree.TypeRegular || n.Mode&0o111 == 0 || n.Size() < 3 {
			return nil
		}
		if interp := interpreter(n); interp != "" && !b.has(interp) {
			b.rep.Missing = append(b.rep.Missing, name+" needs "+interp)
		}
		return nil
	})
}
