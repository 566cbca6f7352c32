package filter

import (
	"net/netip"
	"strconv"
	"strings"

	"wolffia/internal/spell"
)

// ipv4 makes the test for an address that begins with t; behind a network's
// may follow /bits or "mask" and a mask. Without one, a network of two numbers
// has 16 bits, and so on.
func (p *parser) ipv4(q qualifiers, t token) (test, error) {
	addr, mask, err := p.dotted(t, q.kind == network)
	if err != nil {
		return nil, err
	}
	slash := p.peek()
	given, longer, err := p.maskAfter()
	switch {
	case err != nil:
		return nil, err
	case given && q.kind != network:
		return nil, p.maskWithoutNet(slash)
	case given && addr&^longer != 0:
		return nil, p.errorAt(t, "%s has bits set behind the mask", t.text)
	case given:
		mask = longer
	}
	return p.layout.ipv4Addr(q.protocol, q.direction, addr, mask), nil
}

func (p *parser) maskWithoutNet(at token) *SyntaxError {
	err := p.errorAt(at, "only networks have a mask")
	err.Suggestion = "net"
	return err
}

// dotted reads one to four numbers with dots between: the first bytes of an
// address, and a mask of as many. A single number is a whole address of 32
// bits, or the first bytes of a network's.
func (p *parser) dotted(t token, isNetwork bool) (addr, mask uint32, err error) {
	if isNumber, n, err := number(t.text); isNumber {
		if err != nil {
			return 0, 0, p.errorAt(t, "%v", err)
		}
		mask = whole
		for isNetwork && n != 0 && n>>24 == 0 {
			n, mask = n<<8, mask<<8
		}
		return n, mask, nil
	}
	parts := strings.Split(t.text, ".")
	if len(parts) > 4 {
		return 0, 0, p.errorAt(t, "%v has more than four numbers", t)
	}
	bits := 0
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return 0, 0, p.errorAt(t, "%v is not an IPv4 address", t)
		}
		addr, bits = addr<<8|uint32(n), bits+8
	}
	return addr << (32 - bits), prefixMask(bits), nil
}

// maskAfter parses /bits or "mask M" if it is there.
func (p *parser) maskAfter() (given bool, mask uint32, err error) {
	switch {
	case p.accept("/"):
		t := p.next()
		isNumber, n, err := number(t.text)
		if !isNumber || err != nil || n > 32 {
			return false, 0, p.errorAt(t, "%v is not a prefix length from 0 to 32", t)
		}
		return true, prefixMask(int(n)), nil
	case p.accept("mask"):
		t := p.next()
		if classify(t.text) != anIPv4 {
			return false, 0, p.errorAt(t, "%v is not a mask such as 255.255.0.0", t)
		}
		mask, _, err = p.dotted(t, true)
		return true, mask, err
	}
	return false, 0, nil
}

func (p *parser) ipv6(q qualifiers, t token) (test, error) {
	addr, err := netip.ParseAddr(t.text)
	if err != nil || addr.Zone() != "" {
		return nil, p.errorAt(t, "%v is not an IPv6 address", t)
	}
	// As16 keeps an IPv4-mapped address what it is on the wire: 16 bytes.
	prefix := netip.PrefixFrom(addr, 128)
	slash := p.peek()
	if p.accept("/") {
		length := p.next()
		isNumber, n, err := number(length.text)
		if !isNumber || err != nil || n > 128 {
			return nil, p.errorAt(length, "%v is not a prefix length from 0 to 128", length)
		}
		if q.kind != network && n != 128 {
			return nil, p.maskWithoutNet(slash)
		}
		prefix = netip.PrefixFrom(addr, int(n))
		if prefix.Masked().Addr() != addr {
			return nil, p.errorAt(t, "%s has bits set behind the mask", t.text)
		}
	}
	return p.layout.ipv6Addr(q.direction, prefix), nil
}

// The transports with ports, in the order in which libpcap asks.
const (
	protoSCTP = 132
	protoTCP  = 6
	protoUDP  = 17
)

