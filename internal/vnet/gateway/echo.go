package gateway

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"wolffia/internal/event"
)

// echoTable carries guests' ICMP echo requests (ping) to the host's ICMP
// sockets. A guest gets an answer only when the real destination answered one,
// and learns what routers on the way reported. Where the host grants no ICMP
// socket, there are no answers, and a note says once how to mend that.
type echoTable struct {
	g    *Gateway
	note sync.Once

	flows *flows[echoKey, *echoFlow]
}

// echoKey is one ping program of one guest.
type echoKey struct {
	guest, dst netip.Addr
	ident      uint16
}

type echoFlow struct {
	key  echoKey
	sock *echoSocket
	used atomic.Int64
}

func (f *echoFlow) lastUsed() int64 { return f.used.Load() }

// echoRequest is a guest's, whole.
type echoRequest struct {
	key     echoKey
	from    guest
	seq     uint16
	ttl     uint8
	payload []byte
}

const (
	echo4 = 8   // ICMP type of an echo request (RFC 792)
	echo6 = 128 // and in version 6 (RFC 4443, 4.1)

	maxEcho = 65535 - 28 // payload bytes
)

func newEchoTable(g *Gateway) *echoTable {
	return &echoTable{g: g, flows: newFlows[echoKey, *echoFlow](withinFiles(maxEchoFlows, 32))}
}

func (t *echoTable) handle4(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	net := pkt.NetworkHeader().Slice()
	return len(net) >= 20 && t.handle(id, pkt, echo4, net[8])
}

func (t *echoTable) handle6(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	net := pkt.NetworkHeader().Slice()
	return len(net) >= 40 && t.handle(id, pkt, echo6, net[7])
}

// handle says whether the stack is to leave the message alone. The gateway's
// own addresses answer by themselves. It runs in the receiving goroutine and
// does not wait.
func (t *echoTable) handle(id stack.TransportEndpointID, pkt *stack.PacketBuffer, echo, ttl byte) bool {
	dst := fromStack(id.LocalAddress)
	if t.g.local[dst] {
		return false
	}
	h := pkt.TransportHeader().Slice()
	if len(h) < 8 || h[0] != echo || h[1] != 0 {
		return true
	}
	payload := pkt.Data().AsRange().ToSlice()
	if len(payload) > maxEcho {
		return true
	}
	t.request(&echoRequest{
		key:     echoKey{fromStack(id.RemoteAddress), dst, binary.BigEndian.Uint16(h[4:])},
		from:    guest(pkt.Mark),
		seq:     binary.BigEndian.Uint16(h[6:]),
		ttl:     ttl - 1, // this is a router (RFC 1812, 5.3.1); the filter kept 1 away
		payload: payload,
	})
	return true
}

func (t *echoTable) request(r *echoRequest) {
	if !t.g.police.pays(r.from, costPacket) {
		return
	}
	if len(t.g.targets(r.key.dst)) == 0 {
		t.fail(r, t.g.selfFor(r.key.dst), icmpProhibited)
		return
	}
	f, err := t.flow(r.key, r.from)
	if err == errPoor {
		return
	}
	if err != nil {
		t.note.Do(func() {
			t.g.cfg.Events.Emit(event.Event{Kind: event.Note, Task: "ping", Subject: r.key.dst.String(), Message: err.Error()})
		})
		return
	}
	f.used.Store(time.Now().UnixNano())
	if kind, failed := f.sock.send(r); failed {
		t.fail(r, t.g.selfFor(r.key.dst), kind)
	}
}

// fail tells the guest, in the name of from, what became of its request.
func (t *echoTable) fail(r *echoRequest, from netip.Addr, kind icmpKind) {
	proto, echo := byte(protoICMP), byte(echo4)
	if r.key.dst.Is6() {
		proto, echo = protoICMPv6, echo6
	}
	next := [8]byte{0: echo}
	binary.BigEndian.PutUint16(next[4:], r.key.ident)
	binary.BigEndian.PutUint16(next[6:], r.seq)
	t.g.sendError(from, r.key.guest, kind, origPacket(r.key.guest, r.key.dst, proto, next, len(r.payload)))
}

// errPoor means that the guest can't pay.
var errPoor = errors.New("the guest asks for too much")

// flow finds or makes the socket of a ping program.
func (t *echoTable) flow(k echoKey, from guest) (*echoFlow, error) {
	f, ok := t.flows.get(k)
	if ok {
		return f, nil
	}
	if !t.g.police.pays(from, costFlow) {
		return nil, errPoor
	}
	sock, err := openEcho(k.dst)
	if err != nil {
		return nil, err
	}
	f = &echoFlow{key: k, sock: sock}
	f.used.Store(time.Now().UnixNano())
	if out, full := t.flows.put(k, f, from); full {
		out.sock.close()
	}
	if !t.g.tasks.start(func() { t.receive(f) }) {
		sock.close()
	}
	return f, nil
}

// echoAnswer is what came back for a request.
type echoAnswer struct {
	seq     uint16
	payload []byte     // of a reply
	failed  bool       // a router, or the host, reported kind instead
	kind    icmpKind   //
	from    netip.Addr // who reported; the zero value is the host
}

// receive passes answers to the guest until the flow has been idle for long.
func (t *echoTable) receive(f *echoFlow) {
	defer func() {
		t.flows.remove(f.key, func(o *echoFlow) bool { return o == f })
		f.sock.close()
	}()
	stop := t.g.onClose(f.sock.close)
	defer stop()
	for {
		left := echoIdle - time.Since(time.Unix(0, f.used.Load()))
		if left <= 0 {
			return
		}
		a, err := f.sock.receive(time.Now().Add(left))
		if err == errEchoClosed {
			return
		}
		if err != nil {
			continue // idle: looked at above
		}
		if a.failed {
			if !a.from.IsValid() {
				a.from = t.g.selfFor(f.key.dst)
			}
			t.fail(&echoRequest{key: f.key, seq: a.seq}, a.from, a.kind)
			continue
		}
		t.g.sendICMP(f.key.dst, f.key.guest, icmpEchoReply, uint32(f.key.ident)<<16|uint32(a.seq), a.payload)
	}
}
