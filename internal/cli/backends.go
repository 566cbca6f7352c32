package cli

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"wolffia/internal/build"
	"wolffia/internal/event"
	"wolffia/internal/host"
	"wolffia/internal/kernel"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/machine/qemu"
	"wolffia/internal/machine/uml"
	"wolffia/internal/rootfs"
	"wolffia/internal/store"
	"wolffia/internal/supervisor"
)

// ready is a machine that only needs to be started.
type ready struct {
	config supervisor.Config
	image  *build.Artifact
	kernel *build.Kernel
	// fileDisks is how many of the machine's disks are the file's; the others are
	// those of flags.
	fileDisks int
	closers   []func() // free what was taken, from the last to the first
}

// close frees what prepare took.
func (r *ready) close() {
	for _, f := range slices.Backward(r.closers) {
		f()
	}
}

// prepare makes the image, gets the kernel and chooses the backend for the
// machine called name.
func (p *project) prepare(ctx context.Context, env Env, o *machineOptions, name string, console rootfs.Console, events event.Sink) (_ *ready, err error) {
	m, err := o.machine(p.Spec, name)
	if err != nil {
		return nil, &usageError{err}
	}
	if o.kernel != "" {
		m.Kernel = inDir(env.Dir, o.kernel)
	}
	if err := p.share(env, o.shares, m); err != nil {
		return nil, err
	}
	found, err := p.disks(env, o.disks, m)
	if err != nil {
		return nil, err
	}
	img := p.imageFor(m)
	if err := p.check(m, img); err != nil {
		return nil, err
	}
	if m.Boot != lab.BootKernel && console == rootfs.ConsoleNone {
		return nil, usagef("machine %q: boot %s gives the console alone: nothing of wolffia's is on the disk to run a command", m.Name, m.Boot)
	}
	r := &ready{fileDisks: len(m.Disks) - len(o.disks)}
	defer func() {
		if err != nil {
			r.close()
			err = notUp(m.Name, err)
		}
	}()
	if r.image, err = p.builder.Image(ctx, img, rootFormat(m)); err != nil {
		return nil, err
	}
	r.closers = append(r.closers, r.image.Release)
	if m.Boot != lab.BootKernel {
		if err := p.firmware(ctx, env, o, r, m, img, events); err != nil {
			return nil, err
		}
		return r, p.addDisks(ctx, env, r, found, o.keep, events)
	}
	if r.kernel, err = p.kernel(ctx, m, img, found); err != nil {
		return nil, err
	}
	r.closers = append(r.closers, r.kernel.Close)
	if o.memory == "" && !m.OwnMemory && m.Root == lab.RootInitramfs {
		if m.Memory, err = enoughMemory(r.image.Path); err != nil {
			return nil, err
		}
	}
	backend, kernelPath, err := p.backend(ctx, env, r, m, events)
	if err != nil {
		return nil, err
	}
	dir, err := r.openScratch(env)
	if err != nil {
		return nil, err
	}
	r.config = supervisor.Config{
		Lab: p.Spec, Machine: m, Arch: r.kernel.Arch, Backend: backend, Kernel: kernelPath,
		Image: r.image.Path, Modules: r.kernel.Modules, Base: p.dir(env), Term: env.Getenv("TERM"),
		Console: console, Throwaway: console != rootfs.ConsoleShell,
		Dir: dir, Env: processEnv(env, dir), Patience: o.patience, Events: events,
	}
	if m.Console == lab.ConsoleLogin && console != rootfs.ConsoleNone {
		r.config.Console = rootfs.ConsoleLogin
	}
	if m.Root == lab.RootDisk {
		if err := p.rootOnDisk(ctx, r, img); err != nil {
			return nil, err
		}
	}
	return r, p.addDisks(ctx, env, r, found, o.keep, events)
}

// rootFormat is the form of the image that a machine boots.
func rootFormat(m *lab.Machine) build.Format {
	format := build.Format{Name: "cpio", Compression: "none"}
	switch {
	case m.Boot != lab.BootKernel:
		format.Name = "disk"
	case m.Root == lab.RootDisk:
		format.Name = "ext4"
	}
	return format
}

