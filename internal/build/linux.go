package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/image/cpio"
	"wolffia/internal/kernel"
	"wolffia/internal/tree"
)

// Kinds of objects in the store.
const (
	kindKernel = "kernel"
	kindIndex  = "moduleindex" // a kernel.ModuleIndex as JSON
)

// KernelRequest says which kernel a machine is to have.
type KernelRequest struct {
	Release string   // Debian release: "trixie"
	Arch    string   // Debian's name of the machine's architecture
	Flavour string   // "cloud", "generic", one of Debian's own names, or "" for the smallest that has all modules
	Modules []string // to be loaded at boot, by name or alias; what they need comes with them
	// Optional modules are loaded too, by name, where the kernel has them as
	// modules.
	Optional []string
}

// linuxLayout says how a kernel lies in the store; it changes with what
// writeLinux writes.
const linuxLayout = "linux 4 "

// Files of a kernel in the store.
const (
	imageFile   = "vmlinuz"
	directFile  = "unpacked" // only where there is one
	configFile  = "config"
	releaseFile = "release"
)

// Linux gives the kernel of a machine out of Debian's packages, with modules
// and all that they need. Where the flavour is left open and one lacks a
// module, the next is taken. An architecture without kernels in the release
// gets one of another release, with a note. A module that no flavour has is a
// *[kernel.UnknownModuleError], an unknown flavour a *[kernel.FlavourError].
func (b *Builder) Linux(ctx context.Context, req KernelRequest) (*Kernel, error) {
	sources, err := kernel.LinuxSources(req.Release, req.Arch, req.Flavour)
	if err != nil {
		return nil, err
	}
	var first error
	for i, s := range sources {
		k, err := b.linuxFrom(ctx, s, req)
		var unknown *kernel.UnknownModuleError
		if !errors.As(err, &unknown) {
			return k, err
		}
		if first == nil {
			first = err
		}
		if i+1 < len(sources) {
			b.note("get kernel", s.Flavour, "kernel %s has no module %s; looking in linux-image-%s", unknown.Release, unknown.Name, sources[i+1].Flavour)
		}
	}
	return nil, first
}

func (b *Builder) note(task, subject, format string, args ...any) {
	event.Or(b.Events).Emit(event.Event{Kind: event.Note, Task: task, Subject: subject, Message: fmt.Sprintf(format, args...)})
}

func (b *Builder) linuxFrom(ctx context.Context, s kernel.LinuxSource, req KernelRequest) (*Kernel, error) {
	if s.Release != req.Release || s.Arch != req.Arch {
		b.note("get kernel", s.Flavour, "%s has no kernel of its own for %s; taking %s", req.Release, req.Arch, s)
	}
	lock, err := b.Lock(ctx, s.Request())
	if err != nil {
		return nil, err
	}
	return b.linuxOf(ctx, s, lock, req)
}

// linuxOf gives the kernel that lock pins.
func (b *Builder) linuxOf(ctx context.Context, s kernel.LinuxSource, lock *debian.Lock, req KernelRequest) (*Kernel, error) {
	unpack := b.unpackOnce(lock)
	k, err := b.installLinux(ctx, s.Arch, lock, unpack)
	if err != nil {
		unpack.close()
		return nil, fmt.Errorf("get %s: %w", s, err)
	}
	k.release, k.source = append(k.release, unpack.close), unpack.get
	if err := b.addModules(ctx, k, lock, req, unpack); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// Install puts the kernel and modules, with what they need, into the root of a
// disk: see [kernel.Kernel.Install]. The root's contents can be read until k is
// closed.
func (k *Kernel) Install(ctx context.Context, root *tree.Tree, o kernel.InstallOptions) error {
	from, err := k.source(ctx)
	if err != nil {
		return err
	}
	return from.Install(root, o)
}

// unpacking is a lock's kernel, unpacked when it is first asked for. It is for
// one goroutine at a time.
type unpacking struct {
	get   func(context.Context) (*kernel.Kernel, error)
	close func()
}

func (b *Builder) unpackOnce(lock *debian.Lock) *unpacking {
	var files *debian.Unpacked
	var k *kernel.Kernel
	get := func(ctx context.Context) (*kernel.Kernel, error) {
		if k != nil {
			return k, nil
		}
		var err error
		if files, err = b.Client.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true}); err != nil {
			return nil, err
		}
		if k, err = kernel.FromPackage(files.Tree); err != nil {
			return nil, err
		}
		k.KeepIndex(func(scan func() (*kernel.ModuleIndex, error)) (*kernel.ModuleIndex, error) {
			return b.keepIndex(ctx, lock, scan)
		})
		return k, nil
	}
	return &unpacking{get: get, close: func() {
		if files != nil {
			files.Close()
		}
	}}
}

