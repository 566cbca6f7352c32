package link

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// unit is a suffix of a number.
type unit struct {
	name   string // in lower case
	factor float64
}

// rateUnits are tc's. The first ones are what String uses, greatest first.
var rateUnits = []unit{
	{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"", 1}, {"bit", 1}, {"tbit", 1e12},
	{"kibit", 1 << 10}, {"mibit", 1 << 20}, {"gibit", 1 << 30}, {"tibit", 1 << 40},
	{"bps", 8}, {"kbps", 8e3}, {"mbps", 8e6}, {"gbps", 8e9}, {"tbps", 8e12},
	{"kibps", 8 << 10}, {"mibps", 8 << 20}, {"gibps", 8 << 30}, {"tibps", 8 << 40},
}

// sizeUnits are tc's, and those that say what they mean.
var sizeUnits = []unit{
	{"mib", 1 << 20}, {"kib", 1 << 10}, {"", 1}, {"b", 1},
	{"k", 1 << 10}, {"kb", 1 << 10}, {"m", 1 << 20}, {"mb", 1 << 20},
}

// parseNumber reads a decimal number, with a fraction perhaps, and its unit.
// The result is exact as long as it has no more than 53 bits.
func parseNumber(s string, units []unit) (float64, bool) {
	end := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(s)
	}
	value, err := strconv.ParseFloat(s[:end], 64)
	if err != nil {
		return 0, false
	}
	name := strings.ToLower(strings.TrimSpace(s[end:]))
	for _, u := range units {
		if u.name == name {
			return value * u.factor, true
		}
	}
	return 0, false
}

// ParseRate reads a rate as tc writes it: "10Mbit", "1.5gbit", "64kbps" (bytes),
// or a plain number of bits per second. Upper and lower case are the same.
func ParseRate(s string) (Rate, error) {
	v, ok := parseNumber(s, rateUnits)
	if !ok {
		return 0, fmt.Errorf("%q is no rate; write one such as 10Mbit, 512kbit or 1Gbit (kbps and the like are bytes per second)", s)
	}
	r := Rate(math.Min(math.Round(v), 2*float64(MaxRate)))
	if r > MaxRate || r < MinRate && r != 0 {
		return 0, fmt.Errorf("rate %q is not between %v and %v", s, MinRate, MaxRate)
	}
	return r, nil
}

// String writes the rate with the largest unit that gives a whole number.
func (r Rate) String() string {
	for _, u := range []struct {
		factor Rate
		name   string
	}{{1e9, "Gbit"}, {1e6, "Mbit"}, {1e3, "kbit"}} {
		if r >= u.factor && r%u.factor == 0 {
			return strconv.FormatUint(uint64(r/u.factor), 10) + u.name
		}
	}
	return strconv.FormatUint(uint64(r), 10) + "bit"
}

// ParseQueue reads a number of bytes: "64KiB", "1M" (binary, as tc has them) or
// a plain number.
func ParseQueue(s string) (int, error) {
	v, ok := parseNumber(s, sizeUnits)
	if !ok {
		return 0, fmt.Errorf("%q is no length of a queue; write one such as 64KiB", s)
	}
	if v > MaxQueue {
		return 0, fmt.Errorf("queue %q is longer than %s", s, formatBytes(MaxQueue))
	}
	return int(math.Round(v)), nil
}

func formatBytes(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.Itoa(n>>20) + "MiB"
	case n >= 1<<10 && n%(1<<10) == 0:
		return strconv.Itoa(n>>10) + "KiB"
	}
	return strconv.Itoa(n)
}

// ParsePercent reads a probability: "10%", or "0.1" for the same.
func ParsePercent(s string) (Probability, error) {
	digits, percent := strings.CutSuffix(s, "%")
	bad := fmt.Errorf("%q is no probability; write one such as 10%% or 0.1", s)
	if strings.Trim(digits, "0123456789.") != "" {
		return 0, bad
	}
	text := digits
	if percent {
		text += "e-2" // which is exact where a division by 100 is not
	}
	p, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil:
		return 0, bad
	case p > 1 && !percent:
		return 0, fmt.Errorf("probability %s is more than 1; if it is a percentage, write %s%%", s, s)
	case p > 1:
		return 0, fmt.Errorf("probability %s is more than 100%%", s)
	}
	return Probability(p), nil
}

