package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"wolffia/internal/event"
	"wolffia/internal/hostnet"
	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
)

// hostPort is what the port of a network's tap is called, hostSubject what news
// of it are about.
const (
	hostPort    = "host"
	hostSubject = "the host's network"
)

// HostPlan is what the networks of a lab ask of the host's own. dir is the lab's
// folder, as in [LabConfig].
func HostPlan(dir string, spec *lab.Spec) hostnet.Plan {
	return hostPlan(hostName(dir), newPlan(spec, nil))
}

// hostName tells a lab from every other one of the host: by the last element of
// its folder, as much of it as a [hostnet.Plan] may have.
func hostName(dir string) string {
	name := filepath.Base(dir)
	return strings.TrimLeft(name[max(0, len(name)-64):], "-")
}

func hostPlan(name string, p *plan) hostnet.Plan {
	out := hostnet.Plan{Name: name}
	for _, n := range p.spec.NetworkNames() {
		w := p.spec.Networks[n]
		if !joined(w) {
			continue
		}
		t := hostnet.Tap{Name: tapName(name, w)}
		u := w.Uplink
		switch {
		case u != nil && u.Given:
			t.Given = true
		case u != nil && u.Interface != "":
			b := hostnet.Bridge{Name: bridgeName(name, w), Uplink: u.Interface, UplinkVLAN: u.Tag}
			out.Bridges = append(out.Bridges, b)
			t.Bridge = b.Name
		case u != nil && u.Bridge != "":
			t.Bridge = u.Bridge
		default:
			t.MTU = w.MTU
			t.Side = p.side(w)
			for _, g := range w.Segments() {
				if g.VLAN != 0 && g.Uplink != nil {
					t.VLANs = append(t.VLANs, hostnet.VLAN{ID: g.VLAN, Side: p.side(g.Network)})
				}
			}
		}
		out.Taps = append(out.Taps, t)
	}
	return out
}

// joined says whether a network, or one of its VLANs, is joined with the host's.
func joined(w *lab.Network) bool {
	for _, g := range w.Segments() {
		if g.Uplink != nil {
			return true
		}
	}
	return false
}

// tapName is the name of a network's tap: the file's, or one that no other lab
// has, short enough for the number of a VLAN behind it.
func tapName(lab string, w *lab.Network) string {
	if w.Uplink != nil && w.Uplink.Tap != "" {
		return w.Uplink.Tap
	}
	return ownName("wt", lab, w.Name)
}

func bridgeName(lab string, w *lab.Network) string {
	if w.Uplink.Bridge != "" {
		return w.Uplink.Bridge
	}
	return ownName("wb", lab, w.Name)
}

func ownName(prefix, lab, network string) string {
	sum := sha256.Sum256([]byte(lab + "\x00" + network))
	return prefix + hex.EncodeToString(sum[:4])
}

// side is what the host has on a segment.
func (p *plan) side(g *lab.Network) hostnet.Side {
	u := g.Uplink
	if u == nil {
		return hostnet.Side{}
	}
	s := hostnet.Side{Masquerade: u.Masquerade, Forward: u.Forward}
	if u.Address.IsValid() {
		s.Addr = netip.PrefixFrom(u.Address, g.Subnet.Bits())
	}
	if u.Address6.IsValid() {
		s.Addr6 = netip.PrefixFrom(u.Address6, g.Subnet6.Bits())
	}
	if u.ProxyARP {
		// The subnet is at home elsewhere; here are only those that are named.
		s.Addr = netip.PrefixFrom(u.Address, 32)
		s.ProxyARP = p.machinesOn(g)
	}
	for _, r := range g.Routes {
		for _, w := range p.ways(r, g) {
			// A way is the host's, too, where it has an address that leads there.
			if w.To.Bits() > 0 && (s.Addr.Contains(w.Via) || s.Addr6.Contains(w.Via)) && w.Via != u.Address && w.Via != u.Address6 {
				s.Routes = append(s.Routes, hostnet.Route{To: w.To, Via: w.Via})
			}
		}
	}
	return s
}

// machinesOn are the IPv4 addresses of the machines on a segment.
func (p *plan) machinesOn(g *lab.Network) (out []netip.Addr) {
	for _, m := range p.machines {
		for i := range m.Cards {
			if at := p.at(m, &m.Cards[i]); at.v4.IsValid() && p.spec.Segment(&m.Cards[i]).Name == g.Name {
				out = append(out, at.v4.Addr())
			}
		}
	}
	return out
}

// overHost are a machine's ways to everywhere else from a segment, where those
// are over the host: it has no gateway, and this is its first card where the host
// leads on.
func (p *plan) overHost(m *lab.Machine, g *lab.Network) (out []rootfs.Route) {
	if p.spec.Uplink(m) != nil {
		return nil
	}
	for i := range m.Cards {
		first := p.spec.Segment(&m.Cards[i])
		if first.Uplink == nil || !first.Uplink.Leads() {
			continue
		}
		if first.Name != g.Name {
			return nil
		}
		out = append(out, rootfs.Route{Via: g.Uplink.Address})
		if a := g.Uplink.Address6; a.IsValid() {
			out = append(out, rootfs.Route{Via: a})
		}
		return out
	}
	return nil
}

