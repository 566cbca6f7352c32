package vnet_test

import (
	"errors"
	"net"
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

func TestPlug(t *testing.T) {
	porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
		sw := vnet.NewSwitch(vnet.SwitchOptions{})
		t.Cleanup(func() { sw.Close() })
		var ports []vnet.Port
		for range 2 {
			p, err := sw.Plug(vnet.PortOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ports = append(ports, p)
		}
		return ports[0], ports[1]
	})
}

// TestPlugSegments: a program that does not understand offload gets segments
// from one that does, and is detached like any port.
func TestPlugSegments(t *testing.T) {
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	defer sw.Close()
	a, err := sw.Plug(vnet.PortOptions{Name: "a", Offloads: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := sw.Plug(vnet.PortOptions{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	f := bigSegment(false, make([]byte, 2500), 1000)
	copy(f.Data, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	if _, err := a.WriteFrames([]vnet.Frame{f}); err != nil {
		t.Fatal(err)
	}
	bufs := vnet.NewBatch(1, vnet.MaxFrame)
	for range 3 {
		if _, err := b.ReadFrames(bufs); err != nil || len(bufs[0].Data) > 1066 {
			t.Fatalf("got %d bytes: %v", len(bufs[0].Data), err)
		}
	}
	for _, st := range sw.Stats() {
		if err := sw.Detach(st.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.WriteFrames([]vnet.Frame{f}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after detach: %v", err)
	}
}
