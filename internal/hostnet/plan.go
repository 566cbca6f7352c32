package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"wolffia/internal/lazy"
)

// Plan is what a lab asks of the host's network. It is data: nothing is looked
// up or changed before [Apply].
type Plan struct {
	// Name goes into the name of the nftables table and of what else needs one.
	// No two plans with the same name can be live in one network namespace.
	// Lower-case letters, digits, - and _.
	Name    string
	Bridges []Bridge // those that are made
	Taps    []Tap
}

// Side is what the host itself has on an interface of ours. The zero value is
// nothing: the interface only passes frames.
type Side struct {
	Addr  netip.Prefix // the host's IPv4 address; /32 where only Routes and ProxyARP tell who is there
	Addr6 netip.Prefix // the host's IPv6 address
	// Routes lead to what is behind the interface.
	Routes []Route
	// ProxyARP are addresses of guests behind the interface that the host
	// answers for, with ARP or neighbour discovery, on those of its other
	// interfaces in whose subnets they are. Each gets a route.
	ProxyARP []netip.Addr
	// Masquerade gives what comes from the interface, and leaves through one
	// that is not of this plan, the host's address there. It forwards, too.
	Masquerade bool
	// Forward has the host forward packets between the interface and others.
	Forward bool
}

// Route is a way to a network behind an interface.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // zero means that it is right there
}

// Tap is a tap whose frames a lab's network has.
type Tap struct {
	Name string // of the interface, at most 15 bytes
	MTU  int    // in bytes; 0 means 1500, or that of Bridge
	Side
	// Bridge is the bridge that the tap joins: one of Plan.Bridges, or of the
	// host. A tap in a bridge has no Side.
	Bridge string
	// VLANs are 802.1Q subinterfaces of the tap, which the host is on with a
	// tag.
	VLANs []VLAN
	// Given says that the interface exists, made for this user by the
	// administrator (ip tuntap add mode tap user NAME). It is plugged in as it
	// is, which needs no privilege, and stays.
	Given bool
}

// VLAN is an 802.1Q subinterface, named after its tap: tap0.10.
type VLAN struct {
	ID int // 1 to 4094
	Side
}

// Bridge is a bridge that is made, and goes with the plan.
type Bridge struct {
	Name string
	MTU  int // in bytes; 0 means 1500, or that of Uplink
	// Uplink is an interface of the host that is put into the bridge. Its
	// addresses and routes move to the bridge, and back at the end.
	Uplink string
	// UplinkVLAN puts a new subinterface of Uplink with this 802.1Q tag into
	// the bridge, instead of Uplink itself, which then keeps its addresses.
	UplinkVLAN int
	// Side is what the host has on the bridge besides.
	Side
}

// forwards says whether the host has to forward for the interface.
func (s *Side) forwards() bool { return s.Masquerade || s.Forward || len(s.ProxyARP) > 0 }

func (s *Side) empty() bool {
	return !s.Addr.IsValid() && !s.Addr6.IsValid() && len(s.Routes) == 0 && !s.forwards()
}

// v6 says whether the host has anything to do with IPv6 on the interface.
func (s *Side) v6() bool {
	return s.Addr6.IsValid() ||
		slices.ContainsFunc(s.ProxyARP, netip.Addr.Is6) ||
		slices.ContainsFunc(s.Routes, func(r Route) bool { return r.To.Addr().Is6() })
}

// v4 says the same of IPv4.
func (s *Side) v4() bool {
	return s.Addr.IsValid() ||
		slices.ContainsFunc(s.ProxyARP, netip.Addr.Is4) ||
		slices.ContainsFunc(s.Routes, func(r Route) bool { return r.To.Addr().Is4() })
}

// vlanName is the name of a subinterface.
func vlanName(parent string, id int) string { return fmt.Sprintf("%s.%d", parent, id) }

// maxName is the longest name of an interface (IFNAMSIZ-1).
const maxName = 15

