package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wolffia/internal/build"
	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/host"
	"wolffia/internal/lab"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/rootfs"
	"wolffia/internal/store"
	"wolffia/internal/supervisor"
	"wolffia/internal/term"

	xterm "golang.org/x/term"
)

// buildOptions are the flags of every verb that makes an image.
type buildOptions struct {
	file     string
	mirror   string
	keyrings []string
	from     string
	release  string
	arch     string
	packages []string
	deps     string
	offline  bool
	update   bool
	expired  bool
	quiet    bool
	json     bool
}

// labFlags are those that leave everything to the lab's file.
func (o *buildOptions) labFlags(env Env, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "the lab's file (default wolffia.yaml where there is one)")
	f.StringVar(&o.mirror, "mirror", "", "the Debian mirror's URL (default $WOLFFIA_MIRROR, the file's, the host's own)")
	f.StringArrayVar(&o.keyrings, "keyring", nil, "a file of further OpenPGP keys that may sign the archive")
	f.BoolVar(&o.offline, "offline", false, "never use the network")
	f.BoolVar(&o.update, "update", false, "pin the newest packages, in place of the locked ones")
	f.BoolVar(&o.expired, "ignore-expired", false, "take an archive index past its validity, as old snapshots have")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but warnings and errors")
	f.BoolVar(&o.json, "json", false, "speak JSON: progress on standard error, one event a line, and results on standard output")
	complete(cmd, "file", files("yaml", "yml"))
	complete(cmd, "mirror", words())
}

func (o *buildOptions) flags(env Env, cmd *cobra.Command) {
	o.labFlags(env, cmd)
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "what the image starts from: an image of a registry, such as debian:trixie, or a file or folder, such as ./root.tar")
	f.StringVar(&o.release, "release", "", "the Debian release, by code name (default "+lab.DefaultRelease+")")
	f.StringVar(&o.arch, "arch", "", "the architecture, by Debian's name (default the host's)")
	f.StringArrayVarP(&o.packages, "package", "p", nil, "a further package: NAME, NAME=VERSION or NAME:ARCH")
	f.StringVar(&o.deps, "deps", "", "of dependencies keep all (packages) or only needed libraries (elf); without a file elf, or packages with -p")
	complete(cmd, "from", files("tar", "gz", "xz", "zst", "img", "qcow2", "ext4"))
	complete(cmd, "release", words("bookworm", "trixie", "forky", "sid"))
	complete(cmd, "arch", words(lab.Arches()...))
	complete(cmd, "package", o.completePackage(env))
	complete(cmd, "deps", words(lab.DepsWords()...))
}

// renderer shows progress the way that fits: bars only where a person watches.
func (o *buildOptions) renderer(env Env) *term.Renderer {
	style := term.Lines
	switch {
	case o.json:
		style = term.JSON
	case o.quiet:
		style = term.Quiet
	case xterm.IsTerminal(int(env.Stderr.Fd())) && env.Getenv("TERM") != "dumb":
		style = term.Bars
	}
	return term.New(env.Stderr, style)
}

// project is what the verbs that build work with.
type project struct {
	*labFile
	store   *store.Store
	builder *build.Builder
	mirror  debian.Mirror
	host    *host.Host
	keepers *keeper.Group // of machines that run side by side; nil where each has its own keeper
}

// open reads the file, applies the flags to every image and opens the cache.
func (o *buildOptions) open(env Env, events event.Sink) (*project, error) {
	l, err := readLab(env, o.file)
	if err != nil {
		return nil, err
	}
	if l.path == "" && len(o.packages) > 0 && o.deps == "" {
		// What programs need besides libraries, such as Python's modules, would
		// be missing: whoever names packages gets them whole.
		o.deps = string(rootfs.DepsPackages)
	}
	if err := o.start(env, l); err != nil {
		return nil, &usageError{err}
	}
	if err := o.apply(l.Spec); err != nil {
		return nil, &usageError{err}
	}
	folders, err := store.FoldersOf(env.Getenv)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(store.Options{Dir: folders.Cache, Events: events})
	if err != nil {
		return nil, err
	}
	mirror, mirrorErr := debian.FindMirror(debian.MirrorOptions{
		Flag: o.mirror, Env: env.Getenv("WOLFFIA_MIRROR"), File: l.Mirror, AptDir: "/etc/apt",
	})
	if mirrorErr != nil && !errors.As(mirrorErr, new(*debian.NoMirrorError)) {
		return nil, &usageError{mirrorErr}
	}
	var keyrings []string
	for _, k := range o.keyrings {
		keyrings = append(keyrings, inDir(env.Dir, k))
	}
	if l.Keyring != "" {
		keyrings = append(keyrings, inDir(l.dir(env), l.Keyring))
	}
	client := debian.New(debian.Options{
		Store: st, Mirror: mirror, MirrorErr: mirrorErr, Keyrings: keyrings, Events: events, Getenv: env.Getenv,
		Update: o.update, Offline: o.offline, AllowExpired: o.expired,
	})
	b := &build.Builder{Store: st, Client: client, Events: events, Dir: l.dir(env), Update: o.update, Offline: o.offline, Getenv: env.Getenv, Now: time.Now}
	if l.path != "" {
		b.LockFile = lockFile(l.path)
	}
	return &project{labFile: l, store: st, builder: b, mirror: mirror, host: host.New()}, nil
}

