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

// Program is a QEMU of one architecture.
type Program struct {
	// Argv begins every command: the emulator's absolute path, or a dynamic
	// loader's with its arguments and that path behind it.
	Argv []string
	Env  []string // that it needs besides Spec.Env
	Data string   // its folder of firmware (-L); empty for the one it was built with

	Major, Minor int  // its version, when [Probe] has filled it in
	NoSandbox    bool // it was built without seccomp
}

// The oldest version that works: the first with -netdev stream.
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
		p, err := Probe(ctx, Program{Argv: []string{name}})
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

// command begins a command line.
func (p Program) command() []string {
	argv := slices.Clone(p.Argv)
	if p.Data != "" {
		argv = append(argv, "-L", p.Data)
	}
	return argv
}

// Probe starts a QEMU, without a machine, and fills in its version and whether
// it lacks a sandbox.
func Probe(ctx context.Context, p Program) (Program, error) {
	major, minor, err := greet(ctx, p, "-sandbox", sandboxOption)
	p.NoSandbox = err != nil
	if err != nil {
		major, minor, err = greet(ctx, p)
	}
	if err != nil {
		return p, fmt.Errorf("ask %s for its version: %w", p.Argv[len(p.Argv)-1], err)
	}
	p.Major, p.Minor = major, minor
	return p, nil
}

// greet starts QEMU for the greeting of its monitor.
func greet(ctx context.Context, p Program, more ...string) (major, minor int, err error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	args := append(p.command(), "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio")
	args = append(args, more...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append([]string{"HOME=/nonexistent"}, p.Env...)
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
