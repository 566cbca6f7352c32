package link

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"0": 0, "1000": 1000, "9600bit": 9600, "64kbit": 64e3, "10Mbit": 10e6, "1.5gbit": 15e8, "1tbit": 1e12, "1 Mbit": 1e6,
		"1kbps": 8e3, "1KBps": 8e3, "125kbps": 1e6, "1mibit": 1 << 20, "1kibps": 8 << 10, "1000.4": 1000,
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, uint64(got), err, uint64(want))
		}
	}
	for text, want := range map[string]string{
		"": "is no rate", "fast": "is no rate", "10m": "is no rate", "-1kbit": "is no rate", "1e6": "is no rate", "0x10kbit": "is no rate",
		"1..5Mbit": "is no rate", "NaN": "is no rate", "inf": "is no rate",
		"999": "is not between 1kbit and 1000Gbit", "2tbit": "is not between", "99999999999999999999999999gbit": "is not between",
	} {
		if got, err := ParseRate(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
	for r, want := range map[Rate]string{0: "0bit", 1000: "1kbit", 1001: "1001bit", 10e6: "10Mbit", 1500e6: "1500Mbit", 1e12: "1000Gbit"} {
		if got := r.String(); got != want {
			t.Errorf("%d: %s, want %s", uint64(r), got, want)
		}
	}
}

func TestParsePercent(t *testing.T) {
	for text, want := range map[string]Probability{
		"0": 0, "1": 1, "0.1": 0.1, "10%": 0.1, "100%": 1, "0%": 0, "0.07": 0.07, "7%": 0.07, ".5%": 0.005, "12.5%": 0.125, "0.0001%": 1e-6,
	} {
		if got, err := ParsePercent(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, float64(got), err, float64(want))
		}
	}
	for text, want := range map[string]string{
		"": "is no probability", "%": "is no probability", "10 %": "is no probability", "-1%": "is no probability", "1e-3": "is no probability",
		"nan": "is no probability", "1%%": "is no probability", ".": "is no probability",
		"10": "write 10%", "101%": "more than 100%",
	} {
		if got, err := ParsePercent(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
	for p, want := range map[Probability]string{
		0: "0%", 1: "100%", 0.1: "10%", 0.07: "7%", 0.125: "12.5%", 0.001: "0.1%", 1e-6: "0.0001%", 0.123456: "12.3456%", 0.01: "1%",
	} {
		if got := p.String(); got != want {
			t.Errorf("%v: %s, want %s", float64(p), got, want)
		}
	}
}

func TestParseQueueAndDelay(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "1500": 1500, "64KiB": 64 << 10, "64k": 64 << 10, "1M": 1 << 20, "1.5kb": 1536, "64MiB": MaxQueue} {
		if got, err := ParseQueue(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "big", "65MiB", "-1", "1G", "99999999999999999999"} {
		if got, err := ParseQueue(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
	for _, text := range []string{"", "50", "-1ms", "2h", "1y"} {
		if got, err := ParseDelay(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestParseImpairment(t *testing.T) {
	all := Impairment{
		Rate: 10e6, Queue: 64 << 10, Delay: 50 * time.Millisecond, Jitter: 5 * time.Millisecond,
		Loss: 0.1, Duplicate: 0.01, Corrupt: 0.001, Reorder: 0.25, Seed: math.MaxUint64,
	}
	canonical := "rate 10Mbit queue 64KiB delay 50ms jitter 5ms loss 10% duplicate 1% corrupt 0.1% reorder 25% seed 18446744073709551615"
	if got := all.String(); got != canonical {
		t.Errorf("%s, want %s", got, canonical)
	}
	for text, want := range map[string]Impairment{
		"none": {}, canonical: all, "delay=50ms,loss=10%": {Delay: 50 * time.Millisecond, Loss: 0.1},
		"  loss  0.5\tseed 1 ": {Loss: 0.5, Seed: 1}, "delay 0s": {},
	} {
		if got, err := ParseImpairment(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                       "nothing given",
		"delay":                  "delay has no value",
		"delay 50ms delay 1ms":   "delay is given twice",
		"speed 10":               `no "speed"; there are rate, queue, delay`,
		"loss 10":                "loss: probability 10 is more than 1; if it is a percentage, write 10%",
		"none delay 1ms":         `no "none"`,
		"reorder 10%":            "reorder without a delay",
		"jitter 5ms":             "jitter 5ms is more than the delay 0s",
		"queue 1k":               "queue without a rate",
		"delay 1ms jitter -1ms":  "jitter: duration",
		"seed -1":                "is no seed",
		"delay 5 rate 10Mbit":    "with its unit",
		"rate 10Mbit loss 10% 5": `no "5"`,
	} {
		if got, err := ParseImpairment(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for want, i := range map[string]Impairment{
		"rate 999bit":            {Rate: 999},
		"rate 1000000000001bit":  {Rate: MaxRate + 1},
		"queue of -1 bytes":      {Rate: 1e6, Queue: -1},
		"between 0 and 64MiB":    {Rate: 1e6, Queue: MaxQueue + 1},
		"delay -1s":              {Delay: -time.Second},
		"delay 1h0m0.000000001s": {Delay: MaxDelay + 1},
		"jitter -1s is negative": {Jitter: -time.Second},
		"loss 1.5":               {Loss: 1.5},
		"corrupt NaN":            {Corrupt: Probability(math.NaN())},
		"duplicate -0.1":         {Duplicate: -0.1},
		"overtakes nothing":      {Reorder: 0.1},
	} {
		if err := i.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", i, err, want)
		}
	}
	l := New(sink{}, Options{})
	defer l.Close()
	if err := l.SetImpairment(In, Impairment{Loss: 2}); err == nil || l.Impairment(In) != (Impairment{}) {
		t.Errorf("a wrong impairment is accepted: %v", err)
	}
}

func FuzzParseImpairment(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseImpairment(s)
		if err != nil {
			return
		}
		if err := i.Check(); err != nil {
			t.Fatalf("%q is accepted as %v: %v", s, i, err)
		}
		if again, err := ParseImpairment(i.String()); err != nil || again != i {
			t.Fatalf("%q is %+v, written as %s, read as %+v, %v", s, i, i, again, err)
		}
	})
}

func FuzzProbability(f *testing.F) {
	f.Fuzz(func(t *testing.T, x float64) {
		p := Probability(x)
		if !(p >= 0 && p <= 1) {
			_ = p.String()
			return
		}
		if again, err := ParsePercent(p.String()); err != nil || again != p && p != 0 {
			t.Fatalf("%v is written as %s, read as %v, %v", x, p, float64(again), err)
		}
	})
}
