// Command bench measures what wolffia promises about speed, side by side with
// what it is compared to, and prints medians, spread and ratios as Markdown.
//
//	go run ./bench              everything
//	go run ./bench run rebuild  only these
//	go run ./bench soak         an hour of a lab that must not grow
//
// Nothing is installed: a benchmark whose tools are missing says which Debian
// packages hold them. See README.md for the method.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wolffia/internal/machine/keeper"
)

func main() {
	keeper.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what every benchmark works with.
type bench struct {
	n       int           // measurements of each side
	seconds int           // of each transfer
	wolffia string        // the program under test
	dir     string        // scratch
	log     io.Writer     // what is going on
	idle    time.Duration // how long an idle machine is watched
}

// benchmark is one group of rows.
type benchmark struct {
	name  string
	what  string
	needs []tool
	run   func(context.Context, *bench) (*result, error)
}

// tool is a program and the Debian package that holds it.
type tool struct{ program, pkg string }

func benchmarks() []benchmark {
	return []benchmark{
		{"version", "wolffia version", nil, versionTime},
		{"run", "wolffia run -- true, everything cached", nil, runTime},
		{"boot", "emulated machines", []tool{{"qemu-system-x86_64", "qemu-system-x86"}}, bootTime},
		{"idle", "a machine that does nothing", nil, idleCPU},
		{"up", "labs", nil, upTime},
		{"many", "a lab of many machines", nil, labOfMany},
		{"rebuild", "images from the cache", []tool{{"mmdebstrap", "mmdebstrap"}, {"apt-ftparchive", "apt-utils"}}, rebuildTime},
		{"ext4", "a folder to a file system", []tool{{"mke2fs", "e2fsprogs"}}, ext4Time},
		{"initramfs", "a folder to an initramfs", []tool{{"cpio", "cpio"}, {"find", "findutils"}}, initramfsTime},
		{"kernel", "a kernel's package unpacked", []tool{{"dpkg-deb", "dpkg"}}, kernelTime},
		{"net-native", "TCP between a network namespace and the host", []tool{{"iperf3", "iperf3"}, {"slirp4netns", "slirp4netns"}, {"pasta", "passt"}, {"ip", "iproute2"}}, asRoot(netNative, "net-native")},
		{"net-uml", "TCP between a User-Mode Linux guest and the host", []tool{{"iperf3", "iperf3"}, {"slirp4netns", "slirp4netns"}, {"pasta", "passt"}, {"ip", "iproute2"}}, asRoot(netUML, "net-uml")},
		{"switch", "frames from one VDE client to another", []tool{{"vde_switch", "vde-switch"}}, switchFrames},
		{"switch-tcp", "TCP between VDE clients", []tool{{"iperf3", "iperf3"}, {"vde_switch", "vde-switch"}, {"vde_plug2tap", "vde2"}, {"ip", "iproute2"}}, asRoot(switchTCP, "switch-tcp")},
		{"switch-daemon", "TCP between User-Mode Linuxes that plug in themselves", []tool{{"vde_switch", "vde-switch"}}, switchDaemon},
		{"switch-uml", "TCP between User-Mode Linuxes", []tool{{"vde_switch", "vde-switch"}, {"vde_plug2tap", "vde2"}, {"ip", "iproute2"}}, asRoot(switchUML, "switch-uml")},
		{"switch-qemu", "TCP between QEMU and a VDE client", []tool{{"iperf3", "iperf3"}, {"vde_switch", "vde-switch"}, {"vde_plug2tap", "vde2"}, {"ip", "iproute2"}, {"qemu-system-x86_64", "qemu-system-x86"}}, asRoot(switchQEMU, "switch-qemu")},
		{"net-qemu", "TCP between an emulated PC and the host", []tool{{"iperf3", "iperf3"}, {"passt", "passt"}, {"qemu-system-x86_64", "qemu-system-x86"}}, asRoot(netQEMU, "net-qemu")},
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	if len(args) > 0 && isRole(args[0]) {
		return role(ctx, args)
	}
	if len(args) > 0 && args[0] == "soak" {
		return soak(ctx, args[1:], out, log)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	b := &bench{log: log}
	flags.IntVar(&b.n, "n", 5, "measurements of each side")
	flags.IntVar(&b.seconds, "seconds", 3, "length of each transfer")
	flags.DurationVar(&b.idle, "idle", 10*time.Second, "how long an idle machine is watched")
	inner := flags.Bool("inner", false, "print no heading: another bench has")
	flags.StringVar(&b.wolffia, "wolffia", "", "the program to measure (default: built from ./cmd/wolffia)")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "wolffia-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.build(ctx); err != nil {
		return err
	}
	if !*inner {
		fmt.Fprintf(out, "Medians (least to most) of %d measurements of each side, taken in turn.\n", b.n)
	}
	var errs []error
	for _, k := range chosen {
		if missing := lacking(k.needs); len(missing) > 0 {
			errs = append(errs, fmt.Errorf("%s needs Debian packages: apt-get install %s", k.name, strings.Join(missing, " ")))
			continue
		}
		fmt.Fprintf(log, "== %s\n", k.name)
		r, err := k.run(ctx, b)
		if r != nil {
			r.write(out, k)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func choose(names []string) ([]benchmark, error) {
	all := benchmarks()
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	for _, k := range all {
		known = append(known, k.name)
	}
	var out []benchmark
	for _, n := range names {
		i := slices.Index(known, n)
		if i < 0 {
			return nil, fmt.Errorf("no benchmark %q; there are %s", n, strings.Join(known, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// lacking gives the packages of the tools that are not there.
func lacking(tools []tool) []string {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	return missing
}

// build makes the program under test the way that a release is made.
func (b *bench) build(ctx context.Context) error {
	if b.wolffia != "" {
		return nil
	}
	b.wolffia = filepath.Join(b.dir, "wolffia")
	_, err := command{
		argv: []string{"go", "build", "-trimpath", "-o", b.wolffia, "wolffia/cmd/wolffia"},
		env:  []string{"CGO_ENABLED=0"},
	}.run(ctx)
	return err
}
