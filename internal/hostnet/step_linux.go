package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wolffia/internal/vnet/wire"
)

// step is one change to the host, small enough that it happens or does not. It
// is data, so that the journal can keep it.
type step interface {
	// commands do the same, in a shell.
	commands() []string
	// do takes the step.
	do(a *actor) error
	// undo takes it back. It does so as well when it was taken back already,
	// or never taken, because whoever crashed did not say.
	undo(a *actor) error
}

// actor takes steps, and has what they leave in this process.
type actor struct {
	taps   map[string]*wire.Tap
	ledger *ledger
	// before is called before each change, with the command for it; an error
	// takes the place of the change. Tests break off there.
	before func(what string) error
}

func (a *actor) change(what string, do func() error) error {
	if a.before != nil {
		if err := a.before(what); err != nil {
			return err
		}
	}
	return do()
}

// newStep makes an empty step of the kind that a journal names; nil where there is
// none.
func newStep(kind string) step {
	switch kind {
	case "tap":
		return &tapStep{}
	case "link":
		return &linkStep{}
	case "set":
		return &setStep{}
	case "up":
		return &upStep{}
	case "master":
		return &masterStep{}
	case "addr":
		return &addrStep{}
	case "route":
		return &routeStep{}
	case "mac":
		return &macStep{}
	case "neigh":
		return &neighStep{}
	case "sysctl":
		return &sysctlStep{}
	case "shared":
		return &sharedStep{}
	case "move":
		return &moveStep{}
	case "table":
		return &tableStep{}
	}
	return nil
}

func stepKind(s step) string {
	switch s.(type) {
	case *tapStep:
		return "tap"
	case *linkStep:
		return "link"
	case *setStep:
		return "set"
	case *upStep:
		return "up"
	case *masterStep:
		return "master"
	case *addrStep:
		return "addr"
	case *routeStep:
		return "route"
	case *macStep:
		return "mac"
	case *neighStep:
		return "neigh"
	case *sysctlStep:
		return "sysctl"
	case *sharedStep:
		return "shared"
	case *moveStep:
		return "move"
	case *tableStep:
		return "table"
	}
	return ""
}

// dev is an interface. Those of the host, and those that we give a number when
// we make them, are known by it for good; a tap's is found by its name.
type dev struct {
	Name  string
	Index int `json:",omitempty"`
}

func (d dev) index() (int, error) {
	if d.Index != 0 {
		return d.Index, nil
	}
	l, err := netlink.LinkByName(d.Name)
	if err != nil {
		return 0, fmt.Errorf("find interface %s: %w", d.Name, err)
	}
	return l.Attrs().Index, nil
}

// find gives the interface if it is still there.
func (d dev) find() (netlink.Link, error) {
	if d.Index == 0 {
		return netlink.LinkByName(d.Name)
	}
	return netlink.LinkByIndex(d.Index)
}

// gone says that what an undo works on is not there, or is as it was.
func gone(err error) bool {
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return true
	}
	for _, e := range []error{unix.ENODEV, unix.ENXIO, unix.ENOENT, unix.ESRCH, unix.EADDRNOTAVAIL, unix.EEXIST} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func unlessGone(err error) error {
	if err != nil && gone(err) {
		return nil
	}
	return err
}

// tapStep makes a tap, or takes one that is given. It goes with the process.
type tapStep struct {
	Name  string
	Given bool `json:",omitempty"`
}

func (s *tapStep) commands() []string {
	if s.Given {
		return nil
	}
	return []string{"ip tuntap add dev " + s.Name + " mode tap vnet_hdr"}
}

func (s *tapStep) do(a *actor) error {
	t, err := openTap(s.Name)
	if err != nil {
		return err
	}
	a.taps[s.Name] = t
	return nil
}

