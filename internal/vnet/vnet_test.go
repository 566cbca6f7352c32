package vnet_test

import (
	"testing"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
)

func TestPipe(t *testing.T) {
	porttest.Run(t, func(t *testing.T) (a, b vnet.Port) { return vnet.Pipe(vnet.PipeOptions{}) })
}

// TestPipeThroughSwitch: a switch with two ports is a cable, too.
func TestPipeThroughSwitch(t *testing.T) {
	porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
		sw := vnet.NewSwitch(vnet.SwitchOptions{})
		t.Cleanup(func() { sw.Close() })
		a, a2 := vnet.Pipe(vnet.PipeOptions{})
		b, b2 := vnet.Pipe(vnet.PipeOptions{})
		for _, p := range []vnet.Port{a2, b2} {
			if _, err := sw.Attach(p, vnet.PortOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		return a, b
	})
}
