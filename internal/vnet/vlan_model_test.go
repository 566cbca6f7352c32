package vnet_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"wolffia/internal/vnet"
)

// model is what VLANs ought to do, written down once more: it takes a frame
// apart instead of changing it.
type model struct {
	vlan int
	pcp  uint16
	tag  bool
	rest []byte // from the EtherType below the tag on
}

// enter gives the frame's VLAN on its way in by a port; ok is false for one
// that goes nowhere.
func enter(v vnet.VLAN, f vnet.Frame) (m model, ok bool) {
	d := f.Data
	if len(d) < 14 {
		return m, false
	}
	m.rest = d[12:]
	header, cut := 14, false
	if d[12] == 0x81 && d[13] == 0 {
		if cut = len(d) < 18; !cut {
			tci := binary.BigEndian.Uint16(d[14:])
			m = model{vlan: int(tci & 4095), pcp: tci & 0xf000, tag: true, rest: d[16:]}
			header = 18
		}
	}
	if m.vlan != 0 && v.Access != 0 {
		return m, false
	}
	if m.vlan == 0 {
		m.vlan = max(v.Access, v.Native)
	}
	if !carries(v, m.vlan) {
		return m, false
	}
	if m.vlan == 0 {
		m.rest = d[12:]
		return m, true
	}
	o := f.Offload
	if cut || len(m.rest)+16 > vnet.MaxFrame || o.NeedsChecksum && (int(o.ChecksumStart) < header || o.ChecksumStart > 65531) {
		return m, false
	}
	return m, true
}

func carries(v vnet.VLAN, vlan int) bool {
	listed := slices.Contains(v.Trunk, vlan)
	switch {
	case v.Access != 0:
		return vlan == v.Access
	case v.All && v.Native != 0:
		return vlan >= 1 && vlan <= 4094
	case v.All:
		return vlan <= 4094
	case v.Trunk != nil:
		return listed || vlan == v.Native && vlan != 0
	}
	return true
}

// leave gives what a port sends, nil for nothing.
func (m model) leave(v vnet.VLAN, macs []byte) []byte {
	b := bytes.Clone(macs)
	switch {
	case !carries(v, m.vlan):
		return nil
	case m.vlan == 0:
		return append(b, m.rest...)
	case m.vlan == v.Native && m.tag && m.rest[0] == 0x81 && m.rest[1] == 0:
		return nil
	case m.vlan != v.Access && m.vlan != v.Native:
		b = binary.BigEndian.AppendUint16(b, 0x8100)
		b = binary.BigEndian.AppendUint16(b, m.pcp|uint16(m.vlan))
	}
	return append(b, m.rest...)
}

// FuzzVLAN: whatever comes in by whichever port, each port gets what the model
// says, and so no port gets a frame of a VLAN that it does not carry.
func FuzzVLAN(f *testing.F) {
	for i, tag := range []string{"-", "0p5", "10", "20p15", "10/20", "0/20", "s10", "10/s20"} {
		f.Add(uint8(i), taggedFrame(f, broadcast, mac(1), tag, "payload"), uint16(0), uint16(0))
	}
	f.Add(uint8(2), taggedFrame(f, mac(2), mac(1), "-", "checksum in the tag"), uint16(1), uint16(0))
	f.Fuzz(func(t *testing.T, in uint8, data []byte, start, header uint16) {
		if len(data) > vnet.MaxFrame {
			return
		}
		from := int(in) % len(vlanPorts)
		fr := vnet.Frame{Data: data}
		if start != 0 {
			fr.Offload = vnet.Offload{NeedsChecksum: true, SegmentType: vnet.SegmentTCPv4, ChecksumStart: start, HeaderLen: header}
		}
		out, _ := cross(t, from, fr, vnet.Frame{Data: bytes.Clone(data)})
		var want []vnet.Frame
		for i, p := range vlanPorts {
			want = want[:0]
			for _, sent := range []vnet.Frame{fr, {Data: data}} {
				m, ok := enter(vlanPorts[from].VLAN, sent)
				toItself := ok && bytes.Equal(data[:6], data[6:12]) && data[0]&1 == 0
				if !ok || i == from || toItself {
					continue
				}
				if d := m.leave(p.VLAN, data[:12]); d != nil {
					o := sent.Offload
					if o.NeedsChecksum {
						o.ChecksumStart += uint16(len(d) - len(data))
						o.HeaderLen = uint16(min(max(int(o.HeaderLen)+len(d)-len(data), 0), 65535))
					}
					want = append(want, vnet.Frame{Data: d, Offload: o})
				}
			}
			if !slices.EqualFunc(out[i], want, func(a, b vnet.Frame) bool {
				return bytes.Equal(a.Data, b.Data) && a.Offload == b.Offload
			}) {
				t.Errorf("%s to %s: %x became %+v, want %+v", vlanPorts[from].name, p.name, data, out[i], want)
			}
		}
	})
}
