package supervisor

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"sync"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/capture"
	"wolffia/internal/vnet/gateway"
	"wolffia/internal/vnet/link"
)

// networks are running networks by name.
type networks map[string]*network

func (n networks) close() {
	for _, w := range n {
		w.close()
	}
}

// network is a running switch, with the gateways of its segments.
type network struct {
	spec *lab.Network
	sw   *vnet.Switch
	ring *capture.Ring // what passed last; nil keeps nothing

	mu       sync.Mutex
	gateways map[int]*gateway.Gateway // by VLAN, 0 for what has no tag
	cables   map[string]*cable        // by the name of their port: "alice/eth0"
	watchers map[*int]watcher

	plugs []io.Closer // used by Apply and Close alone
}

// cable is a link to a port of the switch.
type cable struct {
	*link.Link
	mac net.HardwareAddr
}

type networkOptions struct {
	ring lab.Size // bytes of the last frames to keep
}

func newNetwork(spec *lab.Network, o networkOptions) *network {
	n := &network{spec: spec, sw: vnet.NewSwitch(vnet.SwitchOptions{}), gateways: map[int]*gateway.Gateway{}, cables: map[string]*cable{}, watchers: map[*int]watcher{}}
	if o.ring > 0 {
		n.ring = capture.NewRing(capture.RingOptions{Size: int(o.ring)})
	}
	return n
}

// openGateways plugs in a gateway for each segment that has one.
func (n *network) openGateways(p *plan, events event.Sink) error {
	for _, g := range n.spec.Segments() {
		if g.NoGateway {
			continue
		}
		port, err := n.sw.Plug(vnet.PortOptions{
			Name: "gateway", Offloads: true, Queue: gateway.PortQueue, VLAN: vnet.VLAN{Access: g.VLAN},
		})
		if err != nil {
			return fmt.Errorf("network %s: %w", g.Name, err)
		}
		cfg, err := p.gateway(g.Network, n.spec.MTU, events)
		if err != nil {
			port.Close()
			return err
		}
		name := "gateway"
		if g.VLAN != 0 {
			name = fmt.Sprintf("gateway.%d", g.VLAN)
		}
		gw, err := gateway.New(n.cord(port, name, cfg.MAC, link.Options{Reversed: true}), cfg)
		if err != nil {
			return fmt.Errorf("network %s: %w", g.Name, err)
		}
		n.mu.Lock()
		n.gateways[g.VLAN] = gw
		n.mu.Unlock()
	}
	return nil
}

// plug joins a machine's n-th card with the switch. The cable goes with the
// machine.
func (n *network) plug(port vnet.Port, machine string, card int, spec *lab.Card, mac net.HardwareAddr) error {
	return n.attach(port, machine+"/"+cardName(card), spec, mac)
}

// cord puts a link around a port, on which all who watch the network look.
func (n *network) cord(port vnet.Port, name string, mac net.HardwareAddr, o link.Options) *cable {
	c := &cable{Link: link.New(port, o), mac: mac}
	i := n.interfaceOf(name, mac)
	if n.ring != nil {
		c.Observe(n.ring.Interface(i))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.watchers {
		if o := w(i); o != nil {
			c.Observe(o)
		}
	}
	n.cables[name] = c
	return c
}

// attach joins a port with the switch by a cable.
func (n *network) attach(port vnet.Port, name string, spec *lab.Card, mac net.HardwareAddr) error {
	c := n.cord(port, name, mac, link.Options{})
	c.SetUp(!spec.Down)
	err := errors.Join(c.SetImpairment(link.Out, spec.Link.Out), c.SetImpairment(link.In, spec.Link.In))
	if err != nil {
		c.Close()
	} else {
		_, err = n.sw.Attach(c.Link, vnet.PortOptions{Name: name, VLAN: spec.VLAN})
	}
	if err != nil {
		return fmt.Errorf("network %s: plug in %s: %w", n.spec.Name, name, err)
	}
	return nil
}

// cable gives the link of a port, as long as that is plugged in.
func (n *network) cable(name string) *cable {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cables[name]
}

// gatewayAddrs are the addresses of the network's gateways.
func (n *network) gatewayAddrs() (out []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, gw := range n.gateways {
		cfg := gw.Config()
		out = append(out, cfg.Gateway(), cfg.Gateway6())
	}
	return out
}

func (n *network) close() {
	n.closePlugs()
	n.mu.Lock()
	gateways := n.gateways
	n.gateways = nil
	n.mu.Unlock()
	for _, gw := range gateways {
		gw.Close()
	}
	n.sw.Close()
}

// open makes the gateways and plugs of the network.
func (n *network) open(p *plan, base string, events event.Sink) error {
	if err := n.openGateways(p, events); err != nil {
		return err
	}
	return n.openPlugs(base, events)
}

// change makes what spec says of a network that runs, and stays.
func (n *network) change(spec *lab.Network, p *plan, base string, events event.Sink) error {
	n.closePlugs()
	n.mu.Lock()
	gateways := n.gateways
	n.gateways = map[int]*gateway.Gateway{}
	n.spec = spec
	n.mu.Unlock()
	for _, gw := range gateways {
		gw.Close()
	}
	return n.open(p, base, events)
}

// update tells the gateways which machines there are now.
func (n *network) update(spec *lab.Network, p *plan) error {
	n.mu.Lock()
	n.spec = spec
	gateways := maps.Clone(n.gateways)
	n.mu.Unlock()
	var errs []error
	for _, g := range spec.Segments() {
		gw := gateways[g.VLAN]
		if gw == nil {
			continue
		}
		gw.SetNames(p.names(g.Network))
		var forwards []gateway.Forward
		for _, m := range p.machines {
			forwards = append(forwards, p.forwards(m, g.Network)...)
		}
		errs = append(errs, gw.SetReservations(p.reservations(g.Network)), gw.SetForwards(forwards))
	}
	return errors.Join(errs...)
}

// setCable gives a port's cable its impairments, if it is plugged in.
func (n *network) setCable(name string, c lab.Cable) error {
	l := n.cable(name)
	if l == nil {
		return nil
	}
	// Setting it anew would begin the sequence of decisions again.
	var errs []error
	for d, i := range map[link.Direction]link.Impairment{link.Out: c.Out, link.In: c.In} {
		if l.Impairment(d) != i {
			errs = append(errs, l.SetImpairment(d, i))
		}
	}
	return errors.Join(errs...)
}
