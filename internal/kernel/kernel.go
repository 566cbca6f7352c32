// Package kernel gets kernels and their modules, out of Debian packages or from
// the host, in the form that machines boot.
//
// Of packages two kinds are known: user-mode-linux, an ordinary program that
// [Kernel.InstallUML] makes independent of the host's C library, and
// linux-image, the kernel of a machine, for every architecture of
// [LinuxSources]. [Open] finds a kernel of the person's own: an image or the
// folder of a kernel build.
//
//	k, err := kernel.FromPackage(pkg)                          // an unpacked linux-image
//	r, err := k.Image.Open()                                   // vmlinuz
//	mods, err := k.Closure([]string{"virtio_net", "overlay"})  // in the order to load
//	t, err := kernel.ModuleTree(k.Release, mods)               // for an initramfs
//	err = k.Install(root, kernel.InstallOptions{All: true})    // for a disk
//
// Packages come without what depmod(8) makes when they are installed: modules'
// dependencies are read from the modules themselves (the .modinfo section), and
// for disks depmod's files are made here ([ModuleIndex]). Modules are unpacked
// (xz, zstd, gzip) and lose their debug information, unless they are signed, so
// that guests load them fast.
//
// Kernels are recognised by their content ([Identify]); those that unpack
// themselves can be unpacked here ([Uncompress]), which starts them faster.
//
// Deliberately absent: building kernels, the wildcards of modules.alias (a
// module is asked for by its name or an alias without any), lzma and lzo.
//
// See https://docs.kernel.org/virt/uml/user_mode_linux_howto_v2.html,
// https://docs.kernel.org/arch/x86/boot.html, modules.dep(5) and depmod(8).
package kernel

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// Kernel is what a package holds of a kernel.
type Kernel struct {
	Release string     // as uname -r prints it: "6.1.176"
	Config  string     // the configuration, if the package has it; one option a line
	Modules *tree.Tree // what /lib/modules/RELEASE holds; never nil
	Image   *tree.Node // the kernel that a boot loader starts (vmlinuz), or nil

	rebuilt bool // the modules may be of another build than the kernel
	index   *moduleIndex
	all     *ModuleIndex
	keep    func(scan func() (*ModuleIndex, error)) (*ModuleIndex, error)
}

// moduleRoots are the folders of packages below which modules lie, by release.
var moduleRoots = []string{"/usr/lib/uml/modules", "/usr/lib/modules", "/lib/modules"}

// limits on files that are read whole.
const (
	maxConfig = 4 << 20
	maxText   = 16 << 20  // of modules.builtin and its like
	maxModule = 64 << 20  // of a module, unpacked
	maxWindow = 128 << 20 // of a decompressor: what the kernel's own build packs with
)

// FromPackage finds the kernel in an unpacked package: user-mode-linux, or a
// linux-image with its modules.
func FromPackage(pkg *tree.Tree) (*Kernel, error) {
	k := &Kernel{}
	for _, root := range moduleRoots {
		_, n, err := pkg.Resolve(root)
		if err != nil || !n.IsDir() {
			continue
		}
		releases := n.Names()
		if len(releases) != 1 || !n.Child(releases[0]).IsDir() {
			return nil, fmt.Errorf("find kernel in package: %s holds %d kernel releases (%s), not one",
				root, len(releases), strings.Join(releases, ", "))
		}
		k.Release = releases[0]
		k.Modules = tree.New()
		if err := graft(k.Modules, "/", n.Child(k.Release)); err != nil {
			return nil, fmt.Errorf("find kernel in package: %w", err)
		}
		break
	}
	if k.Modules == nil {
		return nil, errors.New("find kernel in package: no folder " + strings.Join(moduleRoots, ", ") + " in it")
	}
	k.Config = config(pkg, k.Release)
	for _, name := range []string{"/boot/vmlinuz-" + k.Release, "/boot/vmlinux-" + k.Release} {
		if _, n, err := pkg.Resolve(name); err == nil && n.Type() == tree.TypeRegular {
			k.Image = n
		}
	}
	if n := k.Modules.Get("/vmlinuz"); n != nil && n.Type() == tree.TypeRegular { // since Linux 7
		k.Image = n
	}
	return k, nil
}

// graft puts the directory n and all below it at name.
func graft(t *tree.Tree, name string, n *tree.Node) error {
	for _, c := range n.Names() {
		child, at := n.Child(c), path.Join(name, c)
		if !child.IsDir() {
			if err := t.Put(at, child); err != nil {
				return err
			}
			continue
		}
		if err := t.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := graft(t, at, child); err != nil {
			return err
		}
	}
	return nil
}

// config reads the kernel's configuration, which is documentation to us: what
// can't be read is not there.
func config(pkg *tree.Tree, release string) string {
	for _, name := range []string{"/boot/config-" + release, "/usr/lib/modules/" + release + "/config"} {
		if b, err := pkg.ReadFile(name, maxConfig); err == nil {
			return string(b)
		}
	}
	b, err := pkg.ReadFile("/usr/share/doc/user-mode-linux/config.gz", maxConfig)
	if err != nil {
		return ""
	}
	z, err := gzip.NewReader(strings.NewReader(string(b)))
	if err != nil {
		return ""
	}
	out, err := io.ReadAll(io.LimitReader(z, maxConfig))
	if err != nil {
		return ""
	}
	return string(out)
}

// Has says how an option is set: "y", "m", a value, or "" for not at all.
func (k *Kernel) Has(option string) string {
	for line := range strings.Lines(k.Config) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "CONFIG_"+strings.TrimPrefix(option, "CONFIG_")+"="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

// sortedUnique is a sorted copy of names without repetitions.
func sortedUnique(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}
