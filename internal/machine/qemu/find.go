package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"wolffia/internal/host"
)

// Program is a QEMU that works.
type Program struct {
	Path    string // absolute
	Data    string // its folder of firmware; empty for the one it was built with
	Major   int    // its version
	Minor   int
	Sandbox bool // whether it has seccomp
}

// The oldest version that works: the first with -netdev dgram.
const (
	minMajor = 7
	minMinor = 2
)

// Find looks for the emulator of an architecture ("" is the host's) in the
// folders of path, a list as in $PATH, and asks it for its version. That there
// is none, or an older one than 7.2, is a [*host.UnsupportedError].
func Find(ctx context.Context, arch, path string) (Program, error) {
	arch = orHost(arch)
	board, ok := boards[arch]
	if !ok {
		return Program{}, fmt.Errorf("find QEMU: no machine is known for architecture %q; there are %s", arch, strings.Join(Arches(), ", "))
	}
	missing := func(why string) error {
		return &host.UnsupportedError{Feature: "QEMU for " + arch, Why: why, Fix: "sudo apt-get install " + board.pkg}
	}
	var tried []string
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		name := filepath.Join(dir, board.program)
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		p, err := Probe(ctx, Program{Path: name}, nil)
		switch {
		case err != nil:
			tried = append(tried, err.Error())
		case p.Major < minMajor || p.Major == minMajor && p.Minor < minMinor:
			tried = append(tried, fmt.Sprintf("%s is version %d.%d, and %d.%d is needed", name, p.Major, p.Minor, minMajor, minMinor))
		default:
			return p, nil
		}
	}
	if len(tried) == 0 {
		return Program{}, missing("no " + board.program + " is installed")
	}
	return Program{}, missing(strings.Join(tried, "; "))
}

// probePatience is how long QEMU may take to say who it is.
const probePatience = 20 * time.Second

// sandboxOption keeps QEMU from what it never does here: gaining privileges,
// starting programs, and changing how it is scheduled.
const sandboxOption = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// Probe starts the QEMU at p.Path, without a machine, and fills in its version
// and whether it has a sandbox. env is the environment that it needs.
func Probe(ctx context.Context, p Program, env []string) (Program, error) {
	major, minor, err := greet(ctx, p, env, "-sandbox", sandboxOption)
	p.Sandbox = err == nil
	if err != nil {
		major, minor, err = greet(ctx, p, env)
	}
	if err != nil {
		return p, fmt.Errorf("ask %s for its version: %w", p.Path, err)
	}
	p.Major, p.Minor = major, minor
	return p, nil
}

// greet starts QEMU for the greeting of its monitor.
func greet(ctx context.Context, p Program, env []string, more ...string) (major, minor int, err error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	args := []string{"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio"}
	if p.Data != "" {
		args = append(args, "-L", p.Data)
	}
	cmd := exec.CommandContext(ctx, p.Path, append(args, more...)...)
	cmd.Env = append([]string{"HOME=/nonexistent"}, env...)
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}` + "\n" + `{"execute":"quit"}` + "\n")
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if major, minor, ok := greeting(out); ok && err == nil {
		return major, minor, nil
	}
	if text := strings.TrimSpace(said.String()); text != "" {
		return 0, 0, errors.New(text)
	}
	if err == nil {
		err = errors.New("it does not answer as QEMU does")
	}
	return 0, 0, err
}

// greeting reads the version in the first line that a monitor says.
func greeting(out []byte) (major, minor int, ok bool) {
	var m struct {
		QMP *struct {
			Version struct {
				QEMU struct{ Major, Minor int } `json:"qemu"`
			} `json:"version"`
		} `json:"QMP"`
	}
	line, _ := bufio.NewReader(bytes.NewReader(out)).ReadBytes('\n')
	if json.Unmarshal(line, &m) != nil || m.QMP == nil {
		return 0, 0, false
	}
	return m.QMP.Version.QEMU.Major, m.QMP.Version.QEMU.Minor, true
}

// Accelerate chooses what runs the code of a guest of an architecture: KVM
// where the host's processor is of that kind and a probe has shown that guests
// run on it ([host.Host].KVM), and QEMU's translator otherwise. why is then what
// speaks against KVM, nil for another architecture, with which nobody expects it.
func Accelerate(arch string, kvm func() error) (accel Accel, why error) {
	if !slices.Contains(boards[orHost(arch)].hosts, runtime.GOARCH) {
		return TCG, nil
	}
	if err := kvm(); err != nil {
		return TCG, err
	}
	return KVM, nil
}
