package gateway

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// leaseTime is what guests are given. Leases are kept for as long as the
// gateway runs, so that a guest that comes back finds its address again.
const leaseTime = 24 * time.Hour

// offerTime is how long an address offered and not asked for stays set aside.
const offerTime = time.Minute

// dhcpServer is a DHCPv4 server (RFC 2131, RFC 2132) for one subnet. It answers
// to the hardware address and the relay-less case only.
type dhcpServer struct {
	g     *Gateway
	first netip.Addr

	mu     sync.Mutex
	byMAC  map[[6]byte]*lease
	byAddr map[netip.Addr]*lease
}

// lease binds an address to a guest. A declined one has no guest.
type lease struct {
	mac      [6]byte
	addr     netip.Addr
	name     string // as the guest or the reservation says
	reserved bool
	until    time.Time
	declined bool
}

// Lease is one guest's address.
type Lease struct {
	MAC  net.HardwareAddr
	Addr netip.Addr
	Name string // host name, if known
}

func newDHCPServer(g *Gateway) *dhcpServer {
	d := &dhcpServer{g: g, first: g.cfg.FirstLease(), byMAC: map[[6]byte]*lease{}, byAddr: map[netip.Addr]*lease{}}
	for _, r := range g.cfg.Reservations {
		l := &lease{mac: [6]byte(r.MAC), addr: r.Addr, name: r.Name, reserved: true}
		d.byMAC[l.mac] = l
		if r.Addr.IsValid() {
			d.byAddr[r.Addr] = l
		}
	}
	// Reservations that leave the address to the server get theirs at once, in
	// the order given, so that names work before the guest has asked.
	for _, r := range g.cfg.Reservations {
		if l := d.byMAC[[6]byte(r.MAC)]; !l.addr.IsValid() {
			if a, ok := d.free(netip.Addr{}, time.Time{}); ok {
				l.addr, d.byAddr[a] = a, l
			}
		}
	}
	return d
}

// handle takes the payload of a datagram to port 67.
func (d *dhcpServer) handle(mac [6]byte, payload []byte) {
	if reply, to := d.answer(mac, payload, time.Now()); reply != nil {
		src := netip.AddrPortFrom(d.g.cfg.Gateway(), portDHCP)
		d.g.link.send(udp4Frame(d.g.mac, mac, src, netip.AddrPortFrom(to, portDHCPGuest), reply))
	}
}

// answer gives the payload to send back, and to which address.
func (d *dhcpServer) answer(mac [6]byte, payload []byte, now time.Time) (reply []byte, to netip.Addr) {
	if d.g.cfg.NoDHCP {
		return nil, to
	}
	req, err := dhcpv4.FromBytes(payload)
	if err != nil || req.OpCode != dhcpv4.OpcodeBootRequest || len(req.ClientHWAddr) != 6 || !req.GatewayIPAddr.IsUnspecified() {
		return nil, to
	}
	if [6]byte(req.ClientHWAddr) != mac {
		return nil, to // for somebody else: leases are bound to the card that asks
	}
	kind, addr := d.decide(mac, req, now)
	if kind == dhcpv4.MessageTypeNone {
		return nil, to
	}
	m, err := dhcpv4.NewReplyFromRequest(req, dhcpv4.WithMessageType(kind))
	if err != nil {
		return nil, to
	}
	self := net.IP(d.g.cfg.Gateway().AsSlice())
	m.UpdateOption(dhcpv4.OptServerIdentifier(self))
	if kind != dhcpv4.MessageTypeNak {
		m.ServerIPAddr = self
		if addr.IsValid() {
			m.YourIPAddr = net.IP(addr.AsSlice())
			m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(leaseTime))
		}
		d.options(m, mac)
	}
	return pad(m.ToBytes()), replyTo(req, m, kind)
}

// replyTo chooses where the answer goes (RFC 2131, 4.1).
func replyTo(req, m *dhcpv4.DHCPv4, kind dhcpv4.MessageType) netip.Addr {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	ip := req.ClientIPAddr
	if kind == dhcpv4.MessageTypeNak {
		return broadcast
	}
	if ip.IsUnspecified() {
		if req.IsBroadcast() {
			return broadcast
		}
		ip = m.YourIPAddr
	}
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return broadcast
	}
	return a
}

// pad brings a message to the length that old clients want (RFC 1542, 2.1).
func pad(b []byte) []byte {
	if len(b) < 300 {
		b = append(b, make([]byte, 300-len(b))...)
	}
	return b
}

// options tells what a guest needs to know about the network.
func (d *dhcpServer) options(m *dhcpv4.DHCPv4, mac [6]byte) {
	c := &d.g.cfg
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(c.Subnet.Bits(), 32)))
	m.UpdateOption(dhcpv4.OptRouter(c.Gateway().AsSlice()))
	m.UpdateOption(dhcpv4.OptDNS(c.DNS().AsSlice()))
	m.UpdateOption(dhcpv4.OptBroadcastAddress(lastAddr(c.Subnet).AsSlice()))
	m.UpdateOption(dhcpv4.OptDomainName(c.Domain))
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(c.MTU))))
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.byMAC[mac]; l != nil && l.reserved && l.name != "" {
		m.UpdateOption(dhcpv4.OptHostName(l.name))
	}
}

