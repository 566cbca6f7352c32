package gateway

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"wolffia/internal/vnet"
)

// link is netstack's link endpoint on a port. Received TCP segments of one flow
// are joined before the stack sees them, and sent ones leave as large as they
// can: the queue before the port cuts them for a peer that can't.
//
// Checksums of received packets are verified here, those apart that netstack
// has to put packets together for.
type link struct {
	port   vnet.Port
	out    *vnet.Outbox
	mtu    uint32
	mac    tcpip.LinkAddress
	filter func(from guest, frame []byte, now int64) bool // says whether the stack is to see it; nil: always
	tick   func(now time.Time)                            // when a batch begins; nil: nobody asks
	idle   func()                                         // and when it has ended
	batch  int

	unchecked atomic.Bool // the packet that is being delivered has checksums that nobody has verified

	wg         sync.WaitGroup
	mu         sync.Mutex
	dispatcher stack.NetworkDispatcher
}

const (
	ethLen = header.EthernetMinimumSize
	// maxGSO is the longest packet given to the port, with headers to spare.
	maxGSO = 65535 - 128
	// txSlab is what WritePackets copies into at a time.
	txSlab = 128 << 10
)

var _ stack.LinkEndpoint = (*link)(nil)
var _ stack.GSOEndpoint = (*link)(nil)

func newLink(port vnet.Port, mac net.HardwareAddr, mtu, batch, queue int) *link {
	return &link{port: port, out: vnet.NewOutbox(port, queue), mtu: uint32(mtu), mac: tcpip.LinkAddress(mac), batch: batch}
}

// start begins to receive.
func (l *link) start() {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		l.receive()
	}()
}

// stop closes the port and waits for all goroutines.
func (l *link) stop() {
	l.port.Close()
	l.wg.Wait()
	l.out.Close()
}

func (l *link) receive() {
	l.mu.Lock()
	d := l.dispatcher
	l.mu.Unlock()
	c := coalescer{deliver: func(pkt *stack.PacketBuffer) {
		d.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
		pkt.DecRef()
	}}
	frames := vnet.NewBatch(l.batch, vnet.MaxFrame)
	for {
		n, err := l.port.ReadFrames(frames)
		if err != nil {
			return
		}
		now := time.Now()
		if l.tick != nil {
			l.tick(now)
		}
		seconds := now.Unix()
		for i := range frames[:n] {
			f, from := frames[i].Data, guest(frames[i].Source)
			if len(f) < ethLen {
				continue
			}
			v := verify(frames[i])
			if v == corrupt || l.filter != nil && !l.filter(from, f, seconds) {
				continue
			}
			if v == unchecked { // of no flow that is being joined
				l.unchecked.Store(true)
				c.deliver(newInbound(from, f))
				l.unchecked.Store(false)
				continue
			}
			c.add(from, f)
		}
		c.flush()
		if l.idle != nil {
			l.idle()
		}
	}
}

// newInbound makes netstack's packet of a frame, marked with the guest that it
// came from.
func newInbound(from guest, f []byte) *stack.PacketBuffer {
	pkt, _ := inboundView(from, f)
	return pkt
}

// inboundView also gives the frame's bytes inside the packet.
func inboundView(from guest, f []byte) (*stack.PacketBuffer, []byte) {
	view := buffer.NewViewWithData(f)
	frame := view.AsSlice()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view), Mark: uint32(from)})
	pkt.LinkHeader().Consume(ethLen)
	eth := header.Ethernet(f)
	pkt.NetworkProtocolNumber = eth.Type()
	switch dst := eth.DestinationAddress(); {
	case dst == header.EthernetBroadcastAddress:
		pkt.PktType = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(dst):
		pkt.PktType = tcpip.PacketMulticast
	default:
		pkt.PktType = tcpip.PacketHost
	}
	return pkt, frame
}

// txBatch is scratch space for frames on their way to the port.
type txBatch struct {
	slab   []byte
	used   int
	frames []vnet.Frame
}

var txBatches = sync.Pool{New: func() any {
	return &txBatch{slab: make([]byte, txSlab), frames: make([]vnet.Frame, 0, 64)}
}}

// WritePackets implements stack.LinkWriter. It never waits: what finds no room
// in the queue is lost, as on a wire.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	b := txBatches.Get().(*txBatch)
	for _, pkt := range pkts.AsSlice() {
		size := pkt.Size()
		if size > vnet.MaxFrame {
			continue
		}
		if b.used+size > len(b.slab) || len(b.frames) == cap(b.frames) {
			l.flush(b)
		}
		d := b.slab[b.used:b.used]
		for _, s := range pkt.AsSlices() {
			d = append(d, s...)
		}
		b.used += len(d)
		b.frames = append(b.frames, vnet.Frame{Data: d, Offload: offload(pkt)})
	}
	l.flush(b)
	txBatches.Put(b)
	return pkts.Len(), nil
}

func (l *link) flush(b *txBatch) {
	if len(b.frames) > 0 {
		l.out.Write(b.frames)
	}
	b.frames, b.used = b.frames[:0], 0
}

// offload says in virtio's words what netstack left to the link.
func offload(pkt *stack.PacketBuffer) (o vnet.Offload) {
	g := pkt.GSOOptions
	if g.Type == stack.GSONone || !g.NeedsCsum {
		return o
	}
	o.NeedsChecksum = true
	o.ChecksumStart = ethLen + g.L3HdrLen
	o.ChecksumOff = g.CsumOffset
	if pkt.Data().Size() > int(g.MSS) {
		o.SegmentType = vnet.SegmentTCPv4
		if g.Type == stack.GSOTCPv6 {
			o.SegmentType = vnet.SegmentTCPv6
		}
		o.HeaderLen = uint16(pkt.HeaderSize())
		o.SegmentSize = g.MSS
	}
	return o
}

// send gives one frame to the port.
func (l *link) send(frame []byte) { l.out.Write([]vnet.Frame{{Data: frame}}) }

// The rest is what netstack wants to know about a link.

func (l *link) GSOMaxSize() uint32               { return maxGSO }
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }
func (l *link) MTU() uint32                      { return l.mtu }
func (l *link) SetMTU(uint32)                    {}
func (l *link) MaxHeaderLength() uint16          { return ethLen }
func (l *link) LinkAddress() tcpip.LinkAddress   { return l.mac }
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}
func (l *link) Wait()                            { l.wg.Wait() }
func (l *link) Close()                           {}
func (l *link) SetOnCloseAction(func())          {}

// Capabilities implements stack.LinkEndpoint. Netstack asks with each packet that
// it gets whether its checksums want verification; what else asks does not care.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	if l.unchecked.Load() {
		return stack.CapabilityResolutionRequired
	}
	return stack.CapabilityRXChecksumOffload | stack.CapabilityResolutionRequired
}

func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	l.dispatcher = d
	l.mu.Unlock()
}

func (l *link) IsAttached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dispatcher != nil
}

func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(ethLen))
	eth.Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(ethLen)
	return ok
}
