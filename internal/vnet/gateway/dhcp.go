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
	g *Gateway

	mu     sync.Mutex
	conf   DHCP
	byMAC  map[[6]byte]*lease
	byAddr map[netip.Addr]*lease
	byName map[string]*lease
	room   share // how many addresses each guest has without a reservation
}

// lease binds an address to a card. A declined one has no card.
type lease struct {
	mac      [6]byte
	addr     netip.Addr
	name     string // as the guest or the reservation says
	reserved bool
	owner    guest // who holds room for it
	holds    bool
	until    time.Time // zero for one that was never given out
}

// Lease is one guest's address.
type Lease struct {
	MAC  net.HardwareAddr
	Addr netip.Addr
	Name string // host name, if known
}

func newDHCPServer(g *Gateway) *dhcpServer {
	d := &dhcpServer{g: g, byMAC: map[[6]byte]*lease{}, byAddr: map[netip.Addr]*lease{}, byName: map[string]*lease{}}
	d.configure(g.cfg.DHCP)
	d.reserve(g.cfg.Reservations)
	return d
}

// handle takes the payload of a datagram to port 67.
func (d *dhcpServer) handle(from guest, mac [6]byte, payload []byte) {
	if reply, to := d.answer(from, mac, payload, time.Now()); reply != nil {
		src := netip.AddrPortFrom(d.g.cfg.Gateway(), portDHCP)
		d.g.link.send(udp4Frame(d.g.mac, mac, src, netip.AddrPortFrom(to, portDHCPGuest), reply))
	}
}

// answer gives the payload to send back, and to which address.
func (d *dhcpServer) answer(from guest, mac [6]byte, payload []byte, now time.Time) (reply []byte, to netip.Addr) {
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
	kind, addr := d.decide(from, mac, req, now)
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
		shorten(m, req)
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
	if o, ok := c.routesOption(m.YourIPAddr, m.ClientIPAddr); ok {
		m.UpdateOption(o)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.byMAC[mac]; l != nil && l.reserved && l.name != "" {
		m.UpdateOption(dhcpv4.OptHostName(l.name))
	}
	d.bootOptions(m)
	for code, value := range d.conf.Options {
		if len(value) == 0 {
			delete(m.Options, code)
			continue
		}
		m.Options[code] = value
	}
}

// bootOptions tells where the file is that a guest may boot, in the fields of
// BOOTP and in the options that stand for them (RFC 2132, 9.4 and 9.5): each is
// what some firmware reads.
func (d *dhcpServer) bootOptions(m *dhcpv4.DHCPv4) {
	server := d.conf.NextServer
	if !server.IsValid() {
		if d.conf.BootFile == "" && d.conf.TFTP == "" {
			return
		}
		server = d.g.cfg.Gateway()
	}
	m.ServerIPAddr = server.AsSlice()
	m.UpdateOption(dhcpv4.OptTFTPServerName(server.String()))
	if d.conf.BootFile != "" {
		m.BootFileName = d.conf.BootFile
		m.UpdateOption(dhcpv4.OptBootFileName(d.conf.BootFile))
	}
}

// shorten leaves options out of an answer that is longer than the client takes
// (RFC 2132, 9.10; RFC 2131, 2), those first that it has not asked for.
func shorten(m, req *dhcpv4.DHCPv4) {
	room := 576
	if size, err := req.MaxMessageSize(); err == nil {
		room = max(room, int(size))
	}
	room -= 28 // the headers of IP and UDP
	asked := map[uint8]bool{}
	for _, o := range req.ParameterRequestList() {
		asked[o.Code()] = true
	}
	over := len(m.ToBytes()) - room
	for _, keep := range []bool{true, false} {
		for code := 254; code > 0 && over > 0; code-- {
			c := uint8(code)
			value, there := m.Options[c]
			if there && !serverOption(c) && c != 1 && c != 3 && !(keep && asked[c]) {
				delete(m.Options, c)
				over -= 2 + len(value)
			}
		}
	}
}

// decide says what to answer, and for offers and acknowledgements with which
// address (RFC 2131, 4.3).
func (d *dhcpServer) decide(from guest, mac [6]byte, req *dhcpv4.DHCPv4, now time.Time) (dhcpv4.MessageType, netip.Addr) {
	none := netip.Addr{}
	wanted, _ := netip.AddrFromSlice(req.RequestedIPAddress().To4())
	server, _ := netip.AddrFromSlice(req.ServerIdentifier().To4())
	current, _ := netip.AddrFromSlice(req.ClientIPAddr.To4())
	d.mu.Lock()
	defer d.mu.Unlock()
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if l := d.assign(from, mac, wanted, now); l != nil {
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
		if l := d.assign(from, mac, wanted, now); l != nil && l.addr == wanted {
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

// named keeps the name that a guest gives itself, unless it is somebody's.
func (d *dhcpServer) named(l *lease, req *dhcpv4.DHCPv4) {
	name, _, _ := strings.Cut(strings.ToLower(req.HostName()), ".")
	if !l.reserved && name != l.name && validLabel(name) && d.byName[name] == nil {
		d.rename(l, name)
	}
}

// rename gives a lease a name, or none. A reservation's name is taken from a
// guest that had given it to itself; of several reservations with one name the
// first one answers to it.
func (d *dhcpServer) rename(l *lease, name string) {
	old := strings.ToLower(l.name)
	l.name = name
	if d.byName[old] == l && old != "" {
		delete(d.byName, old)
		for _, other := range d.byMAC {
			if l.reserved && other.reserved && strings.EqualFold(other.name, old) {
				d.byName[old] = other
			}
		}
	}
	name = strings.ToLower(name)
	if has := d.byName[name]; has != nil && !has.reserved {
		has.name = ""
		delete(d.byName, name)
	}
	if name != "" && d.byName[name] == nil {
		d.byName[name] = l
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
			all = append(all, l.public())
		}
	}
	return all
}

func (l *lease) public() Lease {
	return Lease{MAC: net.HardwareAddr(append([]byte(nil), l.mac[:]...)), Addr: l.addr, Name: l.name}
}

// ofName gives the lease of a name, in lower case.
func (d *dhcpServer) ofName(name string) (Lease, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.byName[name]; l != nil && l.addr.IsValid() {
		return l.public(), true
	}
	return Lease{}, false
}

// nameOf gives the name of the guest that has an address, or a card.
func (d *dhcpServer) nameOf(a netip.Addr, mac [6]byte) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.byAddr[a]
	if l == nil {
		l = d.byMAC[mac]
	}
	if l == nil {
		return ""
	}
	return l.name
}

// Leases lists the addresses that are reserved or given out, in no order.
func (g *Gateway) Leases() []Lease { return g.dhcp.leases() }
