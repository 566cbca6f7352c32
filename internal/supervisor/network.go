package supervisor

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/schedule"
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
	name string
	sw   *vnet.Switch

	mu        sync.Mutex
	spec      *lab.Network             // replaced, never changed
	ring      *capture.Ring            // what passed last; nil keeps nothing
	gateways  map[int]*gateway.Gateway // by VLAN, 0 for what has no tag
	cables    map[string]*cable        // by the name of their port: "alice/eth0"
	set       map[string]lab.Card      // Down and Link of ports that are no machine's, as they were set since
	onlookers map[*onlooker]struct{}

	// What is plugged in, and by which words of the file; used by Apply and Close alone.
	plugs   []io.Closer
	plugged []lab.Plug
}

// cable is a link to a port of the switch.
type cable struct {
	*link.Link
	mac    net.HardwareAddr
	vlan   int    // of an access port
	unring func() // takes the ring's eye off it
}

type networkOptions struct {
	ring lab.Size // bytes of the last frames to keep
}

func newNetwork(spec *lab.Network, o networkOptions) *network {
	schedule.Batch()
	return &network{
		name: spec.Name, spec: spec, sw: vnet.NewSwitch(vnet.SwitchOptions{}), ring: newRing(o.ring),
		gateways: map[int]*gateway.Gateway{}, cables: map[string]*cable{}, set: map[string]lab.Card{}, onlookers: map[*onlooker]struct{}{},
	}
}

// newRing makes what keeps size bytes of frames; nil for none.
func newRing(size lab.Size) *capture.Ring {
	if size == 0 {
		return nil
	}
	return capture.NewRing(capture.RingOptions{Size: int(size)})
}

// description is what the file says of the network.
func (n *network) description() *lab.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.spec
}

// kept is what passed last; nil where nothing is kept.
func (n *network) kept() *capture.Ring {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ring
}

// openGateways plugs in a gateway for each segment that has one.
func (n *network) openGateways(p *plan, events event.Sink) error {
	spec := n.description()
	for _, g := range spec.Segments() {
		if g.NoGateway {
			continue
		}
		name, card := gatewayName(g.VLAN), &lab.Card{VLAN: vnet.VLAN{Access: g.VLAN}}
		port, err := n.sw.Plug(vnet.PortOptions{
			Name: name, Offloads: true, Queue: gateway.PortQueue, VLAN: card.VLAN,
		})
		if err != nil {
			return fmt.Errorf("network %s: %w", g.Name, err)
		}
		cfg, err := p.gateway(g.Network, spec.MTU, events)
		if err != nil {
			port.Close()
			return err
		}
		cord, err := n.cord(port, name, card, cfg.MAC, link.Options{Reversed: true})
		if err != nil {
			return err
		}
		gw, err := gateway.New(cord, cfg)
		if err != nil {
			n.forget(name)
			return fmt.Errorf("network %s: %w", g.Name, err)
		}
		n.mu.Lock()
		n.gateways[g.VLAN] = gw
		n.mu.Unlock()
	}
	return nil
}

// gatewayName is what the port of a segment's gateway is called.
func gatewayName(vlan int) string {
	if vlan == 0 {
		return "gateway"
	}
	return fmt.Sprintf("gateway.%d", vlan)
}

// plug joins a machine's n-th card with the switch. The cable goes with the
// machine.
func (n *network) plug(port vnet.Port, machine string, card int, spec *lab.Card, mac net.HardwareAddr) error {
	return n.attach(port, machine+"/"+cardName(card), spec, mac)
}

