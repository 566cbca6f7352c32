package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wolffia/internal/lab"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/capture"
	"wolffia/internal/vnet/capture/filter"
	"wolffia/internal/vnet/link"
)

// CaptureOptions say which frames are wanted.
type CaptureOptions struct {
	Machine string        // those of its cards, both ways
	Network string        // or those of a network, each once
	Filter  string        // an expression of tcpdump's; empty takes all
	Last    time.Duration // those that passed so long ago at most, in place of those to come
	Count   uint64        // ends after so many frames; 0 means never
}

// wanted is a capture, ready to begin.
type wanted struct {
	nets      []*network // where frames are looked at
	port      func(name string) bool
	direction capture.Direction
	filter    *filter.Filter
	hosts     []capture.Host
	header    capture.Header
}

// look says where the frames of a capture pass. The error is a mistake in what
// was asked for.
func (l *Lab) look(o CaptureOptions) (*wanted, error) {
	l.mu.Lock()
	nets, p := maps.Clone(l.nets), l.plan
	l.mu.Unlock()
	if p == nil {
		return nil, errClosed
	}
	w := &wanted{direction: capture.Once, port: func(string) bool { return true }}
	switch {
	case o.Machine != "" && o.Network != "":
		return nil, errors.New("a capture is of a machine or of a network, not of both")
	case o.Machine != "":
		m, err := l.member(o.Machine)
		if err != nil {
			return nil, err
		}
		w.direction = capture.Both
		w.port = func(name string) bool { return strings.HasPrefix(name, m.name+"/") }
		for _, c := range m.description().Cards {
			if n := nets[c.Network]; n != nil { // as none is that could not be made
				w.nets = append(w.nets, n)
			}
		}
	default:
		if err := lab.OneOf("network", o.Network, slices.Sorted(maps.Keys(nets))); err != nil {
			return nil, err
		}
		w.nets = []*network{nets[o.Network]}
	}
	names := filter.Options{Hosts: map[string][]netip.Addr{}, Ethers: map[string][]net.HardwareAddr{}, Networks: map[string][]netip.Prefix{}}
	for _, m := range p.machines {
		for i := range m.Cards {
			c := &m.Cards[i]
			names.Ethers[m.Name] = append(names.Ethers[m.Name], p.mac(m, i))
			if at := p.at(m, c); at.v4.IsValid() {
				names.Hosts[m.Name] = append(names.Hosts[m.Name], at.v4.Addr(), at.v6.Addr())
			}
		}
		w.hosts = append(w.hosts, capture.Host{Name: m.Name, Addrs: names.Hosts[m.Name]})
	}
	for name, n := range nets {
		if subnet := n.description().Subnet; subnet.IsValid() {
			names.Networks[name] = []netip.Prefix{subnet}
		}
		names.Hosts["gateway"] = append(names.Hosts["gateway"], n.gatewayAddrs()...)
	}
	var err error
	if w.filter, err = filter.Parse(o.Filter, names); err != nil {
		return nil, fmt.Errorf("filter %q: %w", o.Filter, err)
	}
	return w, nil
}

// CheckCapture says what is wrong with a capture that is wanted.
func (l *Lab) CheckCapture(o CaptureOptions) error {
	w, err := l.look(o)
	if err != nil || o.Last == 0 {
		return err
	}
	for _, n := range w.nets {
		if n.kept() == nil {
			return fmt.Errorf("network %s keeps nothing of what has passed (ring: 0)", n.name)
		}
	}
	return nil
}

// Last writes what passed in the time o.Last as pcapng, and says how many frames
// that are.
func (l *Lab) Last(w io.Writer, o CaptureOptions) (frames int, err error) {
	c, err := l.look(o)
	if err != nil {
		return 0, err
	}
	s := capture.Selection{Direction: c.direction, Filter: c.filter, Hosts: c.hosts, Header: c.header, Interface: func(i capture.Interface) bool { return c.port(i.Name) }}
	if o.Last > 0 {
		s.Since = time.Now().Add(-o.Last)
	}
	var rings []*capture.Ring
	for _, n := range c.nets {
		if r := n.kept(); r != nil && !slices.Contains(rings, r) {
			rings = append(rings, r)
		}
	}
	return capture.Dump(w, s, rings...)
}

// Capture writes what passes from now on as pcapng, until ctx ends, o.Count is
// reached, or w fails. Machines that start meanwhile are part of it.
func (l *Lab) Capture(ctx context.Context, w io.Writer, o CaptureOptions) error {
	c, err := l.look(o)
	if err != nil {
		return err
	}
	live := capture.NewLive(w, capture.LiveOptions{Direction: c.direction, Filter: c.filter, Hosts: c.hosts, Header: c.header, Count: o.Count})
	var removes []func()
	for _, n := range c.nets {
		removes = append(removes, n.observe(func(i capture.Interface) vnet.Observer {
			if !c.port(i.Name) {
				return nil
			}
			return live.Interface(i)
		}))
	}
	select {
	case <-ctx.Done():
	case <-l.ctx.Done():
	case <-live.Done():
	}
	for _, remove := range removes {
		remove()
	}
	ending, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return live.Close(ending)
}

// onlooker is somebody who looks at all links of a network, those that come
// later, too.
type onlooker struct {
	wants func(capture.Interface) vnet.Observer // nil for a link that it does not want
	ends  map[*link.Link]func()                 // by the links that it looks at; guarded by the network
}

// look begins to look at a link; the network is locked.
func (w *onlooker) look(i capture.Interface, l *link.Link) {
	if o := w.wants(i); o != nil {
		w.ends[l] = l.Observe(o)
	}
}

// observe adds an onlooker until remove is called.
func (n *network) observe(wants func(capture.Interface) vnet.Observer) (remove func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := &onlooker{wants: wants, ends: map[*link.Link]func(){}}
	n.onlookers[w] = struct{}{}
	for name, c := range n.cables {
		w.look(n.interfaceOf(name, c.mac), c.Link)
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.onlookers, w)
		for _, end := range w.ends {
			end()
		}
	}
}

func (n *network) interfaceOf(name string, mac net.HardwareAddr) capture.Interface {
	return capture.Interface{Name: name, Description: n.name, MAC: mac}
}

// saveCapture writes what passed last on the cards of a machine into the lab's
// folder, and gives the file's path. Where no frame is kept it leaves what is there,
// and gives an empty path.
func (l *Lab) saveCapture(name string) (string, error) {
	path := filepath.Join(l.cfg.Dir, name+".pcapng")
	unfinished := path + ".new"
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("save what passed on the cards: %w", err)
	}
	frames, err := l.Last(f, CaptureOptions{Machine: name})
	if err = errors.Join(err, f.Close()); err == nil && frames > 0 {
		return path, os.Rename(unfinished, path)
	}
	return "", errors.Join(err, os.Remove(unfinished))
}
