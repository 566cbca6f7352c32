package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"wolffia/internal/access"
	"wolffia/internal/build"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/supervisor"
)

func newExplain(env Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Show exactly what a verb would do, without booting anything",
		Long: `Shows what run or build would do: the pinned packages, the files, the networks
and the exact command line of the kernel. What has to be made for that is made
and kept; no machine is started.`,
		Example: `  wolffia explain run
  wolffia explain run --memory 256M -- uname -a
  wolffia explain build --json
  wolffia explain image base`,
		Args: wantVerb,
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(newExplainRun(env), newExplainBuild(env), newExplainImage(env))
	return cmd
}

// explanation is what explain prints, and its JSON form.
type explanation struct {
	Lab      string           `json:"lab"`
	Images   []imagePlan      `json:"images"`
	Machine  *machinePlan     `json:"machine,omitempty"`
	Networks []networkPlan    `json:"networks,omitempty"`
	Command  *machine.Command `json:"command,omitempty"`
	Guest    []string         `json:"guest,omitempty"` // the command that would run inside

	direct bool // it runs without ssh
}

type imagePlan struct {
	Name     string   `json:"name"`
	From     string   `json:"from,omitempty"` // what it starts from; a registry's image by its digest
	Release  string   `json:"release"`
	Arch     string   `json:"arch"`
	Mirror   string   `json:"mirror"`
	Packages []string `json:"packages"` // NAME:ARCH=VERSION
	Bytes    int64    `json:"bytes"`    // of the packages
	Path     string   `json:"path,omitempty"`

	Disk *build.Disk `json:"disk,omitempty"` // what is on it, where that is the format

	*build.Report // of how it was made; nil for what need not be made
}

type machinePlan struct {
	Name      string   `json:"name"`
	Backend   string   `json:"backend"`
	Memory    int64    `json:"memory"`
	Boot      string   `json:"boot"` // kernel, bios or uefi
	Kernel    string   `json:"kernel,omitempty"`
	Release   string   `json:"kernelRelease,omitempty"`
	Initramfs []string `json:"initramfs,omitempty"`
	Disks     []string `json:"disks,omitempty"`
	Shares    []string `json:"shares,omitempty"` // folders of the host
}

type networkPlan struct {
	Name     string   `json:"name"`
	MAC      string   `json:"mac"`
	Subnet   string   `json:"subnet"`
	Gateway  bool     `json:"gateway"`
	NoHost   bool     `json:"noHost,omitempty"`
	Restrict bool     `json:"restrict,omitempty"`
	MTU      int      `json:"mtu"`
	Forwards []string `json:"forwards,omitempty"`
}

func newExplainRun(env Env) *cobra.Command {
	o := &runOptions{}
	var script bool
	cmd := &cobra.Command{
		Use:   "run [IMAGE] [-- CMD [ARG]...]",
		Short: "Show what wolffia run would do",
		Long: `Shows the image, the machine, its networks and the exact command line that runs
it. With --script it prints a shell script instead, which starts the same
machine without wolffia: its console on the terminal, and no network of ours.`,
		Example: `  wolffia explain run --network none
  wolffia explain run --backend qemu --arch arm64 --script >arm64.sh && sh arm64.sh`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, argv, err := splitArgs(cmd, args)
			if err != nil {
				return err
			}
			if script && (o.json || len(argv) > 0) {
				return usagef("--script goes with neither --json nor a command")
			}
			return o.explain(cmd.Context(), env, name, argv, script)
		},
	}
	o.flags(env, cmd)
	cmd.Flags().BoolVar(&script, "script", false, "print a shell script that starts the machine without wolffia")
	return cmd
}