// String writes the probability as a percentage.
func (p Probability) String() string {
	// The shortest digits of p, with the point moved by two.
	e := strconv.FormatFloat(float64(p), 'e', -1, 64)
	mantissa, exponent, ok := strings.Cut(e, "e")
	n, err := strconv.Atoi(exponent)
	if !ok || err != nil {
		return e + "%" // not a number; Check says so
	}
	digits := strings.Replace(mantissa, ".", "", 1)
	point := n + 3 // how many of the digits stand before it
	switch {
	case p == 0:
		return "0%"
	case point <= 0:
		return "0." + strings.Repeat("0", -point) + digits + "%"
	case point >= len(digits):
		return digits + strings.Repeat("0", point-len(digits)) + "%"
	}
	return digits[:point] + "." + digits[point:] + "%"
}

// ParseDelay reads a duration: "50ms", "1.5s", "200us".
func ParseDelay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration; write one such as 50ms or 200us, with its unit", s)
	}
	if d < 0 || d > MaxDelay {
		return 0, fmt.Errorf("duration %q is not between 0s and %v", s, MaxDelay)
	}
	return d, nil
}

// ParseSeed reads the number of a sequence of random decisions.
func ParseSeed(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no seed; write a whole number from 0 to %d", s, uint64(math.MaxUint64))
	}
	return n, nil
}

// field is one word of the textual form and its value.
type field struct {
	name  string
	parse func(i *Impairment, s string) error
	text  func(i *Impairment) string // "" if it is zero
}

// fields are the words, in the order of String.
var fields = []field{
	of("rate", ParseRate, Rate.String, func(i *Impairment) *Rate { return &i.Rate }),
	of("queue", ParseQueue, formatBytes, func(i *Impairment) *int { return &i.Queue }),
	of("delay", ParseDelay, time.Duration.String, func(i *Impairment) *time.Duration { return &i.Delay }),
	of("jitter", ParseDelay, time.Duration.String, func(i *Impairment) *time.Duration { return &i.Jitter }),
	of("loss", ParsePercent, Probability.String, func(i *Impairment) *Probability { return &i.Loss }),
	of("duplicate", ParsePercent, Probability.String, func(i *Impairment) *Probability { return &i.Duplicate }),
	of("corrupt", ParsePercent, Probability.String, func(i *Impairment) *Probability { return &i.Corrupt }),
	of("reorder", ParsePercent, Probability.String, func(i *Impairment) *Probability { return &i.Reorder }),
	of("seed", ParseSeed, func(n uint64) string { return strconv.FormatUint(n, 10) }, func(i *Impairment) *uint64 { return &i.Seed }),
}

func of[T comparable](name string, parse func(string) (T, error), format func(T) string, at func(*Impairment) *T) field {
	return field{
		name: name,
		parse: func(i *Impairment, s string) (err error) {
			*at(i), err = parse(s)
			return err
		},
		text: func(i *Impairment) string {
			var zero T
			if *at(i) == zero {
				return ""
			}
			return format(*at(i))
		},
	}
}

// noImpairment is the textual form of the zero value.
const noImpairment = "none"

// String writes what is not zero, as [ParseImpairment] reads it: "none", or
// "rate 10Mbit delay 50ms loss 10%".
func (i Impairment) String() string {
	var words []string
	for _, f := range fields {
		if s := f.text(&i); s != "" {
			words = append(words, f.name, s)
		}
	}
	if len(words) == 0 {
		return noImpairment
	}
	return strings.Join(words, " ")
}

// ParseImpairment reads words and their values in any order, "delay 50ms loss
// 10%" or "delay=50ms,loss=10%", and checks the result. "none" is the zero
// value.
func ParseImpairment(s string) (Impairment, error) {
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == '=' })
	if len(words) == 1 && words[0] == noImpairment {
		return Impairment{}, nil
	}
	if len(words) == 0 {
		return Impairment{}, errors.New(`nothing given; write an impairment such as "delay 50ms loss 10%", or none`)
	}
	var i Impairment
	seen := map[string]bool{}
	for n := 0; n < len(words); n += 2 {
		name := words[n]
		f, err := fieldOf(name)
		switch {
		case err != nil:
			return Impairment{}, err
		case seen[name]:
			return Impairment{}, fmt.Errorf("%s is given twice", name)
		case n+1 == len(words):
			return Impairment{}, fmt.Errorf("%s has no value", name)
		}
		seen[name] = true
		if err := f.parse(&i, words[n+1]); err != nil {
			return Impairment{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return i, i.Check()
}

func fieldOf(name string) (field, error) {
	var names []string
	for _, f := range fields {
		if f.name == name {
			return f, nil
		}
		names = append(names, f.name)
	}
	return field{}, fmt.Errorf("an impairment has no %q; there are %s, each with a value", name, strings.Join(names, ", "))
}
