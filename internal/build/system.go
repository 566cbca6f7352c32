package build

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/image/compress"
	"wolffia/internal/image/cpio"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/grub"
	"wolffia/internal/image/uki"
	"wolffia/internal/kernel"
	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// loaderRelease is the Debian release that boot loaders are taken from.
// Bookworm's has no stub for all architectures.
const loaderRelease = "trixie"

// diskFlavour is the kernel of a disk that says nothing about it: the one with
// all drivers, since nobody knows what computer it will be put in.
const diskFlavour = "generic"

// needless are the folders of modules that the generic kernel goes without:
// half of all there is, for things that a system without a desktop does not
// use, or that stay dark without firmware, which is in no package of Debian's
// free part. A kernel by Debian's own name has them.
var needless = []string{
	"sound", "drivers/media", "drivers/accel", "drivers/comedi", "drivers/iio", "drivers/infiniband", "drivers/staging",
	"drivers/bluetooth", "net/bluetooth", "drivers/net/wireless", "net/mac80211",
	"drivers/gpu/drm/amd", "drivers/gpu/drm/i915", "drivers/gpu/drm/nouveau", "drivers/gpu/drm/radeon", "drivers/gpu/drm/xe",
}

// diskModules are loaded to find the root on a disk, where the kernel has them
// as modules: disks of virtual machines and of PCs and boards, and what is on
// them.
var diskModules = []string{
	"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "vmw_pvscsi",
	"ahci", "ata_piix", "ata_generic", "nvme", "mptspi", "sd_mod", "sr_mod",
	"xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci", "usb_storage", "uas",
	"sdhci_pci", "sdhci_acpi", "sdhci_iproc", "mmc_block", "ext4",
}

// consoles are the terminals of a disk's kernel, by architecture: the screen,
// and the first serial port, which is the last because that one is
// /dev/console.
var consoles = map[string]string{
	"amd64": "ttyS0,115200", "i386": "ttyS0,115200", "arm64": "ttyAMA0,115200", "armhf": "ttyAMA0,115200", "riscv64": "ttyS0,115200",
}

// system is what a disk needs besides its root, pinned.
type system struct {
	arch    string
	source  kernel.LinuxSource
	kernel  *debian.Lock // of source; nil for a kernel of the person's own
	without []string     // folders of modules that stay out
	own     string       // path of that
	content string       // digest of that
	bare    bool         // that has no modules
	stub    *debian.Lock // systemd's EFI stub
	grub    *debian.Lock // nil where there is no BIOS
}

// warnNoLogin says that nobody can log in to a disk, unless what the image
// starts from may bring somebody.
func (b *Builder) warnNoLogin(img *lab.Image) {
	able := func(u rootfs.User) bool { return u.Hash != "" || u.Password != "" || len(u.Keys) > 0 }
	if img.From.IsZero() && !slices.ContainsFunc(img.Users, able) {
		event.Or(b.Events).Emit(event.Event{Kind: event.Warn, Task: "make disk", Subject: img.Name,
			Message: fmt.Sprintf("image %s: nobody can log in to it: give root a password or a key by the key users", img.Name)})
	}
}

// IsPath reports whether an image's kernel is one of the person's own.
func IsPath(kernel string) bool {
	return strings.HasPrefix(kernel, ".") || strings.HasPrefix(kernel, "~") || strings.ContainsRune(kernel, '/')
}

// systemOf pins what an image's disk needs.
func (b *Builder) systemOf(ctx context.Context, img *lab.Image) (*system, error) {
	s := &system{arch: archOf(img)}
	if err := b.findKernel(ctx, s, img); err != nil {
		return nil, err
	}
	at, err := uki.For(s.arch)
	if err != nil {
		return nil, err
	}
	if s.stub, err = b.Lock(ctx, debian.Request{Release: loaderRelease, Arch: s.arch, Packages: []string{at.Package}}); err != nil {
		return nil, err
	}
	if s.arch == "amd64" || s.arch == "i386" {
		s.grub, err = b.Lock(ctx, debian.Request{
			Release: loaderRelease, Arch: s.arch, Packages: []string{grub.Package}, Exclude: grub.Needless[:],
		})
	}
	return s, err
}

func (b *Builder) findKernel(ctx context.Context, s *system, img *lab.Image) error {
	if IsPath(img.Kernel) {
		if err := b.findOwn(s, img.Kernel); err != nil {
			return &rootfs.Error{Part: "kernel", Name: img.Kernel, Err: err}
		}
		return nil
	}
	flavour := cmp.Or(img.Kernel, diskFlavour)
	if flavour == diskFlavour {
		s.without = needless
	}
	sources, err := kernel.LinuxSources(img.Release, s.arch, flavour)
	if err != nil {
		return err
	}
	s.source = sources[0]
	s.kernel, err = b.Lock(ctx, s.source.Request())
	return err
}

// findOwn names a person's kernel by all of its content.
func (b *Builder) findOwn(s *system, name string) error {
	s.own = b.path(name)
	l, err := kernel.Open(s.own)
	if err != nil {
		return err
	}
	if l.Info.Format == kernel.UML {
		return fmt.Errorf("it is a User-Mode Linux, which no disk boots; give one for %s", s.arch)
	}
	if s.content, err = fileKey(l.Path); err != nil || l.Bare {
		s.bare = l.Bare
		return err
	}
	modules, err := tree.Digest(l.Modules)
	s.content += hex.EncodeToString(modules[:])
	return err
}

// id names all of s.
func (s *system) id() string {
	id := fmt.Sprint(s.arch, s.content, s.without)
	for _, l := range s.locks() {
		id += " " + l.Digest()
	}
	return id
}

