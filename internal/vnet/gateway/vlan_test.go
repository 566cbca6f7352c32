package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"wolffia/internal/vnet"
)

// TestGatewayPerVLAN: gateways that have all addresses in common, each on a VLAN
// of one switch, do not disturb each other; a guest that tags its frames has
// both.
func TestGatewayPerVLAN(t *testing.T) {
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	defer sw.Close()
	for _, vlan := range []int{10, 20} {
		port, err := sw.Plug(vnet.PortOptions{Offloads: true, Queue: PortQueue, VLAN: vnet.VLAN{Access: vlan}})
		if err != nil {
			t.Fatal(err)
		}
		first := netip.MustParseAddr(fmt.Sprintf("10.0.2.%d", 100+vlan))
		g, err := New(port, Config{DHCP: DHCP{First: first}})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
	}
	plug := func(vlan vnet.VLAN) *bench {
		inside, outside := vnet.Pipe(vnet.PipeOptions{})
		if _, err := sw.Attach(outside, vnet.PortOptions{VLAN: vlan}); err != nil {
			t.Fatal(err)
		}
		b, _ := guestBench(t, nil, inside)
		return b
	}
	ten, twenty, trunk := plug(vnet.VLAN{Access: 10}), plug(vnet.VLAN{Access: 20}), plug(vnet.VLAN{Trunk: []int{10, 20}})
	if a := ten.lease(card(1), nil); a.String() != "10.0.2.110" {
		t.Errorf("VLAN 10: %v", a)
	}
	if a := twenty.lease(card(1), nil); a.String() != "10.0.2.120" { // the same card
		t.Errorf("VLAN 20: %v", a)
	}
	discover := udp4Frame(card(2), broadcast, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), discover(card(2)))
	for _, vlan := range []uint16{20, 10, 20} {
		tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, vlan)
		trunk.send(append(append(bytes.Clone(discover[:12]), tag...), discover[12:]...))
		f := trunk.next("an offer", func(f []byte) bool {
			return len(f) > 300 && bytes.Equal(f[12:16], tag) && f[4+23] == protoUDP && bytes.Equal(f[4+ethLen+20:4+ethLen+22], []byte{0, portDHCP})
		})
		if yours := f[4+ethLen+28+16:][:4]; yours[3] != byte(101+vlan) {
			t.Errorf("VLAN %d offers %v", vlan, yours)
		}
	}
}