// undo removes the interface before it returns; the descriptor alone is freed
// only when the last read on it has ended.
func (s *tapStep) undo(a *actor) error {
	t := a.taps[s.Name]
	if t == nil {
		return nil // it went with the process that made it
	}
	t.Close()
	if s.Given {
		return nil
	}
	l, err := netlink.LinkByName(s.Name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	return unlessGone(err)
}

// linkStep makes a bridge, or a VLAN interface on Parent. Its index was chosen
// at random beforehand, so that after a crash it can be told from another
// interface of that name.
type linkStep struct {
	dev
	MAC    net.HardwareAddr `json:",omitempty"` // of a bridge
	Parent dev              `json:",omitzero"`
	VLAN   int              `json:",omitempty"`
}

func (s *linkStep) commands() []string {
	if s.VLAN != 0 {
		return []string{fmt.Sprintf("ip link add link %s name %s type vlan id %d", s.Parent.Name, s.Name, s.VLAN)}
	}
	mac := ""
	if s.MAC != nil {
		mac = " address " + s.MAC.String()
	}
	return []string{fmt.Sprintf("ip link add name %s%s type bridge", s.Name, mac)}
}

func (s *linkStep) do(*actor) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.HardwareAddr = s.Name, s.Index, s.MAC
	if s.VLAN == 0 {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	}
	parent, err := s.Parent.index()
	if err != nil {
		return err
	}
	attrs.ParentIndex = parent
	err = netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: s.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return noVLANs(err)
	}
	return err
}

func (s *linkStep) undo(*actor) error {
	l, err := s.find()
	if err != nil {
		return unlessGone(err)
	}
	if l.Attrs().Name != s.Name {
		return nil
	}
	return unlessGone(netlink.LinkDel(l))
}

// setStep sets what an interface of ours has; it goes with the interface.
type setStep struct {
	dev
	MAC net.HardwareAddr `json:",omitempty"`
	MTU int              `json:",omitempty"`
}

func (s *setStep) commands() []string {
	c := "ip link set dev " + s.Name
	if s.MAC != nil {
		c += " address " + s.MAC.String()
	}
	if s.MTU != 0 {
		c += fmt.Sprintf(" mtu %d", s.MTU)
	}
	return []string{c}
}

func (s *setStep) do(*actor) error {
	l, err := s.find()
	if err == nil && s.MAC != nil {
		err = netlink.LinkSetHardwareAddr(l, s.MAC)
	}
	if err == nil && s.MTU != 0 {
		err = netlink.LinkSetMTU(l, s.MTU)
	}
	return err
}

func (s *setStep) undo(*actor) error { return nil }

// upStep brings an interface up. One of the host's goes down again.
type upStep struct {
	dev
	Host bool `json:",omitempty"`
}

func (s *upStep) commands() []string { return []string{"ip link set dev " + s.Name + " up"} }

