package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// result is what a benchmark found.
type result struct {
	rows  []row
	notes []string // facts that belong to the figures
}

// row is one comparison.
type row struct {
	what    string
	unit    string // of wolffia and other: "ms", "MB", "Gbit/s", "%"
	wolffia []float64
	against string    // what the other side is; empty without one
	other   []float64 // in the same order as wolffia
	goal    string    // in words
	met     bool
}

const (
	milliseconds = "ms"
	megabytes    = "MB"
	gigabits     = "Gbit/s"
	percent      = "%"
)

func (r *result) write(w io.Writer, k benchmark) {
	fmt.Fprintf(w, "\n### %s: %s\n\n", k.name, k.what)
	fmt.Fprintln(w, "| what | unit | wolffia | against | other | ratio | goal | met |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, x := range r.rows {
		met := "**no**"
		switch {
		case x.goal == "":
			met = ""
		case x.met:
			met = "yes"
		}
		ratio := ""
		if len(x.other) > 0 && median(x.other) > 0 {
			ratio = fmt.Sprintf("%.2f", ratioOf(x.wolffia, x.other))
		}
		cells := []string{x.what, x.unit, spread(x.wolffia), x.against, spread(x.other), ratio, x.goal, met}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	if len(r.notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, n := range r.notes {
		fmt.Fprintf(w, "- %s\n", n)
	}
}

// spread renders a series as its median, least and most.
func spread(x []float64) string {
	if len(x) == 0 {
		return ""
	}
	digits := 0
	switch m := median(x); {
	case m < 1:
		digits = 3
	case m < 10:
		digits = 2
	case m < 100:
		digits = 1
	}
	return fmt.Sprintf("%.*f (%.*f to %.*f)", digits, median(x), digits, slices.Min(x), digits, slices.Max(x))
}
