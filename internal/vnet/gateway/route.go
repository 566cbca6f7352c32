package gateway

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Route is a network that lies behind a guest, which routes for it: what comes
// from there is served as a guest is, and answered over it.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // the guest's address in Subnet or Prefix6, or a link-local one
}

// maxRoutes bounds [Config.Routes].
const maxRoutes = 256

func (c *Config) checkRoutes() error {
	if len(c.Routes) > maxRoutes {
		return fmt.Errorf("%d routes: at most %d are possible", len(c.Routes), maxRoutes)
	}
	for _, r := range c.Routes {
		near := c.Subnet.Contains(r.Via) || c.Prefix6.Contains(r.Via) || linkLocalNet.Contains(r.Via)
		switch {
		case r.To.Bits() < 1 || r.To != r.To.Masked() || !routable(r.To.Addr()):
			return fmt.Errorf("route to %v: that is no network that can lie behind a guest", r.To)
		case r.To.Overlaps(c.Subnet) || r.To.Overlaps(c.Prefix6):
			return fmt.Errorf("route to %v: it overlaps the network itself, %v and %v", r.To, c.Subnet, c.Prefix6)
		case !near || r.Via.Is4() != r.To.Addr().Is4():
			return fmt.Errorf("route to %v: %v is no address of a guest", r.To, r.Via)
		}
	}
	return nil
}

// behind says whether an address lies behind a guest.
func (g *Gateway) behind(a netip.Addr) bool {
	for _, r := range g.cfg.Routes {
		if r.To.Contains(a) {
			return true
		}
	}
	return false
}

// routesOption tells a guest with these addresses of the routes (RFC 3442), but
// for those that lead over itself. Who reads it leaves the router option aside,
// so the gateway is among them.
func (c *Config) routesOption(own ...net.IP) (dhcpv4.Option, bool) {
	var b []byte
	add := func(to netip.Prefix, via netip.Addr) {
		a, v := to.Addr().As4(), via.As4()
		b = append(b, byte(to.Bits()))
		b = append(b, a[:(to.Bits()+7)/8]...)
		b = binary.BigEndian.AppendUint32(b, binary.BigEndian.Uint32(v[:]))
	}
	for _, r := range c.Routes {
		if r.Via.Is4() && !slices.ContainsFunc(own, func(a net.IP) bool { return a.Equal(r.Via.AsSlice()) }) {
			add(r.To, r.Via)
		}
	}
	if len(b) == 0 {
		return dhcpv4.Option{}, false
	}
	add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), c.Gateway())
	return dhcpv4.OptGeneric(dhcpv4.OptionClasslessStaticRoute, b), true
}
