package build

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/kernel"
)

const kindModules = "modules"

// uml.lock pins the user-mode-linux of suites whose index is no good anchor:
// an unstable one is valid for a week only, and a mirror that stands still, or
// is a snapshot, is past that. A pin is checked by digest, which says more
// than a signature's date. Where the archive has moved on, its index decides.
//
//go:embed uml.lock
var umlLock []byte

// Kernel is a kernel in the store, with modules for a machine's initramfs.
type Kernel struct {
	Path    string // what the backend boots
	Release string // as uname -r prints it
	UML     bool   // it is a user-mode-linux
	Modules string // path of a cpio archive with modules to load; empty without any

	Arch string // Debian's name of the architecture that it is for; not always the image's

	// Of a kernel that is no user-mode-linux:

	// Direct is the path of the same kernel unpacked, for QEMU's -kernel only:
	// it starts in half to two thirds of the time that Path takes to unpack
	// itself under emulation. It is empty where there is none, or Path is it.
	Direct string
	Config string // path of its configuration; empty when it is not known

	source  func(context.Context) (*kernel.Kernel, error)
	release []func()
}

// Close lets the store remove the kernel again.
func (k *Kernel) Close() {
	for _, f := range k.release {
		f()
	}
}

// BuiltIn says whether an option of its configuration, such as "CONFIG_EXT4_FS", is
// known to be built in, and no module.
func (k *Kernel) BuiltIn(option string) bool {
	if k.Config == "" {
		return false
	}
	text, err := os.ReadFile(k.Config)
	return err == nil && bytes.Contains(text, []byte("\n"+option+"=y\n"))
}

// UML gives a user-mode-linux from the first of suites that has one which can
// be had, with modules and all that they need.
func (b *Builder) UML(ctx context.Context, suites, modules []string) (*Kernel, error) {
	var errs []error
	for _, suite := range suites {
		k, err := b.umlFrom(ctx, suite, modules)
		if err == nil || ctx.Err() != nil || errors.As(err, new(*kernel.UnknownModuleError)) {
			return k, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (b *Builder) umlFrom(ctx context.Context, suite string, modules []string) (*Kernel, error) {
	req := kernel.UMLRequest(suite, HostArch())
	pins, err := debian.ParseLocks(umlLock)
	if err != nil {
		return nil, fmt.Errorf("read this program's own pins: %w", err)
	}
	if pin := pins.Find(req); pin != nil && !b.Update {
		k, err := b.umlOf(ctx, pin, modules)
		var status *debian.StatusError
		if !errors.As(err, &status) {
			return k, err
		}
		event.Or(b.Events).Emit(event.Event{Kind: event.Note, Task: "get kernel", Subject: suite,
			Message: "the archive no longer has the kernel that this wolffia knows; taking the one it has now"})
	}
	lock, err := b.Lock(ctx, req)
	if err != nil {
		return nil, err
	}
	return b.umlOf(ctx, lock, modules)
}

// umlOf installs the pinned kernel and makes the archive of modules.
func (b *Builder) umlOf(ctx context.Context, lock *debian.Lock, modules []string) (*Kernel, error) {
	uml, err := kernel.InstallLockedUML(ctx, b.Client, b.Store, lock)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Path: uml.Path, Release: uml.Release, UML: true, Arch: HostArch()}
	unpack := b.unpackOnce(lock)
	k.release, k.source = []func(){unpack.close}, unpack.get
	if err := b.addModules(ctx, k, lock, KernelRequest{Modules: modules}, unpack); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}
