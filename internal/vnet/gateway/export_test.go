package gateway

import "fmt"

// Tables says of each table of the gateway's how full it is, and for those that
// are over their bound why.
func (g *Gateway) Tables() (full map[string]string, over error) {
	full = map[string]string{}
	add := func(name string, used, places int) {
		full[name] = fmt.Sprintf("%d of %d", used, places)
		if used > places {
			over = fmt.Errorf("%s: %d of %d", name, used, places)
		}
	}
	shared := func(name string, s *share, size int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		add(name, s.used, s.max)
		add(name+", counted", size, s.max)
	}
	g.tcp.mu.Lock()
	syns := len(g.tcp.syns)
	g.tcp.mu.Unlock()
	shared("connections that begin", g.tcp.flight, syns)
	shared("connections", g.tcp.conns, 0)
	add("UDP flows", g.udp.flows.len(), g.udp.flows.max)
	add("pings", g.echo.flows.len(), g.echo.flows.max)
	g.dhcp.mu.Lock()
	add("leases", len(g.dhcp.byMAC), maxLeases)
	g.dhcp.mu.Unlock()
	shared("addresses to lease", &g.dhcp.room, 0)
	shared("DNS queries", g.dns.inFlight, 0)
	shared("DNS connections", g.dns.conns, 0)
	shared("transfers", g.tftp.room, 0)
	g.near.mu.Lock()
	near := len(g.near.byAddr)
	g.near.mu.Unlock()
	add("neighbours", near, 2*maxNeighbours)
	shared("neighbours, IPv4", g.near.room4, 0)
	shared("neighbours, IPv6", g.near.room6, 0)
	neigh, _ := g.stack.Neighbors(nicID, protocolOf(g.cfg.Gateway()))
	add("netstack's neighbours", len(neigh), maxNeighbours)
	return full, over
}
