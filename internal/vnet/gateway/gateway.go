package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"wolffia/internal/vnet"
)

const nicID tcpip.NICID = 1

// Gateway is a running router. All methods may be called from any goroutine.
type Gateway struct {
	cfg    Config
	mac    [6]byte
	local  map[netip.Addr]bool // the gateway's own addresses
	ll     netip.Addr          // its link-local one
	near   *neighbours
	police *police
	stack  *stack.Stack
	link   *link
	host   *hostAddrs
	names  *names
	dns    *dnsServer
	dhcp   *dhcpServer
	tftp   *tftpServer
	adv    *advertiser
	tcp    *tcpTable
	udp    *udpTable
	echo   *echoTable
	fwd    *forwardTable
	ctx    context.Context
	cancel context.CancelFunc
	tasks  tasks
}

// New starts a gateway on a port, which it owns from then on, also when New
// returns an error. A forward whose host port is taken is a [*ForwardError].
func New(port vnet.Port, cfg Config) (*Gateway, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g := &Gateway{cfg: cfg, mac: [6]byte(cfg.MAC), host: &hostAddrs{}}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.link = newLink(port, cfg.MAC, cfg.MTU, 64, 0)
	g.addresses()
	g.near = newNeighbours()
	g.police = newPolice(func() bool { return g.tasks.start(func() { g.police.run(g.ctx) }) }, time.Now())
	g.link.filter, g.link.tick, g.link.idle = g.filter, g.police.tick, g.police.idle
	g.names = newNames(g)
	g.dhcp = newDHCPServer(g)
	g.tftp = newTFTPServer(g)
	g.adv = newAdvertiser(g)
	g.tcp, g.udp, g.echo = newTCPTable(g), newUDPTable(g), newEchoTable(g)
	g.fwd = newForwardTable(g)
	if err := g.open(); err != nil {
		g.Close()
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g, nil
}

func (g *Gateway) addresses() {
	c := &g.cfg
	g.local = map[netip.Addr]bool{c.Gateway(): true, c.DNS(): true}
	ll := linkLocal(c.MAC)
	if !c.NoIPv6 {
		g.ll = ll
		g.local[c.Gateway6()], g.local[c.DNS6()], g.local[ll] = true, true, true
	}
}

// open builds the stack and starts everything that runs by itself.
func (g *Gateway) open() error {
	s, err := newStack(g.link, stackOptions{icmp: true})
	if err != nil {
		return err
	}
	g.stack = s
	s.SetPromiscuousMode(nicID, true) // packets to any address are ours to handle
	s.SetSpoofing(nicID, true)        // and are answered from there
	nets := []netip.Prefix{g.cfg.Subnet}
	if !g.cfg.NoIPv6 {
		nets = append(nets, g.cfg.Prefix6, linkLocalNet)
	}
	for a := range g.local {
		for _, n := range nets {
			if n.Contains(a) {
				if err := addAddress(s, netip.PrefixFrom(a, n.Bits()), a == g.cfg.Gateway() || a == g.cfg.Gateway6()); err != nil {
					return err
				}
			}
		}
	}
	setRoutes(s, g.cfg.Routes, nets...)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, g.tcp.handlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, g.udp.handlePacket)
	s.SetTransportProtocolHandler(icmp.ProtocolNumber4, g.echo.handle4)
	s.SetTransportProtocolHandler(icmp.ProtocolNumber6, g.echo.handle6)
	if g.dns, err = newDNSServer(g); err != nil {
		return err
	}
	if err := g.tftp.serve(g.cfg.DHCP.TFTP); err != nil {
		return err
	}
	for _, f := range g.cfg.Forwards {
		if _, err := g.fwd.add(f); err != nil {
			return err
		}
	}
	g.link.start()
	if !g.cfg.NoIPv6 {
		g.tasks.start(g.adv.run)
	}
	return nil
}

// Config gives the configuration that New was given, with every default filled
// in.
func (g *Gateway) Config() Config { return g.cfg }