// only4 says whether the host is a segment's way to the others, for IPv4 alone.
func only4(g *lab.Network) bool {
	return g.Uplink != nil && g.Uplink.Leads() && !g.Uplink.Address6.IsValid()
}

// hostSide is what a lab has of the host's own network. Apply and Close alone
// use it.
type hostSide struct {
	options hostnet.Options
	name    string
	live    *hostnet.Live // nil while there is nothing
	plan    hostnet.Plan  // what live is of
}

// probe finds what would keep the plan of spec from being done, before anything
// is.
func (h *hostSide) probe(spec *lab.Spec) error {
	p := hostPlan(h.name, newPlan(spec, nil))
	switch {
	case len(p.Taps) == 0 || h.options.Journal == "":
		return nil
	case h.live != nil: // what the host has is partly our own
		return p.Check()
	}
	return hostnet.Probe(p, h.options)
}

// leave undoes what the lab has of the host, unless all of it stays as it is:
// the plan is the same, and no network with a part in it is touched.
func (h *hostSide) leave(want hostnet.Plan, touched bool, nets networks) error {
	if h.live == nil || !touched && reflect.DeepEqual(h.plan, want) {
		return nil
	}
	return h.close(nets)
}

func (h *hostSide) close(nets networks) error {
	if h.live == nil {
		return nil
	}
	live := h.live
	h.live, h.plan = nil, hostnet.Plan{}
	for _, n := range nets {
		n.forget(hostPort)
	}
	if err := live.Close(); err != nil {
		return fmt.Errorf("leave the host's network as it was: %w", err)
	}
	return nil
}

// enter does what the networks of a plan ask of the host, and plugs the taps in.
func (h *hostSide) enter(p *plan, nets networks, events event.Sink) error {
	want := hostPlan(h.name, p)
	if h.live != nil || len(want.Taps) == 0 || h.options.Journal == "" {
		return nil
	}
	live, err := hostnet.Apply(want, h.options)
	if err != nil {
		return err
	}
	h.live, h.plan = live, want
	for name, n := range nets {
		// What the network itself says may be a change that did not work out.
		spec := p.spec.Networks[name]
		if spec == nil {
			continue
		}
		tap := live.Tap(tapName(h.name, spec))
		if !joined(spec) || tap == nil {
			continue
		}
		card := &lab.Card{}
		if spec.Uplink != nil {
			card.VLAN = spec.Uplink.VLAN
		}
		if err := n.attach(tap, hostPort, card, nil); err != nil {
			return errors.Join(err, h.close(nets))
		}
	}
	for _, w := range live.Warnings() {
		message := w.What
		if w.Fix != "" {
			message += "; " + w.Fix
		}
		events.Emit(event.Event{Kind: event.Warn, Task: "join", Subject: hostSubject, Message: message})
	}
	return nil
}

// touches says whether a step begins a network anew that the host is on, or ends
// it, or changes what is said of the host on it. The taps stay for any other one.
func touches(steps []lab.Step, before, now *lab.Spec) bool {
	for _, s := range steps {
		if s.Kind != "network" || s.Action == lab.ActionChange && !slices.Contains(s.Why, "uplink") {
			continue
		}
		for _, spec := range []*lab.Spec{before, now} {
			if spec != nil && spec.Networks[s.Name] != nil && joined(spec.Networks[s.Name]) {
				return true
			}
		}
	}
	return false
}

// leaveHost makes room on the host for what becomes of the lab that was old.
func (l *Lab) leaveHost(old, now *lab.Spec, p *plan, steps []lab.Step) error {
	return l.host.leave(hostPlan(l.host.name, p), touches(steps, old, now), l.running())
}

// enterHost joins the networks that there are now with the host's.
func (l *Lab) enterHost(p *plan) error {
	return l.host.enter(p, l.running(), l.events)
}

// rejoinHost goes back to the lab as it is, after a change that did not work out.
func (l *Lab) rejoinHost() {
	l.mu.Lock()
	p := l.plan
	l.mu.Unlock()
	if p == nil {
		return
	}
	if err := l.enterHost(p); err != nil {
		l.events.Emit(event.Event{Kind: event.Warn, Task: "join", Subject: hostSubject, Message: err.Error()})
	}
}

// running are the networks that there are now.
func (l *Lab) running() networks {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.nets)
}

// noUplink says of a network of a throwaway machine that it is not joined.
func noUplink(w *lab.Network, events event.Sink) {
	if joined(w) {
		event.Or(events).Emit(event.Event{Kind: event.Note, Task: "join", Subject: "network " + w.Name,
			Message: "the uplink to the host's network is there with wolffia up alone"})
	}
}
