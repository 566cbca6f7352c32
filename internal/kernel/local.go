package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// Local is a kernel of the person's own, on the host.
type Local struct {
	Kernel
	Info ImageInfo
	Path string // of the image
	Dir  string // the build tree that it was found in, or ""
	// Unpacked is an ELF file beside the image that QEMU can start without the
	// image's unpacking itself (PVH), or "".
	Unpacked string
	// Bare says that nothing is known of the kernel's modules: it is an image by
	// itself.
	Bare bool
}

// NotBuiltError says that a folder is a kernel's source or build tree without
// a finished kernel in it.
type NotBuiltError struct {
	Dir     string
	Why     string
	Command string // what builds it
}

func (e *NotBuiltError) Error() string {
	return fmt.Sprintf("kernel in %s is not built: %s", e.Dir, e.Why)
}

// Fix is the command that builds it.
func (e *NotBuiltError) Fix() string { return "run " + e.Command }

// StaleModuleError says that a module in a build tree is of another build than
// the kernel, which would refuse it.
type StaleModuleError struct {
	Module      string // path in the tree
	Built, Want string // releases
}

func (e *StaleModuleError) Error() string {
	return fmt.Sprintf("module %s is of kernel %s, and the kernel is %s", e.Module, e.Built, e.Want)
}

// Fix is the command that builds it.
func (e *StaleModuleError) Fix() string { return "build the modules again: make modules" }

// board is what a kernel build makes for an architecture.
type board struct {
	option string   // of the configuration, that tells it from those further down
	arch   string   // make's ARCH
	images []string // best first
	target string   // of make
	cross  string   // prefix of Debian's cross compiler
	goarch string   // of hosts that need none
}

var boards = []board{
	{"UML", "um", []string{"linux", "vmlinux"}, "linux", "", ""},
	{"X86_64", "x86", []string{"arch/x86/boot/bzImage"}, "bzImage", "x86_64-linux-gnu-", "amd64"},
	{"X86_32", "i386", []string{"arch/x86/boot/bzImage"}, "bzImage", "", "386"},
	{"ARM64", "arm64", []string{"arch/arm64/boot/Image", "arch/arm64/boot/vmlinuz.efi", "arch/arm64/boot/Image.gz"}, "Image", "aarch64-linux-gnu-", "arm64"},
	{"ARM", "arm", []string{"arch/arm/boot/zImage"}, "zImage", "arm-linux-gnueabihf-", "arm"},
	{"RISCV", "riscv", []string{"arch/riscv/boot/Image", "arch/riscv/boot/vmlinuz.efi", "arch/riscv/boot/Image.gz"}, "Image", "riscv64-linux-gnu-", "riscv64"},
}

