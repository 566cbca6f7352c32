package filter

import "net/netip"

// layout says where the fields of a frame lie. It begins as that of an
// untagged frame; each "vlan" of an expression moves both behind a tag, for
// all that follows in the expression.
type layout struct {
	etherType int // offset of the type or length
	payload   int // offset of what is behind it
}

var untagged = layout{etherType: 12, payload: 14}

const tagLength = 4

// direction says which ends of a packet must match.
type direction uint8

const (
	srcOrDst direction = iota
	srcOnly
	dstOnly
	srcAndDst
)

// ends joins the tests of both ends as d asks for.
func (d direction) ends(src, dst test) test {
	switch d {
	case srcOnly:
		return src
	case dstOnly:
		return dst
	case srcAndDst:
		return every(src, dst)
	}
	return either(src, dst)
}

// ether tests for an EtherType.
func (l layout) ether(number uint32) test {
	if number > maxLength {
		return field(l.etherType, 2, whole, number)
	}
	return every(atMost(l.etherType, 2, maxLength), field(l.payload, 1, whole, number))
}

func atMost(offset, size int, most uint32) test {
	at := uint64(offset)
	return func(p Packet) verdict {
		n, ok := load(p, at, size)
		if !ok {
			return tooShort
		}
		return verdictOf(n <= most)
	}
}

func (l layout) ipv4Proto(number uint32) test {
	return every(l.ether(etherIPv4), field(l.payload+9, 1, whole, number))
}

// ipv6Proto finds the protocol right behind the IPv6 header or behind one
// fragment header.
func (l layout) ipv6Proto(number uint32) test {
	next := l.payload + 6
	return every(l.ether(etherIPv6), either(
		field(next, 1, whole, number),
		every(field(next, 1, whole, protoFragment), field(l.payload+40, 1, whole, number)),
	))
}

// proto tests for a protocol inside another: inside IPv4 or IPv6 if none is
// given. The last result is false when in carries no others.
func (l layout) proto(in protocol, number uint32) (test, bool) {
	switch {
	case in.carrier == noCarrier:
		return either(l.ipv4Proto(number), l.ipv6Proto(number)), true
	case in.carrier == link:
		return l.ether(number), true
	case in.number == etherIPv4 && in.carrier == inEther:
		return l.ipv4Proto(number), true
	case in.number == etherIPv6 && in.carrier == inEther:
		return l.ipv6Proto(number), true
	}
	return nil, false
}

// word tests for a protocol by its word alone.
func (l layout) word(p protocol) test {
	switch p.carrier {
	case inIP:
		return either(l.ipv4Proto(p.number), l.ipv6Proto(p.number))
	case inIPv4:
		return l.ipv4Proto(p.number)
	case inIPv6:
		return l.ipv6Proto(p.number)
	}
	return l.ether(p.number)
}

// tag tests for a VLAN tag, and moves the layout behind it.
func (l *layout) tag() test {
	t := either(l.ether(0x8100), l.ether(0x88a8), l.ether(0x9100))
	l.etherType += tagLength
	l.payload += tagLength
	return t
}

// mac tests for a hardware address of six bytes.
func mac(d direction, a []byte) test {
	at := func(offset int) test {
		return every(
			field(offset+2, 4, whole, uint32(a[2])<<24|uint32(a[3])<<16|uint32(a[4])<<8|uint32(a[5])),
			field(offset, 2, whole, uint32(a[0])<<8|uint32(a[1])),
		)
	}
	return d.ends(at(6), at(0))
}

// ipv4Addr tests for an address, or a network, in IPv4, ARP and RARP, or in
// the one of them that in is.
func (l layout) ipv4Addr(in protocol, d direction, addr, mask uint32) test {
	where := func(etherType uint32, src, dst int) test {
		return every(l.ether(etherType), d.ends(
			field(l.payload+src, 4, mask, addr),
			field(l.payload+dst, 4, mask, addr),
		))
	}
	ip, arp, rarp := where(etherIPv4, 12, 16), where(etherARP, 14, 24), where(etherRARP, 14, 24)
	switch in.number {
	case etherIPv4:
		return ip
	case etherARP:
		return arp
	case etherRARP:
		return rarp
	}
	return either(ip, arp, rarp)
}

// ipv6Addr tests for an address or a network in IPv6.
func (l layout) ipv6Addr(d direction, prefix netip.Prefix) test {
	addr := prefix.Masked().Addr().As16()
	at := func(offset int) test {
		var words []test
		for i := 0; i < 16; i += 4 {
			mask := prefixMask(max(0, min(32, prefix.Bits()-8*i)))
			value := uint32(addr[i])<<24 | uint32(addr[i+1])<<16 | uint32(addr[i+2])<<8 | uint32(addr[i+3])
			words = append(words, field(l.payload+offset+i, 4, mask, value))
		}
		return every(words...)
	}
	return every(l.ether(etherIPv6), d.ends(at(8), at(24)))
}

func prefixMask(bits int) uint32 {
	return uint32(uint64(whole) << (32 - bits))
}

// ports tests for ports from low to high in the given transports.
func (l layout) ports(transports []uint32, d direction, low, high uint32) test {
	var over4, over6 []test
	firstFragment := field(l.payload+6, 2, 0x1fff, 0)
	for _, number := range transports {
		over4 = append(over4, every(
			field(l.payload+9, 1, whole, number),
			firstFragment,
			d.ends(l.portBehindIPv4(0, low, high), l.portBehindIPv4(2, low, high)),
		))
		over6 = append(over6, every(
			field(l.payload+6, 1, whole, number),
			d.ends(between(l.payload+40, low, high), between(l.payload+42, low, high)),
		))
	}
	return either(
		every(l.ether(etherIPv6), either(over6...)),
		every(l.ether(etherIPv4), either(over4...)),
	)
}

func between(offset int, low, high uint32) test {
	at := uint64(offset)
	return func(p Packet) verdict {
		n, ok := load(p, at, 2)
		if !ok {
			return tooShort
		}
		return verdictOf(low <= n && n <= high)
	}
}

func (l layout) portBehindIPv4(offset int, low, high uint32) test {
	ip := l.payload
	return func(p Packet) verdict {
		header, ok := headerLength(p, ip)
		if !ok {
			return tooShort
		}
		n, ok := load(p, uint64(ip+offset)+header, 2)
		if !ok {
			return tooShort
		}
		return verdictOf(low <= n && n <= high)
	}
}