// start has every image start from what --from says. Without a file that is all
// there is in it: wolffia's own tools don't lie in its way.
func (o *buildOptions) start(env Env, l *labFile) error {
	if o.from == "" {
		return nil
	}
	base, err := lab.ParseBase(o.from)
	if err != nil {
		return err
	}
	if base.Image != "" {
		return fmt.Errorf("--from %s: an image of a registry has a tag, such as %[1]s:latest, and a path begins with ./", o.from)
	}
	if base.Path != "" && !strings.HasPrefix(base.Path, "~/") {
		base.Path = inDir(env.Dir, base.Path)
	}
	for _, img := range l.Images {
		img.From = base
		if l.path == "" {
			img.Packages, img.Deps, img.Guess = nil, rootfs.DepsPackages, true
		}
	}
	return nil
}

// lockFile is where the packages of a lab's file are pinned: wolffia.lock for
// wolffia.yaml.
func lockFile(path string) string {
	if stem, ok := strings.CutSuffix(path, filepath.Ext(path)); ok && filepath.Ext(path) != ".lock" {
		return stem + ".lock"
	}
	return path + ".lock"
}

func inDir(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// apply lays the flags over the file's images.
func (o *buildOptions) apply(s *lab.Spec) error {
	if o.release != "" {
		if err := lab.CheckRelease(o.release); err != nil {
			return err
		}
	}
	if o.arch != "" {
		if err := lab.OneOf("architecture", o.arch, lab.Arches()); err != nil {
			return err
		}
	}
	if o.deps != "" {
		if err := lab.OneOf("value of --deps", o.deps, lab.DepsWords()); err != nil {
			return err
		}
	}
	for _, img := range s.Images {
		if o.release != "" {
			img.Release, img.Guess = o.release, false
		}
		if o.arch != "" {
			img.Arch = o.arch
		}
		if o.deps != "" {
			img.Deps = rootfs.Deps(o.deps)
		}
		img.Packages = append(img.Packages, o.packages...)
	}
	return nil
}

// machineOptions are the flags of the verbs that boot one machine.
type machineOptions struct {
	memory   string
	network  string
	subnet   string
	subnet6  string
	noHost   bool
	restrict bool
	forwards []string
	backend  string
	kernel   string
	root     string
	boot     string
	kind     string
	cmdline  []string
	modules  []string
	shares   []string
	disks    []string
	patience time.Duration
	keep     string // folder where what is written to disks is kept; empty means that it is not
}

func (o *machineOptions) flags(env Env, file *string, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.memory, "memory", "m", "", "RAM, such as 256M or 1G (default "+lab.DefaultMemory.String()+", or what a larger root in memory takes)")
	f.StringVar(&o.network, "network", "", "the network it is on: a name from the file, or none (default the first)")
	f.StringVar(&o.subnet, "subnet", "", "the network's IPv4 addresses (default 10.0.2.0/24)")
	f.StringVar(&o.subnet6, "subnet6", "", "the network's IPv6 addresses, a /64")
	f.BoolVar(&o.noHost, "no-host", false, "keep the host itself out of reach")
	f.BoolVar(&o.restrict, "restrict", false, "keep everything outside the network out of reach")
	f.StringArrayVar(&o.forwards, "forward", nil, "lead a port of the host into the machine: [ADDRESS:]HOSTPORT:PORT[/udp]")
	f.StringVar(&o.backend, "backend", "", "what runs it: "+strings.Join(lab.Backends(), ", "))
	f.StringVar(&o.kernel, "kernel", "", "a kernel of your own: an image (bzImage, Image, vmlinux, linux) or the folder it was built in")
	f.StringVar(&o.root, "root", "", "where its root is: initramfs (in memory) or disk (writes are gone with the machine)")
	f.StringVar(&o.boot, "boot", "", "what finds the kernel: kernel (wolffia does), bios or uefi (firmware does, on a complete disk)")
	f.StringVar(&o.kind, "type", "", "the kind of PC that QEMU makes: "+strings.Join(lab.Types(), " or "))
	f.StringArrayVar(&o.cmdline, "cmdline", nil, "a further kernel parameter")
	f.StringArrayVar(&o.modules, "module", nil, "a further kernel module to load at boot")
	f.StringArrayVar(&o.shares, "share", nil, "show the machine a folder of the host: FOLDER:PLACE[:ro]")
	f.StringArrayVar(&o.disks, "disk", nil, "give the machine a further disk, new or an image: SIZE|IMAGE[:FORMAT][:PLACE][:ro|:in-place]")
	f.DurationVar(&o.patience, "boot-timeout", supervisor.DefaultPatience, "how long a machine that boots may report no progress before it is given up")
	complete(cmd, "memory", words("64M", "128M", "256M", "512M", "1G", "2G"))
	complete(cmd, "network", fromLab(env, file, func(s *lab.Spec) []string { return append(s.NetworkNames(), "none") }))
	complete(cmd, "backend", words(lab.Backends()...))
	complete(cmd, "boot", words(lab.Boots()...))
	complete(cmd, "type", words(lab.Types()...))
	complete(cmd, "root", words(lab.Roots()...))
	for _, name := range []string{"subnet", "subnet6", "forward", "cmdline", "module", "share", "disk", "boot-timeout"} {
		complete(cmd, name, words())
	}
}

