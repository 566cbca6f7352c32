package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// tcpTable carries guests' TCP connections to the host. A guest's handshake is
// completed only when the host's side is connected; until then its SYN waits,
// and what the host says goes back: refused as a reset, unreachable as ICMP,
// silence as silence.
type tcpTable struct {
	g      *Gateway
	fwd    *tcp.Forwarder
	once   sync.Once
	flight *share // connections that begin
	conns  *share // all connections, those that begin included

	mu   sync.Mutex
	syns map[stack.TransportEndpointID]tcpSYNSeen // those that begin
}

// tcpSYNSeen is a SYN that waits.
type tcpSYNSeen struct {
	seq  uint32
	from guest
}

func newTCPTable(g *Gateway) *tcpTable {
	return &tcpTable{
		g: g, flight: newShare(maxTCPInFlight), conns: newShare(withinFiles(maxTCPConns, 2)),
		syns: map[stack.TransportEndpointID]tcpSYNSeen{},
	}
}

// handlePacket takes segments that belong to no connection. To say no makes
// netstack answer with a reset.
func (t *tcpTable) handlePacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	t.once.Do(func() { t.fwd = tcp.NewForwarder(t.g.stack, tcpReceiveBuffer, maxTCPInFlight, t.handle) })
	from := guest(pkt.Mark)
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return !t.g.police.pays(from, costSYN)
	}
	if len(t.g.targets(fromStack(id.LocalAddress))) == 0 {
		return false
	}
	t.mu.Lock()
	_, known := t.syns[id]
	t.mu.Unlock()
	if known || !t.flight.take(from) {
		return true // it waits already, or the guest sends it again
	}
	if !t.conns.take(from) {
		t.flight.give(from)
		return false
	}
	t.mu.Lock()
	t.syns[id] = tcpSYNSeen{h.SequenceNumber(), from}
	t.mu.Unlock()
	// Whatever has a place in flight has one with the forwarder, too: it says no
	// to a malformed segment alone, and else calls handle.
	if !t.fwd.HandlePacket(id, pkt) {
		t.begun(id)
		t.conns.give(from)
		return false
	}
	return true
}

// begun ends the time in which a connection begins.
func (t *tcpTable) begun(id stack.TransportEndpointID) {
	t.mu.Lock()
	syn := t.syns[id]
	delete(t.syns, id)
	t.mu.Unlock()
	t.flight.give(syn.from)
}

// handle serves one connection, in a goroutine of netstack's making.
func (t *tcpTable) handle(r *tcp.ForwarderRequest) {
	id := r.ID()
	t.mu.Lock()
	syn := t.syns[id]
	t.mu.Unlock()
	defer t.conns.give(syn.from)
	host, ep, wq := t.begin(r, syn)
	t.begun(id)
	if ep == nil {
		return
	}
	defer t.g.tasks.end()
	splice(t.g.ctx, host, ep, wq, t.conns.holds(syn.from) > wideConns)
}

// begin connects both sides, or tells the guest why not. Who gets an endpoint
// ends a task with it.
func (t *tcpTable) begin(r *tcp.ForwarderRequest, syn tcpSYNSeen) (*net.TCPConn, tcpip.Endpoint, *waiter.Queue) {
	id := r.ID()
	if !t.g.tasks.begin() {
		r.Complete(true)
		return nil, nil, nil
	}
	host, err := t.dial(fromStack(id.LocalAddress), id.LocalPort)
	if err != nil {
		t.refuse(r, syn.seq, err)
		t.g.tasks.end()
		return nil, nil, nil
	}
	wq := &waiter.Queue{}
	ep, terr := r.CreateEndpoint(wq)
	r.Complete(terr != nil)
	if terr != nil {
		reset(host)
		t.g.tasks.end()
		return nil, nil, nil
	}
	return host, ep, wq
}

func (t *tcpTable) dial(dst netip.Addr, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(t.g.ctx, dialTimeout)
	defer cancel()
	var first error
	for _, a := range t.g.targets(dst) {
		c, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String())
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = syscall.ECONNREFUSED
	}
	return nil, first
}

// refuse tells the guest what became of its connection.
func (t *tcpTable) refuse(r *tcp.ForwarderRequest, seq uint32, err error) {
	id := r.ID()
	kind := icmpHostUnreachable
	switch {
	case errors.Is(err, syscall.ENETUNREACH):
		kind = icmpNetUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		r.Complete(false)
		return
	default:
		r.Complete(true)
		return
	}
	r.Complete(false)
	var next [8]byte
	binary.BigEndian.PutUint16(next[:], id.RemotePort)
	binary.BigEndian.PutUint16(next[2:], id.LocalPort)
	binary.BigEndian.PutUint32(next[4:], seq)
	guest, dst := fromStack(id.RemoteAddress), fromStack(id.LocalAddress)
	t.g.sendError(t.g.selfFor(dst), guest, kind, origPacket(guest, dst, protoTCP, next, 12))
}

// selfFor is the gateway's address of the same version as a.
func (g *Gateway) selfFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return g.cfg.Gateway()
	}
	return g.cfg.Gateway6()
}

// setKeepalive makes a connection end some time after its guest has vanished.
func setKeepalive(ep tcpip.Endpoint) {
	idle, every := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveEvery)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&every)
	ep.SocketOptions().SetKeepAlive(true)
	ep.SocketOptions().SetDelayOption(false)
}