// firmware sets up a machine that boots from its own disk, as any computer
// would: nothing of wolffia's is in it.
func (p *project) firmware(ctx context.Context, env Env, o *machineOptions, r *ready, m *lab.Machine, img *lab.Image, events event.Sink) error {
	backend, err := p.emulator(ctx, env, img.Arch, r, m, events)
	if err != nil {
		return err
	}
	firmware := machine.FirmwareBIOS
	if m.Boot == lab.BootUEFI {
		firmware = machine.FirmwareUEFI
		if backend.UEFI, err = qemu.FindUEFI(img.Arch); err != nil {
			f, err := p.builder.Firmware(ctx, img.Arch)
			if err != nil {
				return err
			}
			r.closers = append(r.closers, f.Close)
			backend.UEFI = qemu.UEFI{Code: f.Code, Vars: f.Vars}
		}
	}
	if o.memory == "" && !m.OwnMemory {
		m.Memory = lab.FirmwareMemory
	}
	dir, err := r.openScratch(env)
	if err != nil {
		return err
	}
	r.config = supervisor.Config{
		Lab: p.Spec, Machine: m, Arch: img.Arch, Backend: backend, Firmware: firmware,
		Disks: []machine.Disk{{Path: r.image.Path, Format: machine.Raw}},
		Dir:   dir, Env: processEnv(env, dir), Patience: o.patience, Events: events,
	}
	return nil
}

// notUp makes the one report of a machine that does not come up of what is
// wrong with the parts it was to be made of. Bad use, and what went wrong with
// the archive, stay what they are.
func notUp(name string, err error) error {
	e := &machine.StartError{Machine: name, Cause: err.Error()}
	switch {
	case errors.Is(err, fs.ErrNotExist) && !errors.As(err, new(*kernel.NotBuiltError)):
		return err // a name that is wrong
	case errors.As(err, new(*build.BaseError)), errors.As(err, new(*build.TooSmallError)):
		e.Stage = "image"
	case errors.As(err, new(*kernel.UnknownModuleError)), errors.As(err, new(*kernel.StaleModuleError)):
		e.Stage = "modules"
	case errors.As(err, new(*kernel.NotKernelError)), errors.As(err, new(*kernel.NotBuiltError)), errors.As(err, new(*build.KernelArchError)):
		e.Stage = "kernel"
	case errors.Is(err, unix.ENOSPC):
		e.Stage = "start"
	default:
		return err
	}
	var fixer interface{ Fix() string }
	if errors.As(err, &fixer) {
		e.Fix = fixer.Fix()
		e.Cause = strings.TrimSuffix(e.Cause, "; "+e.Fix) // said once
	}
	return e
}

// rootOnDisk puts the machine's root on a disk, of which it writes to a copy.
func (p *project) rootOnDisk(ctx context.Context, r *ready, img *lab.Image) error {
	initrd, err := p.builder.Initrd(ctx, img)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, initrd.Release)
	c := &r.config
	c.Disks = []machine.Disk{{Path: c.Image, Format: machine.Raw}}
	c.Image = initrd.Path
	c.Cmdline = []string{"root=" + c.Backend.Guest(c.Arch).Disk, "rw"}
	return nil
}

// processEnv is the environment of the kernel's process: nothing of the
// person's but where programs and room for temporary files are.
func processEnv(env Env, home string) []string {
	out := []string{"PATH=" + env.Getenv("PATH"), "HOME=" + home}
	if dir := env.Getenv("TMPDIR"); dir != "" {
		out = append(out, "TMPDIR="+dir)
	}
	return out
}

// openScratch makes the machine's folder. An XDG_RUNTIME_DIR that can't be
// used, such as the one of somebody else that su leaves behind, is passed over.
func (r *ready) openScratch(env Env) (dir string, err error) {
	for _, getenv := range []func(string) string{env.Getenv, withoutRuntime(env.Getenv)} {
		var folders store.Folders
		if folders, err = store.FoldersOf(getenv); err != nil {
			return "", err
		}
		var remove func()
		if dir, remove, err = store.Scratch(folders.Runtime); err == nil {
			r.closers = append(r.closers, remove)
			return dir, nil
		}
	}
	return "", err
}

func withoutRuntime(getenv func(string) string) func(string) string {
	return func(name string) string {
		if name == "XDG_RUNTIME_DIR" {
			return ""
		}
		return getenv(name)
	}
}