func (s *upStep) do(*actor) error {
	l, err := s.find()
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func (s *upStep) undo(*actor) error {
	if !s.Host {
		return nil
	}
	l, err := s.find()
	if err == nil {
		err = netlink.LinkSetDown(l)
	}
	return unlessGone(err)
}

// masterStep puts an interface into a bridge.
type masterStep struct {
	dev
	Bridge dev
}

func (s *masterStep) commands() []string {
	return []string{"ip link set dev " + s.Name + " master " + s.Bridge.Name}
}

func (s *masterStep) do(*actor) error {
	l, err := s.find()
	if err != nil {
		return err
	}
	bridge, err := s.Bridge.index()
	if err != nil {
		return err
	}
	return netlink.LinkSetMasterByIndex(l, bridge)
}

func (s *masterStep) undo(*actor) error {
	l, err := s.find()
	if err != nil {
		return unlessGone(err)
	}
	bridge, err := s.Bridge.index()
	if err != nil || l.Attrs().MasterIndex != bridge {
		return unlessGone(err)
	}
	return unlessGone(netlink.LinkSetNoMaster(l))
}

// addrStep gives an interface of ours an address.
type addrStep struct {
	dev
	Addr address
}

func (s *addrStep) commands() []string {
	return []string{"ip addr add " + s.Addr.String() + " dev " + s.Name}
}

func (s *addrStep) do(*actor) error {
	i, err := s.index()
	if err != nil {
		return err
	}
	return s.Addr.change(unix.RTM_NEWADDR, i)
}

func (s *addrStep) undo(*actor) error { return nil } // it goes with the interface

// routeStep makes a route through an interface of ours.
type routeStep struct {
	dev
	Route route
}

func (s *routeStep) commands() []string {
	return []string{"ip " + familyFlag(s.Route) + "route add " + s.Route.words(s.Name)}
}

func familyFlag(r route) string {
	if r.To.Addr().Is6() {
		return "-6 "
	}
	return ""
}

func (s *routeStep) do(*actor) error {
	i, err := s.index()
	if err != nil {
		return err
	}
	return s.Route.change(unix.RTM_NEWROUTE, i)
}

func (s *routeStep) undo(*actor) error { return nil } // it goes with the interface

// macStep keeps the hardware address of a bridge of the host that no interface
// is in. The kernel would change it with the first one.
type macStep struct {
	dev
	MAC net.HardwareAddr
}

func (s *macStep) commands() []string {
	return []string{"ip link set dev " + s.Name + " address " + s.MAC.String()}
}

func (s *macStep) do(*actor) error {
	l, err := s.find()
	if err != nil {
		return err
	}
	return netlink.LinkSetHardwareAddr(l, s.MAC)
}

func (s *macStep) undo(*actor) error { return nil } // it is the one that the bridge had

// neighStep has the host answer for an address on one of its own interfaces.
type neighStep struct {
	dev
	Neigh neighbour
}

func (s *neighStep) commands() []string {
	return []string{"ip neigh add " + s.Neigh.String() + " dev " + s.Name}
}

func (s *neighStep) do(*actor) error   { return s.Neigh.add(s.Index) }
func (s *neighStep) undo(*actor) error { return unlessGone(s.Neigh.remove(s.Index)) }

// sysctlStep sets a sysctl of an interface of ours; it goes with the interface.
type sysctlStep struct{ Key, Value string }

func (s *sysctlStep) commands() []string   { return []string{sysctlCommand(s.Key, s.Value)} }
func (s *sysctlStep) do(*actor) error      { return writeSysctl(s.Key, s.Value) }
func (s *sysctlStep) undo(*actor) error    { return nil }
func sysctlCommand(key, val string) string { return "sysctl -qw " + key + "=" + val }

// sharedStep sets a sysctl of the host, which other labs may need, too.
type sharedStep struct{ Setting setting }

func (s *sharedStep) commands() []string {
	return []string{sysctlCommand(s.Setting.Key, s.Setting.Value)}
}
func (s *sharedStep) do(a *actor) error   { return a.ledger.acquire(s.Setting) }
func (s *sharedStep) undo(a *actor) error { return a.ledger.release(s.Setting.Key) }

// record is a step as the journal has it.
type record struct {
	Kind string
	Step json.RawMessage
}

func marshalStep(s step) (record, error) {
	b, err := json.Marshal(s)
	return record{stepKind(s), b}, err
}

func (r record) step() (step, error) {
	s := newStep(r.Kind)
	if s == nil {
		return nil, fmt.Errorf("there is no step %q", r.Kind)
	}
	if err := json.Unmarshal(r.Step, s); err != nil {
		return nil, fmt.Errorf("read step %q: %w", r.Kind, err)
	}
	return s, nil
}

// describe is a step in an error.
func describe(s step) string {
	switch s := s.(type) {
	case *moveStep:
		return "move what " + s.From.Name + " has to " + s.To.Name
	case *tableStep:
		return "make table inet " + s.Name
	case *tapStep:
		if s.Given {
			return "take tap " + s.Name
		}
	}
	return strings.Join(s.commands(), "; ")
}