func (o *runOptions) explain(ctx context.Context, env Env, name string, argv []string, script bool) error {
	screen := o.renderer(env)
	defer screen.Close()
	p, err := o.open(env, screen)
	if err != nil {
		return err
	}
	r, err := p.prepare(ctx, env, &o.machineOptions, name, consoleFor(argv), screen)
	if err != nil {
		return asUsage(err)
	}
	defer r.close()
	if script {
		return showScript(env, r.config)
	}
	o.direct(env, r, argv)
	spec, err := supervisor.Spec(r.config)
	if err != nil {
		return err
	}
	command, err := r.config.Backend.Command(spec)
	if err != nil {
		return err
	}
	m := r.config.Machine
	x := explanation{
		Lab: p.Name, Command: &command, Guest: argv, direct: r.config.Direct,
		Images: []imagePlan{p.imagePlan(p.imageFor(m), r.image)},
		Machine: &machinePlan{
			Name: m.Name, Backend: r.config.Backend.Name(), Memory: int64(m.Memory),
			Boot: string(m.Boot), Initramfs: spec.Initramfs,
		},
	}
	if r.kernel != nil {
		x.Machine.Kernel, x.Machine.Release = spec.Kernel, r.kernel.Release
	}
	own := len(spec.Disks) - len(m.Disks) // that of the root
	for i, d := range spec.Disks {
		k := lab.Disk{}
		if i >= own {
			k = m.Disks[i-own]
		}
		x.Machine.Disks = append(x.Machine.Disks, d.Path+diskNote(d, k))
	}
	for i, s := range spec.Shares {
		text := s.Path + " at " + m.Shares[i].To
		if s.ReadOnly {
			text += ", to read"
		}
		x.Machine.Shares = append(x.Machine.Shares, text)
	}
	for i := range m.Cards {
		x.Networks = append(x.Networks, p.networkPlan(m, &m.Cards[i]))
	}
	return x.show(env, o.json)
}

// diskNote says what an image is of, if it is not the person's own, or what a
// machine can do to it; k is the disk in the file, if it is there.
func diskNote(d machine.Disk, k lab.Disk) string {
	switch {
	case d.Persistent && !k.InPlace && k.From == "":
		return ", a new one"
	case d.Persistent && !k.InPlace:
		return ", a copy of " + k.From
	case d.ReadOnly:
		return ", to read"
	case d.Persistent:
		return ", written in place"
	}
	return ", of which it writes to a copy"
}

// showScript prints what starts the machine without wolffia.
func showScript(env Env, cfg supervisor.Config) error {
	s, ok := cfg.Backend.(machine.Scripter)
	if !ok {
		return usagef("--script is for the backend qemu, and this machine's is %s: add --backend qemu", cfg.Backend.Name())
	}
	for _, k := range cfg.Machine.Disks {
		if k.From == "" {
			return usagef("--script: disk %s is made anew for each machine, and a script has none; give it an image (from), or leave it out", k.Name)
		}
	}
	text, err := s.Script(supervisor.Standalone(cfg))
	if err != nil {
		return err
	}
	var out page
	out.printf("%s", text)
	return out.show(env)
}

func newExplainBuild(env Env) *cobra.Command {
	o := &buildVerb{}
	cmd := &cobra.Command{
		Use:   "build [IMAGE]... [-o OUT]",
		Short: "Show what wolffia build would do",
		Long: `Shows the packages of images, and where the format is a disk, what is on it:
partitions, kernel and boot loaders. The disk is made for that, if it has not
been before.`,
		Example: `  wolffia explain build --json
  wolffia explain build -o disk.img`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.explain(cmd.Context(), env, args) },
	}
	o.flags(env, cmd)
	return cmd
}

func (o *buildVerb) explain(ctx context.Context, env Env, names []string) error {
	var format build.Format
	if o.out != "" || o.format != "" {
		var err error
		if format, err = o.formatOf(o.out); err != nil {
			return &usageError{err}
		}
	}
	screen := o.renderer(env)
	defer screen.Close()
	p, err := o.open(env, screen)
	if err != nil {
		return err
	}
	images, err := o.images(env, p.Spec, names)
	if err != nil {
		return &usageError{err}
	}
	x := explanation{Lab: p.Name}
	for _, img := range images {
		art, err := p.builder.Ingredients(ctx, img)
		if err != nil {
			return asUsage(err)
		}
		plan := p.imagePlan(img, art)
		if format.Name == "disk" {
			if plan.Disk, err = p.builder.Disk(ctx, img, format); err != nil {
				return asUsage(err)
			}
		}
		x.Images = append(x.Images, plan)
	}
	return x.show(env, o.json)
}

