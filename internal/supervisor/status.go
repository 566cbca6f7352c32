package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"wolffia/internal/access"
	"wolffia/internal/vnet/link"
)

// MachineStatus is what is known of a machine of a lab.
type MachineStatus struct {
	Name     string       `json:"name"`
	State    State        `json:"state"`
	Since    time.Time    `json:"since"`
	Backend  string       `json:"backend"`
	Arch     string       `json:"arch"`
	Memory   int64        `json:"memory"` // bytes
	Restarts int          `json:"restarts"`
	Error    string       `json:"error,omitempty"`
	Cards    []CardStatus `json:"cards,omitempty"`
	Forwards []string     `json:"forwards,omitempty"`
	Log      string       `json:"log"`                // path of what its console said
	WaitsFor string       `json:"waitsFor,omitempty"` // the machine that it is to start after
}

// CardStatus is what is known of a network card.
type CardStatus struct {
	Name    string       `json:"name"`
	Network string       `json:"network"`
	MAC     string       `json:"mac"`
	Addrs   []netip.Addr `json:"addresses,omitempty"`
	VLAN    int          `json:"vlan,omitempty"`
	Up      bool         `json:"up"`
}

// Status tells of all machines, by name.
func (l *Lab) Status() []MachineStatus {
	l.mu.Lock()
	members, p := maps.Clone(l.members), l.plan
	l.mu.Unlock()
	var out []MachineStatus
	for _, name := range slices.Sorted(maps.Keys(members)) {
		out = append(out, members[name].status(p))
	}
	return out
}

func (m *member) status(p *plan) MachineStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	cfg := m.prepared.cfg
	s := MachineStatus{
		Name: m.name, State: m.state, Since: m.since, Backend: cfg.Backend.Name(), Arch: cfg.Arch,
		Memory: int64(cfg.Machine.Memory), Restarts: max(0, m.lives-1), Log: m.hub.path, WaitsFor: m.waitsFor,
	}
	if m.err != nil {
		s.Error = m.err.Error()
	}
	for i := range m.spec.Cards {
		c := &m.spec.Cards[i]
		card := CardStatus{Name: cardName(i), Network: c.Network, MAC: p.mac(m.spec, i).String(), VLAN: c.VLAN.Access, Up: !c.Down}
		if at := p.at(m.spec, c); at.v4.IsValid() {
			card.Addrs = []netip.Addr{at.v4.Addr(), at.v6.Addr()}
		}
		s.Cards = append(s.Cards, card)
	}
	for _, f := range m.spec.Forwards {
		s.Forwards = append(s.Forwards, f.String())
	}
	return s
}

// NotRunningError is a machine that is asked for something only a running one
// can do.
type NotRunningError struct {
	Machine string
	State   State
	Err     error // why it does not run, if it failed
}