// decide says what to answer, and for offers and acknowledgements with which
// address (RFC 2131, 4.3).
func (d *dhcpServer) decide(mac [6]byte, req *dhcpv4.DHCPv4, now time.Time) (dhcpv4.MessageType, netip.Addr) {
	none := netip.Addr{}
	wanted, _ := netip.AddrFromSlice(req.RequestedIPAddress().To4())
	server, _ := netip.AddrFromSlice(req.ServerIdentifier().To4())
	current, _ := netip.AddrFromSlice(req.ClientIPAddr.To4())
	d.mu.Lock()
	defer d.mu.Unlock()
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if l := d.assign(mac, wanted, now); l != nil {
			d.named(l, req)
			return dhcpv4.MessageTypeOffer, l.addr
		}
	case dhcpv4.MessageTypeRequest:
		if server.IsValid() && server != d.g.cfg.Gateway() {
			return dhcpv4.MessageTypeNone, none // it chose another server
		}
		if !wanted.IsValid() {
			wanted = current // renewing
		}
		if l := d.assign(mac, wanted, now); l != nil && l.addr == wanted {
			l.until = now.Add(leaseTime)
			d.named(l, req)
			return dhcpv4.MessageTypeAck, l.addr
		}
		return dhcpv4.MessageTypeNak, none
	case dhcpv4.MessageTypeInform:
		return dhcpv4.MessageTypeAck, none
	case dhcpv4.MessageTypeRelease:
		if l := d.byMAC[mac]; l != nil && l.addr == current {
			l.until = now // kept for the guest until somebody else needs it
		}
	case dhcpv4.MessageTypeDecline:
		d.decline(mac, wanted, now)
	}
	return dhcpv4.MessageTypeNone, none
}

// assign gives the guest's lease, if need be a new one, with the address that
// it wants if that is free.
func (d *dhcpServer) assign(mac [6]byte, wanted netip.Addr, now time.Time) *lease {
	if l := d.byMAC[mac]; l != nil && l.addr.IsValid() {
		return l
	}
	addr, ok := d.free(wanted, now)
	if !ok {
		return nil
	}
	if old := d.byAddr[addr]; old != nil {
		delete(d.byMAC, old.mac)
	}
	l := &lease{mac: mac, addr: addr, until: now.Add(offerTime)}
	if r := d.byMAC[mac]; r != nil {
		l.reserved, l.name = r.reserved, r.name
	}
	d.byMAC[mac], d.byAddr[addr] = l, l
	return l
}

// free finds an address: the wanted one, else the first that nobody ever had,
// else the one whose lease ended first.
func (d *dhcpServer) free(wanted netip.Addr, now time.Time) (netip.Addr, bool) {
	usable := func(a netip.Addr) bool {
		return d.g.cfg.Subnet.Contains(a) && a.Compare(d.first) >= 0 && a != lastAddr(d.g.cfg.Subnet) && !d.g.local[a]
	}
	if wanted.IsValid() && usable(wanted) && d.byAddr[wanted] == nil && len(d.byAddr) < maxLeases {
		return wanted, true
	}
	var oldest *lease
	for a, n := d.first, 0; usable(a) && n < maxLeases; a, n = a.Next(), n+1 {
		l := d.byAddr[a]
		if l == nil {
			return a, true
		}
		if !l.reserved && l.until.Before(now) && (oldest == nil || l.until.Before(oldest.until)) {
			oldest = l
		}
	}
	if oldest == nil {
		return netip.Addr{}, false
	}
	return oldest.addr, true
}

// decline sets an address aside that a guest found taken.
func (d *dhcpServer) decline(mac [6]byte, addr netip.Addr, now time.Time) {
	l := d.byMAC[mac]
	if l == nil || l.addr != addr || l.reserved {
		return
	}
	delete(d.byMAC, mac)
	d.byAddr[addr] = &lease{addr: addr, declined: true, until: now.Add(leaseTime / 24)}
}

// named keeps the name that a guest gives itself.
func (d *dhcpServer) named(l *lease, req *dhcpv4.DHCPv4) {
	name, _, _ := strings.Cut(strings.ToLower(req.HostName()), ".")
	if !l.reserved && validLabel(name) {
		l.name = name
	}
}

// validLabel says whether a name can be a host name (RFC 1123, 2.1).
func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func (d *dhcpServer) leases() []Lease {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Lease
	for _, l := range d.byMAC {
		if l.addr.IsValid() {
			all = append(all, Lease{MAC: net.HardwareAddr(l.mac[:]), Addr: l.addr, Name: l.name})
		}
	}
	return all
}

// Leases lists the addresses that are reserved or given out, in no order.
func (g *Gateway) Leases() []Lease { return g.dhcp.leases() }