// showDisk lists what is on a disk.
func showDisk(w io.Writer, d *build.Disk) {
	fmt.Fprintf(w, "  disk: %s, %s %s\n", sizeText(d.Size), d.Table, d.UUID)
	for _, p := range d.Partitions {
		kind := p.Type
		if p.FileSystem != "" {
			kind += ", " + p.FileSystem
		}
		fmt.Fprintf(w, "    %d: %s at %s, %s: %s", p.Number, sizeText(p.Size), sizeText(p.Offset), kind, p.Holds)
		if p.Free > 0 {
			fmt.Fprintf(w, ", %s free", sizeText(p.Free))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  kernel %s, from %s\n    %s\n", d.Kernel, d.Source, d.Cmdline)
	fmt.Fprintf(w, "  started by UEFI: %s\n", d.UEFI)
	if d.BIOS != "" {
		fmt.Fprintf(w, "  started by BIOS: %s\n", d.BIOS)
	}
}

func newExplainImage(env Env) *cobra.Command {
	o := &buildOptions{}
	cmd := &cobra.Command{
		Use:   "image [IMAGE]...",
		Short: "Show what is in an image, and what installing would have done besides",
		Long: `Shows the packages of images, every maintainer script that they bring, and what
was done instead of running it. Packages are unpacked, never installed: no
program of an image runs on this host.

The image is made for that, if it has not been before.`,
		Example: `  wolffia explain image
  wolffia explain image base --json | jq '.images[].scripts'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			screen := o.renderer(env)
			defer screen.Close()
			p, err := o.open(env, screen)
			if err != nil {
				return err
			}
			images, err := pickImages(p.Spec, args)
			if err != nil {
				return &usageError{err}
			}
			x := explanation{Lab: p.Name}
			for _, img := range images {
				art, err := p.builder.Ingredients(cmd.Context(), img)
				if err != nil {
					return asUsage(err)
				}
				plan := p.imagePlan(img, art)
				if plan.Report, err = p.builder.Report(cmd.Context(), img); err != nil {
					return asUsage(err)
				}
				x.Images = append(x.Images, plan)
			}
			return x.show(env, o.json)
		},
	}
	o.flags(env, cmd)
	cmd.ValidArgsFunction = fromLab(env, &o.file, (*lab.Spec).ImageNames)
	return cmd
}

// showReport lists scripts and what is missing, one script to a line.
func showReport(w io.Writer, r *build.Report) {
	fmt.Fprintf(w, "  %d links to busybox made, %d files of dependencies left out\n", r.Applets, r.Pruned)
	if len(r.Scripts) > 0 {
		fmt.Fprintln(w, "  maintainer scripts, none of which was run, and what was done instead:")
	}
	for _, s := range r.Scripts {
		name, _, _ := strings.Cut(s.Package, "=")
		fmt.Fprintf(w, "    %s %s: %s\n", name, s.Name, strings.Join(s.Instead, "; "))
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "  missing: %s\n", m)
	}
	for _, p := range r.LeftOut {
		fmt.Fprintf(w, "  left out by deps: elf: %s\n", p)
	}
}

func (p *project) imagePlan(img *lab.Image, art *build.Artifact) imagePlan {
	x := imagePlan{
		Name: img.Name, From: art.Base, Release: art.Lock.Request.Release, Arch: art.Lock.Request.Arch,
		Mirror: p.mirror.URI, Bytes: art.Lock.Size(), Path: art.Path,
	}
	for i := range art.Lock.Packages {
		x.Packages = append(x.Packages, art.Lock.Packages[i].String())
	}
	return x
}

func (p *project) networkPlan(m *lab.Machine, c *lab.Card) networkPlan {
	n := p.Segment(c)
	x := networkPlan{
		Name: n.Name, MAC: p.CardMAC(m, c).String(), Gateway: !n.NoGateway, NoHost: n.NoHost, Restrict: n.Restrict, MTU: n.MTU,
	}
	if n.Subnet.IsValid() {
		x.Subnet = n.Subnet.String()
	}
	if c == p.Uplink(m) {
		for _, f := range m.Forwards {
			x.Forwards = append(x.Forwards, f.String())
		}
	}
	return x
}

func (x *explanation) show(env Env, asJSON bool) error {
	if asJSON {
		return writeJSON(env.Stdout, x)
	}
	w := &page{}
	for _, i := range x.Images {
		mirror := i.Mirror
		if mirror == "" {
			mirror = "no mirror known"
		}
		if i.From != "" {
			fmt.Fprintf(w, "image %s: from %s\n", i.Name, i.From)
		}
		fmt.Fprintf(w, "image %s: Debian %s, %s, from %s\n  %d packages, %s to download when not cached:\n",
			i.Name, i.Release, i.Arch, mirror, len(i.Packages), sizeText(i.Bytes))
		for _, p := range i.Packages {
			fmt.Fprintln(w, "    "+p)
		}
		if i.Disk != nil {
			showDisk(w, i.Disk)
		}
		if i.Report != nil {
			showReport(w, i.Report)
		}
		if i.Path != "" {
			fmt.Fprintf(w, "  built: %s\n", i.Path)
		}
	}
	if m := x.Machine; m != nil {
		fmt.Fprintf(w, "machine %s: backend %s, memory %s\n", m.Name, m.Backend, sizeText(m.Memory))
		if m.Kernel == "" {
			fmt.Fprintf(w, "  boots from its disk by %s\n", strings.ToUpper(m.Boot))
		} else {
			fmt.Fprintf(w, "  kernel %s: %s\n  initramfs, joined in this order:\n", m.Release, m.Kernel)
		}
		for _, p := range m.Initramfs {
			fmt.Fprintln(w, "    "+p)
		}
		for _, p := range m.Disks {
			fmt.Fprintf(w, "  disk: %s\n", p)
		}
		for _, s := range m.Shares {
			fmt.Fprintf(w, "  shared folder: %s\n", s)
		}
	}
	for _, n := range x.Networks {
		way := "with a router to the host"
		switch {
		case !n.Gateway:
			way = "without a router"
		case n.Restrict:
			way = "with a router that leads nowhere (restrict)"
		case n.NoHost:
			way = "with a router that keeps the host out of reach"
		}
		fmt.Fprintf(w, "network %s: %s, MTU %d, %s\n  the machine's card there: %s\n", n.Name, n.Subnet, n.MTU, way, n.MAC)
		for _, f := range n.Forwards {
			fmt.Fprintln(w, "  forward "+f)
		}
	}
	if x.Command != nil {
		fmt.Fprintf(w, "command:\n  env -i \\\n")
		for _, e := range x.Command.Env {
			fmt.Fprintf(w, "    %s \\\n", access.Quote(e))
		}
		for i, a := range x.Command.Argv {
			end := " \\"
			if i == len(x.Command.Argv)-1 {
				end = ""
			}
			fmt.Fprintf(w, "    %s%s\n", access.Quote(a), end)
		}
		fmt.Fprintln(w, "with these descriptors open, made by wolffia:")
		for i, d := range x.Command.FDs {
			fmt.Fprintf(w, "  %d: %s\n", i+3, d)
		}
	}
	if len(x.Guest) > 0 {
		how := "by ssh over the control link"
		if x.direct {
			how = "by init, with its streams on the channels"
		}
		fmt.Fprintf(w, "then, inside, %s:\n ", how)
		for _, a := range x.Guest {
			fmt.Fprint(w, " "+access.Quote(a))
		}
		fmt.Fprintln(w)
	}
	return w.show(env)
}
