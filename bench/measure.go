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

// command is a program to time. Its output is shown only when it fails.
type command struct {
	argv []string
	env  []string // added to the environment
	dir  string
}

// runBound is how long a single process may take.
const runBound = 5 * time.Minute

// run gives how long the program took, from before it was started until it was
// reaped.
func (c command) run(ctx context.Context) (time.Duration, error) {
	out, took, err := c.output(ctx)
	if err != nil {
		return took, fmt.Errorf("%w\n%s", err, tail(string(out), 20))
	}
	return took, nil
}

// output gives what the program wrote to both streams, too.
func (c command) output(ctx context.Context) ([]byte, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, runBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Dir = c.dir
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(c.argv, " "), err)
	}
	return out.Bytes(), took, err
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// sampler takes one measurement: one number, or several that belong together.
type sampler func(ctx context.Context) ([]float64, error)

// wall times a command in milliseconds.
func wall(c command) sampler {
	return func(ctx context.Context) ([]float64, error) {
		d, err := c.run(ctx)
		return []float64{ms(d)}, err
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// alternate takes n measurements of each side in turn, A B A B, so that a host
// whose speed drifts slows all of them; one more of each goes first and does
// not count. It gives, for each sampler, a series for each of its numbers.
func (b *bench) alternate(ctx context.Context, sides ...sampler) ([][][]float64, error) {
	out := make([][][]float64, len(sides))
	for i := range b.n + 1 {
		for s, side := range sides {
			x, err := side(ctx)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				out[s] = make([][]float64, len(x))
				continue
			}
			for j, v := range x {
				out[s][j] = append(out[s][j], v)
			}
		}
		fmt.Fprint(b.log, ".")
	}
	fmt.Fprintln(b.log)
	return out, nil
}

// ratioOf is the median of a/b, pair by pair.
func ratioOf(a, b []float64) float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = a[i] / b[i]
	}
	return median(r)
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
