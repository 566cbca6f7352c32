package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// dnsServer answers guests' DNS queries (RFC 1035): names of the network, then
// the host's own, and passes everything else to the host's name servers as it
// is. It sends one question on for each question, keeps no cache, and answers
// REFUSED for foreign names on a restricted network.
type dnsServer struct {
	g        *Gateway
	resolv   followed[[]netip.AddrPort]
	hosts    followed[hostsFile]
	hostname string
	packets  []*gonet.UDPConn
	streams  []*gonet.TCPListener
	inFlight *share // queries being forwarded
	conns    *share // TCP connections
}

const (
	dnsTimeout   = 2 * time.Second // for each try
	dnsTotal     = 8 * time.Second
	dnsIdle      = 10 * time.Second // of a TCP connection
	dnsTTL       = 10               // seconds, for names that come and go with guests
	dnsMaxUDP    = 4096
	dnsMaxAnswer = 16 // addresses in one answer from the network's own names
)

func newDNSServer(g *Gateway) (*dnsServer, error) {
	d := &dnsServer{
		g:        g,
		resolv:   followed[[]netip.AddrPort]{path: g.cfg.ResolvConf, parse: parseResolvConf},
		hosts:    followed[hostsFile]{path: g.cfg.Hosts, parse: parseHosts},
		inFlight: newShare(maxDNSInFlight),
		conns:    newShare(maxDNSConns),
	}
	d.hostname, _ = os.Hostname()
	addrs := []netip.Addr{g.cfg.Gateway(), g.cfg.DNS()}
	if !g.cfg.NoIPv6 {
		addrs = append(addrs, g.cfg.Gateway6(), g.cfg.DNS6())
	}
	for _, a := range addrs {
		if err := d.listen(a); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

func (d *dnsServer) listen(a netip.Addr) error {
	at := tcpip.FullAddress{NIC: nicID, Addr: toStack(a), Port: portDNS}
	u, err := gonet.DialUDP(d.g.stack, &at, nil, protocolOf(a))
	if err != nil {
		return err
	}
	d.packets = append(d.packets, u)
	t, err := gonet.ListenTCP(d.g.stack, at, protocolOf(a))
	if err != nil {
		return err
	}
	d.streams = append(d.streams, t)
	d.g.tasks.start(func() { d.servePackets(u) })
	d.g.tasks.start(func() { d.serveStreams(t) })
	return nil
}

func (d *dnsServer) close() {
	for _, u := range d.packets {
		u.Close()
	}
	for _, t := range d.streams {
		t.Shutdown()
		t.Close()
	}
}

func (d *dnsServer) servePackets(u *gonet.UDPConn) {
	buf := make([]byte, dnsMaxUDP)
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			if d.g.ctx.Err() != nil {
				return
			}
			continue // an ICMP error for an earlier answer
		}
		query := append([]byte(nil), buf[:n]...)
		reply, forward := d.local(query)
		if reply != nil {
			_, _ = u.WriteTo(reply, from)
		}
		if !forward {
			continue
		}
		asker := d.guestAt(from)
		if !d.inFlight.take(asker) {
			_, _ = u.WriteTo(failure(query, dnsmessage.RCodeServerFailure), from)
			continue
		}
		if !d.g.tasks.start(func() {
			defer d.inFlight.give(asker)
			_, _ = u.WriteTo(d.forward(query, "udp"), from)
		}) {
			return
		}
	}
}

// guestAt says who uses an address.
func (d *dnsServer) guestAt(a net.Addr) guest {
	p, _ := netip.ParseAddrPort(a.String())
	return d.g.near.of(p.Addr().Unmap())
}

func (d *dnsServer) serveStreams(l *gonet.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		asker := d.guestAt(c.RemoteAddr())
		if !d.conns.take(asker) {
			c.Close()
			continue
		}
		if !d.g.tasks.start(func() {
			defer d.conns.give(asker)
			d.serveStream(c)
		}) {
			c.Close()
			return
		}
	}
}

