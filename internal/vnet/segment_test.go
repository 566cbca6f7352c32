package vnet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"wolffia/internal/vnet"
)

// slowChecksum is RFC 1071 as it is written there.
func slowChecksum(b []byte, initial uint16) uint16 {
	sum := uint32(initial)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for size := range 300 {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if size%3 == 0 {
			for i := range b {
				b[i] = 0xff
			}
		}
		if got, want := vnet.Checksum(b, 0x1234), slowChecksum(b, 0x1234); got != want {
			t.Errorf("%d bytes: got %04x, want %04x", size, got, want)
		}
	}
}

// bigSegment is a TCP segment over IPv4 or IPv6 with 12 bytes of options.
func bigSegment(v6 bool, payload []byte, mss uint16) vnet.Frame {
	ipLen := 20
	kind := uint16(0x0800)
	if v6 {
		ipLen, kind = 40, 0x86dd
	}
	b := make([]byte, 14+ipLen+32)
	binary.BigEndian.PutUint16(b[12:], kind)
	ip := b[14:]
	if v6 {
		ip[0], ip[6], ip[7] = 0x60, 6, 64
	} else {
		ip[0], ip[8], ip[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(ip[4:], 0xfffe)
	}
	for i := 12; i < ipLen; i++ {
		ip[i] = byte(i)
	}
	tcp := ip[ipLen:]
	binary.BigEndian.PutUint32(tcp[4:], 0xfffffff0)
	tcp[12], tcp[13] = 8<<4, 0x10|0x08|0x01
	return vnet.Frame{Data: append(b, payload...), Offload: vnet.Offload{
		NeedsChecksum: true, SegmentType: map[bool]uint8{false: vnet.SegmentTCPv4, true: vnet.SegmentTCPv6}[v6],
		HeaderLen: uint16(len(b)), SegmentSize: mss, ChecksumStart: uint16(14 + ipLen), ChecksumOff: 16,
	}}
}

func TestSegmenter(t *testing.T) {
	payload := make([]byte, 40_000)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	for _, v6 := range []bool{false, true} {
		f := bigSegment(v6, payload, 1448)
		var s vnet.Segmenter
		if err := s.Reset(f); err != nil {
			t.Fatal(err)
		}
		hdr, ipLen := int(f.Offload.HeaderLen), int(f.Offload.ChecksumStart)-14
		var joined []byte
		for n := uint16(0); s.More(); n++ {
			b := s.Next(nil)
			ip, tcp := b[14:], b[14+ipLen:]
			if got, want := binary.BigEndian.Uint32(tcp[4:]), uint32(0xfffffff0+len(joined)); got != uint32(want) {
				t.Fatalf("sequence number %x, want %x", got, want)
			}
			joined = append(joined, b[hdr:]...)
			if last := !s.More(); last != (tcp[13]&0x09 != 0) {
				t.Errorf("flags %02x, last %v", tcp[13], last)
			}
			addrs := ip[12:20]
			if v6 {
				addrs = ip[8:40]
				if got := int(binary.BigEndian.Uint16(ip[4:])); got != len(ip)-40 {
					t.Errorf("payload length %d of %d", got, len(ip)-40)
				}
			} else {
				if slowChecksum(ip[:20], 0) != 0xffff {
					t.Error("bad IP checksum")
				}
				if got := binary.BigEndian.Uint16(ip[4:]); got != 0xfffe+n {
					t.Errorf("identification %x", got)
				}
			}
			if slowChecksum(tcp, slowChecksum(addrs, 6+uint16(len(tcp)))) != 0xffff {
				t.Error("bad TCP checksum")
			}
		}
		if !bytes.Equal(joined, payload) {
			t.Error("the payload changed")
		}
	}
}

func TestSegmenterRefusesLies(t *testing.T) {
	for name, change := range map[string]func(*vnet.Frame){
		"no segment size":       func(f *vnet.Frame) { f.Offload.SegmentSize = 0 },
		"header past the end":   func(f *vnet.Frame) { f.Offload.HeaderLen = 5000 },
		"header too short":      func(f *vnet.Frame) { f.Offload.HeaderLen = 40 },
		"checksum past the end": func(f *vnet.Frame) { f.Offload.ChecksumStart = 60000 },
		"unknown type":          func(f *vnet.Frame) { f.Offload.SegmentType = 9 },
		"other IP version":      func(f *vnet.Frame) { f.Offload.SegmentType = vnet.SegmentTCPv6 },
		"cut short":             func(f *vnet.Frame) { f.Data = f.Data[:16] },
	} {
		f := bigSegment(false, make([]byte, 3000), 1000)
		change(&f)
		var s vnet.Segmenter
		if err := s.Reset(f); !errors.Is(err, vnet.ErrOffload) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOutboxSegments: a port without offload gets segments, in order, between
// the other frames.
func TestOutboxSegments(t *testing.T) {
	a, b := vnet.Pipe(vnet.PipeOptions{})
	defer b.Close()
	box := vnet.NewOutbox(a, 0)
	defer box.Close()
	defer a.Close()
	box.Write([]vnet.Frame{
		{Data: frame(mac(1), mac(2), "before")},
		bigSegment(false, make([]byte, 2500), 1000),
		{Data: frame(mac(1), mac(2), "after")},
	})
	bufs := vnet.NewBatch(1, vnet.MaxFrame)
	for _, want := range []int{20, 1066, 1066, 566, 19} {
		if _, err := b.ReadFrames(bufs); err != nil {
			t.Fatal(err)
		}
		if len(bufs[0].Data) != want || bufs[0].Offload != (vnet.Offload{}) {
			t.Errorf("got %d bytes, %+v; want %d", len(bufs[0].Data), bufs[0].Offload, want)
		}
	}
}

func FuzzSegmenter(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		s := bigSegment(v6, make([]byte, 100), 30)
		f.Add(s.Data, s.Offload.SegmentType, s.Offload.HeaderLen, s.Offload.SegmentSize, s.Offload.ChecksumStart, s.Offload.ChecksumOff)
	}
	f.Add([]byte{}, uint8(0), uint16(0), uint16(0), uint16(0), uint16(0))
	f.Fuzz(func(t *testing.T, data []byte, kind uint8, hdr, size, start, off uint16) {
		if len(data) > vnet.MaxFrame {
			return
		}
		var s vnet.Segmenter
		fr := vnet.Frame{Data: data, Offload: vnet.Offload{NeedsChecksum: true, SegmentType: kind, HeaderLen: hdr, SegmentSize: size, ChecksumStart: start, ChecksumOff: off}}
		if s.Reset(fr) != nil {
			return
		}
		before := bytes.Clone(data)
		var total, frames int
		for s.More() {
			b := s.Next(nil)
			if kind != vnet.SegmentNone && len(b) > int(hdr)+int(size) {
				t.Fatalf("a segment of %d bytes", len(b))
			}
			total += len(b)
			frames++
		}
		if kind != vnet.SegmentNone && total != len(data)+(frames-1)*int(hdr) {
			t.Fatalf("%d bytes in %d frames became %d", len(data), frames, total)
		}
		if !bytes.Equal(before, data) {
			t.Fatal("the original changed")
		}
	})
}
