package supervisor

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// dialPatience is how long a switch of somebody else's may take to let us in.
const dialPatience = 10 * time.Second

// redialEvery is how often we look whether one that has gone is back.
const redialEvery = time.Second

// openPlugs opens what the network is joined with outside of the lab. Relative
// paths start at base.
func (n *network) openPlugs(base string, events event.Sink) error {
	for _, p := range n.description().Plugs {
		c, err := n.openPlug(p, under(base, p.Path), events)
		if err != nil {
			return fmt.Errorf("network %s: plug %s %s: %w", n.name, p.Kind, p.Path, err)
		}
		n.plugs, n.plugged = append(n.plugs, c), append(n.plugged, p)
	}
	return nil
}

// plugName is what the ports of a plug are called by: the last part of its path,
// or all of it where that is another's, too. With a folder first it says so by a
// dot, since "alice/eth0" is a card.
func plugName(p lab.Plug, all []lab.Plug) string {
	base := filepath.Base(p.Path)
	for _, other := range all {
		if other.Path != p.Path && filepath.Base(other.Path) == base {
			if path := filepath.Clean(p.Path); !filepath.IsAbs(path) && path[0] != '.' {
				return "./" + path
			}
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
	var plugged sync.Map // the cable of a peer, by its ID: who comes next may have its name
	accept := func(peer wire.Peer, port vnet.Port) error {
		n.newcomer(name(peer))
		err := n.attach(port, name(peer), &lab.Card{VLAN: p.VLAN}, nil)
		if err == nil {
			plugged.Store(peer.ID, n.cable(name(peer)))
		}
		return err
	}
	o := wire.ListenOptions{
		Gone: func(peer wire.Peer) {
			c, _ := plugged.LoadAndDelete(peer.ID)
			n.left(name(peer), c.(*cable))
		},
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
	return n.openOutlet(p, path, "vde:"+plug, events)
}

// outlet is a plug into somebody else's switch, which goes in again when that
// switch has gone and comes back.
type outlet struct {
	network *network
	plug    lab.Plug
	path    string
	name    string // of our port
	events  event.Sink
	cancel  context.CancelFunc
	redials sync.WaitGroup
}

// outgoing is a port that says when it was closed: its end is the switch's, too.
type outgoing struct {
	*wire.VDE
	closed func() // may be called more than once
}

func (o *outgoing) Close() error {
	defer o.closed()
	return o.VDE.Close()
}

func (n *network) openOutlet(p lab.Plug, path, name string, events event.Sink) (io.Closer, error) {
	o := &outlet{network: n, plug: p, path: path, name: name, events: events}
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	port, gone, err := o.dial(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	if mtu := n.description().MTU; mtu > lab.DefaultMTU { // which kind of switch it is nobody says
		o.tell(event.Warn, fmt.Sprintf("the network's mtu is %d, and a vde_switch cuts packets of more than %d bytes; let what talks through it send smaller ones, or make the network's mtu %[2]d", mtu, lab.DefaultMTU))
	}
	o.redials.Go(func() { o.keep(ctx, port, gone) })
	return o, nil
}

// dial plugs in; gone is closed when the port has ended.
func (o *outlet) dial(ctx context.Context) (port io.Closer, gone <-chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	v, err := wire.DialVDE(ctx, o.path, wire.VDEOptions{MaxFrame: o.network.description().MTU + vnet.MinFrame + 4})
	if err != nil {
		return nil, nil, err
	}
	over := make(chan struct{})
	out := &outgoing{v, sync.OnceFunc(func() { close(over) })}
	if err := o.network.attach(out, o.name, &lab.Card{VLAN: o.plug.VLAN}, nil); err != nil {
		return nil, nil, err // which has closed it
	}
	return out, over, nil
}

// keep plugs in again, until ctx ends.
func (o *outlet) keep(ctx context.Context, port io.Closer, gone <-chan struct{}) {
	for {
		select {
		case <-gone:
		case <-ctx.Done():
			port.Close()
		}
		o.network.forget(o.name)
		if ctx.Err() != nil {
			return
		}
		o.tell(event.Warn, "its switch has gone; it is plugged in again when that is back")
		for port = nil; port == nil; {
			select {
			case <-time.After(redialEvery):
			case <-ctx.Done():
				return
			}
			port, gone, _ = o.dial(ctx) // which is not there yet, and may never be
		}
		o.tell(event.Note, "it is plugged in again")
	}
}

func (o *outlet) tell(kind event.Kind, text string) {
	o.events.Emit(event.Event{Kind: kind, Task: "plug", Subject: o.network.name, Message: fmt.Sprintf("plug %s %s: %s", o.plug.Kind, o.plug.Path, text)})
}

// Close unplugs it.
func (o *outlet) Close() error {
	o.cancel()
	o.redials.Wait()
	return nil
}

// closePlugs ends what the network is joined with.
func (n *network) closePlugs() {
	for _, c := range n.plugs {
		c.Close()
	}
	n.plugs, n.plugged = nil, nil
}

// forget drops the cable of a port that has gone.
func (n *network) forget(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lose(name)
}

// newcomer makes room for who plugs in, and has nothing of who had that name before.
func (n *network) newcomer(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.set, name)
}

// left is forget for a cable that does not come back. What was plugged in by its
// name since is left alone.
func (n *network) left(name string, c *cable) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cables[name] == c {
		n.lose(name)
		delete(n.set, name)
	}
}
