package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// udpTable carries guests' UDP to the host: one connected socket for each pair
// of addresses and ports, so that only the peer's answers come back, and so
// that the host says when there is nobody.
type udpTable struct {
	g     *Gateway
	flows *flows[stack.TransportEndpointID, *udpFlow]

	// closing is held around the end of an endpoint. Netstack has one lock for
	// all of them, which the receiving goroutine needs as well: when a thousand
	// flows ended together it would stand in line behind each of them.
	closing sync.Mutex
}

// udpFlow joins an endpoint of the stack and a socket.
type udpFlow struct {
	id   stack.TransportEndpointID
	ep   tcpip.Endpoint
	wq   waiter.Queue
	host *net.UDPConn
	used atomic.Int64 // when a datagram last passed, in Unix nanoseconds
	idle time.Duration
	done chan struct{}
	once sync.Once
}

func newUDPTable(g *Gateway) *udpTable {
	return &udpTable{g: g, flows: newFlows[stack.TransportEndpointID, *udpFlow](withinFiles(maxUDPFlows, 8))}
}

// handlePacket takes the first datagram of a flow; the flow's endpoint gets the
// following ones from netstack. To say no makes netstack answer with port
// unreachable. It runs in the receiving goroutine and does not wait.
func (t *udpTable) handlePacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	dst := fromStack(id.LocalAddress)
	to := t.g.targets(dst)
	if len(to) == 0 || id.LocalPort == 0 || id.RemotePort == 0 {
		return !t.g.police.pays(guest(pkt.Mark), costPacket)
	}
	if !t.g.police.pays(guest(pkt.Mark), costFlow) {
		return true
	}
	host, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to[0], id.LocalPort)))
	if err != nil {
		t.unreachable(id, err)
		return true
	}
	f := &udpFlow{id: id, host: host, idle: udpIdle, done: make(chan struct{})}
	if id.LocalPort == portDNS {
		f.idle = udpIdleDNS
	}
	f.touch()
	ep, terr := udp.NewForwarderRequest(t.g.stack, id, pkt.Clone()).CreateEndpoint(&f.wq)
	if terr != nil {
		host.Close()
		return false
	}
	f.ep = ep
	if out, full := t.flows.put(f.id, f, guest(pkt.Mark)); full {
		if !t.g.tasks.start(func() { t.close(out) }) {
			t.close(out)
		}
	}
	ok := t.g.tasks.start(func() { t.fromGuest(f) }) && t.g.tasks.start(func() { t.fromHost(f) })
	if !ok {
		t.drop(f)
	}
	return true
}

func (t *udpTable) drop(f *udpFlow) {
	t.flows.remove(f.id, func(o *udpFlow) bool { return o == f })
	t.close(f)
}

func (f *udpFlow) lastUsed() int64 { return f.used.Load() }

func (f *udpFlow) touch() { f.used.Store(time.Now().UnixNano()) }

func (t *udpTable) close(f *udpFlow) {
	f.once.Do(func() {
		close(f.done)
		f.host.Close()
		t.closing.Lock()
		defer t.closing.Unlock()
		f.ep.Close()
	})
}

func (t *udpTable) fromGuest(f *udpFlow) {
	defer t.drop(f)
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	f.wq.EventRegister(&entry)
	defer f.wq.EventUnregister(&entry)
	buf := lazyBuffer{pool: wideBuffers}
	defer buf.free()
	for {
		_, err := f.ep.Read(&buf, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			f.touch()
			var payload []byte // empty datagrams are datagrams, too
			if buf.buf != nil {
				payload = (*buf.buf)[:buf.n]
			}
			if _, err := f.host.Write(payload); err != nil {
				t.unreachable(f.id, err)
			}
			buf.free()
			continue
		case *tcpip.ErrWouldBlock:
		case *tcpip.ErrClosedForReceive, *tcpip.ErrInvalidEndpointState:
			return
		default: // an ICMP error of the guest's for an earlier answer
		}
		select {
		case <-ready:
		case <-f.done:
			return
		case <-t.g.ctx.Done():
			return
		}
	}
}

// fromHost carries answers, and ends the flow when nothing has passed for its
// idle time.
func (t *udpTable) fromHost(f *udpFlow) {
	defer t.drop(f)
	raw, err := f.host.SyscallConn()
	if err != nil {
		return
	}
	in := lazyReader{raw: raw, pool: wideBuffers}
	in.try = in.read
	var r bytes.Reader
	for {
		left := f.idle - time.Since(time.Unix(0, f.used.Load()))
		if left <= 0 {
			return
		}
		_ = f.host.SetReadDeadline(time.Now().Add(left))
		err := in.next()
		switch {
		case err == nil:
			f.touch()
			r.Reset((*in.buf)[:in.n])
			_, _ = f.ep.Write(&r, tcpip.WriteOptions{})
			in.free()
		case errors.Is(err, net.ErrClosed):
			return
		default:
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				t.unreachable(f.id, err)
			}
		}
	}
}

// unreachable passes on what the host said about a flow's destination.
func (t *udpTable) unreachable(id stack.TransportEndpointID, err error) {
	kind := icmpPortUnreachable
	from := fromStack(id.LocalAddress)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, syscall.EHOSTUNREACH):
		kind, from = icmpHostUnreachable, t.g.selfFor(from)
	case errors.Is(err, syscall.ENETUNREACH):
		kind, from = icmpNetUnreachable, t.g.selfFor(from)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		kind, from = icmpProhibited, t.g.selfFor(from)
	default:
		return
	}
	var next [8]byte
	binary.BigEndian.PutUint16(next[:], id.RemotePort)
	binary.BigEndian.PutUint16(next[2:], id.LocalPort)
	binary.BigEndian.PutUint16(next[4:], 8)
	guest := fromStack(id.RemoteAddress)
	t.g.sendError(from, guest, kind, origPacket(guest, fromStack(id.LocalAddress), protoUDP, next, 0))
}
