package qemu

import "testing"

func TestTSCRate(t *testing.T) {
	for text, want := range map[string]int{
		"model name\t: Intel(R) Xeon(R) CPU @ 2.70GHz\ncpu MHz\t\t: 3400.000\n":       2700000,
		"model name\t: AMD EPYC 7B13\ncpu MHz\t\t: 2449.998\ncpu MHz\t\t: 1500.000\n": 2449998,
		"model name\t: odd @ fastGHz\n":                                               0,
		"":                                                                            0,
	} {
		if got := tscRate(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
