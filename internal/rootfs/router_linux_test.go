package rootfs_test

import (
	"encoding/binary"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"wolffia/internal/vnet"
)

var routerMAC = net.HardwareAddr{2, 0, 0, 0, 0xff, 1}

// router answers DHCP and router solicitations on one cable until it is cut.
type router struct {
	ip, prefix6 string
	mute        bool
}

func (r router) serve(cable vnet.Port) {
	in := []vnet.Frame{{}}
	buf := make([]byte, 2048)
	for {
		in[0].Data = buf
		n, err := cable.ReadFrames(in)
		if err != nil {
			return
		}
		if n == 0 || r.mute || len(in[0].Data) < 14 {
			continue
		}
		if out := r.answer(in[0].Data); out != nil {
			if _, err := cable.WriteFrames([]vnet.Frame{{Data: out}}); err != nil {
				return
			}
		}
	}
}

func (r router) answer(frame []byte) []byte {
	src := net.HardwareAddr(frame[6:12])
	body := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		if len(body) < 28 || body[9] != 17 || binary.BigEndian.Uint16(body[22:]) != 67 {
			return nil
		}
		return r.dhcp(src, body[28:])
	case 0x86dd:
		if r.prefix6 != "" && len(body) > 40 && body[6] == 58 && body[40] == 133 {
			return r.advertise(src, body[8:24])
		}
	}
	return nil
}

func (r router) dhcp(to net.HardwareAddr, data []byte) []byte {
	req, err := dhcpv4.FromBytes(data)
	if err != nil {
		return nil
	}
	kind := dhcpv4.MessageTypeOffer
	if req.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	gw := net.IPv4(10, 0, 2, 2)
	reply, err := dhcpv4.NewReplyFromRequest(req,
		dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.ParseIP(r.ip)), dhcpv4.WithServerIP(gw),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gw)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(gw), dhcpv4.WithDNS(net.IPv4(10, 0, 2, 3), net.IPv4(10, 0, 2, 4)),
		dhcpv4.WithLeaseTime(3600), dhcpv4.WithDomainSearchList("lab.test"),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{1400 >> 8, 1400 & 0xff}))
	if err != nil {
		return nil
	}
	payload := reply.ToBytes()
	ip := make([]byte, 28, 28+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], gw.To4())
	copy(ip[16:], net.ParseIP(r.ip).To4())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:20], 0))
	binary.BigEndian.PutUint16(ip[20:], 67)
	binary.BigEndian.PutUint16(ip[22:], 68)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(payload)))
	return ethernet(to, 0x0800, append(ip, payload...))
}

// advertise makes a router advertisement (RFC 4861, 4.2) with one prefix.
func (r router) advertise(to net.HardwareAddr, dst []byte) []byte {
	self := net.ParseIP("fe80::2")
	ra := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0,
		3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0} // prefix information: on link, autonomous
	ra = append(ra, net.ParseIP(r.prefix6).To16()...)
	pseudo := append(append([]byte{}, self...), dst...)
	pseudo = append(pseudo, 0, 0, 0, byte(len(ra)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(ra[2:], checksum(ra, uint32(^checksum(pseudo, 0))))
	ip := make([]byte, 40)
	ip[0], ip[5], ip[6], ip[7] = 0x60, byte(len(ra)), 58, 255
	copy(ip[8:], self)
	copy(ip[24:], dst)
	return ethernet(to, 0x86dd, append(ip, ra...))
}

func ethernet(to net.HardwareAddr, kind uint16, body []byte) []byte {
	f := append(append([]byte{}, to...), routerMAC...)
	f = binary.BigEndian.AppendUint16(f, kind)
	return append(f, body...)
}

func checksum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
