package hostnet

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wolffia/internal/host"
)

// compiler makes the steps of a plan out of it and what the host has.
type compiler struct {
	plan     *Plan
	host     *facts
	steps    []step
	warnings []Warning
	made     map[string]dev // interfaces of the plan, made so far
}

// compile orders the steps so that nothing is forwarded before the rules are
// there, and an uplink moves as the last thing that a bridge needs.
func compile(p *Plan, f *facts) ([]step, []Warning, error) {
	c := &compiler{plan: p, host: f, made: map[string]dev{}}
	if err := c.check(); err != nil {
		return nil, nil, err
	}
	c.table()
	c.forwarding()
	for i := range p.Bridges {
		if err := c.bridge(&p.Bridges[i]); err != nil {
			return nil, nil, err
		}
	}
	for i := range p.Taps {
		if err := c.tap(&p.Taps[i]); err != nil {
			return nil, nil, err
		}
	}
	return c.steps, c.warnings, nil
}

func (c *compiler) add(s ...step) { c.steps = append(c.steps, s...) }

// check finds what the host has that the plan can't be together with.
func (c *compiler) check() error {
	var errs []error
	absent := func(name string) {
		if c.host.link(name) != nil {
			errs = append(errs, fmt.Errorf("interface %s exists already; choose another name", name))
		}
	}
	for _, b := range c.plan.Bridges {
		absent(b.Name)
		if b.Uplink != "" {
			errs = append(errs, c.checkUplink(&b))
		}
	}
	for _, t := range c.plan.Taps {
		if t.Given {
			if c.host.link(t.Name) == nil {
				errs = append(errs, fmt.Errorf("there is no tap %s to take; make it with: sudo ip tuntap add dev %s mode tap user %s", t.Name, t.Name, userName()))
			}
			continue
		}
		absent(t.Name)
		if t.Bridge != "" && c.plan.planned(t.Bridge) == nil {
			errs = append(errs, c.checkBridge(t.Bridge))
		}
	}
	for _, f := range c.plan.faces() {
		if f.v6() && !c.host.ipv6 {
			errs = append(errs, &host.UnsupportedError{
				Feature: "IPv6 on " + f.name, Why: "the kernel has none", Fix: "leave the IPv6 addresses out",
			})
		}
		errs = append(errs, c.checkSubnet(f.name, f.Addr), c.checkSubnet(f.name, f.Addr6))
	}
	return errors.Join(errs...)
}

func (c *compiler) checkBridge(name string) error {
	l := c.host.link(name)
	if l == nil {
		return fmt.Errorf("the host has no bridge %s", name)
	}
	if l.kind != "bridge" {
		return fmt.Errorf("interface %s of the host is no bridge", name)
	}
	return nil
}

