package vnet

import (
	"errors"
	"fmt"
	"net"
	"slices"
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
	// VLAN is which VLANs the port carries; the zero value means all, as they are.
	VLAN VLAN
}

// PortID names a port of a switch for as long as it is attached. It is never
// given out again.
type PortID uint64

// PortStats counts what passed a port, seen from the switch: received from the
// port, transmitted to it.
type PortStats struct {
	ID         PortID
	Name       string
	RxFrames   uint64
	RxBytes    uint64
	RxDropped  uint64 // broken: shorter than its headers, or with an Offload that lies outside of them
	RxFiltered uint64 // of a VLAN that the port does not carry, or tagged where no tags are
	TxFrames   uint64
	TxBytes    uint64
	TxDropped  uint64 // no room in the port's queue, or in the port itself if it is Direct; or an Offload that can't be cut
	TxFiltered uint64 // with a second tag that would have become the first (see VLAN)
}

// ErrNoPort is returned for a port that is not, or no longer, attached.
var ErrNoPort = errors.New("no such port")

// Switch joins ports into one Ethernet segment. Each attached port has one
// goroutine that reads it, unless it is [Driven], and at most one that writes to it;
// a port that is plugged has none. Ports come and go while it runs. All methods may be called
// from any goroutine.
type Switch struct {
	age   int64 // seconds
	now   func() time.Time
	epoch time.Time
	table *macTable
	view  atomic.Pointer[view] // replaced, never changed

	retaggers sync.Pool // of *retagger

	mu     sync.Mutex
	lastID PortID
	closed bool
}

// view is what a batch of frames sees of the switch.
type view struct {
	ports []*swPort    // by slot, nil where free
	rules []*vlanRules // by slot, nil where free; none at all while every port is transparent
}

type swPort struct {
	id         PortID
	slot       int
	name       string
	port       Port
	out        *Outbox
	done       chan struct{} // closed when nothing of the port runs any more
	rules      *vlanRules    // for publish; under the switch's mu
	rxFrames   atomic.Uint64
	rxBytes    atomic.Uint64
	rxDropped  atomic.Uint64
	rxFiltered atomic.Uint64
	txFiltered atomic.Uint64
}

