package gateway

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// coalescer joins TCP segments of one flow that arrive one after the other into
// one long packet, as a network card's receive offload would: what netstack
// does costs the same for a packet of any length. (netstack has a coalescer of
// its own; it takes an Ethernet frame's padding for payload, and its flush
// leaves packets behind when two flows share a bucket.)
//
// Packets of one flow never overtake each other. Everything is delivered by
// flush at the latest, which follows every batch.
type coalescer struct {
	deliver func(*stack.PacketBuffer)
	flows   [8]joined
	n       int
}

// joined is a packet that may still grow.
type joined struct {
	pkt   *stack.PacketBuffer
	frame []byte // of the first segment, inside pkt; its IP header is brought up to date by flush
	seg   segment
	next  uint32 // the sequence number that would continue it
	total int    // payload bytes
}

// segment is where things are in a frame that holds a plain TCP segment.
type segment struct {
	ip, tcp, data, end int
}

const (
	tcpACK = 0x10
	tcpSYN = 0x02
	tcpPSH = 0x08
	// maxJoined is the longest IP packet.
	maxJoined = 65535
)

// parseSegment finds the parts of a frame with a TCP segment over IPv4 without
// options or IPv6 without extension headers. ok is false for everything else.
func parseSegment(f []byte) (s segment, ok bool) {
	if len(f) < ethLen+40 {
		return s, false
	}
	s.ip = ethLen
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0800:
		if f[ethLen] != 0x45 || f[ethLen+9] != 6 || binary.BigEndian.Uint16(f[ethLen+6:])&0x3fff != 0 {
			return s, false
		}
		s.tcp = ethLen + 20
		s.end = ethLen + int(binary.BigEndian.Uint16(f[ethLen+2:]))
	case 0x86dd:
		if f[ethLen]>>4 != 6 || f[ethLen+6] != 6 {
			return s, false
		}
		s.tcp = ethLen + 40
		s.end = ethLen + 40 + int(binary.BigEndian.Uint16(f[ethLen+4:]))
	default:
		return s, false
	}
	if s.end > len(f) || s.tcp+20 > s.end {
		return s, false
	}
	off := int(f[s.tcp+12]>>4) * 4
	s.data = s.tcp + off
	return s, off >= 20 && s.data <= s.end
}

// add takes a frame. The buffer may be reused when it returns.
func (c *coalescer) add(from guest, f []byte) {
	s, ok := parseSegment(f)
	if !ok {
		c.deliver(newInbound(from, f))
		return
	}
	f = f[:s.end] // without Ethernet's padding
	i := c.find(f, s)
	flags := f[s.tcp+13]
	plain := flags&^tcpPSH == tcpACK && s.end > s.data
	if i >= 0 {
		if plain && c.flows[i].takes(f, s) {
			c.flows[i].join(f, s)
			if flags&tcpPSH != 0 || s.end-s.data < c.flows[i].size() {
				c.flushOne(i)
			}
			return
		}
		c.flushOne(i)
	}
	if !plain || flags&tcpPSH != 0 {
		c.deliver(newInbound(from, f))
		return
	}
	if c.n == len(c.flows) {
		c.flushOne(0)
	}
	pkt, frame := inboundView(from, f)
	c.flows[c.n] = joined{
		pkt: pkt, frame: frame, seg: s, total: s.end - s.data,
		next: binary.BigEndian.Uint32(f[s.tcp+4:]) + uint32(s.end-s.data),
	}
	c.n++
}

// find looks for the flow of a frame: the same addresses and ports.
func (c *coalescer) find(f []byte, s segment) int {
	for i := range c.flows[:c.n] {
		g, t := c.flows[i].frame, c.flows[i].seg
		if s.tcp != t.tcp || !bytes.Equal(f[s.tcp:s.tcp+4], g[t.tcp:t.tcp+4]) {
			continue
		}
		addrs := s.ip + 12
		if s.tcp-s.ip == 40 {
			addrs = s.ip + 8
		}
		if bytes.Equal(f[addrs:s.tcp], g[addrs:s.tcp]) {
			return i
		}
	}
	return -1
}

// size is the payload of the first segment, which the following ones share.
func (j *joined) size() int { return j.seg.end - j.seg.data }

// takes says whether a segment continues the packet.
func (j *joined) takes(f []byte, s segment) bool {
	g, size := j.frame, s.end-s.data
	return binary.BigEndian.Uint32(f[s.tcp+4:]) == j.next &&
		size <= j.size() &&
		j.seg.end-j.seg.ip-j.size()+j.total+size <= maxJoined &&
		s.data == j.seg.data &&
		bytes.Equal(f[s.tcp+8:s.tcp+12], g[s.tcp+8:s.tcp+12]) && // acknowledgement
		bytes.Equal(f[s.tcp+20:s.data], g[s.tcp+20:s.data]) && // options
		f[s.ip+1] == g[s.ip+1] && // type of service
		bytes.Equal(f[:ethLen], g[:ethLen])
}

func (j *joined) join(f []byte, s segment) {
	j.pkt.Data().AppendView(buffer.NewViewWithData(f[s.data:s.end]))
	j.total += s.end - s.data
	j.next += uint32(s.end - s.data)
	j.frame[s.tcp+13] |= f[s.tcp+13] & tcpPSH
	copy(j.frame[s.tcp+14:s.tcp+16], f[s.tcp+14:s.tcp+16]) // the latest window
}

func (c *coalescer) flushOne(i int) {
	j := c.flows[i]
	copy(c.flows[i:], c.flows[i+1:c.n])
	c.n--
	c.flows[c.n] = joined{}
	if j.total != j.size() {
		length := j.seg.data - j.seg.ip + j.total
		if j.seg.tcp-j.seg.ip == 40 {
			binary.BigEndian.PutUint16(j.frame[j.seg.ip+4:], uint16(length-40))
		} else {
			binary.BigEndian.PutUint16(j.frame[j.seg.ip+2:], uint16(length))
		}
	}
	c.deliver(j.pkt)
}

// flush delivers what is left, the oldest first.
func (c *coalescer) flush() {
	for c.n > 0 {
		c.flushOne(0)
	}
}
