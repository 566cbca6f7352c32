package gateway

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// advertiser tells guests about IPv6: router advertisements, at once when
// asked and now and then by itself (RFC 4861, 6.2), and what stateless DHCPv6
// can add to that (RFC 8415, 6.1). Guests choose their own addresses.
type advertiser struct {
	g *Gateway
}

const (
	// RFC 4861, 6.2.1: an advertisement at least every half hour; lifetimes
	// three times as long.
	advertEvery    = 10 * time.Minute
	routerLifetime = 30 * time.Minute
	prefixLifetime = 24 * time.Hour
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = [6]byte{0x33, 0x33, 0, 0, 0, 1}
)

func newAdvertiser(g *Gateway) *advertiser { return &advertiser{g: g} }

// run advertises until the gateway closes.
func (a *advertiser) run() {
	t := time.NewTicker(advertEvery)
	defer t.Stop()
	for {
		a.send(allNodesMAC, allNodes)
		select {
		case <-a.g.ctx.Done():
			return
		case <-t.C:
		}
	}
}

// solicited answers a router solicitation (RFC 4861, 6.1.1 and 6.2.6).
func (a *advertiser) solicited(mac [6]byte, src netip.Addr, hops byte, body []byte) {
	if hops != 255 || body[1] != 0 {
		return
	}
	if a.g.guest6(src) {
		a.send(mac, src)
		return
	}
	a.send(mac, allNodes) // no address yet: to all nodes, at the asker's card
}

func (a *advertiser) send(mac [6]byte, dst netip.Addr) {
	a.g.link.send(ip6Frame(a.g.mac, mac, a.g.ll, dst, protoICMPv6, a.message(), 2))
}

// message builds the advertisement, field by field (RFC 4861, 4.2 and 4.6).
func (a *advertiser) message() []byte {
	c, be := &a.g.cfg, binary.BigEndian
	b := []byte{ndpRouterAdvert, 0, 0, 0, 64, 0x40} // hop limit; O: other configuration by DHCPv6
	b = be.AppendUint16(b, uint16(routerLifetime/time.Second))
	b = append(b, make([]byte, 8)...)                         // reachable and retransmission time: unspecified
	b = append(append(b, 1, 1), a.g.mac[:]...)                // source link-layer address
	b = be.AppendUint32(append(b, 5, 1, 0, 0), uint32(c.MTU)) // MTU
	flags := byte(0xc0)                                       // on-link, autonomous
	if c.NoDHCP {
		flags = 0x80
	}
	b = append(b, 3, 4, byte(c.Prefix6.Bits()), flags) // prefix information
	b = be.AppendUint32(b, uint32(prefixLifetime/time.Second))
	b = be.AppendUint32(b, uint32(prefixLifetime/time.Second))
	b = append(append(b, 0, 0, 0, 0), c.Prefix6.Addr().AsSlice()...)
	b = be.AppendUint32(append(b, 25, 3, 0, 0), uint32(routerLifetime/time.Second)) // RDNSS (RFC 8106, 5.1)
	b = append(b, c.DNS6().AsSlice()...)
	name := dnsLabels(c.Domain) // DNSSL (RFC 8106, 5.2)
	for len(name)%8 != 0 {
		name = append(name, 0)
	}
	b = be.AppendUint32(append(b, 31, byte(1+len(name)/8), 0, 0), uint32(routerLifetime/time.Second))
	return append(b, name...)
}

// dnsLabels writes a name as on the wire (RFC 1035, 3.1).
func dnsLabels(name string) []byte {
	var b []byte
	for label := range strings.SplitSeq(name, ".") {
		label = label[:min(len(label), 63)]
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// dhcp6 answers an information request; addresses are not given out.
func (a *advertiser) dhcp6(mac [6]byte, src netip.Addr, payload []byte) {
	if reply := a.answer6(payload); reply != nil && a.g.guest6(src) && linkLocalNet.Contains(src) {
		body := make([]byte, 8, 8+len(reply))
		binary.BigEndian.PutUint16(body, portDHCP6)
		binary.BigEndian.PutUint16(body[2:], portDHCP6-1)
		binary.BigEndian.PutUint16(body[4:], uint16(8+len(reply)))
		body = append(body, reply...)
		a.g.link.send(ip6Frame(a.g.mac, mac, a.g.ll, src, protoUDP, body, 6))
	}
}

func (a *advertiser) answer6(payload []byte) []byte {
	if len(payload) == 0 || dhcpv6.MessageType(payload[0]) != dhcpv6.MessageTypeInformationRequest {
		return nil
	}
	req, err := dhcpv6.MessageFromBytes(payload)
	if err != nil {
		return nil
	}
	c := &a.g.cfg
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: req.TransactionID}
	if id := req.GetOneOption(dhcpv6.OptionClientID); id != nil {
		reply.AddOption(id)
	}
	reply.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr(a.g.mac[:])}))
	reply.AddOption(dhcpv6.OptDNS(c.DNS6().AsSlice()))
	reply.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: []string{c.Domain}}))
	return reply.ToBytes()
}
