package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wolffia/internal/program"
)

func versionTime(ctx context.Context, b *bench) (*result, error) {
	const goal = 20
	x, err := b.alternate(ctx, wall(command{argv: []string{b.wolffia, "version"}}))
	if err != nil {
		return nil, err
	}
	took := x[0][0]
	return &result{rows: []row{{
		what: "`wolffia version`", unit: milliseconds, wolffia: took,
		goal: fmt.Sprintf("under %d ms", goal), met: median(took) < goal,
	}}}, nil
}

// runTime compares a whole run with the kernel alone: the same kernel, memory
// and initramfs, and an init that powers off at once.
func runTime(ctx context.Context, b *bench) (*result, error) {
	const factor, plus = 1.15, 50
	bare, err := b.newGuest(ctx)
	if err != nil {
		return nil, err
	}
	off := []string{"rdinit=/bin/busybox", "--", "poweroff", "-f"}
	asPerson := bare.command(off...)
	same := bare.command(append(slices.Concat(bare.params, []string{"con=null", "con0=null,fd:1"}), off...)...)
	x, err := b.alternate(ctx,
		wall(command{argv: []string{b.wolffia, "run", "-q", "--", "true"}}),
		wall(asPerson), wall(same),
		wall(command{argv: []string{b.wolffia, "run", "-q", "--network", "none", "--", "true"}}))
	if err != nil {
		return nil, err
	}
	r := &result{}
	compare := func(what string, took []float64, against string, other []float64) {
		limit := factor*median(other) + plus
		r.rows = append(r.rows, row{
			what: what, unit: milliseconds, wolffia: took, against: against, other: other,
			goal: fmt.Sprintf("at most %.2f x + %d ms = %.0f ms", factor, plus, limit), met: median(took) <= limit,
		})
	}
	run, person, params, alone := x[0][0], x[1][0], x[2][0], x[3][0]
	compare("`run -- true`", run, "bare kernel, no parameters but mem and initrd", person)
	compare("`run -- true`", run, "bare kernel, wolffia's parameters", params)
	compare("`run --network none -- true`", alone, "bare kernel, wolffia's parameters", params)
	r.notes = append(r.notes, "the kernel's parameters in the second and third row: `"+strings.Join(bare.params, " ")+"`")
	return r, nil
}

// guest is wolffia's own kernel and image, to be started by hand.
type guest struct {
	dir       string   // where it runs: holds the link to the kernel's libraries
	kernel    string   // path
	memory    string   // the mem= parameter
	params    []string // the kernel parameters that say nothing about devices
	initramfs string   // path of the joined archives
}

// newGuest asks wolffia what it would start.
func (b *bench) newGuest(ctx context.Context, flags ...string) (*guest, error) {
	dir, err := os.MkdirTemp(b.dir, "guest-")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.wolffia, append([]string{"explain", "run", "-q", "--json"}, flags...)...)
	cmd.Stderr = b.log
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("wolffia explain: %w", err)
	}
	var plan struct {
		Machine struct {
			Kernel    string
			Initramfs []string
		}
		Command struct{ Argv []string }
	}
	if err := json.Unmarshal(out, &plan); err != nil {
		return nil, fmt.Errorf("read wolffia explain: %w", err)
	}
	g := &guest{dir: dir, kernel: plan.Machine.Kernel, initramfs: filepath.Join(dir, "initramfs")}
	for _, a := range plan.Command.Argv[1:] {
		switch name, _, _ := strings.Cut(a, "="); {
		case name == "mem":
			g.memory = a
		case slices.Contains([]string{"uml_dir", "umid", "initrd"}, name), strings.HasPrefix(name, "con"),
			strings.HasPrefix(name, "ssl"), strings.HasPrefix(name, "vec"):
		default:
			g.params = append(g.params, a)
		}
	}
	if err := g.use(g.kernel); err != nil {
		return nil, err
	}
	return g, join(g.initramfs, plan.Machine.Initramfs)
}

// use has the guest run on a kernel, with the libraries beside that.
func (g *guest) use(kernel string) error {
	g.kernel = kernel
	link := filepath.Join(g.dir, program.RuntimeDir)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(filepath.Join(filepath.Dir(kernel), program.RuntimeDir), link)
}

// join writes files one after the other. The machine's identity, the last
// archive, is gone once wolffia has explained it; it is of no size.
func join(to string, from []string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	for _, name := range from {
		part, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = io.Copy(f, part)
			part.Close()
		}
		if err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

// env is what the kernel needs to find its libraries and its memory.
func (g *guest) env() []string {
	return []string{"LD_LIBRARY_PATH=" + program.RuntimeDir, "TMPDIR=/dev/shm"}
}

// command is the bare kernel with parameters.
func (g *guest) command(params ...string) command {
	argv := append([]string{g.kernel, g.memory, "initrd=" + g.initramfs}, params...)
	return command{argv: argv, dir: g.dir, env: g.env()}
}

// idleCPU adds up what the whole process tree of a sleeping machine takes.
func idleCPU(ctx context.Context, b *bench) (*result, error) {
	const goal = 0.2
	one := func(ctx context.Context) (_ []float64, err error) {
		ctx, cancel := context.WithTimeout(ctx, b.idle+time.Minute)
		defer cancel()
		script := fmt.Sprintf("echo up; sleep %d", int((b.idle + 5*time.Second).Seconds()))
		cmd := exec.CommandContext(ctx, b.wolffia, "run", "-q", "--", "sh", "-c", script)
		cmd.Stderr = b.log
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		defer func() {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		}()
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			return nil, fmt.Errorf("the machine did not come up: %w", err)
		}
		time.Sleep(2 * time.Second) // what boots late has booted
		start, before := time.Now(), treeCPU(cmd.Process.Pid)
		time.Sleep(b.idle)
		used := treeCPU(cmd.Process.Pid) - before
		return []float64{100 * used.Seconds() / time.Since(start).Seconds()}, nil
	}
	x, err := (&bench{n: max(1, b.n/4), log: b.log}).alternate(ctx, one)
	if err != nil {
		return nil, err
	}
	used := x[0][0]
	return &result{rows: []row{{
		what: "`run -- sleep`, of one processor", unit: percent, wolffia: used,
		goal: fmt.Sprintf("not measurable: under %.1f %%", goal), met: median(used) < goal,
	}}, notes: []string{fmt.Sprintf("wolffia, its keeper, the kernel and the guest's processes over %v", b.idle)}}, nil
}

// treeCPU adds up the processor time of a process and all below it, from
// /proc/PID/task/TID/schedstat, which counts nanoseconds.
func treeCPU(pid int) time.Duration {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, _ := os.ReadFile(name)
		// proc_pid_stat(5): PID (COMMAND) STATE PPID ...
		_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
		var state string
		var child, parent int
		fmt.Sscan(rest, &state, &parent)
		fmt.Sscan(string(text), &child)
		children[parent] = append(children[parent], child)
	}
	var sum time.Duration
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		todo = append(todo, children[todo[0]]...)
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", todo[0]))
		for _, t := range tasks {
			var ns int64
			text, _ := os.ReadFile(t)
			fmt.Sscan(string(text), &ns)
			sum += time.Duration(ns)
		}
	}
	return sum
}
