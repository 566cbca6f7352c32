package hostnet

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// moveStep moves addresses and routes of an uplink to the bridge that it was
// put into. It is many changes, but one step: what it undoes does not depend on
// how many of them were made.
type moveStep struct {
	From, To dev
	Addrs    []address // in the kernel's order
	Routes   []route
	// Neighs are what an administrator has entered; the kernel forgets them
	// with an interface's last address.
	Neighs []neighbour `json:",omitempty"`
}

// moving makes the step, or says what the uplink has that can't be moved. It
// gives nil where there is nothing.
func moving(l *hostLink, to dev) (*moveStep, error) {
	s := &moveStep{From: dev{l.name, l.index}, To: to, Routes: l.routes, Neighs: l.neighs}
	for _, a := range l.addrs {
		if a.Local.Addr().IsLinkLocalUnicast() && a.Local.Addr().Is6() || a.temporary() {
			continue
		}
		s.Addrs = append(s.Addrs, a)
	}
	for _, r := range l.routes {
		if r.Odd != "" {
			return nil, fmt.Errorf("move the routes of %s to a bridge: %s has %s, which is not supported", l.name, r.words(l.name), r.Odd)
		}
	}
	if len(s.Addrs)+len(s.Routes)+len(s.Neighs) == 0 {
		return nil, nil
	}
	return s, nil
}

// there is an address as the bridge has it: without an end, without the
// uplink's label, and used at once.
func (s *moveStep) there(a address) address {
	a.Valid, a.Preferred = forever, forever
	a.Flags &^= unix.IFA_F_MANAGETEMPADDR
	if a.Local.Addr().Is6() {
		a.Flags |= unix.IFA_F_NODAD
	}
	a.Proto = 0
	if rest, ok := strings.CutPrefix(a.Label, s.From.Name); ok {
		a.Label = s.To.Name + rest
		if len(a.Label) > maxName {
			a.Label = s.To.Name
		}
	}
	return a
}

// explicit are the routes that do not come and go with the addresses.
func (s *moveStep) explicit() []route {
	return slices.DeleteFunc(slices.Clone(s.Routes), func(r route) bool { return r.comesWith(s.Addrs) })
}

// orderly is the order in which routes can be made: those without a gateway
// first, because gateways are found through them.
func orderly(rs []route) []route {
	out := slices.Clone(rs)
	slices.SortStableFunc(out, func(a, b route) int {
		switch ga, gb := a.Gateway.IsValid(), b.Gateway.IsValid(); {
		case ga == gb:
			return 0
		case gb:
			return -1
		}
		return 1
	})
	return out
}

// inserted is the order in which addresses have to be added so that the kernel
// lists them as it did: it puts an IPv6 address before others of its scope.
// Those that were removed in the opposite order leave a list that the same
// order makes whole.
func inserted(addrs []address) (out []address) {
	for _, a := range addrs {
		if a.Local.Addr().Is4() {
			out = append(out, a)
		}
	}
	for _, a := range slices.Backward(addrs) {
		if a.Local.Addr().Is6() {
			out = append(out, a)
		}
	}
	return out
}

// change is one of the many that a move is made of.
type change struct {
	what string // the command for it
	do   func() error
}

// leaving are the changes that take the routes and addresses from an interface.
func (s *moveStep) leaving(from dev) (out []change) {
	for _, n := range s.Neighs {
		out = append(out, change{"ip neigh del " + n.name() + " dev " + from.Name, func() error { return n.remove(from.Index) }})
	}
	for _, r := range slices.Backward(orderly(s.explicit())) {
		out = append(out, change{
			"ip " + familyFlag(r) + "route del " + r.words(from.Name),
			func() error { return r.change(unix.RTM_DELROUTE, from.Index) },
		})
	}
	for _, a := range slices.Backward(inserted(s.Addrs)) {
		out = append(out, change{
			"ip addr del " + a.name() + " dev " + from.Name,
			func() error { return a.change(unix.RTM_DELADDR, from.Index) },
		})
	}
	return out
}

// coming are the changes that give them to an interface.
func (s *moveStep) coming(to dev) (out []change) {
	for _, a := range inserted(s.Addrs) {
		c := "ip addr add " + a.String() + " dev " + to.Name
		if a.Label != "" && a.Label != to.Name {
			c += " label " + a.Label
		}
		out = append(out, change{c, func() error { return a.change(unix.RTM_NEWADDR, to.Index) }})
	}
	for _, r := range orderly(s.explicit()) {
		out = append(out, change{
			"ip " + familyFlag(r) + "route add " + r.words(to.Name),
			func() error { return r.change(unix.RTM_NEWROUTE, to.Index) },
		})
	}
	for _, n := range s.Neighs {
		out = append(out, change{"ip neigh add " + n.String() + " dev " + to.Name, func() error { return n.add(to.Index) }})
	}
	return out
}

// asThere is the same move with all as the bridge has it.
func (s *moveStep) asThere() *moveStep {
	t := &moveStep{From: s.From, To: s.To, Neighs: s.Neighs}
	for _, a := range s.Addrs {
		t.Addrs = append(t.Addrs, s.there(a))
	}
	for _, r := range s.Routes {
		r.Expires = 0
		t.Routes = append(t.Routes, r)
	}
	return t
}

func (s *moveStep) commands() (out []string) {
	for _, c := range append(s.leaving(s.From), s.asThere().coming(s.To)...) {
		out = append(out, c.what)
	}
	return out
}

func (s *moveStep) do(a *actor) error {
	for _, c := range append(s.leaving(s.From), s.asThere().coming(s.To)...) {
		if err := a.change(c.what, c.do); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", c.what, err)
		}
	}
	return nil
}

// undo goes on where something can't be done, so that the uplink gets all that
// can be given back.
func (s *moveStep) undo(a *actor) error {
	var errs []error
	quietly := func(changes []change) {
		for _, c := range changes {
			if err := unlessGone(a.change(c.what, c.do)); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.what, err))
			}
		}
	}
	quietly(s.asThere().leaving(s.To))
	had, err := routesThrough(s.From.Index)
	errs = append(errs, err)
	quietly(s.coming(s.From))
	if has, err := routesThrough(s.From.Index); err == nil && had != nil {
		quietly(s.surplus(had, has))
	}
	return errors.Join(errs...)
}

// surplus takes routes from the uplink that it did not have, neither at first
// nor a moment ago: the kernel made them with the addresses.
func (s *moveStep) surplus(before, now []route) (out []change) {
	had := map[string]bool{}
	for _, r := range slices.Concat(before, s.Routes) {
		had[r.key()] = true
	}
	for _, r := range now {
		if !had[r.key()] {
			out = append(out, change{
				"ip " + familyFlag(r) + "route del " + r.words(s.From.Name),
				func() error { return r.change(unix.RTM_DELROUTE, s.From.Index) },
			})
		}
	}
	return out
}

func routesThrough(index int) ([]route, error) {
	all, err := routes()
	if err != nil {
		return nil, err
	}
	if all[index] == nil {
		return []route{}, nil
	}
	return all[index], nil
}