// ipv6 is the module that a machine's networks want, where the kernel has it as
// one, as Debian's user-mode-linux does: a kernel of the person's own may do
// without IPv6, and without a network nobody misses it.
func ipv6(m *lab.Machine) []string {
	if len(m.Cards) == 0 {
		return nil
	}
	return []string{"ipv6"}
}

// imageFor is a machine's image in the machine's architecture.
func (p *project) imageFor(m *lab.Machine) *lab.Image {
	img := *p.Images[m.Image]
	if m.Arch != "" {
		img.Arch = m.Arch
	}
	if img.Arch == "" {
		img.Arch = build.HostArch()
	}
	return &img
}

// check refuses machines that nothing here can run.
func (p *project) check(m *lab.Machine, img *lab.Image) error {
	arch := img.Arch
	switch {
	case m.Boot != lab.BootKernel && m.Backend == lab.BackendUML:
		return usagef("machine %q: User-Mode Linux has no firmware; use the backend qemu, or leave boot out", m.Name)
	case m.Boot != lab.BootKernel && (m.Kernel != "" || len(m.Cmdline) > 0 || len(m.Modules) > 0):
		return usagef("machine %q: firmware finds the kernel on the disk: kernel, cmdline and modules are the image's; leave them out, or boot", m.Name)
	case m.Boot != lab.BootKernel && len(m.Shares) > 0:
		return usagef("machine %q: boot %s has a system of its own, which mounts no shares; leave them out, or boot", m.Name, m.Boot)
	case m.Boot != lab.BootKernel && slices.ContainsFunc(m.Disks, func(k lab.Disk) bool { return k.Mount != "" }):
		return usagef("machine %q: boot %s has a system of its own, which mounts its disks itself; leave mount out, or boot", m.Name, m.Boot)
	case m.Type != lab.TypeDefault && (arch != "amd64" || m.Backend == lab.BackendUML):
		return usagef("machine %q: type %s is a PC of QEMU's, for amd64", m.Name, m.Type)
	case m.Type == lab.TypeMicroVM && m.Boot != lab.BootKernel:
		return usagef("machine %q: a microvm has no firmware that boots disks; use type q35", m.Name)
	case m.Backend == lab.BackendView:
		return usagef("machine %q: backend %s is not there yet; uml and qemu are", m.Name, m.Backend)
	case m.Backend == lab.BackendUML && arch != build.HostArch():
		return usagef("machine %q: User-Mode Linux runs the host's architecture, %s, and can't run %s; use the backend qemu", m.Name, build.HostArch(), arch)
	case m.Backend == lab.BackendUML && !hasUML():
		return &host.UnsupportedError{
			Feature: "User-Mode Linux", Why: "it exists for amd64 hosts, and this one is " + build.HostArch(),
			Fix: "use the backend qemu",
		}
	}
	return nil
}

// hasUML says whether User-Mode Linux exists for this host.
func hasUML() bool { return build.HostArch() == "amd64" }

// prefersUML says whether a machine without a kernel of the person's own gets a
// User-Mode Linux.
func prefersUML(m *lab.Machine, arch string) bool {
	return m.Backend == lab.BackendUML || m.Backend == lab.BackendAuto && m.Boot == lab.BootKernel && m.Type == lab.TypeDefault && hasUML() && arch == build.HostArch()
}

