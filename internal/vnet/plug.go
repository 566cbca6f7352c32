package vnet

import (
	"fmt"
	"net"
	"sync"
)

// Plug gives a port of the switch to a program in this process: what it writes
// the switch forwards before WriteFrames returns, in the caller's goroutine,
// and what the switch sends it reads. That is a cable with no goroutine in it,
// where a [Pipe] attached to the switch has one. The port is [Direct]; closing
// it detaches it.
func (s *Switch) Plug(o PortOptions) (Port, error) {
	if o.Queue == 0 {
		o.Queue = DefaultQueue
	}
	g := &plug{sw: s, ringReader: ringReader{ring: newRing(o.Queue)}}
	p := &swPort{name: o.Name, done: make(chan struct{})}
	p.port = &plugSide{plug: g, offloads: o.Offloads}
	g.p = p
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.place(p, o.VLAN); err != nil {
		return nil, fmt.Errorf("plug port %s: %w", o.Name, err)
	}
	p.out = NewOutbox(p.port, o.Queue)
	s.publish(p.slot, p)
	return g, nil
}

// plug is the program's side of a plugged port.
type plug struct {
	ringReader
	sw *Switch
	p  *swPort

	mu     sync.RWMutex // held for reading while forwarding, which waits for nothing
	closed bool
}

func (g *plug) Offloads() bool { return true }
func (g *plug) Direct() bool   { return true }

// WriteFrames implements [Port].
func (g *plug) WriteFrames(frames []Frame) (int, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return 0, net.ErrClosed
	}
	g.sw.forward(g.p, frames)
	return len(frames), nil
}

// Close implements [Port].
func (g *plug) Close() error {
	g.mu.Lock()
	was := g.closed
	g.closed = true
	g.mu.Unlock()
	if was {
		return nil
	}
	g.ring.close()
	// Nothing is forwarded any more that could bring an address back.
	g.sw.mu.Lock()
	g.sw.publish(g.p.slot, nil)
	g.sw.table.forget(g.p.slot)
	g.sw.mu.Unlock()
	g.p.out.Close()
	close(g.p.done)
	return nil
}

// plugSide is the switch's side: it is written to and never read.
type plugSide struct {
	plug     *plug
	offloads bool
}

func (s *plugSide) Offloads() bool { return s.offloads }
func (s *plugSide) Direct() bool   { return true }

func (s *plugSide) ReadFrames([]Frame) (int, error)         { return 0, net.ErrClosed }
func (s *plugSide) WriteFrames(frames []Frame) (int, error) { return s.plug.ring.push(frames) }
func (s *plugSide) Close() error                            { return s.plug.Close() }
