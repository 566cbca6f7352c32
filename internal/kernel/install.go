package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// InstallOptions say what [Kernel.Install] puts into a root.
type InstallOptions struct {
	Modules []string // names or aliases; what they need comes with them
	All     bool     // all modules, whatever Modules says
	// Without leaves modules out of All, and out of the lists: those in folders
	// of the kernel's source, such as "drivers/media". What others need stays.
	Without []string
}

// Install puts the kernel into the root t as a distribution would have it:
// /boot/vmlinuz-RELEASE and config-RELEASE, and /lib/modules/RELEASE with
// unpacked modules and all files of depmod's. Contents are read from k when t's
// are.
func (k *Kernel) Install(t *tree.Tree, o InstallOptions) error {
	fail := func(err error) error { return fmt.Errorf("install kernel %s: %w", k.Release, err) }
	if err := k.installBoot(t); err != nil {
		return fail(err)
	}
	index, err := k.Index()
	if err != nil {
		return fail(err)
	}
	base, err := modulesFolder(t)
	if err != nil {
		return fail(err)
	}
	base = path.Join(base, k.Release)
	put := func(name string, n *tree.Node) error {
		at := path.Join(base, name)
		return errors.Join(t.MkdirAll(path.Dir(at), 0o755), t.Put(at, n))
	}
	if !o.All {
		mods, err := k.Closure(o.Modules)
		if err != nil {
			return fail(err)
		}
		var names []string
		for _, m := range mods {
			names = append(names, m.Name)
			if err := put(m.Path, tree.File(0o644, tree.Bytes(m.Data))); err != nil {
				return fail(err)
			}
		}
		index = index.Keep(names)
	} else {
		if len(o.Without) > 0 {
			index = index.without(o.Without)
		}
		for i := range index.Modules {
			m := &index.Modules[i]
			if err := put(m.Path(), tree.File(0o644, unpacked{k, m})); err != nil {
				return fail(err)
			}
		}
	}
	return k.installLists(index, put)
}

// without is x but for the modules in folders that no other needs.
func (x *ModuleIndex) without(folders []string) *ModuleIndex {
	var names []string
	for _, m := range x.Modules {
		if !slices.ContainsFunc(folders, func(f string) bool { return strings.HasPrefix(m.File, "kernel/"+f+"/") }) {
			names = append(names, m.Name)
		}
	}
	return x.Keep(names)
}

func (k *Kernel) installBoot(t *tree.Tree) error {
	if err := t.MkdirAll("/boot", 0o755); err != nil {
		return err
	}
	if k.Image != nil {
		if err := t.Put("/boot/vmlinuz-"+k.Release, tree.File(0o644, k.Image.Content)); err != nil {
			return err
		}
	}
	if k.Config == "" {
		return nil
	}
	return t.Put("/boot/config-"+k.Release, tree.File(0o644, tree.Bytes(k.Config)))
}

// modulesFolder is where /lib/modules lies in t: behind the link /lib, where
// /usr is merged.
func modulesFolder(t *tree.Tree) (string, error) {
	lib, _, err := t.Resolve("/lib")
	if errors.Is(err, fs.ErrNotExist) {
		lib, err = "/lib", nil
	}
	return path.Join(lib, "modules"), err
}

// installLists puts in depmod's files and those that it reads.
func (k *Kernel) installLists(index *ModuleIndex, put func(string, *tree.Node) error) error {
	lists := map[string][]byte{}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		b, err := k.Modules.ReadFile("/"+name, maxText)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("install kernel %s: %w", k.Release, err)
		}
		lists[name] = b
	}
	files, err := index.Files(lists["modules.builtin"], lists["modules.builtin.modinfo"])
	if err != nil {
		return fmt.Errorf("install kernel %s: %w", k.Release, err)
	}
	for _, set := range []map[string][]byte{lists, files} {
		for name, b := range set {
			if err := put(name, tree.File(0o644, tree.Bytes(b))); err != nil {
				return fmt.Errorf("install kernel %s: %w", k.Release, err)
			}
		}
	}
	return nil
}

// unpacked is the content of a module, decompressed when it is read.
type unpacked struct {
	k *Kernel
	m *ModuleInfo
}

func (u unpacked) Size() int64 { return u.m.Size }

func (u unpacked) Open() (io.ReadCloser, error) {
	data, err := u.k.unpack("/" + u.m.File)
	if err != nil {
		return nil, fmt.Errorf("read module %s of kernel %s: %w", u.m.File, u.k.Release, err)
	}
	return io.NopCloser(bytes.NewReader(stripDebug(data))), nil
}

// ModuleTree is the part of a root that holds mods for the kernel release:
// /usr/lib/modules/RELEASE/..., with a modules.dep that modprobe understands,
// and /etc/wolffia/modules, which lists their paths, one a line, in the order
// in which an init without modprobe is to insmod them. Nothing is below /lib,
// which is a link in most systems, and would be replaced by a folder.
func ModuleTree(release string, mods []Module) (*tree.Tree, error) {
	t := tree.New()
	base := "/usr/lib/modules/" + release
	if err := errors.Join(t.MkdirAll("/etc/wolffia", 0o755), t.MkdirAll(base, 0o755)); err != nil {
		return nil, err
	}
	var order strings.Builder
	var index ModuleIndex
	for _, m := range mods {
		at := path.Join(base, m.Path)
		if err := errors.Join(t.MkdirAll(path.Dir(at), 0o755), t.Put(at, tree.File(0o644, tree.Bytes(m.Data)))); err != nil {
			return nil, fmt.Errorf("make module tree: %w", err)
		}
		order.WriteString(at + "\n")
		index.Modules = append(index.Modules, ModuleInfo{Name: m.Name, File: m.Path, Depends: m.Depends})
	}
	files, err := index.Files(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("make module tree: %w", err)
	}
	return t, errors.Join(
		t.Put(base+"/modules.dep", tree.File(0o644, tree.Bytes(files["modules.dep"]))),
		t.Put("/etc/wolffia/modules", tree.File(0o644, tree.Bytes(order.String()))))
}
