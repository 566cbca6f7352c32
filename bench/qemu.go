package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bootTime compares runs in an emulated PC with what the same QEMU and kernel
// take by themselves: the same command line and initramfs, and an init that
// powers off.
func bootTime(ctx context.Context, b *bench) (*result, error) {
	const factor, plus = 1.15, 100
	bare, err := b.newEmulator(ctx)
	if err != nil {
		return nil, err
	}
	module, _, err := command{argv: []string{"go", "list", "-m", "-f", "{{.Dir}}"}}.output(ctx)
	if err != nil {
		return nil, err
	}
	// Its image is the one of a run without a file, but for a password.
	pair, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(module)), "examples", "uml-pair", "wolffia.yaml"))
	if err != nil {
		return nil, err
	}
	login, err := b.newLab("login", string(pair))
	if err != nil {
		return nil, err
	}
	x, err := b.alternate(ctx,
		wall(command{argv: []string{b.wolffia, "run", "-q", "--backend", "qemu", "--", "true"}}), bare.sample,
		until("# ", command{argv: []string{b.wolffia, "run", "-q", "--backend", "qemu"}}),
		until("alice login: ", login.wolffia("run", "-q", "--backend", "qemu", "alice")))
	if err != nil {
		return nil, err
	}
	r := &result{}
	other := x[1][0]
	for _, side := range []struct {
		what string
		took []float64
	}{{"`run --backend qemu -- true`", x[0][0]}, {"`run --backend qemu` until its shell prompts", x[2][0]}, {"`run --backend qemu` until `login: `", x[3][0]}} {
		limit := factor*median(other) + plus
		r.rows = append(r.rows, row{
			what: side.what, unit: milliseconds, wolffia: side.took, against: "bare kernel, wolffia's command line", other: other,
			goal: fmt.Sprintf("at most %.2f x + %d ms = %.0f ms", factor, plus, limit), met: median(side.took) <= limit,
		})
	}
	r.notes = append(r.notes, "QEMU emulates the processor (TCG)", "the kernel's parameters: `"+bare.params+"`")
	return r, nil
}

// emulator is the QEMU that wolffia would start, to be started by hand.
type emulator struct {
	argv    []string
	params  string // of the kernel
	sockets int    // how many it inherits, from descriptor 3
}

// newEmulator asks wolffia what it would start.
func (b *bench) newEmulator(ctx context.Context) (*emulator, error) {
	dir, err := os.MkdirTemp(b.dir, "emulator-")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.wolffia, "explain", "run", "-q", "--json", "--backend", "qemu", "--", "true")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("wolffia explain: %w", err)
	}
	var plan struct {
		Machine struct{ Initramfs []string }
		Command struct{ Argv, FDs []string }
	}
	if err := json.Unmarshal(out, &plan); err != nil {
		return nil, fmt.Errorf("read wolffia explain: %w", err)
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := join(initramfs, plan.Machine.Initramfs); err != nil {
		return nil, err
	}
	e := &emulator{}
	for i, a := range plan.Command.Argv {
		switch {
		case a == "-S": // nobody is there to let it run
			continue
		case strings.HasPrefix(a, "/proc/self/fd/"):
			a = initramfs
		case i > 0 && plan.Command.Argv[i-1] == "-append":
			e.params = a
			a += " rdinit=/bin/busybox -- poweroff -f"
		}
		e.argv = append(e.argv, a)
	}
	e.sockets = slices.IndexFunc(plan.Command.FDs, func(what string) bool { return !strings.Contains(what, "SOCK_STREAM") })
	if e.sockets < 0 {
		e.sockets = len(plan.Command.FDs)
	}
	return e, nil
}

// sample runs it once. Nobody is at the other ends of its sockets, which hold
// the little that it says.
func (e *emulator) sample(ctx context.Context) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, runBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.argv[0], e.argv[1:]...)
	for range e.sockets {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		theirs, ours := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
		defer theirs.Close()
		defer ours.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	}
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", e.argv[0], err, tail(string(out), 20))
	}
	return []float64{ms(time.Since(start))}, err
}

// until starts a machine with its console, as a person would, and takes the time
// until that prompts.
func until(prompt string, c command) sampler {
	return func(ctx context.Context) ([]float64, error) {
		took, err := c.prompts(ctx, prompt)
		return []float64{ms(took)}, err
	}
}

func (c command) prompts(ctx context.Context, prompt string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, runBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	if _, err := cmd.StdinPipe(); err != nil { // stays open
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}()
	var said []byte
	for buf := make([]byte, 4096); !strings.Contains(string(said), prompt); {
		n, err := out.Read(buf)
		if said = append(said, buf[:n]...); err != nil {
			return 0, fmt.Errorf("no %q came: %w\n%s", prompt, err, tail(string(said), 20))
		}
	}
	return time.Since(start), nil
}
