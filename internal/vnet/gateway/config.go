package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"wolffia/internal/event"
)

// Config describes a gateway. The zero value is a network as QEMU's: see the
// fields. It is plain data; New copies what it needs. Names, DHCP, Reservations
// and Forwards can be changed while the gateway runs; for the other fields it
// must be started anew.
type Config struct {
	// Subnet is the IPv4 network; the zero value means 10.0.2.0/24. Of its
	// host numbers 2 is the gateway, 3 the DNS server, and leases start at 15,
	// or where a small subnet has room. At most a /29.
	Subnet netip.Prefix
	// Prefix6 is the IPv6 network, a /64; the zero value means
	// fd00:77:6f6c:66::/64. Host numbers 2 and 3 are as above; guests choose
	// their own.
	Prefix6 netip.Prefix
	// NoIPv6 leaves IPv6 out: no advertisements, no addresses.
	NoIPv6 bool
	// NoDHCP leaves address assignment to others: no DHCP, and router
	// advertisements without an address prefix to form addresses from.
	NoDHCP bool
	// MTU of the network in bytes of IP packet; 0 means 1500. Guests are told
	// by DHCP and router advertisements.
	MTU int
	// MAC is the gateway's hardware address; empty derives one from the IPv4
	// address, as QEMU does: 52:55 and the address.
	MAC net.HardwareAddr

	// NoHost keeps guests from every address of the host, loopback included.
	NoHost bool
	// Restrict keeps guests from everything but the network itself and the
	// gateway's own services: DHCP, names of the network, ping of the gateway.
	Restrict bool

	// Domain is the network's DNS domain; empty means "lan". Names in it are
	// answered here and never asked elsewhere.
	Domain string
	// Names are the network's names, with or without the domain, and their
	// addresses, which may lie anywhere: those of a machine on another network
	// are answered as they are given. A name with no addresses does not exist,
	// and is not asked for elsewhere either. "gateway" and "host" (the gateway's
	// address) and "dns" are there unless given here.
	Names map[string][]netip.Addr
	// DHCP says how addresses are given out, and what guests are told besides.
	DHCP DHCP
	// Reservations are fixed leases by hardware address.
	Reservations []Reservation
	// Forwards are ports of the host that lead to guests.
	Forwards []Forward

	// Routes are networks behind guests.
	Routes []Route

	// ResolvConf and Hosts are the host's files that DNS follows; empty means
	// /etc/resolv.conf and /etc/hosts.
	ResolvConf, Hosts string
	// Nameservers replaces those of ResolvConf.
	Nameservers []netip.AddrPort

	// Events hears what a person should know; nil drops it.
	Events event.Sink
}

// Reservation binds a guest to an address and a name.
type Reservation struct {
	MAC  net.HardwareAddr
	Addr netip.Addr // IPv4, in the subnet; the zero value leaves the choice to the server
	Name string     // host name: told by DHCP, and answered by DNS once there is an address
}

// Defaults of [Config].
var (
	defaultSubnet  = netip.MustParsePrefix("10.0.2.0/24")
	defaultPrefix6 = netip.MustParsePrefix("fd00:77:6f6c:66::/64")
)

// DefaultDomain is the DNS domain of networks whose [Config] names none.
const DefaultDomain = "lan"

const (
	defaultMTU = 1500
	minMTU     = 1280 // RFC 8200, 5
	maxMTU     = 65535
	firstLease = 15
)

// withDefaults fills in what is not given and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if !c.Subnet.IsValid() {
		c.Subnet = defaultSubnet
	}
	if !c.Prefix6.IsValid() {
		c.Prefix6 = defaultPrefix6
	}
	if c.Domain == "" {
		c.Domain = DefaultDomain
	}
	c.Domain = strings.ToLower(strings.Trim(c.Domain, "."))
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.Hosts == "" {
		c.Hosts = "/etc/hosts"
	}
	c.Events = event.Or(c.Events)
	c.Subnet, c.Prefix6 = c.Subnet.Masked(), c.Prefix6.Masked()
	if len(c.MAC) == 0 {
		a := hostNumber(c.Subnet, 2).As4()
		c.MAC = net.HardwareAddr{0x52, 0x55, a[0], a[1], a[2], a[3]}
	}
	return c, c.check()
}

