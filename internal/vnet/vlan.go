package vnet

import (
	"fmt"
	"slices"
)

// VLAN is which 802.1Q networks a port of a [Switch] takes part in. The zero
// value is a transparent port.
//
//	VLAN{}                                     // transparent: everything, as it is
//	VLAN{Access: 10}                           // a machine on VLAN 10 that knows nothing of tags
//	VLAN{Trunk: []int{10, 20}}                 // a router that tags what it sends
//	VLAN{Trunk: []int{10, 20}, Native: 1}      // and is on VLAN 1 without a tag
//	VLAN{All: true, Native: 1}                 // another switch
//
// Every frame belongs to one VLAN, which its tag says, or the port where it
// comes in if it has none. A tag with the identifier 0 carries a priority and
// no VLAN, so such a frame counts as untagged. The frames that came in without
// a VLAN on a transparent port, or on a trunk of all VLANs without a native one,
// belong to VLAN 0, which those two kinds of ports alone carry.
//
// A transparent port carries every VLAN: VLAN 0 without tags, the others with
// them. An access port carries one VLAN, without tags; a frame that comes in
// with a tag is filtered. A trunk carries those VLANs that are listed, with
// tags, and its native one without; it filters frames of others. The native
// VLAN is carried whether it is listed or not, and its frames may come in with a
// tag, too. A trunk without a native VLAN filters frames without a tag, unless
// it carries all VLANs.
//
// A tag is one with the EtherType 0x8100, and only the outermost one counts:
// what is below, and service tags (0x88a8) anywhere, is payload and stays as it
// is. A tag's priority bits stay as long as the tag does. The one frame that is
// not sent although its VLAN is carried is one with a second tag below that of
// a trunk's native VLAN: without the first, the second would put it into
// another VLAN.
//
// VLANs are the only rule. The addresses that a standard bridge keeps for
// itself (spanning tree, LACP, LLDP, 802.1X) pass within their VLAN like all
// others.
type VLAN struct {
	Access int   // the VLAN that an access port is on, 1 to MaxVLAN; 0 means that it is none
	Trunk  []int // the VLANs of a trunk
	All    bool  // a trunk of all VLANs
	Native int   // of a trunk: the VLAN without a tag; 0 means none
}

// MaxVLAN is the largest VLAN identifier (IEEE 802.1Q-2018, table 9-2: 4095 is
// reserved, 0 is none).
const MaxVLAN = 4094

// Check reports settings that make no sense.
func (v VLAN) Check() error {
	trunk := v.All || v.Trunk != nil
	switch {
	case v.Access != 0 && trunk:
		return fmt.Errorf("access VLAN %d and a trunk exclude each other: a port carries one VLAN without tags, or several with tags", v.Access)
	case v.Access != 0 && v.Native != 0:
		return fmt.Errorf("access VLAN %d and native VLAN %d exclude each other: a native VLAN is a trunk's", v.Access, v.Native)
	case v.Native != 0 && !trunk:
		return fmt.Errorf("native VLAN %d needs a trunk; a port that carries this VLAN alone, without tags, is an access port", v.Native)
	case v.All && v.Trunk != nil:
		return fmt.Errorf("a trunk carries all VLANs or those that are listed, not both")
	case trunk && !v.All && len(v.Trunk) == 0:
		return fmt.Errorf("a trunk without VLANs carries nothing; list those that it carries, or say all")
	}
	for i, id := range v.Trunk {
		if slices.Contains(v.Trunk[:i], id) {
			return fmt.Errorf("VLAN %d is listed twice", id)
		}
		if err := checkVLAN(id); err != nil {
			return err
		}
	}
	for _, id := range []int{v.Access, v.Native} {
		if id == 0 {
			continue
		}
		if err := checkVLAN(id); err != nil {
			return err
		}
	}
	return nil
}

func checkVLAN(id int) error {
	if id < 1 || id > MaxVLAN {
		return fmt.Errorf("there is no VLAN %d: they are 1 to %d", id, MaxVLAN)
	}
	return nil
}