// kernel gets the machine's kernel, which decides what can run it.
func (p *project) kernel(ctx context.Context, m *lab.Machine, img *lab.Image, disks []diskContent) (*build.Kernel, error) {
	arch := img.Arch
	guest := qemu.Backend{MicroVM: m.Type == lab.TypeMicroVM}.Guest(arch)
	req := build.KernelRequest{Release: img.Release, Arch: arch, Modules: m.Modules, Optional: slices.Concat(guest.Modules, ipv6(m))}
	if m.Root == lab.RootDisk {
		req.Optional = append(req.Optional, "ext4")
	}
	var mounting []string // what shares and disks need
	for _, d := range disks {
		mounting = append(mounting, d.holds.modules...)
	}
	onUML := slices.Concat(m.Modules, ipv6(m), mounting)
	if len(m.Shares) > 0 {
		mounting = append(mounting, guest.Share.Modules...)
	}
	own := m.Kernel
	if own == "" && build.IsPath(img.Kernel) {
		own = img.Kernel
	}
	if own != "" {
		req.Optional = append(req.Optional, mounting...) // it may have them built in, without saying so
		k, err := p.builder.LocalKernel(ctx, inDir(p.builder.Dir, own), req)
		if errors.Is(err, fs.ErrNotExist) && !errors.As(err, new(*kernel.NotBuiltError)) {
			return nil, &usageError{err}
		}
		if err != nil {
			return nil, err
		}
		if err := p.suits(m, k); err != nil {
			k.Close()
			return nil, err
		}
		return k, nil
	}
	if prefersUML(m, arch) {
		return p.builder.UML(ctx, kernel.UMLSuites(p.host.XState()), onUML)
	}
	req.Flavour = img.Kernel
	req.Modules = slices.Concat(req.Modules, mounting) // the smallest kernel lacks them
	return p.builder.Linux(ctx, req)
}

// suits refuses a backend that does not boot kernels of this kind.
func (p *project) suits(m *lab.Machine, k *build.Kernel) error {
	switch {
	case m.Backend == lab.BackendUML && !k.UML:
		return usagef("machine %q: kernel %s is none of User-Mode Linux; use the backend qemu", m.Name, m.Kernel)
	case m.Backend == lab.BackendQEMU && k.UML:
		return usagef("machine %q: kernel %s is a User-Mode Linux; use the backend uml", m.Name, m.Kernel)
	}
	return nil
}

// backend sets up what runs a kernel, and says which file of it that wants.
func (p *project) backend(ctx context.Context, env Env, r *ready, m *lab.Machine, events event.Sink) (machine.Backend, string, error) {
	k := r.kernel
	if k.UML {
		return uml.Backend{Group: p.keepers}, k.Path, nil
	}
	backend, err := p.emulator(ctx, env, k.Arch, r, m, events)
	if err != nil {
		return nil, "", err
	}
	return backend, cmp.Or(k.Direct, k.Path), nil
}

// emulator sets up QEMU for an architecture.
func (p *project) emulator(ctx context.Context, env Env, arch string, r *ready, m *lab.Machine, events event.Sink) (qemu.Backend, error) {
	program, err := p.qemu(ctx, env, arch, r)
	if err != nil {
		return qemu.Backend{}, err
	}
	accel, why := qemu.Accelerate(arch, p.kvm)
	if why != nil {
		var u *host.UnsupportedError
		text := why.Error()
		if errors.As(why, &u) {
			text = u.Why
		}
		event.Or(events).Emit(event.Event{Kind: event.Note, Task: "boot", Message: "without KVM the machine is emulated: " + text + " (see wolffia doctor)"})
	}
	return qemu.Backend{Program: program, Accel: accel, MicroVM: m.Type == lab.TypeMicroVM, Group: p.keepers}, nil
}

// qemu finds the host's QEMU, or else gets one of the archive.
func (p *project) qemu(ctx context.Context, env Env, arch string, r *ready) (qemu.Program, error) {
	program, err := p.hostQEMU(ctx, env, arch)
	var missing *host.UnsupportedError
	if !errors.As(err, &missing) {
		return program, err
	}
	q, gerr := p.builder.QEMU(ctx, arch)
	if gerr != nil {
		return program, errors.Join(err, gerr)
	}
	r.closers = append(r.closers, q.Close)
	return p.probedQEMU(ctx, q)
}

// keepLog moves a machine's console log out of the scratch folder, where a
// report can name it after wolffia has ended.
func keepLog(env Env, err error) {
	var start *machine.StartError
	if !errors.As(err, &start) || start.Log == "" {
		return
	}
	folders, ferr := store.FoldersOf(env.Getenv)
	if ferr != nil {
		start.Log = ""
		return
	}
	dir := filepath.Join(folders.State, "logs")
	to := filepath.Join(dir, start.Machine+".console.log")
	data, rerr := os.ReadFile(start.Log)
	if rerr == nil {
		rerr = os.MkdirAll(dir, 0o700)
	}
	if rerr == nil {
		rerr = os.WriteFile(to, data, 0o600)
	}
	if start.Log = to; rerr != nil || len(data) == 0 { // one that did not come as far as its console
		start.Log = ""
	}
}