// checkSubnet refuses a subnet that the host has elsewhere: only one of the two
// would be reached.
func (c *compiler) checkSubnet(name string, p netip.Prefix) error {
	if !p.IsValid() || p.IsSingleIP() {
		return nil
	}
	for _, l := range c.host.links {
		for _, a := range l.addrs {
			if !a.Local.IsSingleIP() && a.Local.Overlaps(p) {
				return fmt.Errorf("%s on %s overlaps %s, which the host has on %s; choose another subnet, or give the host only %s there, and the guests' addresses as proxy ARP",
					p, name, a.Local, l.name, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
			}
		}
	}
	return nil
}

func (c *compiler) checkUplink(b *Bridge) error {
	l := c.host.link(b.Uplink)
	switch {
	case l == nil:
		return fmt.Errorf("the host has no interface %s for bridge %s", b.Uplink, b.Name)
	case !l.ethernet:
		return fmt.Errorf("interface %s can't go into bridge %s: it has no Ethernet frames", b.Uplink, b.Name)
	case b.UplinkVLAN != 0:
		name := vlanName(b.Uplink, b.UplinkVLAN)
		if c.host.link(name) != nil {
			return fmt.Errorf("interface %s exists already; make it the uplink of bridge %s by its name", name, b.Name)
		}
	case l.wireless:
		return fmt.Errorf("interface %s can't go into bridge %s: Wi-Fi access points refuse frames of others; use masquerading or proxy ARP", b.Uplink, b.Name)
	case l.kind == "bridge":
		return fmt.Errorf("interface %s is a bridge itself: let the tap join it", b.Uplink)
	case l.master != "":
		return fmt.Errorf("interface %s can't go into bridge %s: it is in %s", b.Uplink, b.Name, l.master)
	}
	return nil
}

// table makes the rules, if there are any.
func (c *compiler) table() {
	s := &tableStep{Name: c.plan.tableName()}
	for _, f := range c.plan.faces() {
		s.Own = append(s.Own, f.name)
		if f.forwards() {
			s.Forward = append(s.Forward, f.name)
		}
		if f.Masquerade && f.v4() {
			s.Masq4 = append(s.Masq4, f.name)
		}
		if f.Masquerade && f.v6() {
			s.Masq6 = append(s.Masq6, f.name)
		}
	}
	if len(s.Forward) > 0 {
		c.add(s)
	}
}

// forwarding switches on what the host has to do to forward.
func (c *compiler) forwarding() {
	var v4, v6 bool
	for _, f := range c.plan.faces() {
		v4 = v4 || f.forwards() && f.v4()
		v6 = v6 || f.forwards() && f.v6()
	}
	if v4 {
		c.forwarding4()
	}
	if v6 {
		c.forwarding6()
	}
}

// conf are the names under net/ipv4/conf and net/ipv6/conf that a plan may have
// to do with: the host's interfaces, and default for those to come.
func (c *compiler) conf() []string {
	out := []string{"default"}
	for _, l := range c.host.links {
		if l.name != "lo" {
			out = append(out, l.name)
		}
	}
	return out
}

// forwarding4 leaves the switch for all interfaces alone: see the package's
// documentation.
func (c *compiler) forwarding4() {
	const all = "net/ipv4/conf/all/forwarding"
	if v, err := readSysctl(all); err != nil || v == "1" {
		return
	}
	for _, name := range c.conf() {
		c.add(&sharedStep{setting{Key: "net/ipv4/conf/" + name + "/forwarding", Value: "1", Unless: all}})
	}
}

func (c *compiler) forwarding6() {
	const all = "net/ipv6/conf/all/forwarding"
	forwards, err := readSysctl(all)
	if err != nil {
		return
	}
	s := setting{Key: all, Value: "1"}
	for _, name := range c.conf() {
		s.Resets = append(s.Resets, "net/ipv6/conf/"+name+"/forwarding")
		key := "net/ipv6/conf/" + name + "/accept_ra"
		// 2 may be another lab's doing, which has to last then.
		if v, err := readSysctl(key); err == nil && (v == "2" || v == "1" && forwards == "0") {
			c.add(&sharedStep{setting{Key: key, Value: "2", From: "1"}})
		}
	}
	c.add(&sharedStep{s})
}

// mac is the hardware address of an interface of ours: the same each time, so
// that those who know it from before still do.
func (c *compiler) mac(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("wolffia hostnet\x00" + c.plan.Name + "\x00" + name))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

// freeIndex chooses the index of an interface that is made. The kernel's own
// are far below for as long as a host lives.
func (c *compiler) freeIndex() int {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		i := 1<<24 + int(binary.NativeEndian.Uint32(b[:])&(1<<29-1))
		if !slices.ContainsFunc(c.host.links, func(l hostLink) bool { return l.index == i }) {
			return i
		}
	}
}

