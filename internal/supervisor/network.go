package supervisor

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"wolffia/internal/lab"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/gateway"
)

// network is a running switch and, where the network has one, its gateway.
type network struct {
	name string
	sw   *vnet.Switch
	gw   *gateway.Gateway
}

// openNetworks makes the machine's networks, with the forwards on its uplink.
func (s *Session) openNetworks() error {
	uplink := s.cfg.Lab.Uplink(s.cfg.Machine)
	for _, name := range s.cfg.Machine.Networks {
		spec := s.cfg.Lab.Networks[name]
		n := &network{name: name, sw: vnet.NewSwitch(vnet.SwitchOptions{})}
		s.nets = append(s.nets, n)
		if spec.NoGateway {
			continue
		}
		if err := n.open(s.gatewayConfig(spec, spec == uplink)); err != nil {
			return err
		}
	}
	return nil
}

// open plugs a gateway into the switch.
func (n *network) open(cfg gateway.Config) error {
	port, err := n.sw.Plug(vnet.PortOptions{Name: "gateway", Offloads: true, Queue: gateway.PortQueue})
	if err != nil {
		return fmt.Errorf("network %s: %w", n.name, err)
	}
	gw, err := gateway.New(port, cfg)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.name, err)
	}
	n.gw = gw
	return nil
}

func (n *network) attach(port vnet.Port, name string) error {
	if _, err := n.sw.Attach(port, vnet.PortOptions{Name: name}); err != nil {
		return fmt.Errorf("network %s: plug in %s: %w", n.name, name, err)
	}
	return nil
}

func (n *network) close() {
	if n.gw != nil {
		n.gw.Close()
	}
	n.sw.Close()
}

// prefix6 is a network's IPv6 prefix. Where the file has none, a lab's only
// network leaves it to the gateway; several get one each, which follows from
// the name, so that a machine on two of them knows which is which.
func prefix6(l *lab.Spec, n *lab.Network) netip.Prefix {
	if n.Subnet6.IsValid() || len(l.Networks) < 2 {
		return n.Subnet6
	}
	sum := sha256.Sum256([]byte(n.Name))
	a := netip.MustParseAddr("fd00:77:6f6c::").As16()
	copy(a[6:8], sum[:2])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// gatewayConfig describes a network's gateway. The machine has the first
// lease, so that forwards know where it is before it asks.
func (s *Session) gatewayConfig(n *lab.Network, uplink bool) gateway.Config {
	m := s.cfg.Machine
	cfg := gateway.Config{
		Subnet: n.Subnet, Prefix6: prefix6(s.cfg.Lab, n), MTU: n.MTU,
		NoDHCP: n.NoDHCP, NoHost: n.NoHost, Restrict: n.Restrict, Events: s.cfg.Events,
	}
	address := cfg.FirstLease()
	cfg.Reservations = []gateway.Reservation{{MAC: s.mac(n.Name), Addr: address, Name: m.Name}}
	cfg.Names = map[string][]netip.Addr{m.Name: {address, cfg.Address6(s.mac(n.Name))}}
	if uplink {
		for _, f := range m.Forwards {
			cfg.Forwards = append(cfg.Forwards, gateway.Forward{
				Network: f.Network, Bind: f.Host, Guest: netip.AddrPortFrom(address, f.Port),
			})
		}
	}
	return cfg
}