// machine picks the machine or image called name, or the only one, and lays
// the flags over it.
func (o *machineOptions) machine(s *lab.Spec, name string) (*lab.Machine, error) {
	m, err := pick(s, name)
	if err != nil {
		return nil, err
	}
	if o.patience <= 0 {
		return nil, usagef("--boot-timeout %v leaves a machine no time; write one such as 90s or 5m", o.patience)
	}
	if o.memory != "" {
		if m.Memory, err = lab.ParseMemory(o.memory); err != nil {
			return nil, err
		}
	}
	if o.backend != "" {
		if err := lab.OneOf("backend", o.backend, lab.Backends()); err != nil {
			return nil, err
		}
		m.Backend = lab.Backend(o.backend)
	}
	if o.root != "" {
		if err := lab.OneOf("root", o.root, lab.Roots()); err != nil {
			return nil, err
		}
		m.Root = lab.Root(o.root)
	}
	if o.boot != "" {
		if err := lab.OneOf("way to boot", o.boot, lab.Boots()); err != nil {
			return nil, err
		}
		m.Boot = lab.Boot(o.boot)
	}
	if o.kind != "" {
		if err := lab.OneOf("type", o.kind, lab.Types()); err != nil {
			return nil, err
		}
		m.Type = lab.Type(o.kind)
	}
	switch o.network {
	case "":
	case "none":
		m.Cards = nil
	default:
		if err := lab.OneOf("network", o.network, append(s.NetworkNames(), "none")); err != nil {
			return nil, err
		}
		m.Cards = []lab.Card{{Network: o.network}}
	}
	if err := o.networks(s, m); err != nil {
		return nil, err
	}
	for _, text := range o.forwards {
		f, err := lab.ParseForward(text)
		if err != nil {
			return nil, err
		}
		m.Forwards = append(m.Forwards, f)
	}
	if len(o.forwards) > 0 && s.Uplink(m) == nil {
		return nil, usagef("machine %q has forwards, and no network with a gateway to forward over", m.Name)
	}
	for _, p := range o.cmdline {
		m.Cmdline = append(m.Cmdline, strings.Fields(p)...)
	}
	m.Modules = append(m.Modules, o.modules...)
	return m, nil
}

// networks lays the flags over the networks that the machine is on; addresses
// are those of the one that leads to the host, or else of the first.
func (o *machineOptions) networks(s *lab.Spec, m *lab.Machine) (err error) {
	for i := range m.Cards {
		n := s.Segment(&m.Cards[i])
		n.NoHost = n.NoHost || o.noHost
		n.Restrict = n.Restrict || o.restrict
	}
	n := &lab.Network{} // the flags are checked all the same
	if c := s.Uplink(m); c != nil {
		n = s.Segment(c)
	} else if len(m.Cards) > 0 {
		n = s.Segment(&m.Cards[0])
	}
	if o.subnet != "" {
		if n.Subnet, err = lab.ParseSubnet(o.subnet); err != nil {
			return err
		}
	}
	if o.subnet6 != "" {
		if n.Subnet6, err = lab.ParseSubnet6(o.subnet6); err != nil {
			return err
		}
	}
	return nil
}

// pick finds a machine or image by name; without one, the only machine, else
// the only image.
func pick(s *lab.Spec, name string) (*lab.Machine, error) {
	machines, images := s.MachineNames(), s.ImageNames()
	switch {
	case name == "" && len(machines) == 1:
		return s.Machines[machines[0]], nil
	case name == "" && len(images) == 1:
		return s.Throwaway(images[0]), nil
	case name == "":
		return nil, usagef("the file has several images and machines; name one of %s", strings.Join(runnable(s), ", "))
	case s.Machines[name] != nil:
		return s.Machines[name], nil
	case s.Images[name] != nil:
		return s.Throwaway(name), nil
	}
	what := "image"
	if slices.ContainsFunc(machines, func(m string) bool { return s.Images[m] == nil }) {
		what = "machine or image"
	}
	return nil, lab.OneOf(what, name, runnable(s))
}
