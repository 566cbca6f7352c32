package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wolffia/internal/kernel"
)

// KernelArchError says that a kernel is for another architecture than the
// machine.
type KernelArchError struct {
	Path       string
	Arch, Want string
}

func (e *KernelArchError) Error() string {
	return fmt.Sprintf("kernel %s is for %s, and the machine is %s", e.Path, e.Arch, e.Want)
}

// Fix says what would go together.
func (e *KernelArchError) Fix() string {
	return fmt.Sprintf("give a kernel for %s, or an image with arch: %s", e.Want, e.Arch)
}

// LocalKernel gives a kernel of the person's own: an image, or the folder of a
// kernel build (see [kernel.Open]), for a machine of req.Arch, with the modules
// of req; Release and Flavour don't matter. Images are used where they are, so
// what was built last is what boots. A 64-bit PC kernel does for an i386
// machine; any other difference is a *[KernelArchError].
//
// Of an image by itself no modules are known: those that are asked for are
// taken to be built in, with a note.
func (b *Builder) LocalKernel(ctx context.Context, path string, req KernelRequest) (*Kernel, error) {
	l, err := kernel.Open(path)
	if err != nil {
		return nil, err
	}
	if l.Info.Arch != req.Arch && !(l.Info.Arch == "amd64" && req.Arch == "i386") {
		return nil, &KernelArchError{Path: l.Path, Arch: l.Info.Arch, Want: req.Arch}
	}
	k := &Kernel{
		Path: l.Path, Release: l.Release, Arch: l.Info.Arch, Direct: l.Unpacked, UML: l.Info.Format == kernel.UML,
		source: func(context.Context) (*kernel.Kernel, error) { return &l.Kernel, nil },
	}
	if l.Dir != "" {
		k.Config = filepath.Join(l.Dir, ".config")
	}
	if l.Bare && len(req.Modules) > 0 {
		b.note("get kernel", path, "kernel %s comes without modules: %s must be built into it", path, strings.Join(req.Modules, ", "))
	}
	if err := b.noteMissing(path, l, req); err != nil {
		return nil, err
	}
	if err := b.unpackLocal(ctx, k, l); err != nil {
		k.Close()
		return nil, err
	}
	if err := b.localModules(ctx, k, l, req); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// wanted are options of a kernel's configuration that every machine does best
// with: it starts in an initramfs, with scripts, and is entered by ssh.
var wanted = []string{
	"BLK_DEV_INITRD", "BINFMT_ELF", "BINFMT_SCRIPT", "PROC_FS", "SYSFS", "TMPFS", "DEVTMPFS", "UNIX98_PTYS",
	"MULTIUSER", "INET", "NET_NS",
}

// noteMissing says what a small kernel lacks, so that a machine that does not
// come up is no riddle. It may still do what the person wants.
func (b *Builder) noteMissing(path string, l *kernel.Local, req KernelRequest) error {
	names := append(slices.Clone(wanted), "UML_NET_VECTOR")
	if l.Info.Format != kernel.UML {
		names = slices.Concat(wanted, req.Optional)
	}
	missing, err := l.Without(names)
	missing = slices.DeleteFunc(missing, func(name string) bool { return slices.Contains(spare, name) })
	if err == nil && len(missing) > 0 {
		b.note("get kernel", path, "kernel %s lacks %s, which machines of this kind want", path, strings.Join(missing, ", "))
	}
	return err
}

// spare are modules that machines load where a kernel has them, and do without.
var spare = []string{"virtio_rng", "virtio_input", "ipv6"}

// unpackLocal puts an image that unpacks itself into the store as one that
// needs not, named by its content.
func (b *Builder) unpackLocal(ctx context.Context, k *Kernel, l *kernel.Local) error {
	if k.Direct != "" || !l.Info.Gzip && l.Info.Format != kernel.ZBoot && l.Info.Format != kernel.BzImage && l.Info.Format != kernel.ZImage {
		return nil
	}
	key, err := fileKey(l.Path)
	if err != nil {
		return err
	}
	dir, release, err := b.folder(ctx, kindKernel, key, func(dir string) error {
		return writeLinux(dir, l.Info.Arch, &l.Kernel)
	})
	if err != nil {
		return fmt.Errorf("unpack kernel %s: %w", l.Path, err)
	}
	k.release = append(k.release, release)
	kept, err := openLinux(dir)
	if err != nil {
		return err
	}
	if k.Direct = kept.Direct; l.Info.Gzip || l.Info.Format == kernel.ZBoot {
		k.Path = kept.Path
	}
	return nil
}

// fileKey names a kernel by its content.
func fileKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	io.WriteString(h, linuxLayout)
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// localModules makes the archive of modules, named by their content.
func (b *Builder) localModules(ctx context.Context, k *Kernel, l *kernel.Local, req KernelRequest) error {
	if l.Bare {
		return nil
	}
	mods, err := l.Closure(req.Modules, req.Optional...)
	if err != nil || len(mods) == 0 {
		return err
	}
	id, err := self()
	if err != nil {
		return err
	}
	h := sha256.New()
	for _, m := range mods {
		fmt.Fprintln(h, m.Path, m.Depends, len(m.Data))
		h.Write(m.Data)
	}
	key, err := json.Marshal([]any{id, l.Release, hex.EncodeToString(h.Sum(nil))})
	if err != nil {
		return fmt.Errorf("name the modules: %w", err)
	}
	art, err := b.artifact(ctx, kindModules, digest(key), nil, func(f *os.File) error {
		return writeModules(f, l.Release, mods, time.Time{})
	})
	if err != nil {
		return err
	}
	k.Modules, k.release = art.Path, append(k.release, art.Release)
	return nil
}