func (c *compiler) bridge(b *Bridge) error {
	d := dev{b.Name, c.freeIndex()}
	up := c.host.link(b.Uplink)
	link := &linkStep{dev: d, MAC: c.mac(b.Name)}
	mtu := b.MTU
	if up != nil {
		if b.UplinkVLAN == 0 {
			link.MAC = up.mac
		}
		if mtu == 0 {
			mtu = up.mtu
		}
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	c.add(link, &setStep{dev: d, MTU: mtu})
	c.made[b.Name] = d
	c.own(b.Name, &b.Side)
	c.add(&upStep{dev: d})
	if up != nil {
		if err := c.uplink(b, d, up, mtu); err != nil {
			return err
		}
	}
	c.side(d, &b.Side)
	return nil
}

const defaultMTU = 1500

// uplink puts an interface of the host into a bridge.
func (c *compiler) uplink(b *Bridge, bridge dev, up *hostLink, mtu int) error {
	port := dev{up.name, up.index}
	if mtu > up.mtu {
		return fmt.Errorf("bridge %s: its MTU of %d is more than the %d of its uplink %s", b.Name, mtu, up.mtu, up.name)
	}
	if !up.up {
		c.add(&upStep{dev: port, Host: true})
	}
	if b.UplinkVLAN != 0 {
		vlan := dev{vlanName(up.name, b.UplinkVLAN), c.freeIndex()}
		c.add(&linkStep{dev: vlan, Parent: port, VLAN: b.UplinkVLAN})
		c.quiet(vlan.Name)
		c.add(&upStep{dev: vlan}, &masterStep{dev: vlan, Bridge: bridge})
		return nil
	}
	move, err := moving(up, bridge)
	if err != nil {
		return err
	}
	c.add(&masterStep{dev: port, Bridge: bridge})
	if move != nil {
		c.add(move)
		c.warnUplink(b, up, move.Addrs)
	}
	return nil
}

func (c *compiler) warnUplink(b *Bridge, up *hostLink, addrs []address) {
	for _, a := range addrs {
		if a.Valid != forever {
			c.warnings = append(c.warnings, Warning{What: fmt.Sprintf(
				"%s on %s is given for %d s, and nobody renews it while %s is in bridge %s", a.Local, up.name, a.Valid, up.name, b.Name)})
		}
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return
	}
	for _, r := range rules {
		if r.IifName == up.name || r.OifName == up.name {
			c.warnings = append(c.warnings, Warning{
				What: fmt.Sprintf("the host has a routing rule of priority %d for %s, which does not know of bridge %s", r.Priority, up.name, b.Name),
				Fix:  "ip rule list",
			})
		}
	}
}

func (c *compiler) tap(t *Tap) error {
	d := dev{Name: t.Name}
	c.add(&tapStep{Name: t.Name, Given: t.Given})
	if t.Given {
		return nil
	}
	mtu, mac := t.MTU, c.mac(t.Name)
	var bridge dev
	if t.Bridge != "" {
		// A bridge takes the lowest hardware address and the lowest MTU of its
		// ports. Neither may be the tap's.
		mac = append(net.HardwareAddr{0xfe, 0xff, 0xff}, mac[3:]...)
		var most int
		bridge, most = c.bridgeOf(t.Bridge)
		if l := c.host.link(t.Bridge); l != nil && !c.host.hasPorts(l) {
			c.add(&macStep{dev: bridge, MAC: l.mac})
		}
		if mtu == 0 {
			mtu = most
		}
		if mtu < most {
			return fmt.Errorf("tap %s: an MTU of %d would lower that of bridge %s, which is %d", t.Name, mtu, t.Bridge, most)
		}
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	c.add(&setStep{dev: d, MAC: mac, MTU: mtu})
	if t.Bridge != "" {
		c.quiet(t.Name)
		c.add(&masterStep{dev: d, Bridge: bridge}, &upStep{dev: d})
		return nil
	}
	c.own(t.Name, &t.Side)
	c.add(&upStep{dev: d})
	c.side(d, &t.Side)
	for i := range t.VLANs {
		v := &t.VLANs[i]
		vd := dev{vlanName(t.Name, v.ID), c.freeIndex()}
		c.add(&linkStep{dev: vd, Parent: d, VLAN: v.ID})
		c.own(vd.Name, &v.Side)
		c.add(&upStep{dev: vd})
		c.side(vd, &v.Side)
	}
	return nil
}

// bridgeOf gives a bridge of the plan or of the host, and its MTU.
func (c *compiler) bridgeOf(name string) (dev, int) {
	if l := c.host.link(name); l != nil {
		return dev{l.name, l.index}, l.mtu
	}
	mtu := 0
	for _, s := range c.steps {
		if set, ok := s.(*setStep); ok && set.Name == name {
			mtu = set.MTU
		}
	}
	return c.made[name], mtu
}

// quiet keeps the host itself off an interface that only passes frames.
func (c *compiler) quiet(name string) {
	if c.host.ipv6 {
		c.add(&sysctlStep{"net/ipv6/conf/" + name + "/disable_ipv6", "1"})
	}
}

// own sets the sysctls of an interface of ours. Whoever is on it is not asked
// for ways: a guest must not become the host's router.
func (c *compiler) own(name string, s *Side) {
	set := func(key, value string) { c.add(&sysctlStep{key, value}) }
	if c.host.ipv6 {
		set("net/ipv6/conf/"+name+"/accept_ra", "0")
		set("net/ipv6/conf/"+name+"/accept_redirects", "0")
	}
	set("net/ipv4/conf/"+name+"/accept_redirects", "0")
	if s.forwards() && s.v4() {
		set("net/ipv4/conf/"+name+"/forwarding", "1")
	}
	if slices.ContainsFunc(s.ProxyARP, netip.Addr.Is4) {
		set("net/ipv4/conf/"+name+"/proxy_arp", "1")
		// Answers for others wait up to 0.8 s otherwise.
		set("net/ipv4/neigh/"+name+"/proxy_delay", "0")
	}
}

// side gives an interface that is up the host's addresses and routes.
func (c *compiler) side(d dev, s *Side) {
	if s.Addr.IsValid() {
		c.add(&addrStep{dev: d, Addr: planAddress(s.Addr)})
	}
	if s.Addr6.IsValid() {
		c.add(&addrStep{dev: d, Addr: planAddress(s.Addr6)})
	}
	for _, r := range s.Routes {
		c.add(&routeStep{dev: d, Route: mainRoute(r)})
	}
	for _, a := range s.ProxyARP {
		c.add(&routeStep{dev: d, Route: mainRoute(Route{To: netip.PrefixFrom(a, a.BitLen())})})
		for _, name := range c.host.atHome(a) {
			if slices.ContainsFunc(c.host.link(name).neighs, func(n neighbour) bool { return n.proxy() && n.IP == a }) {
				continue // the host does already, and goes on
			}
			l := c.answering(name)
			if a.Is6() {
				c.add(&sharedStep{setting{Key: "net/ipv6/conf/" + l.Name + "/proxy_ndp", Value: "1"}})
			}
			c.add(&neighStep{dev: l, Neigh: neighbour{IP: a}})
		}
	}
}

// answering is the interface that has the addresses of one of the host's: the
// bridge that it goes into, if it does.
func (c *compiler) answering(name string) dev {
	for _, b := range c.plan.Bridges {
		if b.Uplink == name && b.UplinkVLAN == 0 {
			return c.made[b.Name]
		}
	}
	l := c.host.link(name)
	return dev{l.name, l.index}
}

// planAddress is an address of the plan's: it lasts, an IPv4 subnet has its
// usual broadcast address, and an IPv6 one is used at once.
func planAddress(p netip.Prefix) address {
	a := address{Local: p, Valid: forever, Preferred: forever}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
		return a
	}
	if p.Bits() < 31 {
		b := p.Addr().As4()
		host := uint32(1)<<(32-p.Bits()) - 1
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|host)
		a.Broadcast = netip.AddrFrom4(b)
	}
	return a
}