var (
	planName = lazy.Regexp(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	// linkName is narrower than what the kernel takes, so that a name is a word
	// in a shell, in nft and in a path under /proc/sys.
	linkName = lazy.Regexp(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// Check says what is wrong with the plan by itself, whatever the host has.
func (p *Plan) Check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !planName().MatchString(p.Name) {
		fail("%q can't name a plan: lower-case letters, digits, - and _, at most 64", p.Name)
	}
	names := map[string]bool{}
	name := func(s string) {
		switch {
		case len(s) > maxName || !linkName().MatchString(s):
			fail("%q can't name an interface: at most %d letters, digits, -, _ and dots", s, maxName)
		case s == "lo" || s == "all" || s == "default":
			fail("%q can't name an interface: the kernel keeps that name to itself", s)
		case names[s]:
			fail("interface %s is asked for twice", s)
		}
		names[s] = true
	}
	uplinks := map[string]bool{}
	for _, b := range p.Bridges {
		name(b.Name)
		errs = append(errs, b.check()...)
		up := b.Uplink
		if b.UplinkVLAN != 0 {
			up = vlanName(b.Uplink, b.UplinkVLAN)
			name(up)
		}
		if up != "" && uplinks[up] {
			fail("%s is asked to be in two bridges", up)
		}
		uplinks[up] = true
	}
	for _, t := range p.Taps {
		name(t.Name)
		errs = append(errs, t.check()...)
		for _, v := range t.VLANs {
			name(vlanName(t.Name, v.ID))
		}
	}
	return errors.Join(errs...)
}

func (b *Bridge) check() (errs []error) {
	errs = append(errs, b.Side.check(b.Name)...)
	if !validMTU(b.MTU) {
		errs = append(errs, fmt.Errorf("bridge %s: an MTU of %d bytes can't be", b.Name, b.MTU))
	}
	if b.UplinkVLAN != 0 && (b.Uplink == "" || !validVLAN(b.UplinkVLAN)) {
		errs = append(errs, fmt.Errorf("bridge %s: VLAN %d of uplink %q can't be: it takes an uplink and a number from 1 to 4094", b.Name, b.UplinkVLAN, b.Uplink))
	}
	return errs
}

func (t *Tap) check() (errs []error) {
	errs = append(errs, t.Side.check(t.Name)...)
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case t.Bridge != "" && (!t.Side.empty() || len(t.VLANs) > 0):
		fail("tap %s: it joins bridge %s, so that the bridge has the addresses, and the tap none", t.Name, t.Bridge)
	case t.Given && (!t.Side.empty() || len(t.VLANs) > 0 || t.Bridge != "" || t.MTU != 0):
		fail("tap %s: it is given, and taken as it is", t.Name)
	case !validMTU(t.MTU):
		fail("tap %s: an MTU of %d bytes can't be", t.Name, t.MTU)
	}
	for _, v := range t.VLANs {
		if !validVLAN(v.ID) {
			fail("tap %s: there is no VLAN %d", t.Name, v.ID)
		}
		errs = append(errs, v.Side.check(vlanName(t.Name, v.ID))...)
	}
	return errs
}

func (s *Side) check(of string) (errs []error) {
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{of}, args...)...))
	}
	if s.Addr.IsValid() && !s.Addr.Addr().Is4() {
		fail("%s is no IPv4 address", s.Addr)
	}
	if s.Addr6.IsValid() && (!s.Addr6.Addr().Is6() || s.Addr6.Addr().Is4In6()) {
		fail("%s is no IPv6 address", s.Addr6)
	}
	for _, r := range s.Routes {
		switch {
		case !r.To.IsValid() || r.To != r.To.Masked():
			fail("route to %s: that is no network", r.To)
		case r.Via.IsValid() && r.Via.Is4() != r.To.Addr().Is4():
			fail("route to %s via %s: they are not of one family", r.To, r.Via)
		case r.To.Bits() == 0:
			fail("a default route through a lab would take the host's own network away")
		}
	}
	for _, a := range s.ProxyARP {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" || a.Is4In6() {
			fail("%s is no address that the host could answer for", a)
		}
	}
	if s.Masquerade && !s.v4() && !s.v6() {
		fail("masquerading takes an address of the host on the interface, or routes")
	}
	return errs
}

func validMTU(mtu int) bool { return mtu == 0 || mtu >= 68 && mtu <= 65535 }
func validVLAN(id int) bool { return id >= 1 && id <= 4094 }

// tableName is the name of the plan's nftables table.
func (p *Plan) tableName() string { return "wolffia-" + p.Name }

// planned is the bridge of that name that the plan makes, or nil.
func (p *Plan) planned(name string) *Bridge {
	i := slices.IndexFunc(p.Bridges, func(b Bridge) bool { return b.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Bridges[i]
}

// face is an interface of the plan with the host's side of it.
type face struct {
	name string
	*Side
}

// faces are all interfaces of the plan that the host has a side on.
func (p *Plan) faces() (out []face) {
	add := func(name string, s *Side) {
		if !s.empty() {
			out = append(out, face{name, s})
		}
	}
	for i := range p.Bridges {
		add(p.Bridges[i].Name, &p.Bridges[i].Side)
	}
	for i := range p.Taps {
		t := &p.Taps[i]
		add(t.Name, &t.Side)
		for j := range t.VLANs {
			add(vlanName(t.Name, t.VLANs[j].ID), &t.VLANs[j].Side)
		}
	}
	return out
}