// SetVLAN puts a port into other VLANs while it runs. Frames that the switch
// took before, those in the port's queue among them, still go by the rules of
// then. It returns [ErrNoPort] for a port that is not attached.
func (s *Switch) SetVLAN(id PortID, v VLAN) error {
	if err := v.Check(); err != nil {
		return fmt.Errorf("set VLANs of port %d: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot, p := range s.view.Load().ports {
		if p != nil && p.id == id {
			p.rules = newVLANRules(v)
			s.publish(slot, p)
			s.table.forget(slot)
			return nil
		}
	}
	return fmt.Errorf("set VLANs of port %d: %w", id, ErrNoPort)
}

// vlanRules are a VLAN made ready for the packet path. They never change.
type vlanRules struct {
	carried     [4096 / 64]uint64 // a bit for each VLAN
	untagged    int               // the VLAN of frames without a tag, in and out; or noVLAN
	access      bool              // frames with a tag are not let in
	transparent bool              // there are no rules
}

const noVLAN = -1

func newVLANRules(v VLAN) *vlanRules {
	r := &vlanRules{untagged: noVLAN}
	switch {
	case v.Access != 0:
		r.untagged, r.access = v.Access, true
	case v.Native != 0:
		r.untagged = v.Native
	case len(v.Trunk) == 0:
		r.untagged = 0
	}
	switch {
	case v.All:
		r.carry(1, MaxVLAN)
	case !r.access && len(v.Trunk) == 0:
		r.transparent = true
		r.carry(0, 4095) // the reserved one, too: as it is means as it is
	}
	for _, id := range v.Trunk {
		r.carry(id, id)
	}
	if r.untagged != noVLAN {
		r.carry(r.untagged, r.untagged)
	}
	return r
}

func (r *vlanRules) carry(first, last int) {
	for id := first; id <= last; id++ {
		r.carried[id/64] |= 1 << (id % 64)
	}
}

func (r *vlanRules) carries(vlan int) bool { return r.carried[vlan/64]>>(vlan%64)&1 != 0 }

// passage is a frame's way through the switch. A run of frames with one passage
// is delivered in one go.
type passage struct {
	to   int // slot, toAll or toNobody
	vlan int
	tag  tagKind
}

// forwardVLAN is what forward does once any port is not transparent.
func (s *Switch) forwardVLAN(v *view, from *swPort, frames []Frame, now int64) (overrun bool) {
	start, way := 0, passage{to: toNobody}
	var last lastRoute
	for i := range frames {
		next := s.routeVLAN(v, from, &frames[i], now, &last)
		if next != way {
			overrun = s.deliverVLAN(v, from, way, frames[start:i]) || overrun
			start, way = i, next
		}
	}
	return s.deliverVLAN(v, from, way, frames[start:]) || overrun
}

// routeVLAN applies the rules of the port that a frame came from, learns its
// source and says where it goes.
func (s *Switch) routeVLAN(v *view, from *swPort, f *Frame, now int64, last *lastRoute) passage {
	nowhere := passage{to: toNobody}
	if len(f.Data) < MinFrame {
		from.rxDropped.Add(1)
		return nowhere
	}
	rules := v.rules[from.slot]
	vlan, tag := tagOf(f.Data)
	admitted := vlan == 0 || !rules.access
	if vlan == 0 {
		vlan = rules.untagged
	}
	if !admitted || vlan == noVLAN || !rules.carries(vlan) {
		from.rxFiltered.Add(1)
		return nowhere
	}
	if vlan != 0 && !retaggable(f, tag) {
		from.rxDropped.Add(1)
		return nowhere
	}
	way := passage{to: s.route(from, f, vlan, now, last), vlan: vlan, tag: tag}
	if way.to >= 0 && (way.to >= len(v.rules) || v.rules[way.to] == nil || !v.rules[way.to].carries(vlan)) {
		way.to = toAll // learned while the port's rules changed
	}
	return way
}

// deliverVLAN sends a run to the ports that carry its VLAN, to each in the form
// that its rules ask for.
func (s *Switch) deliverVLAN(v *view, from *swPort, way passage, frames []Frame) (overrun bool) {
	if way.to == toNobody || len(frames) == 0 {
		return false
	}
	slots := v.ports
	first := 0
	if way.to != toAll {
		first, slots = way.to, slots[way.to:way.to+1]
	}
	var pending [tagEdits]bool
	for i, p := range slots {
		if p == nil || p == from || !v.rules[first+i].carries(way.vlan) {
			continue
		}
		switch edit := v.rules[first+i].edit(way); edit {
		case keepTag:
			overrun = p.out.Write(frames) > 0 && way.to != toAll || overrun
		case refuse:
			p.txFiltered.Add(uint64(len(frames)))
		default:
			pending[edit] = true
		}
	}
	// What has to be changed is changed once for all the ports that want it.
	for edit := range pending {
		if !pending[edit] {
			continue
		}
		r := s.retaggers.Get().(*retagger)
		for rest := frames; len(rest) > 0; {
			var part []Frame
			part, rest = r.apply(tagEdit(edit), way.vlan, rest)
			for i, p := range slots {
				if p != nil && p != from && v.rules[first+i].carries(way.vlan) && v.rules[first+i].edit(way) == tagEdit(edit) {
					overrun = p.out.Write(part) > 0 && way.to != toAll || overrun
				}
			}
		}
		s.retaggers.Put(r)
	}
	return overrun
}

// edit says what is done with the frames of a run before they leave by a port
// that carries their VLAN.
func (r *vlanRules) edit(way passage) tagEdit {
	switch {
	case way.vlan == 0: // it has no tag, or one that stays what it is
		return keepTag
	case way.vlan != r.untagged && way.tag == noTag:
		return pushTag
	case way.vlan != r.untagged && way.tag&priorityTag != 0:
		return fillTag
	case way.vlan != r.untagged || way.tag == noTag:
		return keepTag
	case way.tag&nestedTag != 0 && !r.access:
		return refuse
	}
	return popTag
}