// cord puts a link around a port, which it owns, and has all who watch the network
// look on. What was done to the port of that name before goes before what spec says.
func (n *network) cord(port vnet.Port, name string, spec *lab.Card, mac net.HardwareAddr, o link.Options) (*cable, error) {
	c := &cable{Link: link.New(port, o), mac: mac, vlan: spec.VLAN.Access}
	n.mu.Lock()
	if set, ok := n.set[name]; ok {
		spec = &set
	}
	n.mu.Unlock()
	c.SetUp(!spec.Down)
	if err := errors.Join(c.SetImpairment(link.Out, spec.Link.Out), c.SetImpairment(link.In, spec.Link.In)); err != nil {
		c.Close()
		return nil, fmt.Errorf("network %s: plug in %s: %w", n.name, name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lose(name)
	n.keep(name, c)
	for w := range n.onlookers {
		w.look(n.interfaceOf(name, mac), c.Link)
	}
	n.cables[name] = c
	return c, nil
}

// setPort does something to the cable of a port that is no machine's, and notes it
// in what the port has when it comes back.
func (n *network) setPort(name string, do func(to *lab.Card, c *cable) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.cables[name]
	if c == nil {
		return fmt.Errorf("link %s is no longer plugged into network %s", name, n.name)
	}
	to := n.set[name]
	err := do(&to, c)
	n.set[name] = to
	return err
}

// links is what was done to ports that are no machine's.
func (n *network) links() map[string]lab.Card {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.set)
}

// ports are the names of what is plugged in.
func (n *network) ports() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.cables))
}

// keep has the ring look at a cable; n is locked.
func (n *network) keep(name string, c *cable) {
	if c.unring != nil {
		c.unring()
		c.unring = nil
	}
	if n.ring != nil {
		c.unring = c.Observe(n.ring.Interface(n.interfaceOf(name, c.mac)))
	}
}

// unplug forgets the cables of a machine that has ended: they are closed.
func (n *network) unplug(machine string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.cables {
		if strings.HasPrefix(name, machine+"/") {
			n.lose(name)
			delete(n.set, name) // of one that had left the lab
		}
	}
}

// lose forgets a cable; n is locked.
func (n *network) lose(name string) {
	if c := n.cables[name]; c != nil {
		for w := range n.onlookers {
			delete(w.ends, c.Link)
		}
		delete(n.cables, name)
	}
}

// attach joins a port with the switch by a cable.
func (n *network) attach(port vnet.Port, name string, spec *lab.Card, mac net.HardwareAddr) error {
	c, err := n.cord(port, name, spec, mac, link.Options{})
	if err != nil {
		return err
	}
	if _, err := n.sw.Attach(c.Link, vnet.PortOptions{Name: name, VLAN: spec.VLAN}); err != nil {
		n.forget(name)
		return fmt.Errorf("network %s: plug in %s: %w", n.name, name, err)
	}
	return nil
}

// cable gives the link of a port, as long as that is plugged in; nil otherwise,
// and for a network that is no more, which is nil.
func (n *network) cable(name string) *cable {
	if n == nil {
		return nil
	}
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
	n.closeGateways()
	n.sw.Close()
}

// open makes the gateways and plugs of the network.
func (n *network) open(p *plan, base string, events event.Sink) error {
	if err := n.openGateways(p, events); err != nil {
		return err
	}
	return n.openPlugs(base, events)
}

// change makes what spec says of a network that runs, and stays. What is the same
// stays open: who talks through a gateway or has plugged in does not notice.
func (n *network) change(spec *lab.Network, p *plan, base string, events event.Sink) error {
	old := n.description()
	n.mu.Lock()
	if old.Ring != spec.Ring {
		n.ring = newRing(spec.Ring)
		for name, c := range n.cables {
			n.keep(name, c)
		}
	}
	n.spec = spec
	missing := len(n.gateways) != countGateways(spec)
	n.mu.Unlock()
	if missing || !sameGateways(old, spec) {
		n.closeGateways()
		if err := n.openGateways(p, events); err != nil {
			return err
		}
	}
	if reflect.DeepEqual(n.plugged, spec.Plugs) {
		return nil
	}
	n.closePlugs()
	return n.openPlugs(base, events)
}

// sameGateways says whether two descriptions of a network are of the same gateways,
// but for what update tells them.
func sameGateways(a, b *lab.Network) bool {
	x, y := *a, *b
	for _, n := range []*lab.Network{&x, &y} {
		n.Plugs, n.Ring, n.DHCP.Reservations = nil, 0, nil
	}
	return reflect.DeepEqual(x, y)
}

func countGateways(spec *lab.Network) (count int) {
	for _, g := range spec.Segments() {
		if !g.NoGateway {
			count++
		}
	}
	return count
}

func (n *network) closeGateways() {
	n.mu.Lock()
	gateways := n.gateways
	n.gateways = map[int]*gateway.Gateway{}
	for vlan := range gateways {
		n.lose(gatewayName(vlan))
	}
	n.mu.Unlock()
	for _, gw := range gateways {
		gw.Close()
	}
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
