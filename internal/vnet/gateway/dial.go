package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialContext connects to an address of the network, from the gateway's own.
// The networks are "tcp", "tcp4", "tcp6", "udp", "udp4" and "udp6"; the address
// is an IP address, or one of the network's names, and a port. A TCP
// connection has CloseWrite, as *net.TCPConn has.
func (g *Gateway) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := g.resolve(network, address)
	if err == nil && (!to.Addr().Is4() && g.cfg.NoIPv6) {
		err = errors.New("the network has no IPv6")
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	return dial(ctx, g.stack, network, netip.AddrPortFrom(g.selfFor(to.Addr()), 0), to)
}

// resolve reads an address that may be a name.
func (g *Gateway) resolve(network, address string) (netip.AddrPort, error) {
	if to, err := netip.ParseAddrPort(address); err == nil {
		return to, nil
	}
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := net.LookupPort(network, port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addrs, _ := g.names.lookup(name)
	for _, a := range addrs {
		if fits(network, a) {
			return netip.AddrPortFrom(a, uint16(n)), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("%s: no such name in the network", name)
}

func fits(network string, a netip.Addr) bool {
	switch network[len(network)-1] {
	case '4':
		return a.Is4()
	case '6':
		return a.Is6()
	}
	return true
}

// dial connects through a stack.
func dial(ctx context.Context, s *stack.Stack, network string, from, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	if len(network) < 3 || !fits(network, to.Addr()) {
		return fail(net.UnknownNetworkError(network))
	}
	switch network[:3] {
	case "tcp":
		ep, wq, err := connect(ctx, s, from, to)
		if err != nil {
			return fail(err)
		}
		return gonet.NewTCPConn(wq, ep), nil
	case "udp":
		local, remote := full(from), full(to)
		c, err := gonet.DialUDP(s, &local, &remote, protocolOf(to.Addr()))
		if err != nil {
			return fail(err)
		}
		return c, nil
	}
	return fail(net.UnknownNetworkError(network))
}

// connect makes a TCP connection from one of the stack's addresses.
func connect(ctx context.Context, s *stack.Stack, from, to netip.AddrPort) (tcpip.Endpoint, *waiter.Queue, error) {
	wq := &waiter.Queue{}
	ep, terr := s.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), wq)
	if terr != nil {
		return nil, nil, stackError(terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr = ep.Bind(full(from)); terr == nil {
		terr = ep.Connect(full(to))
	}
	if _, ok := terr.(*tcpip.ErrConnectStarted); ok {
		select {
		case <-ctx.Done():
			ep.Abort()
			return nil, nil, ctx.Err()
		case <-ready:
		}
		terr = ep.LastError()
	}
	if terr != nil {
		ep.Close()
		return nil, nil, stackError(terr)
	}
	ep.SocketOptions().SetDelayOption(false)
	return ep, wq, nil
}

// stackError gives an error of netstack as the one the kernel would give.
func stackError(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrConnectionAborted:
		return syscall.ECONNABORTED
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrHostUnreachable:
		return syscall.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable:
		return syscall.ENETUNREACH
	case *tcpip.ErrClosedForSend, *tcpip.ErrClosedForReceive:
		return net.ErrClosed
	}
	return errors.New(err.String())
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: toStack(a.Addr()), Port: a.Port()}
}

// Listen accepts TCP connections of guests at a port of the gateway's address,
// or of another address given, which the gateway then answers for.
func (g *Gateway) Listen(network, address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	l, err := gonet.ListenTCP(g.stack, full(at), protocolOf(at.Addr()))
	if err != nil {
		return nil, err
	}
	return &listener{l}, nil
}

// listener makes Close end Accept, which gonet's own does not.
type listener struct{ *gonet.TCPListener }

func (l *listener) Close() error {
	l.Shutdown()
	return l.TCPListener.Close()
}
