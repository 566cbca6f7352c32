package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"wolffia/internal/build"
	"wolffia/internal/event"
	"wolffia/internal/host"
	"wolffia/internal/kernel"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/machine/uml"
	"wolffia/internal/rootfs"
	"wolffia/internal/store"
	"wolffia/internal/supervisor"
)

// ready is a machine that only needs to be started.
type ready struct {
	config  supervisor.Config
	image   *build.Artifact
	kernel  *build.Kernel
	scratch func() // removes the folder that the machine works in
}

// close frees what prepare took.
func (r *ready) close() {
	if r.image != nil {
		r.image.Release()
	}
	if r.kernel != nil {
		r.kernel.Close()
	}
	if r.scratch != nil {
		r.scratch()
	}
}

// prepare makes the image, gets the kernel and chooses the backend for the
// machine called name.
func (p *project) prepare(ctx context.Context, env Env, o *machineOptions, name string, console rootfs.Console, events event.Sink) (*ready, error) {
	m, err := o.machine(p.Spec, name)
	if err != nil {
		return nil, &usageError{err}
	}
	img := p.Images[m.Image]
	backend, err := p.backend(m, img)
	if err != nil {
		return nil, err
	}
	r := &ready{}
	if r.image, err = p.builder.Image(ctx, img, build.Format{Name: "cpio", Compression: "none"}); err != nil {
		return nil, err
	}
	if r.kernel, err = p.builder.UML(ctx, kernel.UMLSuites(host.New().XState()), modules(m)); err != nil {
		r.close()
		return nil, err
	}
	dir, err := r.openScratch(env)
	if err != nil {
		r.close()
		return nil, err
	}
	r.config = supervisor.Config{
		Lab: p.Spec, Machine: m, Backend: backend, Kernel: r.kernel.Path,
		Image: r.image.Path, Modules: r.kernel.Modules, Console: console, Term: env.Getenv("TERM"),
		Dir: dir, Env: processEnv(env, dir), Patience: o.patience, Events: events,
	}
	return r, nil
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
		if dir, r.scratch, err = store.Scratch(folders.Runtime); err == nil {
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

// modules are those that a machine loads at boot. IPv6 is one in Debian's
// user-mode-linux; without a network nobody misses it.
func modules(m *lab.Machine) []string {
	out := m.Modules
	if len(m.Networks) > 0 {
		out = append([]string{"ipv6"}, out...)
	}
	return out
}

// backend chooses what runs a machine.
func (p *project) backend(m *lab.Machine, img *lab.Image) (machine.Backend, error) {
	arch := m.Arch
	if arch == "" {
		arch = img.Arch
	}
	switch {
	case m.Kernel != "":
		return nil, usagef("machine %q: booting a kernel of your own is not possible yet", m.Name)
	case m.Root == lab.RootDisk:
		return nil, usagef("machine %q: a root on a disk is not possible yet; leave root out", m.Name)
	case m.Backend == lab.BackendQEMU || m.Backend == lab.BackendView:
		return nil, usagef("machine %q: backend %s is not there yet; uml is", m.Name, m.Backend)
	case arch != "" && arch != build.HostArch():
		return nil, usagef("machine %q: User-Mode Linux runs the host's architecture, %s, and can't run %s", m.Name, build.HostArch(), arch)
	case build.HostArch() != "amd64":
		return nil, &host.UnsupportedError{
			Feature: "User-Mode Linux", Why: "it exists for amd64 hosts, and this one is " + build.HostArch(),
			Fix: "build images here, and run them on an amd64 host",
		}
	}
	return uml.Backend{}, nil
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
