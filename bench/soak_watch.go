package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// growth is one figure that must not grow.
type growth struct {
	name, unit string
	per        float64 // what one of unit is
	share      float64 // how much it may grow, as a share of where it began
	slack      float64 // and besides
	samples    []float64
}

// watch is all of them.
type watch struct {
	figures []*growth
	// warmUp is how many rounds go by until rings and pools are full; the same
	// number of rounds after it says where the figures began.
	warmUp int
}

// insist is how many rounds in a row have to be too much for a failure: what
// happens to go on at the moment of one is none.
const insist = 3

// warmUpOf is a tenth of the rounds that there will be, but few are enough.
func warmUpOf(length time.Duration) int {
	const aRound = 15 * time.Second
	return min(20, max(3, int(length/aRound/10)))
}

// Indexes of figures.
const (
	goroutines = iota
	descriptors
	threads
	resident
	heap
	processes
	childDescriptors
)

func newWatch(length time.Duration) watch {
	return watch{warmUp: warmUpOf(length), figures: []*growth{
		goroutines:       {name: "goroutines", per: 1, share: 0.1, slack: 16},
		descriptors:      {name: "open files", per: 1, slack: 10},
		threads:          {name: "threads", per: 1, share: 0.5, slack: 8},
		resident:         {name: "memory (RSS)", unit: "MB", per: 1e6, share: 0.25, slack: 24e6},
		heap:             {name: "heap in use", unit: "MB", per: 1e6, share: 0.25, slack: 12e6},
		processes:        {name: "processes below it", per: 1, slack: 8},
		childDescriptors: {name: "their open files", per: 1, slack: 64},
	}}
}

// began is where a figure was after the warm-up: the most of those rounds.
func (w *watch) began(g *growth) (float64, bool) {
	if len(g.samples) < 2*w.warmUp {
		return 0, false
	}
	return slices.Max(g.samples[w.warmUp : 2*w.warmUp]), true
}

// bound is what it may come to.
func (w *watch) bound(g *growth) float64 {
	b, _ := w.began(g)
	return b*(1+g.share) + g.slack
}

// tooMuch says whether it has been above the bound for some rounds.
func (w *watch) tooMuch(g *growth) bool {
	if len(g.samples) < 2*w.warmUp+insist {
		return false
	}
	return slices.Min(g.samples[len(g.samples)-insist:]) > w.bound(g)
}

// look takes one sample of everything, and tells it with the round's longest step.
func (s *soakLab) look(ctx context.Context, slowest string) error {
	info, err := s.api.Info(ctx)
	if err != nil {
		return err
	}
	m, err := s.api.Metrics(ctx)
	if err != nil {
		return err
	}
	below := descendants(info.PID)
	files := 0
	for _, pid := range below {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)) // it may have ended
		files += len(entries)
	}
	line := fmt.Sprintf("%8s round %d, longest %s:", time.Since(s.start).Round(time.Second), s.cycles+1, slowest)
	for i, x := range map[int]float64{
		goroutines: float64(m.Goroutines), descriptors: float64(m.Descriptors), threads: float64(m.Threads),
		resident: float64(m.Resident), heap: float64(m.Heap), processes: float64(len(below)), childDescriptors: float64(files),
	} {
		s.watch.figures[i].samples = append(s.watch.figures[i].samples, x)
	}
	var grown error
	for _, g := range s.watch.figures {
		now := g.samples[len(g.samples)-1]
		line += fmt.Sprintf(" %s %s,", g.name, g.show(now))
		if s.watch.tooMuch(g) {
			began, _ := s.watch.began(g)
			grown = fmt.Errorf("%s grew from %s to %s", g.name, g.show(began), g.show(now))
		}
	}
	fmt.Fprintln(s.log, strings.TrimSuffix(line, ","))
	if grown != nil {
		s.profiles(ctx)
	}
	return grown
}

func (g *growth) show(x float64) string {
	if g.unit == "" {
		return fmt.Sprintf("%.0f", x/g.per)
	}
	return fmt.Sprintf("%.1f %s", x/g.per, g.unit)
}

// profiles shows what the supervisor is made of.
func (s *soakLab) profiles(ctx context.Context) {
	for _, name := range []string{"goroutine", "heap"} {
		text, err := s.api.Profile(ctx, name)
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintf(s.log, "--- %s\n%s\n", name, text)
	}
}

// report writes the table.
func (s *soakLab) report(out io.Writer, err error) {
	fmt.Fprintf(out, "\n### soak: %s\n\n", time.Since(s.start).Round(time.Minute))
	fmt.Fprintln(out, "| of the supervisor | began | median | most | ended | may come to | met |")
	fmt.Fprintln(out, "| --- | --- | --- | --- | --- | --- | --- |")
	for _, g := range s.watch.figures {
		began, ok := s.watch.began(g)
		if !ok {
			continue
		}
		met := "yes"
		if s.watch.tooMuch(g) {
			met = "**no**"
		}
		later := g.samples[2*s.watch.warmUp:]
		if len(later) == 0 {
			later = g.samples[s.watch.warmUp:]
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s |\n", g.name, g.show(began), g.show(median(later)),
			g.show(slices.Max(later)), g.show(later[len(later)-1]), g.show(s.watch.bound(g)), met)
	}
	fmt.Fprintf(out, "\n- %d rounds, %d restarts of machines, %d short streams, %.0f MB of captures\n", s.cycles, s.restarts, s.short, float64(s.frames.Load())/1e6)
	for _, l := range s.long {
		fmt.Fprintf(out, "- stream from %s: %.0f MB each way, every byte checked\n", l.name, float64(l.received.Load())/1e6)
	}
	if err != nil {
		fmt.Fprintf(out, "- **failed**: %v\n", err)
	}
}

// descendants are the processes below one.
func descendants(pid int) (out []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // none where it has ended
	for _, t := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for _, f := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(f); err == nil {
				out = append(append(out, child), descendants(child)...)
			}
		}
	}
	return out
}
