package vnet

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultAge is how long a switch remembers an address that it no longer sees
// (IEEE 802.1D-2004, table 7-5).
const DefaultAge = 300 * time.Second

// SwitchOptions configure a [Switch].
type SwitchOptions struct {
	Age time.Duration    // how long an unseen address is remembered; 0 means DefaultAge
	Now func() time.Time // the clock; nil means time.Now
}

// PortOptions say how a port takes part in a switch.
type PortOptions struct {
	Name string // for people: "alice/eth0"
	// Queue is the room for frames on their way to the port, in bytes; 0 means
	// DefaultQueue. When it is full the newest frames are dropped and counted
	// in [PortStats.TxDropped].
	Queue int
	// Offloads, for [Switch.Plug], says that the reader understands frames with
	// an [Offload]; a port that is attached says so itself.
	Offloads bool
}

// PortID names a port of a switch for as long as it is attached. It is never
// given out again.
type PortID uint64

// PortStats counts what passed a port, seen from the switch: received from the
// port, transmitted to it.
type PortStats struct {
	ID        PortID
	Name      string
	RxFrames  uint64
	RxBytes   uint64
	RxDropped uint64 // shorter than an Ethernet header
	TxFrames  uint64
	TxBytes   uint64
	TxDropped uint64 // no room in the port's queue, or refused by the port
}

// ErrNoPort is returned for a port that is not, or no longer, attached.
var ErrNoPort = errors.New("no such port")

// Switch joins ports into one Ethernet segment. Each attached port has one
// goroutine that reads it and at most one that writes to it; a port that is
// plugged has none. Ports come and go while it runs. All methods may be called
// from any goroutine.
type Switch struct {
	age   int64 // seconds
	now   func() time.Time
	epoch time.Time
	table *macTable
	ports atomic.Pointer[[]*swPort] // by slot, nil where free; replaced, never changed

	mu     sync.Mutex
	lastID PortID
	closed bool
}

type swPort struct {
	id        PortID
	slot      int
	name      string
	port      Port
	out       *Outbox
	done      chan struct{} // closed when nothing of the port runs any more
	rxFrames  atomic.Uint64
	rxBytes   atomic.Uint64
	rxDropped atomic.Uint64
}

// NewSwitch makes a switch without ports.
func NewSwitch(o SwitchOptions) *Switch {
	if o.Age == 0 {
		o.Age = DefaultAge
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Switch{age: int64(o.Age / time.Second), now: o.Now, epoch: o.Now(), table: newMACTable()}
	s.ports.Store(new([]*swPort))
	return s
}

// Attach plugs a port in. The switch owns it from now on: it is closed when it
// is detached, when reading it fails, or with the switch. It is closed as well
// when Attach fails.
func (s *Switch) Attach(port Port, o PortOptions) (PortID, error) {
	p := &swPort{name: o.Name, port: port, done: make(chan struct{})}
	s.mu.Lock()
	err := s.place(p)
	if err == nil {
		p.out = NewOutbox(port, o.Queue)
		s.publish(p.slot, p)
		go s.receive(p)
	}
	s.mu.Unlock()
	if err != nil {
		port.Close()
		return 0, fmt.Errorf("attach port %s: %w", o.Name, err)
	}
	return p.id, nil
}

// place finds a slot for the port.
func (s *Switch) place(p *swPort) error {
	if s.closed {
		return net.ErrClosed
	}
	ports := *s.ports.Load()
	for p.slot < len(ports) && ports[p.slot] != nil {
		p.slot++
	}
	if p.slot == maxPorts {
		return fmt.Errorf("all %d ports of the switch are in use", maxPorts)
	}
	s.lastID++
	p.id = s.lastID
	return nil
}

func (s *Switch) publish(slot int, p *swPort) {
	old := *s.ports.Load()
	ports := make([]*swPort, max(len(old), slot+1))
	copy(ports, old)
	ports[slot] = p
	s.ports.Store(&ports)
}

// Detach unplugs and closes a port, and waits until nothing of it runs any
// more. It returns [ErrNoPort] for one that is gone already.
func (s *Switch) Detach(id PortID) error {
	for _, p := range *s.ports.Load() {
		if p != nil && p.id == id {
			p.port.Close()
			<-p.done
			return nil
		}
	}
	return fmt.Errorf("detach port %d: %w", id, ErrNoPort)
}

// Wait returns when a port is no longer attached, for whichever reason.
func (s *Switch) Wait(id PortID) {
	for _, p := range *s.ports.Load() {
		if p != nil && p.id == id {
			<-p.done
		}
	}
}

// Close detaches every port and waits for all goroutines.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	ports := *s.ports.Load()
	s.mu.Unlock()
	for _, p := range ports {
		if p != nil {
			p.port.Close()
		}
	}
	for _, p := range ports {
		if p != nil {
			<-p.done
		}
	}
	return nil
}

// Stats counts what passed each attached port, in the order of their slots.
func (s *Switch) Stats() []PortStats {
	var all []PortStats
	for _, p := range *s.ports.Load() {
		if p == nil {
			continue
		}
		st := PortStats{
			ID: p.id, Name: p.name,
			RxFrames: p.rxFrames.Load(), RxBytes: p.rxBytes.Load(), RxDropped: p.rxDropped.Load(),
		}
		st.TxFrames, st.TxBytes, st.TxDropped = p.out.Sent()
		all = append(all, st)
	}
	return all
}

// receive moves what a port sends, until the port is closed.
func (s *Switch) receive(p *swPort) {
	frames := NewBatch(batchLen, MaxFrame)
	for {
		n, err := p.port.ReadFrames(frames)
		if err != nil {
			break
		}
		s.forward(p, frames[:n])
	}
	p.port.Close()
	s.mu.Lock()
	s.publish(p.slot, nil)
	s.table.forget(p.slot)
	s.mu.Unlock()
	p.out.Close()
	close(p.done)
}

// Where a frame goes, if not to a slot.
const (
	toAll    = -1
	toNobody = -2
)

// forward sends a batch on. Frames in a row with one destination stay one
// batch.
func (s *Switch) forward(from *swPort, frames []Frame) {
	now := int64(s.now().Sub(s.epoch) / time.Second)
	ports := *s.ports.Load()
	start, to := 0, toNobody
	var bytes int
	for i := range frames {
		next := s.route(from, frames[i].Data, now)
		bytes += len(frames[i].Data)
		if next != to {
			deliver(ports, from, to, frames[start:i])
			start, to = i, next
		}
	}
	deliver(ports, from, to, frames[start:])
	from.rxFrames.Add(uint64(len(frames)))
	from.rxBytes.Add(uint64(bytes))
}

// route learns a frame's source and says where the frame goes.
func (s *Switch) route(from *swPort, d []byte, now int64) int {
	if len(d) < MinFrame {
		from.rxDropped.Add(1)
		return toNobody
	}
	oldest := now - s.age
	if d[6]&1 == 0 { // a group address is no source that one can learn
		s.table.learn(mac48(d[6:]), from.slot, now, oldest)
	}
	if d[0]&1 != 0 {
		return toAll
	}
	slot, ok := s.table.lookup(mac48(d), oldest)
	switch {
	case !ok:
		return toAll
	case slot == from.slot:
		return toNobody
	}
	return slot
}

func deliver(ports []*swPort, from *swPort, to int, frames []Frame) {
	switch {
	case to == toNobody || len(frames) == 0:
	case to == toAll:
		for _, p := range ports {
			if p != nil && p != from {
				p.out.Write(frames)
			}
		}
	case to < len(ports) && ports[to] != nil:
		ports[to].out.Write(frames)
	}
}