func (d *dnsServer) serveStream(c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(d.g.ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	for d.g.ctx.Err() == nil {
		c.SetDeadline(time.Now().Add(dnsIdle + dnsTotal))
		query, err := readStream(c)
		if err != nil {
			return
		}
		reply, forward := d.local(query)
		if forward {
			reply = d.forward(query, "tcp")
		}
		if reply == nil {
			return
		}
		if _, err := c.Write(binary.BigEndian.AppendUint16(nil, uint16(len(reply)))); err != nil {
			return
		}
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

// readStream reads a message with its length before it (RFC 1035, 4.2.2).
func readStream(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

// local answers what can be answered here. forward says that the query is to be
// passed on instead; neither means silence.
func (d *dnsServer) local(query []byte) (reply []byte, forward bool) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil, false
	}
	if h.OpCode != 0 {
		return failure(query, dnsmessage.RCodeNotImplemented), false
	}
	q, err := p.Question()
	if err != nil {
		return failure(query, dnsmessage.RCodeFormatError), false
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return failure(query, dnsmessage.RCodeFormatError), false
	}
	if q.Class == dnsmessage.ClassINET {
		if reply := d.answer(h, q); reply != nil {
			return reply, false
		}
	}
	if d.g.cfg.Restrict {
		return failure(query, dnsmessage.RCodeRefused), false
	}
	return nil, true
}

// answer gives the reply for a name that is known here or belongs here.
func (d *dnsServer) answer(h dnsmessage.Header, q dnsmessage.Question) []byte {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if q.Type == dnsmessage.TypePTR {
		a, ok := reverseAddr(name)
		if !ok {
			return nil
		}
		target, mine := d.g.names.reverse(a)
		if !mine && !d.g.cfg.Restrict && !a.IsLoopback() {
			target, mine = d.hosts.get().name[a]
		}
		if !mine {
			return nil
		}
		return pointer(h, q, target)
	}
	addrs, mine := d.g.names.lookup(name)
	if !mine && (name == "localhost" || strings.HasSuffix(name, ".localhost")) {
		// RFC 6761, 6.3: whoever asks means itself.
		addrs, mine = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, true
	}
	if !mine && !d.g.cfg.Restrict {
		addrs = d.hostName(name)
		mine = len(addrs) > 0
	}
	if !mine {
		return nil
	}
	return addresses(h, q, addrs)
}

// hostName looks a name up in the host's hosts file. Loopback addresses there
// are the host's: guests reach them at the gateway, unless they may not.
func (d *dnsServer) hostName(name string) []netip.Addr {
	c := &d.g.cfg
	found := d.hosts.get().addrs[name]
	if len(found) == 0 && name != "" && strings.EqualFold(name, d.hostname) {
		found = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	var addrs []netip.Addr
	for _, a := range found {
		if a.IsLoopback() {
			if c.NoHost || c.NoIPv6 && a.Is6() {
				continue
			}
			if a.Is4() {
				a = c.Gateway()
			} else {
				a = c.Gateway6()
			}
		}
		addrs = append(addrs, a)
	}
	return addrs
}

func replyHeader(h dnsmessage.Header, code dnsmessage.RCode) dnsmessage.Header {
	return dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired,
		RecursionAvailable: true, Authoritative: code == dnsmessage.RCodeSuccess || code == dnsmessage.RCodeNameError, RCode: code,
	}
}

// failure answers a query with nothing but a code. The question is repeated if
// it can be read.
func failure(query []byte, code dnsmessage.RCode) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	m := dnsmessage.Message{Header: replyHeader(h, code)}
	if q, err := p.Question(); err == nil {
		m.Questions = []dnsmessage.Question{q}
	}
	b, _ := m.Pack()
	return b
}

// addresses answers with those of the addresses that the question asks for. No
// addresses at all means that the name does not exist.
func addresses(h dnsmessage.Header, q dnsmessage.Question, addrs []netip.Addr) []byte {
	code := dnsmessage.RCodeSuccess
	if len(addrs) == 0 {
		code = dnsmessage.RCodeNameError
	}
	m := dnsmessage.Message{Header: replyHeader(h, code), Questions: []dnsmessage.Question{q}}
	for _, a := range addrs[:min(len(addrs), dnsMaxAnswer)] {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: dnsTTL}}
		switch {
		case a.Is4() && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL):
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case a.Is6() && (q.Type == dnsmessage.TypeAAAA || q.Type == dnsmessage.TypeALL):
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	b, _ := m.Pack()
	return b
}

func pointer(h dnsmessage.Header, q dnsmessage.Question, target string) []byte {
	m := dnsmessage.Message{Header: replyHeader(h, dnsmessage.RCodeNameError), Questions: []dnsmessage.Question{q}}
	if name, err := dnsmessage.NewName(target + "."); err == nil && target != "" {
		m.Header = replyHeader(h, dnsmessage.RCodeSuccess)
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: dnsTTL},
			Body:   &dnsmessage.PTRResource{PTR: name},
		}}
	}
	b, _ := m.Pack()
	return b
}