func (e *NotRunningError) Error() string {
	s := fmt.Sprintf("machine %s does not run: it is %s", e.Machine, e.State)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Fix says what to do.
func (e *NotRunningError) Fix() string { return "start it with: wolffia restart " + e.Machine }

// running gives a machine's kernel, and waits for one that is about to start.
func (m *member) running(ctx context.Context) (*Guest, error) {
	for {
		m.mu.Lock()
		g, state, err, changed := m.guest, m.state, m.err, m.changed
		m.mu.Unlock()
		switch {
		case g != nil:
			return g, nil
		case state.settled() || state == StateStopping:
			return nil, &NotRunningError{m.name, state, err}
		}
		select {
		case <-changed:
		case <-time.After(checkEvery): // the kernel starts within a state
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Connect opens a connection to a machine's ssh server over its control link,
// once it can be entered, and gives the keys that it takes.
func (l *Lab) Connect(ctx context.Context, name string) (net.Conn, access.Keys, error) {
	m, err := l.member(name)
	if err != nil {
		return nil, access.Keys{}, err
	}
	g, err := m.running(ctx)
	if err != nil {
		return nil, access.Keys{}, err
	}
	if g.link == nil {
		return nil, access.Keys{}, fmt.Errorf("machine %s boots from its disk by firmware: nothing of wolffia's is in it; use its console", name)
	}
	if !g.boot.open(ctx) {
		if ctx.Err() != nil {
			return nil, access.Keys{}, context.Cause(ctx)
		}
		return nil, access.Keys{}, &NotRunningError{Machine: name, State: StateStopping}
	}
	conn, err := g.knock(ctx)
	if err != nil {
		return nil, access.Keys{}, err
	}
	return newMortal(conn, g), g.keys, nil
}

// mortal is a connection to a guest that ends with it: a machine that dies does
// not say so on its connections.
type mortal struct {
	net.Conn
	stop func() bool
}

func newMortal(conn net.Conn, g *Guest) *mortal {
	return &mortal{conn, context.AfterFunc(g.ctx, func() { conn.Close() })}
}

// CloseWrite says that nothing more will be sent.
func (m *mortal) CloseWrite() error {
	if half, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (m *mortal) Close() error {
	m.stop()
	return m.Conn.Close()
}

// Keys are those of a machine that runs.
func (l *Lab) Keys(ctx context.Context, name string) (access.Keys, error) {
	m, err := l.member(name)
	if err != nil {
		return access.Keys{}, err
	}
	g, err := m.running(ctx)
	if err != nil {
		return access.Keys{}, err
	}
	return g.keys, nil
}

// writeKeys leaves the keys of a machine's life where OpenSSH can find them:
// NAME.key and NAME.known_hosts in the lab's folder.
func (l *Lab) writeKeys(name string, k access.Keys) error {
	identity, err := k.Identity()
	if err != nil {
		return err
	}
	known, err := k.KnownHost(name)
	if err != nil {
		return err
	}
	for file, data := range map[string][]byte{name + ".key": identity, name + ".known_hosts": known} {
		if err := os.WriteFile(filepath.Join(l.cfg.Dir, file), data, 0o600); err != nil {
			return fmt.Errorf("leave the machine's keys: %w", err)
		}
	}
	return nil
}

// View looks at a machine's console.
func (l *Lab) View(name string, replay bool) (*Viewer, error) {
	m, err := l.member(name)
	if err != nil {
		return nil, err
	}
	return m.hub.view(replay), nil
}

// Follow reads a machine's console from the beginning of its log on.
func (l *Lab) Follow(name string) (*Follower, error) {
	m, err := l.member(name)
	if err != nil {
		return nil, err
	}
	return m.hub.follower()
}

// Log is the path of what a machine's console said, the newest of up to two
// files; the one before has .1 behind its name.
func (l *Lab) Log(name string) (string, error) {
	m, err := l.member(name)
	if err != nil {
		return "", err
	}
	return m.hub.path, nil
}

// Wait waits until a machine's state is another one than seen, and gives it.
func (l *Lab) Wait(ctx context.Context, name string, seen State) (State, error) {
	m, err := l.member(name)
	if err != nil {
		return "", err
	}
	for {
		m.mu.Lock()
		state, changed := m.state, m.changed
		m.mu.Unlock()
		if state != seen {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return state, context.Cause(ctx)
		}
	}
}

// LinkStatus is what passed a port of a network, from the view of what is
// plugged in: out is what came from it.
type LinkStatus struct {
	Network string  `json:"network"`
	Name    string  `json:"name"`           // "alice/eth0", "gateway"
	VLAN    int     `json:"vlan,omitempty"` // that of an access port
	Up      bool    `json:"up"`
	Out     Traffic `json:"out"`
	In      Traffic `json:"in"`

	OutImpairment string `json:"outImpairment,omitempty"`
	InImpairment  string `json:"inImpairment,omitempty"`
}

// Traffic is what passed one direction of a link, and what the switch lost before
// the link, or behind it.
type Traffic struct {
	link.Stats
	Switch SwitchDrops `json:"switch"`
}

// SwitchDrops counts frames that a switch did not let in, or out to a link.
type SwitchDrops struct {
	Dropped  uint64 `json:"dropped"`  // out: they were broken; in: the port's queue was full
	Filtered uint64 `json:"filtered"` // by the rules of the port's VLANs
}

// Links tells of all that is plugged into the lab's networks.
func (l *Lab) Links() []LinkStatus {
	l.mu.Lock()
	nets := maps.Clone(l.nets)
	l.mu.Unlock()
	var out []LinkStatus
	for _, name := range slices.Sorted(maps.Keys(nets)) {
		out = append(out, nets[name].status()...)
	}
	return out
}

func (n *network) status() (out []LinkStatus) {
	for _, st := range n.sw.Stats() {
		s := LinkStatus{Network: n.name, Name: st.Name, Up: true}
		s.Out.Frames, s.Out.Bytes = st.RxFrames, st.RxBytes
		s.In.Frames, s.In.Bytes = st.TxFrames, st.TxBytes
		if c := n.cable(st.Name); c != nil {
			s.Up, s.VLAN = c.Up(), c.vlan
			s.Out.Stats, s.In.Stats = c.Stats(link.Out), c.Stats(link.In)
			s.OutImpairment, s.InImpairment = c.Impairment(link.Out).String(), c.Impairment(link.In).String()
		}
		s.Out.Switch = SwitchDrops{st.RxDropped, st.RxFiltered}
		s.In.Switch = SwitchDrops{st.TxDropped, st.TxFiltered} // the link counts what it refused
		out = append(out, s)
	}
	return out
}
