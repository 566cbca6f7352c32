package link

import (
	"testing"
	"time"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
)

// TestConformance has a link be a port like any other, whatever is done to it.
func TestConformance(t *testing.T) {
	watched := func(l *Link) { l.Observe(nobody{}) }
	for name, prepare := range map[string]func(*Link){
		"plain":    func(*Link) {},
		"observed": watched,
		"shaped": func(l *Link) {
			shape(t, l, Impairment{Delay: time.Microsecond})
			watched(l)
		},
		"shaped before": func(l *Link) {
			shape(t, l, Impairment{Delay: time.Microsecond})
			shape(t, l, Impairment{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
				card, end := vnet.Pipe(vnet.PipeOptions{})
				l := New(card, Options{})
				prepare(l)
				return l, end
			})
		})
		t.Run(name+", reversed", func(t *testing.T) {
			porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
				card, end := vnet.Pipe(vnet.PipeOptions{})
				l := New(card, Options{Reversed: true})
				prepare(l)
				return end, l
			})
		})
	}
}

type nobody struct{}

func (nobody) Observe(vnet.Observation) {}

// shape impairs both directions.
func shape(t *testing.T, l *Link, i Impairment) {
	t.Helper()
	for _, d := range []Direction{Out, In} {
		if err := l.SetImpairment(d, i); err != nil {
			t.Fatal(err)
		}
	}
}