// locks are those that there are.
func (s *system) locks() []*debian.Lock {
	return slices.DeleteFunc([]*debian.Lock{s.kernel, s.stub, s.grub}, func(l *debian.Lock) bool { return l == nil })
}

// cmdline is the kernel's command line, but for root=, which depends on the
// disk.
func (s *system) cmdline() string { return "console=tty0 console=" + consoles[s.arch] }

// linux gets the kernel.
func (b *Builder) linux(ctx context.Context, s *system) (*Kernel, error) {
	if s.own == "" {
		return b.linuxOf(ctx, s.source, s.kernel, KernelRequest{})
	}
	return b.LocalKernel(ctx, s.own, KernelRequest{Arch: s.arch})
}

// writeSystem writes a complete disk: the image's root with a kernel and its
// modules, an initial RAM disk that finds the root, and what boots them.
func (m *making) writeSystem(ctx context.Context, f *os.File, t *built, format Format) error {
	if m.system.bare {
		m.note("make disk", m.img.Name, "kernel %s comes without modules: the drivers of the disk and its file system, ext4, must be built into it", m.system.own)
	}
	k, err := m.linux(ctx, m.system)
	if err != nil {
		return err
	}
	defer k.Close()
	o := disk.Options{
		Arch: m.system.arch, Table: format.Table, Size: int64(m.img.Size), Time: m.d.recipe.Time, Root: t.tree,
		Cmdline: m.system.cmdline(), Uname: k.Release, FS: ext4.Options{Label: "root"},
	}
	if o.Size == 0 {
		o.Free = Room
	}
	if err := m.addKernel(ctx, &o, k, t.base); err != nil {
		return err
	}
	loaders, err := m.addLoaders(ctx, &o)
	if err != nil {
		return err
	}
	defer loaders()
	err = disk.System(f, o)
	var small *disk.TooSmallError
	if errors.As(err, &small) {
		return &TooSmallError{m.img.Name, small.Size, small.Need}
	}
	return err
}

// addKernel installs the kernel in the root, and makes the initial RAM disk
// out of base, which has a busybox.
func (m *making) addKernel(ctx context.Context, o *disk.Options, k *Kernel, base *tree.Tree) error {
	if err := k.Install(ctx, o.Root, kernel.InstallOptions{All: true, Without: m.system.without}); err != nil {
		return err
	}
	var err error
	if o.Kernel, err = hostFile(k.Path); err != nil {
		return err
	}
	initrd, err := m.initrd(ctx, k, base)
	if err != nil {
		return err
	}
	o.Initrd = []tree.Content{initrd}
	if m.system.grub == nil {
		o.Root.Remove("/boot/vmlinuz-" + k.Release) // it is in the EFI system partition
	} else if err := m.linkKernel(o.Root, k.Release, initrd); err != nil {
		return err
	}
	if text, err := o.Root.ReadFile("/etc/os-release", 64<<10); err == nil {
		o.OSRelease = string(text)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	stamp(o.Root, o.Time)
	return nil
}

// hostFile is the content of a file in the store.
func hostFile(name string) (tree.Content, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	return tree.Section(func() (tree.ReaderAtCloser, error) { return os.Open(name) }, 0, st.Size()), nil
}

// linkKernel has GRUB's names lead to the files that the kernel's release
// names.
func (m *making) linkKernel(root *tree.Tree, release string, initrd tree.Content) error {
	for at, n := range map[string]*tree.Node{
		"/boot/initrd.img-" + release: tree.File(0o644, initrd),
		disk.InitrdPath:               tree.Symlink("initrd.img-" + release),
		disk.KernelPath:               tree.Symlink("vmlinuz-" + release),
	} {
		if err := root.Put(at, n); err != nil {
			return err
		}
	}
	return nil
}

// stamp gives what has no time one.
func stamp(t *tree.Tree, at time.Time) {
	_ = t.Walk(func(_ string, n *tree.Node) error { // which fails only as the function does
		if n.ModTime.IsZero() {
			n.ModTime = at
		}
		return nil
	})
}

// initrd is the small system that finds the disk.
func (m *making) initrd(ctx context.Context, k *Kernel, base *tree.Tree) (tree.Content, error) {
	from, err := k.source(ctx)
	if err != nil {
		return nil, err
	}
	modules, err := from.Closure(nil, diskModules...)
	if err != nil {
		return nil, err
	}
	o := rootfs.InitrdOptions{Time: m.d.recipe.Time}
	if o.ModuleTree, err = kernel.ModuleTree(k.Release, modules); err != nil {
		return nil, err
	}
	t, err := rootfs.Initrd(base, o)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	// Every kernel knows gzip.
	if err := cpio.Write(&out, t, cpio.Options{Time: o.Time, Compression: compress.Gzip}); err != nil {
		return nil, err
	}
	return tree.Bytes(out.Bytes()), nil
}

// addLoaders unpacks the boot loaders, which can be read until release is
// called.
func (m *making) addLoaders(ctx context.Context, o *disk.Options) (release func(), err error) {
	at, err := uki.For(m.system.arch)
	if err != nil {
		return nil, err
	}
	stub, err := m.Client.Unpack(ctx, m.system.stub, debian.UnpackOptions{NoDatabase: true})
	if err != nil {
		return nil, err
	}
	defer stub.Close()
	if o.Stub, err = stub.Tree.ReadFile(at.Stub, uki.MaxStub); err != nil {
		return nil, err
	}
	if m.system.grub == nil {
		return func() {}, nil
	}
	blobs, err := m.Client.Unpack(ctx, m.system.grub, debian.UnpackOptions{NoDatabase: true})
	if err != nil {
		return nil, err
	}
	o.GRUB = blobs.Tree
	return func() { blobs.Close() }, nil
}