// Open finds the kernel at a path of the host: an image (bzImage, Image,
// zImage, vmlinux, user-mode-linux), or the folder of a kernel's build, in the
// source or out of it (O=). An image inside a build tree brings the tree's
// modules, and /boot/vmlinuz-RELEASE those of /lib/modules/RELEASE beside
// /boot. Contents are read when they are asked for.
//
// What is no kernel is a *[NotKernelError], a tree without one a
// *[NotBuiltError].
func Open(name string) (*Local, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	var l *Local
	switch {
	case st.IsDir():
		l, err = openTree(name)
	case !st.Mode().IsRegular():
		err = &NotKernelError{Why: "it is neither a file nor a folder"}
	default:
		l, err = openImage(name, st.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("open kernel %s: %w", name, err)
	}
	return l, nil
}

// openImage opens an image and what belongs to it.
func openImage(name string, size int64) (*Local, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := Identify(f, size)
	if err != nil {
		return nil, err
	}
	l := &Local{Info: info, Path: name, Bare: true}
	l.Release, l.Modules, l.Image = info.Release, tree.New(), hostFile(name, size)
	if dir := treeOf(name); dir != "" {
		if of, err := openTree(dir); err == nil && of.Release == info.Release {
			of.Info, of.Path, of.Image = info, name, l.Image
			return of, nil
		}
	}
	root := filepath.Dir(filepath.Dir(name))
	if info.Release == "" || filepath.Base(name) != "vmlinuz-"+info.Release || filepath.Base(filepath.Dir(name)) != "boot" {
		return l, nil
	}
	modules, err := tree.FromDir(filepath.Join(root, "lib/modules", info.Release), tree.DirOptions{})
	if err != nil {
		return l, nil
	}
	l.Modules, l.Bare = modules, false
	if b, err := readFile(filepath.Join(root, "boot/config-"+info.Release), maxConfig); err == nil {
		l.Config = string(b)
	}
	return l, nil
}

// treeOf is the build tree that an image lies in, or "".
func treeOf(image string) string {
	dir := filepath.Dir(image)
	for range 4 { // arch/x86/boot
		if _, err := os.Stat(filepath.Join(dir, "include/config/kernel.release")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

// openTree opens a build tree.
func openTree(dir string) (*Local, error) {
	config, err := readFile(filepath.Join(dir, ".config"), maxConfig)
	if err != nil {
		return nil, noConfig(dir, err)
	}
	l := &Local{Dir: dir}
	l.Config, l.Modules, l.rebuilt = string(config), tree.New(), true
	i := slices.IndexFunc(boards, func(b board) bool { return l.Has(b.option) == "y" })
	if i < 0 {
		return nil, &NotKernelError{Why: "its configuration is for an architecture that wolffia does not run"}
	}
	b := boards[i]
	unbuilt := func(format string, args ...any) error {
		return &NotBuiltError{Dir: dir, Why: fmt.Sprintf(format, args...), Command: l.makeCommand(b)}
	}
	release, err := readFile(filepath.Join(dir, "include/config/kernel.release"), maxRelease)
	if l.Release = strings.TrimSpace(string(release)); err != nil || l.Release == "" {
		return nil, unbuilt("it is configured, and no more")
	}
	if err := l.findImage(b); err != nil {
		return nil, err
	}
	switch {
	case l.Path == "":
		return nil, unbuilt("there is no %s", b.images[0])
	case l.Info.Release != "" && l.Info.Release != l.Release:
		return nil, unbuilt("the kernel is still of release %s, and the tree is at %s", l.Info.Release, l.Release)
	}
	if err := l.findModules(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, unbuilt("modules are missing: %v", err)
		}
		return nil, err
	}
	return l, nil
}

// noConfig says what a folder without a readable .config is.
func noConfig(dir string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range []string{"Kconfig", "Kbuild", "Makefile"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			return &NotKernelError{Why: "the folder is no kernel's build tree: it has no .config"}
		}
	}
	return &NotBuiltError{
		Dir: dir, Why: "it has no .config; if it was built in a folder of its own (O=), give that one",
		Command: "make -C " + dir + " defconfig && make -C " + dir + " -j$(nproc)",
	}
}

// makeCommand builds the tree. A build folder has a Makefile that leads to the
// source; one made otherwise names it.
func (l *Local) makeCommand(b board) string {
	words := []string{"make", "-C", l.Dir}
	if source, err := os.Readlink(filepath.Join(l.Dir, "source")); err == nil {
		if _, err := os.Stat(filepath.Join(l.Dir, "Makefile")); err != nil {
			words = []string{"make", "-C", source, "O=" + l.Dir}
		}
	}
	host := runtime.GOARCH == b.goarch
	if b.arch == "um" || !host {
		words = append(words, "ARCH="+b.arch)
	}
	if b.cross != "" && !host {
		words = append(words, "CROSS_COMPILE="+b.cross)
	}
	words = append(words, "-j$(nproc)", b.target)
	if l.Has("MODULES") == "y" {
		words = append(words, "modules")
	}
	return strings.Join(words, " ")
}

// findImage finds the best of the images that were built. There may be none.
func (l *Local) findImage(b board) error {
	for _, name := range b.images {
		at := filepath.Join(l.Dir, name)
		f, err := os.Open(at)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if l.Info, err = Identify(f, st.Size()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		l.Path, l.Image = at, hostFile(at, st.Size())
		break
	}
	if l.Info.Format == BzImage {
		l.findUnpacked(filepath.Join(l.Dir, "vmlinux"))
	}
	return nil
}

// findUnpacked looks whether the ELF file beside a bzImage can be started.
func (l *Local) findUnpacked(name string) {
	f, err := os.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return
	}
	if info, err := Identify(f, st.Size()); err == nil && info.PVH && info.Release == l.Release {
		l.Unpacked = name
	}
}

// findModules fills the tree of modules, as modules_install would, from what
// the build lists in modules.order: "kernel/fs/fat/fat.ko", and since Linux 6.2
// "fs/fat/fat.o". A module that is listed and not there is fs.ErrNotExist.
func (l *Local) findModules() error {
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		b, err := readFile(filepath.Join(l.Dir, name), maxText)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if name == "modules.order" {
			if b, err = l.addModules(string(b)); err != nil {
				return err
			}
		}
		if err := l.Modules.Put("/"+name, tree.File(0o644, tree.Bytes(b))); err != nil {
			return err
		}
	}
	return nil
}

// addModules adds the modules of an order, and gives the order as it is where
// modules are installed.
func (l *Local) addModules(order string) ([]byte, error) {
	var installed strings.Builder
	for line := range strings.Lines(order) {
		name := strings.TrimPrefix(strings.TrimSpace(line), "kernel/")
		if base, ok := strings.CutSuffix(name, ".o"); ok {
			name = base + ".ko"
		}
		if !fs.ValidPath(name) || moduleName(name) == "" {
			continue
		}
		st, err := os.Stat(filepath.Join(l.Dir, name))
		if err != nil {
			return nil, err
		}
		at := path.Join("/kernel", name)
		if err := errors.Join(l.Modules.MkdirAll(path.Dir(at), 0o755), l.Modules.Put(at, hostFile(filepath.Join(l.Dir, name), st.Size()))); err != nil {
			return nil, err
		}
		installed.WriteString("kernel/" + name + "\n")
	}
	return []byte(installed.String()), nil
}

// hostFile is a file of the host as a node, opened when it is read.
func hostFile(name string, size int64) *tree.Node {
	open := func() (tree.ReaderAtCloser, error) { return os.Open(name) }
	return tree.File(0o644, tree.Section(open, 0, size))
}

// readFile is os.ReadFile with a limit in bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, fmt.Errorf("read %s: it is no file of at most %d bytes", name, limit)
	}
	b := make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		err = nil
	}
	return b[:n], err
}
