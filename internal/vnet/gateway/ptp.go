package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"wolffia/internal/vnet"
)

// LinkConfig describes a point-to-point link to one guest.
type LinkConfig struct {
	Local   netip.Prefix     // our address and the link's network, such as 169.254.77.1/30
	Peer    netip.Addr       // the guest's address in it
	MAC     net.HardwareAddr // ours; empty means 52:55 and the IPv4 address
	PeerMAC net.HardwareAddr // the guest's, so that nothing need be asked
	MTU     int              // 0 means 1500
}

// Link is a cable to one guest that carries connections from this process and
// nothing else: no services, no way out, no way in but ours.
type Link struct {
	cfg   LinkConfig
	stack *stack.Stack
	link  *link
}

// linkBatch is how many frames a link reads at a time; its traffic is small.
const linkBatch = 16

// NewLink starts a link on a port, which it owns from then on, also when it
// returns an error.
func NewLink(port vnet.Port, cfg LinkConfig) (*Link, error) {
	l, err := openLink(port, cfg)
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("link to %v: %w", cfg.Peer, err)
	}
	return l, nil
}

func openLink(port vnet.Port, cfg LinkConfig) (*Link, error) {
	a := cfg.Local.Addr()
	switch {
	case !a.IsValid() || !cfg.Local.Contains(cfg.Peer) || a == cfg.Peer:
		return nil, fmt.Errorf("the peer must be another address in %v", cfg.Local)
	case len(cfg.PeerMAC) != 6:
		return nil, errors.New("the peer's hardware address is needed")
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if len(cfg.MAC) == 0 {
		b := a.AsSlice()
		cfg.MAC = append(net.HardwareAddr{0x52, 0x55}, b[len(b)-4:]...)
	}
	k := newLink(port, cfg.MAC, cfg.MTU, linkBatch, 0)
	s, err := newStack(k, stackOptions{})
	if err == nil {
		err = addAddress(s, cfg.Local, true)
	}
	if err == nil {
		setRoutes(s, nil, cfg.Local)
		if terr := s.AddStaticNeighbor(nicID, protocolOf(cfg.Peer), toStack(cfg.Peer), tcpip.LinkAddress(cfg.PeerMAC)); terr != nil {
			err = fmt.Errorf("set neighbour: %v", terr)
		}
	}
	if err != nil {
		k.stop()
		return nil, err
	}
	k.start()
	return &Link{cfg: cfg, stack: s, link: k}, nil
}

// DialContext connects to the guest: see [Gateway.DialContext]. The address is
// an IP address and a port.
func (l *Link) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	return dial(ctx, l.stack, network, netip.AddrPortFrom(l.cfg.Local.Addr(), 0), to)
}

// Close ends every connection and waits for all goroutines.
func (l *Link) Close() error {
	l.link.stop()
	l.stack.Close()
	l.stack.Wait()
	return nil
}
