package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
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
	g    *Gateway
	fwd  *tcp.Forwarder
	once sync.Once
	open atomic.Int64

	mu   sync.Mutex
	syns map[stack.TransportEndpointID]uint32 // the sequence number of each SYN that waits
}

func newTCPTable(g *Gateway) *tcpTable {
	return &tcpTable{g: g, syns: map[stack.TransportEndpointID]uint32{}}
}

// handlePacket takes segments that belong to no connection. To say no makes
// netstack answer with a reset.
func (t *tcpTable) handlePacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	t.once.Do(func() { t.fwd = tcp.NewForwarder(t.g.stack, tcpReceiveBuffer, maxTCPInFlight, t.handle) })
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false
	}
	if len(t.g.targets(fromStack(id.LocalAddress))) == 0 || t.open.Load() >= maxTCPConns {
		return false
	}
	t.noteSYN(id, h.SequenceNumber())
	return t.fwd.HandlePacket(id, pkt)
}

// noteSYN remembers a SYN. One that the forwarder drops is never asked for, so
// that after a flood any of the old ones makes room.
func (t *tcpTable) noteSYN(id stack.TransportEndpointID, seq uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.syns[id]; !known && len(t.syns) >= 2*maxTCPInFlight {
		for old := range t.syns {
			delete(t.syns, old)
			break
		}
	}
	t.syns[id] = seq
}

// handle serves one connection, in a goroutine of netstack's making.
func (t *tcpTable) handle(r *tcp.ForwarderRequest) {
	id := r.ID()
	t.mu.Lock()
	seq := t.syns[id]
	delete(t.syns, id)
	t.mu.Unlock()
	if !t.g.tasks.begin() {
		r.Complete(true)
		return
	}
	defer t.g.tasks.end()
	if t.open.Add(1) > maxTCPConns {
		t.open.Add(-1)
		r.Complete(true)
		return
	}
	defer t.open.Add(-1)
	dst := fromStack(id.LocalAddress)
	host, err := t.dial(dst, id.LocalPort)
	if err != nil {
		t.refuse(r, seq, err)
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(terr != nil)
	if terr != nil {
		_ = host.SetLinger(0)
		host.Close()
		return
	}
	splice(t.g.ctx, host, ep, &wq)
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
