package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"wolffia/internal/host/hosttest"
	"wolffia/internal/kernel"
)

// daemonRelease has the last User-Mode Linux that is a vde_switch's client
// itself, by its transport "daemon".
const daemonRelease = "bookworm"

// daemonMemory is what its guests have: some of it lies where a processor's
// unused addresses begin, another part in each run.
const daemonMemory = "512M"

// switchDaemon is TCP between two User-Mode Linuxes that plug into either switch
// by themselves, with nothing between.
func switchDaemon(ctx context.Context, b *bench) (*result, error) {
	r := &result{notes: []string{"two kernels of Debian 12's user-mode-linux, with `eth0=daemon,MAC,unix,PATH/ctl`"}}
	g, err := b.newGuest(ctx, "-p", "iperf3", "-m", daemonMemory)
	if err != nil {
		return r, err
	}
	if err := addMeasure(g.initramfs, map[string][]byte{"/serve": []byte(serveInit)}); err != nil {
		return r, err
	}
	linux, err := b.userModeLinux(ctx, daemonRelease)
	if err == nil {
		err = g.use(linux)
	}
	if err != nil {
		return r, err
	}
	x, err := b.alternate(ctx, b.daemonPair(ourSwitch, g), b.daemonPair(stockSwitch, g))
	if err == nil {
		r.switched("User-Mode Linux to User-Mode Linux", gigabits, x)
	}
	return r, err
}

// userModeLinux fetches the kernel of a release.
func (b *bench) userModeLinux(ctx context.Context, release string) (path string, err error) {
	client, st, err := archive(filepath.Join(b.dir, release))
	if err != nil {
		return "", err
	}
	lock, err := client.Resolve(ctx, kernel.UMLRequest(release, "amd64"))
	if err != nil {
		return "", err
	}
	k, err := kernel.InstallLockedUML(ctx, client, st, lock)
	return k.Path, err
}

func (b *bench) daemonPair(program switchProgram, g *guest) sampler {
	return func(ctx context.Context) ([]float64, error) {
		path, sw, err := b.startSwitch(ctx, program)
		if err != nil {
			return nil, err
		}
		defer sw.stop()
		plugged := func(mac string, more ...string) command {
			c := g.command(slices.Concat(b.guestEnv(iperfPort, "eth0", smallMTU), g.params, quietConsoles, []string{
				hosttest.WithoutAVX, "eth0=daemon," + mac + ",unix," + path + "/ctl",
			}, more)...)
			c.argv = append([]string{"/proc/self/exe", roleOldHost}, c.argv...)
			return c
		}
		here := func(start func() error) error { return start() }
		return b.measuredPair(ctx, plugged("02:00:00:00:00:02", serving...), here, plugged("02:00:00:00:00:01"), here)
	}
}

// runOnOldHost becomes a program that is older than this host's processor.
func runOnOldHost(argv []string) error {
	if err := hosttest.HideXState(); err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, argv, os.Environ()))
}