// NewSwitch makes a switch without ports.
func NewSwitch(o SwitchOptions) *Switch {
	if o.Age == 0 {
		o.Age = DefaultAge
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Switch{
		age: int64(o.Age / time.Second), now: o.Now, epoch: o.Now(),
		table:     newMACTable(),
		retaggers: sync.Pool{New: func() any { return newRetagger() }},
	}
	s.view.Store(&view{})
	return s
}

// Attach plugs a port in. The switch owns it from now on: it is closed when it
// is detached, when reading it fails, or with the switch. It is closed as well
// when Attach fails.
func (s *Switch) Attach(port Port, o PortOptions) (PortID, error) {
	p := &swPort{name: o.Name, port: port, done: make(chan struct{})}
	s.mu.Lock()
	err := s.place(p, o.VLAN)
	if err == nil {
		p.out = NewOutbox(port, o.Queue)
		s.publish(p.slot, p)
		s.serve(p)
	}
	s.mu.Unlock()
	if err != nil {
		port.Close()
		return 0, fmt.Errorf("attach port %s: %w", o.Name, err)
	}
	return p.id, nil
}

// place gives the port its rules, and finds a slot for it.
func (s *Switch) place(p *swPort, vlan VLAN) error {
	if s.closed {
		return net.ErrClosed
	}
	if err := vlan.Check(); err != nil {
		return err
	}
	ports := s.view.Load().ports
	for p.slot < len(ports) && ports[p.slot] != nil {
		p.slot++
	}
	if p.slot == maxPorts {
		return fmt.Errorf("all %d ports of the switch are in use", maxPorts)
	}
	p.rules = newVLANRules(vlan)
	s.lastID++
	p.id = s.lastID
	return nil
}

// publish makes a port, or nil, what is in a slot.
func (s *Switch) publish(slot int, p *swPort) {
	old := s.view.Load()
	v := &view{ports: make([]*swPort, max(len(old.ports), slot+1))}
	copy(v.ports, old.ports)
	v.ports[slot] = p
	if slices.ContainsFunc(v.ports, func(p *swPort) bool { return p != nil && !p.rules.transparent }) {
		v.rules = make([]*vlanRules, len(v.ports))
		for i, p := range v.ports {
			if p != nil {
				v.rules[i] = p.rules
			}
		}
	}
	s.view.Store(v)
}

// Detach unplugs and closes a port, and waits until nothing of it runs any
// more. It returns [ErrNoPort] for one that is gone already.
func (s *Switch) Detach(id PortID) error {
	for _, p := range s.view.Load().ports {
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
	for _, p := range s.view.Load().ports {
		if p != nil && p.id == id {
			<-p.done
		}
	}
}

// Close detaches every port and waits for all goroutines.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	ports := s.view.Load().ports
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
	for _, p := range s.view.Load().ports {
		if p == nil {
			continue
		}
		st := PortStats{
			ID: p.id, Name: p.name,
			RxFrames: p.rxFrames.Load(), RxBytes: p.rxBytes.Load(),
			RxDropped: p.rxDropped.Load(), RxFiltered: p.rxFiltered.Load(), TxFiltered: p.txFiltered.Load(),
		}
		st.TxFrames, st.TxBytes, st.TxDropped, _ = p.out.Sent()
		all = append(all, st)
	}
	return all
}

// overrunPause is how long nobody reads what a sender has to say after it sent
// more than a receiver's queue has room for. Meanwhile it waits, or fills a buffer
// of its own, where reading all that it has, to drop most of it, would take the
// processor's time from the receiver, too. The queue does not run empty in it.
const overrunPause = time.Millisecond

// serve moves what a port sends, until the port is closed: in a goroutine of its
// own, unless the port has one.
func (s *Switch) serve(p *swPort) {
	receive := func(frames []Frame) (pause time.Duration) {
		if s.forward(p, frames) {
			pause = overrunPause
		}
		return pause
	}
	if d, ok := p.port.(Driven); ok && d.Drive(receive, func() { s.remove(p) }) {
		return
	}
	go func() {
		defer s.remove(p)
		frames := NewBatch(batchLen, MaxFrame)
		patient := !direct(p.port) // what is in this process adapts by itself
		for {
			n, err := p.port.ReadFrames(frames)
			if err != nil {
				return
			}
			if pause := receive(frames[:n]); patient {
				time.Sleep(pause)
			}
		}
	}()
}

// remove takes a port out that is at its end.
func (s *Switch) remove(p *swPort) {
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
	toAll     = -1
	toNobody  = -2
	toUnknown = -3 // to all, since nobody knows the station that it is for
)

// forward sends a batch on, and says whether frames for one receiver found no
// room before it. Frames in a row with one destination stay one batch.
func (s *Switch) forward(from *swPort, frames []Frame) (overrun bool) {
	now := int64(s.now().Sub(s.epoch) / time.Second)
	v := s.view.Load()
	bytes := 0
	for i := range frames {
		bytes += len(frames[i].Data)
		frames[i].Source = uint16(from.slot + 1)
	}
	if v.rules == nil {
		overrun = s.forwardAll(v, from, frames, now)
	} else {
		overrun = s.forwardVLAN(v, from, frames, now)
	}
	from.rxFrames.Add(uint64(len(frames)))
	from.rxBytes.Add(uint64(bytes))
	return overrun
}

// forwardAll is the way between transparent ports.
func (s *Switch) forwardAll(v *view, from *swPort, frames []Frame, now int64) (overrun bool) {
	start, to := 0, toNobody
	var last lastRoute
	for i := range frames {
		next := toNobody
		if d := frames[i].Data; len(d) >= MinFrame {
			vlan, _ := tagOf(d)
			next = s.route(from, &frames[i], vlan, now, &last)
		} else {
			from.rxDropped.Add(1)
		}
		if next != to {
			overrun = deliver(v.ports, from, to, frames[start:i]) || overrun
			start, to = i, next
		}
	}
	return deliver(v.ports, from, to, frames[start:]) || overrun
}

// lastRoute is where a batch's last frame went: the next often goes there, too.
type lastRoute struct {
	dst, src uint64
	to       int
}

// route learns a frame's source in its VLAN and says where the frame goes.
func (s *Switch) route(from *swPort, f *Frame, vlan int, now int64, last *lastRoute) int {
	dst, src := stations(f.Data, vlan)
	if dst != last.dst || src != last.src || src == 0 {
		*last = lastRoute{dst, src, s.find(from, dst, src, now)}
	}
	if f.Flooded = last.to == toUnknown; f.Flooded {
		return toAll
	}
	return last.to
}

func (s *Switch) find(from *swPort, dst, src uint64, now int64) int {
	const group = 1 << 40 // the bit of an address
	oldest := now - s.age
	if src&group == 0 { // a group address is no source that one can learn
		s.table.learn(src, from.slot, now, oldest)
	}
	if dst&group != 0 {
		return toAll
	}
	slot, ok := s.table.lookup(dst, oldest)
	switch {
	case !ok:
		return toUnknown
	case slot == from.slot:
		return toNobody
	}
	return slot
}

// deliver hands frames to a port, or to all: who does not keep up with what is
// for everybody does not hold anybody up.
func deliver(ports []*swPort, from *swPort, to int, frames []Frame) (overrun bool) {
	switch {
	case to == toNobody || len(frames) == 0:
	case to == toAll:
		for _, p := range ports {
			if p != nil && p != from {
				p.out.Write(frames)
			}
		}
	case to < len(ports) && ports[to] != nil:
		return ports[to].out.Write(frames) > 0
	}
	return false
}
