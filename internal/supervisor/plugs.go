package supervisor

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// dialPatience is how long a switch of somebody else's may take to let us in.
const dialPatience = 10 * time.Second

// openPlugs opens what the network is joined with outside of the lab. Relative
// paths start at base.
func (n *network) openPlugs(base string, events event.Sink) error {
	for _, p := range n.description().Plugs {
		c, err := n.openPlug(p, under(base, p.Path), events)
		if err != nil {
			return fmt.Errorf("network %s: plug %s %s: %w", n.name, p.Kind, p.Path, err)
		}
		n.plugs = append(n.plugs, c)
	}
	return nil
}

// plugName is what the ports of a plug are called by: the last part of its path,
// or all of it where that is another's, too.
func plugName(p lab.Plug, all []lab.Plug) string {
	base := filepath.Base(p.Path)
	for _, other := range all {
		if other.Path != p.Path && filepath.Base(other.Path) == base {
			return p.Path
		}
	}
	return base
}

func (n *network) openPlug(p lab.Plug, path string, events event.Sink) (io.Closer, error) {
	plug := plugName(p, n.description().Plugs)
	name := func(peer wire.Peer) string { // "lan.vde:1", never what a card is called
		_, number, _ := strings.Cut(peer.Name, "/")
		return plug + ":" + number
	}
	accept := func(peer wire.Peer, port vnet.Port) error {
		return n.attach(port, name(peer), &lab.Card{VLAN: p.VLAN}, nil)
	}
	o := wire.ListenOptions{
		Gone: func(peer wire.Peer) { n.forget(name(peer)) },
		Refused: func(err error) {
			events.Emit(event.Event{Kind: event.Warn, Task: "plug", Subject: n.name, Message: fmt.Sprintf("plug %s: %v", p.Path, err)})
		},
	}
	switch p.Kind {
	case lab.PlugVDESwitch:
		return wire.ServeVDE(path, o, accept)
	case lab.PlugStream:
		return wire.ListenStream(path, o, accept)
	case lab.PlugBess:
		return wire.ListenBess(path, o, accept)
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialPatience)
	defer cancel()
	port, err := wire.DialVDE(ctx, path, wire.VDEOptions{MaxFrame: n.description().MTU + vnet.MinFrame + 4})
	if err != nil {
		return nil, err
	}
	return port, n.attach(port, "vde:"+plug, &lab.Card{VLAN: p.VLAN}, nil)
}

// closePlugs ends what the network is joined with.
func (n *network) closePlugs() {
	for _, c := range n.plugs {
		c.Close()
	}
	n.plugs = nil
}

// forget drops the cable of a port that has gone.
func (n *network) forget(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lose(name)
}