// Close ends every connection, closes the port and waits for all goroutines.
func (g *Gateway) Close() error {
	g.tasks.shut()
	g.cancel()
	g.fwd.close()
	g.link.stop()
	if g.dns != nil {
		g.dns.close()
	}
	g.tftp.close()
	if g.stack != nil {
		g.stack.Close()
	}
	g.tasks.wait()
	if g.stack != nil {
		g.stack.Wait()
	}
	return nil
}

// onClose calls f when the gateway closes, unless stop is called before.
func (g *Gateway) onClose(f func()) (stop func() bool) { return context.AfterFunc(g.ctx, f) }

// tasks are the goroutines of a gateway. After shut no new one starts.
type tasks struct {
	mu   sync.Mutex
	wg   sync.WaitGroup
	done bool
}

// begin says whether the caller may run; it then calls end.
func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.done {
		t.wg.Add(1)
	}
	return !t.done
}

func (t *tasks) end() { t.wg.Done() }

// start runs f in a goroutine, unless the gateway is closing.
func (t *tasks) start(f func()) bool {
	if !t.begin() {
		return false
	}
	go func() {
		defer t.end()
		f()
	}()
	return true
}

func (t *tasks) shut() {
	t.mu.Lock()
	t.done = true
	t.mu.Unlock()
}

func (t *tasks) wait() { t.wg.Wait() }

// stackOptions say what a stack is for.
type stackOptions struct{ icmp bool }

// newStack makes a netstack with one interface on the link.
func newStack(l *link, o stackOptions) (*stack.Stack, error) {
	// netstack writes to standard error what guests do wrong, as often as they do.
	log.SetTarget(&log.MultiEmitter{})
	opts := stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			arp.NewProtocol,
			ipv4.NewProtocol,
			// No duplicate address detection, so that addresses work at once,
			// and no trust in router advertisements of guests.
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol},
	}
	if o.icmp {
		opts.TransportProtocols = append(opts.TransportProtocols, icmp.NewProtocol4, icmp.NewProtocol6)
	}
	s := stack.New(opts)
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpReceiveBuffer, Max: tcpReceiveMax}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpSendBuffer, Max: tcpSendMax}
	// Losses are told by time, not by three duplicate acknowledgements: a tap
	// whose writer changes processors reorders, and that is no congestion.
	loss := tcpip.TCPRACKLossDetection | tcpip.TCPRACKNoDupTh
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &wait, &rcv, &snd, &loss} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, fmt.Errorf("set TCP option %T: %v", o, err)
		}
	}
	if err := s.CreateNIC(nicID, l); err != nil {
		return nil, fmt.Errorf("make interface: %v", err)
	}
	return s, nil
}

func addAddress(s *stack.Stack, p netip.Prefix, primary bool) error {
	props := stack.AddressProperties{PEB: stack.CanBePrimaryEndpoint}
	if primary {
		props.PEB = stack.FirstPrimaryEndpoint
	}
	err := s.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          protocolOf(p.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: toStack(p.Addr()), PrefixLen: p.Bits()},
	}, props)
	if err != nil {
		return fmt.Errorf("add address %v: %v", p, err)
	}
	return nil
}

// setRoutes says what lies on the link, and what behind its guests.
func setRoutes(s *stack.Stack, behind []Route, nets ...netip.Prefix) {
	subnet := func(n netip.Prefix) tcpip.Subnet {
		n = n.Masked()
		sub, _ := tcpip.NewSubnet(toStack(n.Addr()), tcpip.MaskFromBytes(net.CIDRMask(n.Bits(), n.Addr().BitLen())))
		return sub
	}
	var routes []tcpip.Route
	for _, n := range nets {
		routes = append(routes, tcpip.Route{Destination: subnet(n), NIC: nicID})
	}
	for _, r := range behind {
		routes = append(routes, tcpip.Route{Destination: subnet(r.To), Gateway: toStack(r.Via), NIC: nicID})
	}
	s.SetRouteTable(routes)
}

var linkLocalNet = netip.MustParsePrefix("fe80::/64")

// linkLocal is the address formed from a hardware address (RFC 4291, 2.5.6).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

func toStack(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func fromStack(a tcpip.Address) netip.Addr {
	n, _ := netip.AddrFromSlice(a.AsSlice())
	return n
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
