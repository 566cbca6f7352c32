package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// servers are the host's name servers; where it names none, the one on the host
// itself, as resolv.conf(5) says.
func (d *dnsServer) servers() []netip.AddrPort {
	if len(d.g.cfg.Nameservers) > 0 {
		return d.g.cfg.Nameservers
	}
	if s := d.resolv.get(); len(s) > 0 {
		return s
	}
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), portDNS),
		netip.AddrPortFrom(netip.IPv6Loopback(), portDNS),
	}
}

// forward asks the host's name servers in turn, twice each, and gives the first
// answer as it came, or a failure. A truncated answer goes to the guest as such:
// it asks again over TCP, and so do we then.
func (d *dnsServer) forward(query []byte, network string) []byte {
	ctx, cancel := context.WithTimeout(d.g.ctx, dnsTotal)
	defer cancel()
	var last []byte
	for range 2 {
		for _, server := range d.servers() {
			reply, err := exchange(ctx, network, server, query)
			if ctx.Err() != nil {
				return failure(query, dnsmessage.RCodeServerFailure)
			}
			if err != nil {
				continue
			}
			if code := dnsmessage.RCode(reply[3] & 15); code != dnsmessage.RCodeServerFailure && code != dnsmessage.RCodeRefused {
				return reply
			}
			last = reply // another server may do better
		}
		if last != nil {
			return last
		}
	}
	return failure(query, dnsmessage.RCodeServerFailure)
}

// exchange asks one server under an identifier and a source port of our own, so
// that answers can't be forged easily (RFC 5452), and gives the answer the
// guest's identifier.
func exchange(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	asked := bytes.Clone(query)
	id := uint16(rand.Uint32())
	binary.BigEndian.PutUint16(asked, id)
	if network == "tcp" {
		asked = append(binary.BigEndian.AppendUint16(nil, uint16(len(asked))), asked...)
	}
	if _, err := c.Write(asked); err != nil {
		return nil, err
	}
	for {
		reply, err := readReply(c, network)
		if err != nil {
			return nil, fmt.Errorf("ask %v: %w", server, err)
		}
		if len(reply) >= 12 && binary.BigEndian.Uint16(reply) == id && sameQuestion(query, reply) {
			copy(reply, query[:2])
			return reply, nil
		}
		if network == "tcp" {
			return nil, errors.New("ask: the answer is for another question")
		}
	}
}

func readReply(c net.Conn, network string) ([]byte, error) {
	if network == "tcp" {
		return readStream(c)
	}
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	return buf[:n], err
}

// sameQuestion says whether reply answers query.
func sameQuestion(query, reply []byte) bool {
	var p, r dnsmessage.Parser
	if _, err := p.Start(query); err != nil {
		return false
	}
	h, err := r.Start(reply)
	if err != nil || !h.Response {
		return false
	}
	q, err1 := p.Question()
	a, err2 := r.Question()
	if err1 != nil || errors.Is(err2, dnsmessage.ErrSectionDone) {
		return err1 == nil && h.RCode != dnsmessage.RCodeSuccess // a bare error
	}
	return err2 == nil && q.Type == a.Type && q.Class == a.Class && bytes.EqualFold(q.Name.Data[:q.Name.Length], a.Name.Data[:a.Name.Length])
}
