package lab

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml/ast"
)

// Reservation is the address that a network's gateway gives to a card which no
// machine of the lab has.
type Reservation struct {
	MAC  net.HardwareAddr
	Addr netip.Addr // IPv4, in the network's subnet
	Name string     // that the network's name server knows it by; may be empty
}

func reservationKeys() []key[Reservation] {
	return []key[Reservation]{
		{"mac", "The card's hardware address.", textShape("02:00:00:00:00:05"),
			func(d *decoder, n ast.Node, r *Reservation) { parsed(d, n, "mac", ParseMAC, &r.MAC) }},
		{"address", "The IPv4 address that it gets, from the network's subnet; it may lie outside of first and last.", textShape("10.0.2.77"),
			func(d *decoder, n ast.Node, r *Reservation) { parsed(d, n, "address", parseAddr4, &r.Addr) }},
		{"name", "A name for it, which it is told, and which the network's name server answers to.", textShape("pc"),
			func(d *decoder, n ast.Node, r *Reservation) { d.name(n, "name", &r.Name) }},
	}
}

func (d *decoder) reservations(n ast.Node) (out []Reservation) {
	for _, item := range d.sequence(n, "reservations") {
		var r Reservation
		before := len(d.errs)
		object(d, item, "a reservation", reservationKeys(), &r)
		if len(d.errs) == before && (r.MAC == nil || !r.Addr.IsValid()) {
			d.fail(item, "a reservation needs the hardware address of a card (mac) and an address (address)")
		}
		out = append(out, r)
	}
	return out
}

// checkReservations looks for reservations that can't be, or that are of what
// somebody has.
func (s *Spec) checkReservations(at *places) {
	for _, name := range s.NetworkNames() {
		n := s.Networks[name]
		for _, g := range n.Segments() {
			if !g.NoGateway && len(g.DHCP.Reservations) > 0 {
				s.checkReserved(n, g, at)
			}
		}
	}
}

func (s *Spec) checkReserved(n *Network, g Segment, at *places) {
	addrs, macs, names := map[netip.Addr]string{}, map[string]string{}, map[string]bool{}
	for _, name := range s.inFileOrder() {
		m := s.Machines[name]
		for i := range m.Cards {
			c := &m.Cards[i]
			// What a card has that sets itself up is as foreign as what is plugged in.
			if s.Networks[c.Network] == nil || s.Segment(c) != g.Network || !g.addressed(c) {
				continue
			}
			macs[s.CardMAC(m, c).String()] = name
			if c.Addr.IsValid() {
				addrs[c.Addr] = name
			}
		}
	}
	const reserved = "" // no machine's, but another reservation's
	for i, r := range g.DHCP.Reservations {
		fail := func(key, format string, args ...any) {
			at.fail(n.path(g, "dhcp", "reservations", strconv.Itoa(i), key), 0, format, args...)
		}
		mac := r.MAC.String()
		switch owner, taken := macs[mac]; {
		case taken && owner == reserved:
			fail("mac", "two reservations are of %s", mac)
		case taken:
			fail("mac", "%s is machine %q's; reserve its address there: networks: [{network: %s, address: %s}]", mac, owner, n.Name, r.Addr)
		}
		macs[mac] = reserved
		owner, taken := addrs[r.Addr]
		switch err := g.checkAddress(r.Addr); {
		case err != nil:
			fail("address", "%s", err)
		case taken && owner == reserved:
			fail("address", "two reservations are of %s", r.Addr)
		case taken:
			fail("address", "%s is machine %q's", r.Addr, owner)
		}
		addrs[r.Addr] = reserved
		switch {
		case r.Name == "":
		case s.Machines[r.Name] != nil:
			fail("name", "%q is a machine", r.Name)
		case slices.Contains([]string{"gateway", "host", "dns"}, r.Name):
			fail("name", "%q is the gateway's name", r.Name)
		case names[r.Name]:
			fail("name", "two reservations are called %q", r.Name)
		}
		names[r.Name] = true
	}
}
