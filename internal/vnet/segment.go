package vnet

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// ErrOffload is returned for a frame whose [Offload] does not fit its bytes.
var ErrOffload = errors.New("offload does not fit the frame")

// Segmenter does in software what a frame's [Offload] asks for: it cuts a long
// TCP segment into frames of at most HeaderLen+SegmentSize bytes, and fills in
// the TCP or UDP checksum. The zero value is ready for Reset.
//
//	for seg.More() {
//		buf = seg.Next(buf[:0])
//	}
type Segmenter struct {
	f     Frame
	ip    int // offset of the IP header
	at    int // payload bytes done
	size  int // payload bytes of each segment
	id    uint16
	seq   uint32
	first bool
	done  bool
}

const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// Reset starts with a new frame, whose bytes must stay as they are until the
// last segment. It returns [ErrOffload] for a frame that can't be segmented.
func (s *Segmenter) Reset(f Frame) error {
	*s = Segmenter{f: f, first: true}
	o := f.Offload
	if o.NeedsChecksum && int(o.ChecksumStart)+int(o.ChecksumOff)+2 > len(f.Data) {
		return ErrOffload
	}
	if o.SegmentType == SegmentNone {
		return nil
	}
	if !o.NeedsChecksum || o.SegmentSize == 0 || o.ChecksumOff != 16 {
		return ErrOffload
	}
	ip, err := s.checkHeaders()
	if err != nil {
		return err
	}
	s.ip, s.size = ip, int(o.SegmentSize)
	tcp := f.Data[o.ChecksumStart:]
	s.seq = binary.BigEndian.Uint32(tcp[4:])
	s.id = binary.BigEndian.Uint16(f.Data[ip+4:])
	return nil
}

// checkHeaders finds the IP header and makes sure that every field that Next
// writes lies inside the header.
func (s *Segmenter) checkHeaders() (ip int, err error) {
	d, o := s.f.Data, s.f.Offload
	hdr, tcp := int(o.HeaderLen), int(o.ChecksumStart)
	ip = 14
	if len(d) < 18 || hdr > len(d) || tcp+20 > hdr {
		return 0, ErrOffload
	}
	kind := binary.BigEndian.Uint16(d[tagAt:])
	for (kind == tpid || kind == serviceTPID) && ip+tagLen <= tcp {
		ip += tagLen
		kind = binary.BigEndian.Uint16(d[ip-2:])
	}
	want, least, version := uint16(0x0800), 20, byte(4)
	if o.SegmentType == SegmentTCPv6 {
		want, least, version = 0x86dd, 40, 6
	} else if o.SegmentType != SegmentTCPv4 {
		return 0, ErrOffload
	}
	if kind != want || ip+least > tcp || d[ip]>>4 != version {
		return 0, ErrOffload
	}
	if version == 4 && ip+int(d[ip]&15)*4 != tcp {
		return 0, ErrOffload
	}
	if tcp+int(d[tcp+12]>>4)*4 != hdr {
		return 0, ErrOffload
	}
	return ip, nil
}

// More says whether Next has another frame to give.
func (s *Segmenter) More() bool { return !s.done }

// Next appends the next frame to buf.
func (s *Segmenter) Next(buf []byte) []byte {
	o := s.f.Offload
	if o.SegmentType == SegmentNone {
		s.done = true
		buf = append(buf, s.f.Data...)
		if o.NeedsChecksum {
			fillChecksum(buf, int(o.ChecksumStart), int(o.ChecksumOff))
		}
		return buf
	}
	hdr := int(o.HeaderLen)
	payload := s.f.Data[hdr:]
	end := min(s.at+s.size, len(payload))
	last := end == len(payload)
	buf = append(buf, s.f.Data[:hdr]...)
	buf = append(buf, payload[s.at:end]...)
	s.fixIP(buf)
	s.fixTCP(buf, last)
	s.at, s.first, s.done = end, false, last
	s.id++
	return buf
}

func (s *Segmenter) fixIP(b []byte) {
	ip := b[s.ip:]
	if s.f.Offload.SegmentType == SegmentTCPv6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[4:], s.id)
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^Checksum(ip[:int(ip[0]&15)*4], 0))
}

func (s *Segmenter) fixTCP(b []byte, last bool) {
	ip, tcp := b[s.ip:], b[s.f.Offload.ChecksumStart:]
	binary.BigEndian.PutUint32(tcp[4:], s.seq+uint32(s.at))
	if !last {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	if !s.first {
		tcp[13] &^= tcpCWR
	}
	tcp[16], tcp[17] = 0, 0
	addrs := ip[12:20]
	if s.f.Offload.SegmentType == SegmentTCPv6 {
		addrs = ip[8:40]
	}
	pseudo := Checksum(addrs, uint16(6))
	pseudo = add16(pseudo, uint16(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], ^Checksum(tcp, pseudo))
}

// fillChecksum does what VIRTIO_NET_HDR_F_NEEDS_CSUM asks for: the field holds
// the sum of the pseudo header already.
func fillChecksum(b []byte, start, off int) {
	sum := ^Checksum(b[start:], 0)
	if sum == 0 {
		sum = 0xffff // RFC 768: zero would mean that there is none
	}
	binary.BigEndian.PutUint16(b[start+off:], sum)
}

func add16(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s) + uint16(s>>16)
}

// Checksum adds the bytes of b, as big-endian 16-bit words, to initial in ones'
// complement (RFC 1071). The value in a header is the complement of the result.
func Checksum(b []byte, initial uint16) uint16 {
	var sum, carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(tail[:]), carry)
	}
	sum, carry = bits.Add64(sum, carry, 0)
	sum += carry
	// Ones' complement sums are the same in either byte order, so they are
	// made in the machine's own and turned round once.
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	var two [2]byte
	binary.NativeEndian.PutUint16(two[:], uint16(sum))
	return add16(binary.BigEndian.Uint16(two[:]), initial)
}