// keepIndex finds a kernel's index of modules in the store, or makes it.
func (b *Builder) keepIndex(ctx context.Context, lock *debian.Lock, scan func() (*kernel.ModuleIndex, error)) (*kernel.ModuleIndex, error) {
	art, err := b.artifact(ctx, kindIndex, digest([]byte(linuxLayout+lock.Digest())), lock, func(f *os.File) error {
		index, err := scan()
		if err != nil {
			return err
		}
		return json.NewEncoder(f).Encode(index)
	})
	if err != nil {
		return nil, err
	}
	defer art.Release()
	text, err := os.ReadFile(art.Path)
	if err != nil {
		return nil, err
	}
	index := &kernel.ModuleIndex{}
	if err := json.Unmarshal(text, index); err != nil {
		return nil, fmt.Errorf("read %s: %w", art.Path, err)
	}
	return index, nil
}

// installLinux puts the kernel's files into the store.
func (b *Builder) installLinux(ctx context.Context, arch string, lock *debian.Lock, unpack *unpacking) (*Kernel, error) {
	key := digest([]byte(linuxLayout + lock.Digest()))
	dir, release, err := b.folder(ctx, kindKernel, key, func(dir string) error {
		k, err := unpack.get(ctx)
		if err != nil {
			return err
		}
		return writeLinux(dir, arch, k)
	})
	if err != nil {
		return nil, err
	}
	k, err := openLinux(dir)
	if err != nil {
		release()
		return nil, err
	}
	k.Arch, k.release = arch, []func(){release}
	return k, nil
}

// folder finds an object that is a folder, or makes it, and holds on to it.
func (b *Builder) folder(ctx context.Context, kind, key string, fill func(dir string) error) (string, func(), error) {
	for range 3 { // it may be pruned between making and holding
		if path, release, ok := b.Store.Hold(kind, key); ok {
			return path, release, nil
		}
		if _, err := b.Store.CreateDir(ctx, kind, key, fill); err != nil {
			return "", nil, err
		}
	}
	return "", nil, fmt.Errorf("%s %s vanishes from the cache as soon as it is made: is another wolffia pruning it?", kind, key)
}

// openLinux reads back what writeLinux wrote.
func openLinux(dir string) (*Kernel, error) {
	release, err := os.ReadFile(filepath.Join(dir, releaseFile))
	if err != nil {
		return nil, err
	}
	k := &Kernel{Path: filepath.Join(dir, imageFile), Release: string(release)}
	if direct := filepath.Join(dir, directFile); exists(direct) {
		k.Direct = direct
	}
	if config := filepath.Join(dir, configFile); exists(config) {
		k.Config = config
	}
	return k, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// writeLinux writes the files of a kernel out of a package into dir. What
// arrives compressed as a whole, or as an EFI program, is unpacked: QEMU does
// not take it on every architecture.
func writeLinux(dir, arch string, k *kernel.Kernel) error {
	if k.Image == nil {
		return fmt.Errorf("kernel %s: the package holds no boot image", k.Release)
	}
	image := filepath.Join(dir, imageFile)
	if err := copyNode(image, k.Image); err != nil {
		return err
	}
	if err := unpackImage(dir, arch); err != nil {
		return fmt.Errorf("kernel %s: %w", k.Release, err)
	}
	if k.Config != "" {
		if err := os.WriteFile(filepath.Join(dir, configFile), []byte(k.Config), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, releaseFile), []byte(k.Release), 0o644)
}

// unpackImage checks the kernel in dir and unpacks it where that is of use.
func unpackImage(dir, arch string) error {
	f, err := os.Open(filepath.Join(dir, imageFile))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	info, err := kernel.Identify(f, st.Size())
	if err != nil {
		return err
	}
	if info.Arch != arch {
		return fmt.Errorf("it is a kernel for %s, not for %s", info.Arch, arch)
	}
	raw, ok, err := kernel.Uncompress(f, st.Size())
	if err != nil || !ok {
		return err
	}
	if info.Format == kernel.BzImage || info.Format == kernel.ZImage {
		return os.WriteFile(filepath.Join(dir, directFile), raw, 0o644)
	}
	return os.WriteFile(f.Name(), raw, 0o644)
}

func copyNode(name string, n *tree.Node) error {
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// addModules makes the archive of modules, or finds it in the store.
func (b *Builder) addModules(ctx context.Context, k *Kernel, lock *debian.Lock, req KernelRequest, unpack *unpacking) error {
	if len(req.Modules)+len(req.Optional) == 0 {
		return nil
	}
	id, err := self()
	if err != nil {
		return err
	}
	key, err := json.Marshal([]any{id, lock.Digest(), req.Modules, req.Optional})
	if err != nil {
		return fmt.Errorf("name the modules: %w", err)
	}
	art, err := b.artifact(ctx, kindModules, digest(key), lock, func(f *os.File) error {
		k, err := unpack.get(ctx)
		if err != nil {
			return err
		}
		mods, err := k.Closure(req.Modules, req.Optional...)
		if err != nil {
			return err
		}
		return writeModules(f, k.Release, mods, lock.Date)
	})
	if err != nil {
		return err
	}
	k.Modules, k.release = art.Path, append(k.release, art.Release)
	return nil
}

func writeModules(f *os.File, release string, mods []kernel.Module, date time.Time) error {
	t, err := kernel.ModuleTree(release, mods)
	if err != nil {
		return err
	}
	return cpio.Write(f, t, cpio.Options{Time: date})
}