// ports makes the test for "port" and "portrange".
func (p *parser) ports(q qualifiers, t token) (test, error) {
	if q.protocol.carrier != noCarrier && !q.protocol.ports {
		return nil, p.errorAt(t, "%s has no ports", q.protocol.word)
	}
	low, high, on, err := p.portNumbers(q, t)
	if err != nil {
		return nil, err
	}
	transports := []uint32{protoSCTP, protoTCP, protoUDP}
	switch {
	case q.protocol.ports:
		transports = []uint32{q.protocol.number}
	case on == onTCP:
		transports = []uint32{protoTCP}
	case on == onUDP:
		transports = []uint32{protoUDP}
	}
	return p.layout.ports(transports, q.direction, min(low, high), max(low, high)), nil
}

// portNumbers reads a port, or a range for "portrange". on tells the
// transports of a service's name; it is 0 for numbers.
func (p *parser) portNumbers(q qualifiers, t token) (low, high uint32, on int, err error) {
	if low, on, err = p.port(q, t, t.text); err == nil {
		return low, low, on, nil
	}
	if q.kind != portRange {
		if a, b, ranged := strings.Cut(t.text, "-"); ranged && a != "" && b != "" {
			err := p.errorAt(t, "%v is a range", t)
			err.Suggestion = "portrange " + t.text
			return 0, 0, 0, err
		}
		return 0, 0, 0, err
	}
	// Names of services have dashes, too: the dash of the range is the one with
	// a port on either side.
	for i := range t.text {
		if t.text[i] != '-' {
			continue
		}
		var on2 int
		low, on, err1 := p.port(q, t, t.text[:i])
		high, on2, err2 := p.port(q, t, t.text[i+1:])
		if err1 == nil && err2 == nil {
			return low, high, on | on2, nil
		}
	}
	return 0, 0, 0, p.errorAt(t, "%v is not a range of ports such as 1000-2000", t)
}

func (p *parser) port(q qualifiers, t token, text string) (n uint32, on int, err error) {
	if isNumber, n, err := number(text); isNumber {
		if err != nil || n > 65535 {
			return 0, 0, p.errorAt(t, "port %s is above 65535", text)
		}
		return n, 0, nil
	}
	s, found := findService(text)
	switch {
	case !found:
		err := p.errorAt(t, "no service is known by the name %q", text)
		err.Suggestion = spell.Nearest(text, keys(services))
		return 0, 0, err
	case q.protocol.word == "tcp" && s.on&onTCP == 0:
		return 0, 0, p.errorAt(t, "the service %s is on UDP", text)
	case q.protocol.word == "udp" && s.on&onUDP == 0:
		return 0, 0, p.errorAt(t, "the service %s is on TCP", text)
	}
	return s.port, s.on, nil
}

// proto makes the test for "proto" and a number or a name.
func (p *parser) proto(q qualifiers, t token) (test, error) {
	isNumber, n, err := number(t.text)
	if err != nil {
		return nil, p.errorAt(t, "%v", err)
	}
	if !isNumber || t.kind == nameToken {
		if n, err = p.protoName(q, t); err != nil {
			return nil, err
		}
	}
	made, ok := p.layout.proto(q.protocol, n)
	if !ok {
		return nil, p.errorAt(t, "%s carries no other protocols that \"proto\" could name", q.protocol.word)
	}
	return made, nil
}

func (p *parser) protoName(q qualifiers, t token) (uint32, error) {
	names, inThis := ipProtocols, []carrier{inIP, inIPv4, inIPv6}
	if q.protocol.carrier == link {
		names, inThis = etherTypes, []carrier{inEther, inLLC}
	}
	if n, ok := names[t.text]; ok {
		return n, nil
	}
	known := keys(names)
	for _, c := range protocols {
		for _, carrier := range inThis {
			if c.carrier != carrier {
				continue
			}
			if c.word == t.text {
				return c.number, nil
			}
			known = append(known, c.word)
		}
	}
	err := p.errorAt(t, "no protocol is known by the name %v", t)
	err.Suggestion = spell.Nearest(t.text, known)
	return 0, err
}
