package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"wolffia/internal/access"
	"wolffia/internal/api"
)

// machinesLab is a lab of n machines on one network.
func machinesLab(n int) string {
	var s strings.Builder
	s.WriteString("name: many\nimages: {base: {packages: [busybox-static, dropbear-bin], deps: elf}}\nnetworks: {lan: }\nmachines:\n")
	for i := range n {
		fmt.Fprintf(&s, "  m%d: {networks: [lan], memory: 64M}\n", i)
	}
	return s.String()
}

// upTime compares a lab of ten machines with a machine alone, and with a lab of
// one.
func upTime(ctx context.Context, b *bench) (*result, error) {
	alone, err := b.newLab("alone", machinesLab(1))
	if err != nil {
		return nil, err
	}
	ten, err := b.newLab("ten", machinesLab(10))
	if err != nil {
		return nil, err
	}
	bare, err := b.newGuest(ctx)
	if err != nil {
		return nil, err
	}
	kernel := bare.command(append(bare.params, "con=null", "con0=null,fd:1", "rdinit=/bin/busybox", "--", "poweroff", "-f")...)
	x, err := b.alternate(ctx, upDown(ten), wall(alone.wolffia("run", "-q", "m0", "--", "true")), upDown(alone), kernel.times(10), wall(kernel))
	if err != nil {
		return nil, err
	}
	const goal = "at most 5 x"
	r := &result{notes: []string{
		"until every machine is ready: its init is done, and it can be entered",
		"the last row is what this computer makes of ten boots that have nothing to do with each other: the same kernel and image, and an init that powers off at once, as many at a time as there are processors",
	}}
	r.rows = []row{
		{what: "`up` of 10 machines", unit: milliseconds, wolffia: x[0][0], against: "`wolffia run -- true`, of one", other: x[1][0],
			goal: goal, met: ratioOf(x[0][0], x[1][0]) <= 5},
		{what: "`up` of 10 machines", unit: milliseconds, wolffia: x[0][0], against: "`wolffia up` of one", other: x[2][0],
			goal: goal, met: ratioOf(x[0][0], x[2][0]) <= 5},
		{what: "`down` of 10 machines", unit: milliseconds, wolffia: x[0][1], against: "`wolffia down` of one", other: x[2][1]},
		{what: "10 bare kernels", unit: milliseconds, wolffia: x[3][0], against: "one bare kernel", other: x[4][0]},
	}
	return r, nil
}

// times runs a command so many times, as many at once as there are processors.
func (c command) times(n int) sampler {
	return func(ctx context.Context) ([]float64, error) {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(runtime.NumCPU())
		began := time.Now()
		for range n {
			g.Go(func() error {
				_, err := c.run(ctx)
				return err
			})
		}
		err := g.Wait()
		return []float64{ms(time.Since(began))}, err
	}
}

// upDown times both ways.
func upDown(l *labProcess) sampler {
	return func(ctx context.Context) ([]float64, error) {
		up, err := l.wolffia("up", "-q").run(ctx)
		if err != nil {
			return nil, errors.Join(err, l.down())
		}
		down, err := l.wolffia("down").run(ctx)
		if err != nil {
			err = errors.Join(err, l.down())
		}
		return []float64{ms(up), ms(down)}, err
	}
}

// many is how many machines a large lab has.
const many = 30

// labOfMany is what a large lab costs.
func labOfMany(ctx context.Context, b *bench) (*result, error) {
	l, err := b.newLab("many", machinesLab(many))
	if err != nil {
		return nil, err
	}
	x, err := b.alternate(ctx, func(ctx context.Context) ([]float64, error) {
		figures, err := l.once(ctx)
		if err != nil {
			err = errors.Join(err, l.down())
		}
		return figures, err
	})
	if err != nil {
		return nil, err
	}
	r := &result{notes: []string{
		fmt.Sprintf("%d machines with 64 MB each on one network; ping is by name, from each to every other, %d at a time", many, atOnce),
		"memory is the share of what several processes have together (Pss), of all processes of a machine, while it does nothing",
	}}
	for i, what := range []string{"up", "ping all to all", "memory of a machine", "memory of the supervisor", "down"} {
		unit := milliseconds
		if strings.HasPrefix(what, "memory") {
			unit = megabytes
		}
		r.rows = append(r.rows, row{what: what, unit: unit, wolffia: x[0][i]})
	}
	return r, nil
}

// atOnce is how many machines are asked to ping at the same time.
const atOnce = 4

// once has the lab come and go.
func (l *labProcess) once(ctx context.Context) ([]float64, error) {
	up, err := l.wolffia("up", "-q").run(ctx)
	if err != nil {
		return nil, err
	}
	c, err := l.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	info, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := pingAll(ctx, c); err != nil {
		return nil, err
	}
	pinged := time.Since(began)
	machines := 0.0
	for _, pid := range descendants(info.PID) {
		machines += pss(pid)
	}
	supervisor := pss(info.PID)
	down, err := l.wolffia("down").run(ctx)
	if left := descendants(info.PID); err == nil && len(left) > 0 {
		err = fmt.Errorf("processes are left: %v", left)
	}
	return []float64{ms(up), ms(pinged), machines / many, supervisor, ms(down)}, err
}

// pingAll has every machine ping every other.
func pingAll(ctx context.Context, c *api.Client) error {
	var script strings.Builder
	for i := range many {
		fmt.Fprintf(&script, "ping -q -c 1 -W 10 m%d >/dev/null || echo no answer from m%d\n", i, i)
	}
	errs := make([]error, many)
	turn := make(chan struct{}, atOnce)
	var pinging sync.WaitGroup
	for i := range many {
		pinging.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			name := fmt.Sprintf("m%d", i)
			enter, err := c.Enter(ctx, name)
			if err != nil {
				errs[i] = err
				return
			}
			defer enter.Close()
			var out bytes.Buffer
			_, err = enter.Run(ctx, access.Command{Argv: []string{"sh", "-c", script.String()}, Stdout: &out, Stderr: &out})
			if out.Len() > 0 {
				err = errors.Join(err, fmt.Errorf("%s: %s", name, out.String()))
			}
			errs[i] = err
		})
	}
	pinging.Wait()
	return errors.Join(errs...)
}

// pss is a process' proportional share of memory, in MB; 0 for one that has ended.
func pss(pid int) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}
