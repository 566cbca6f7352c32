package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// sample is one finished process.
type sample struct {
	wall time.Duration
	cpu  time.Duration // user and system, children included
}

// command is a program to time. Its output is thrown away unless it fails.
type command struct {
	argv  []string
	env   []string // added to the environment
	dir   string
	stdin string
	any   bool // any exit status will do
}

// runBound is how long a single timed process may take.
const runBound = 5 * time.Minute

func (c command) run(ctx context.Context) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, runBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Dir = c.dir
	if c.stdin != "" {
		cmd.Stdin = strings.NewReader(c.stdin)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(start)}
	if cmd.ProcessState != nil {
		s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err != nil && !(c.any && cmd.ProcessState != nil && ctx.Err() == nil) {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(c.argv, " "), err, tail(out.String(), 20))
	}
	return s, nil
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// sampler gives one measurement, in any unit.
type sampler func(ctx context.Context) (float64, error)

// wall times a command in seconds.
func wall(c command) sampler {
	return func(ctx context.Context) (float64, error) {
		s, err := c.run(ctx)
		return s.wall.Seconds(), err
	}
}

// pair is two series measured in turn, A B A B, so that a machine whose speed
// drifts slows both.
type pair struct{ a, b []float64 }

// alternate takes n measurements of each side after one of each that does not
// count.
func alternate(ctx context.Context, n int, a, b sampler) (pair, error) {
	var p pair
	for i := range n + 1 {
		x, err := a(ctx)
		if err != nil {
			return p, err
		}
		y, err := b(ctx)
		if err != nil {
			return p, err
		}
		if i > 0 {
			p.a, p.b = append(p.a, x), append(p.b, y)
		}
	}
	return p, nil
}

// ratio is the median of a/b, pair by pair.
func (p pair) ratio() float64 {
	r := make([]float64, len(p.a))
	for i := range p.a {
		r[i] = p.a[i] / p.b[i]
	}
	return median(r)
}

// series takes n measurements after one that does not count.
func series(ctx context.Context, n int, s sampler) ([]float64, error) {
	var out []float64
	for i := range n + 1 {
		x, err := s(ctx)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, x)
		}
	}
	return out, nil
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