func (c *Config) check() error {
	switch {
	case !c.Subnet.Addr().Is4() || c.Subnet.Bits() > 29 || c.Subnet.Bits() < 8:
		return fmt.Errorf("subnet %v: an IPv4 network between a /8 and a /29 is needed", c.Subnet)
	case c.Subnet.Addr().IsLoopback() || c.Subnet.Addr().IsMulticast() || c.Subnet.Addr().IsUnspecified():
		return fmt.Errorf("subnet %v can't be used for hosts", c.Subnet)
	case !c.Prefix6.Addr().Is6() || c.Prefix6.Addr().Is4In6() || c.Prefix6.Bits() != 64:
		return fmt.Errorf("IPv6 prefix %v: a /64 is needed", c.Prefix6)
	case c.Prefix6.Addr().IsMulticast() || c.Prefix6.Addr().IsLinkLocalUnicast() || c.Prefix6.Addr().IsUnspecified():
		return fmt.Errorf("IPv6 prefix %v can't be used for hosts", c.Prefix6)
	case c.MTU < minMTU || c.MTU > maxMTU:
		return fmt.Errorf("MTU %d: it must lie between %d and %d", c.MTU, minMTU, maxMTU)
	case len(c.MAC) != 6 || c.MAC[0]&1 != 0:
		return fmt.Errorf("MAC %v: a unicast Ethernet address is needed", c.MAC)
	}
	for label := range strings.SplitSeq(c.Domain, ".") {
		if !validLabel(label) || len(c.Domain) > 200 {
			return fmt.Errorf("domain %q: labels of letters, digits and hyphens are needed", c.Domain)
		}
	}
	if err := c.DHCP.check(c); err != nil {
		return err
	}
	if err := c.checkRoutes(); err != nil {
		return err
	}
	return c.checkReservations(c.Reservations)
}

// hostAddr says whether an IPv4 address can be a host's in the subnet.
func (c *Config) hostAddr(a netip.Addr) bool {
	return c.Subnet.Contains(a) && a != c.Subnet.Addr() && a != lastAddr(c.Subnet)
}

func (c *Config) checkReservations(list []Reservation) error {
	macs, addrs := map[string]bool{}, map[netip.Addr]bool{}
	for _, r := range list {
		where := fmt.Sprintf("reservation for %v (%s)", r.MAC, r.Name)
		if len(r.MAC) != 6 || r.MAC[0]&1 != 0 {
			return errors.New(where + ": a unicast Ethernet address is needed")
		}
		if macs[r.MAC.String()] {
			return errors.New(where + ": the hardware address is reserved twice")
		}
		macs[r.MAC.String()] = true
		if !r.Addr.IsValid() {
			continue
		}
		switch {
		case !c.hostAddr(r.Addr):
			return fmt.Errorf("%s: %v is no host address of %v", where, r.Addr, c.Subnet)
		case r.Addr == c.Gateway() || r.Addr == c.DNS():
			return fmt.Errorf("%s: %v belongs to the gateway", where, r.Addr)
		case addrs[r.Addr]:
			return fmt.Errorf("%s: %v is reserved twice", where, r.Addr)
		}
		addrs[r.Addr] = true
	}
	return nil
}

// Gateway is the gateway's IPv4 address, also before New.
func (c Config) Gateway() netip.Addr { return c.number4(2) }

// DNS is the DNS server's IPv4 address.
func (c Config) DNS() netip.Addr { return c.number4(3) }

// Gateway6 is the gateway's IPv6 address.
func (c Config) Gateway6() netip.Addr { return c.number6(2) }

// DNS6 is the DNS server's IPv6 address.
func (c Config) DNS6() netip.Addr { return c.number6(3) }

// FirstLease is the first IPv4 address that DHCP gives out.
func (c Config) FirstLease() netip.Addr {
	if c.DHCP.First.IsValid() {
		return c.DHCP.First
	}
	p := c.subnet()
	if p.Bits() > 27 {
		return hostNumber(p, 4)
	}
	return hostNumber(p, firstLease)
}

// Address6 is the IPv6 address that a guest with this hardware address forms
// by itself from the network's prefix (RFC 4291, appendix A).
func (c Config) Address6(mac net.HardwareAddr) netip.Addr {
	a := c.number6(0).As16()
	copy(a[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(a)
}

func (c Config) subnet() netip.Prefix {
	if c.Subnet.IsValid() {
		return c.Subnet.Masked()
	}
	return defaultSubnet
}

func (c Config) number4(n uint32) netip.Addr { return hostNumber(c.subnet(), n) }

func (c Config) number6(n uint32) netip.Addr {
	if c.Prefix6.IsValid() {
		return hostNumber(c.Prefix6.Masked(), n)
	}
	return hostNumber(defaultPrefix6, n)
}

// hostNumber adds n to the network's address.
func hostNumber(p netip.Prefix, n uint32) netip.Addr {
	b := p.Addr().AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += uint32(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// lastAddr is an IPv4 network's broadcast address.
func lastAddr(p netip.Prefix) netip.Addr {
	return hostNumber(p, 1<<(32-p.Bits())-1)
}
