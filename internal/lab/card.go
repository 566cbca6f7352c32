package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/goccy/go-yaml/ast"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/link"
)

// Card is one network card of a machine, and the cable that it is on.
type Card struct {
	Network string
	MAC     net.HardwareAddr // nil means one derived from the names: see [MAC]
	Config  CardConfig
	Addr    netip.Addr // IPv4, in the network's subnet; zero means the next that is free
	VLAN    vnet.VLAN
	Down    bool // the cable is unplugged at first
	Link    Cable
}

// Cable is what a cable does to frames, from the machine's view.
type Cable struct{ Out, In link.Impairment }

// CardConfig is how a card gets its addresses.
type CardConfig string

// How a card gets its addresses.
const (
	CardAuto CardConfig = ""     // from the network's gateway, by DHCP; a fixed one where there is none
	CardDHCP CardConfig = "dhcp" // by DHCP, whoever answers
	CardNone CardConfig = "none" // it has none; the machine sets it up by itself
)

func cardKeys() []key[Card] {
	return append([]key[Card]{
		{"network", "The network that it is on.", textShape("lan"),
			func(d *decoder, n ast.Node, c *Card) { d.set(n, "network", &c.Network) }},
		{"address", "Its IPv4 address, from the network's subnet; or dhcp, for that of a DHCP server in a machine; or none.", textShape("10.0.2.20"),
			func(d *decoder, n ast.Node, c *Card) { d.address(n, c) }},
		{"mac", "Its hardware address; derived from the lab's, the machine's and the network's name if absent.", textShape("02:00:00:00:00:01"),
			func(d *decoder, n ast.Node, c *Card) { parsed(d, n, "mac", ParseMAC, &c.MAC) }},
		{"link", "What the cable does to frames both ways: words of rate, delay, jitter, loss, duplicate, corrupt, reorder, queue and seed, each with a value.", textShape("rate 10Mbit delay 50ms loss 1%"),
			func(d *decoder, n ast.Node, c *Card) {
				if parsed(d, n, "link", link.ParseImpairment, &c.Link.Out); c.Link.In == (link.Impairment{}) {
					c.Link.In = c.Link.Out
				}
			}},
		{"out", "The same for frames from the machine alone.", textShape("delay 50ms"),
			func(d *decoder, n ast.Node, c *Card) { parsed(d, n, "out", link.ParseImpairment, &c.Link.Out) }},
		{"in", "The same for frames to the machine alone.", textShape("loss 10% seed 7"),
			func(d *decoder, n ast.Node, c *Card) { parsed(d, n, "in", link.ParseImpairment, &c.Link.In) }},
		{"down", "Whether its cable is unplugged at first.", boolShape(),
			func(d *decoder, n ast.Node, c *Card) { d.flag(n, "down", &c.Down) }},
	}, vlanKeys(func(c *Card) *vnet.VLAN { return &c.VLAN })...)
}

func (d *decoder) address(n ast.Node, c *Card) {
	s, ok := d.text(n, "address")
	if !ok {
		return
	}
	switch CardConfig(s) {
	case CardDHCP, CardNone:
		c.Config = CardConfig(s)
		return
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		d.fail(n, "%q is no IPv4 address; write one such as 10.0.2.20, or dhcp, or none", s)
		return
	}
	c.Addr = a
}

// cards reads the networks of a machine: names, or objects with more.
func (d *decoder) cards(n ast.Node) (out []Card) {
	for _, item := range d.sequence(n, "networks") {
		var c Card
		before := len(d.errs)
		switch item.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			object(d, item, "a network card", cardKeys(), &c)
			for _, e := range d.mapping(item, "a network card") {
				if e.name == "link" && (c.Link.Out != c.Link.In) {
					d.fail(e.key, "link is for both ways; write in and out where they differ")
				}
			}
			if err := c.VLAN.Check(); err != nil {
				d.fail(item, "%s", err)
			}
			if len(d.errs) == before && c.Network == "" {
				d.fail(item, "a network card needs a network")
			}
		default:
			d.set(item, "a network", &c.Network)
		}
		out = append(out, c)
	}
	return out
}

// ParseMAC reads a hardware address that a card may have.
func ParseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return nil, fmt.Errorf("%q is no hardware address of a card; write one such as 02:00:00:00:00:01, the second digit even", s)
	}
	return mac, nil
}

// NetworkNames are the networks that a machine is on, in the order of its cards.
func (m *Machine) NetworkNames() []string {
	out := make([]string, len(m.Cards))
	for i := range m.Cards {
		out[i] = m.Cards[i].Network
	}
	return out
}

// Card is the machine's card on a network, or nil.
func (m *Machine) Card(network string) *Card {
	for i := range m.Cards {
		if m.Cards[i].Network == network {
			return &m.Cards[i]
		}
	}
	return nil
}

// CardMAC is the hardware address of a machine's card.
func (s *Spec) CardMAC(m *Machine, c *Card) net.HardwareAddr {
	if c.MAC != nil {
		return c.MAC
	}
	return MAC(s.Name, m.Name, c.Network)
}

// Segment is what a card of the lab is on, as far as it has no tags.
func (s *Spec) Segment(c *Card) *Network { return s.Networks[c.Network].Segment(c.VLAN) }
