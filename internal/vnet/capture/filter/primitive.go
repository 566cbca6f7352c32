package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/spell"
)

// primitive parses a condition that begins with the keyword t, which is proto
// if it is a protocol's word. known is false if t is no keyword.
func (p *parser) primitive(t token, proto protocol) (made test, known bool, err error) {
	switch t.text {
	case "vlan":
		made, err = p.vlan()
	case "less", "greater":
		made, err = p.length(t)
	case "inbound", "outbound":
		in := t.text == "inbound"
		made = func(p Packet) verdict { return verdictOf(p.In == in) }
	case "broadcast", "multicast":
		made, err = p.group(t, proto)
	case "src", "dst", "host", "net", "port", "portrange", "proto":
		p.at--
		made, err = p.qualified(proto)
		return made, true, err // which leaves its qualifiers behind
	default:
		if proto.carrier == noCarrier {
			return nil, false, p.absent(t)
		}
		if p.is("src", "dst", "host", "net", "port", "portrange", "proto") {
			made, err = p.qualified(proto)
			return made, true, err
		}
		if p.is("broadcast", "multicast") {
			made, err = p.group(p.next(), proto)
		} else if proto.carrier == link {
			err = p.unexpected(p.peek(), fmt.Sprintf("%q, %q, %q or %q after %q", "host", "src", "dst", "proto", t.text))
		} else {
			made = p.layout.word(proto)
		}
	}
	p.last = qualifiers{}
	return made, true, err
}

// absent is the error for words of tcpdump's language that this package leaves
// out, or nil.
func (p *parser) absent(t token) error {
	words := []string{
		"mpls", "pppoed", "pppoes", "geneve", "vxlan", "gateway", "protochain", "wlan", "atalk", "aarp", "decnet",
		"ipx", "netbeui", "llc", "ifindex", "byte", "carp", "igrp", "iso", "clnp", "esis", "isis",
	}
	if !slices.Contains(words, t.text) {
		return nil
	}
	return p.errorAt(t, "%q is a word of tcpdump's that is not supported here", t.text)
}

// vlan parses the number after "vlan", if there is one.
func (p *parser) vlan() (test, error) {
	at := p.layout.payload
	made := p.layout.tag()
	if t := p.peek(); t.kind == wordToken {
		if isNumber, id, err := number(t.text); isNumber {
			p.next()
			if err != nil || id > 4095 {
				return nil, p.errorAt(t, "VLAN %s is above 4095", t.text)
			}
			made = every(made, field(at, 2, 0x0fff, id))
		}
	}
	return made, nil
}

// length parses "less N" and "greater N", which both include N.
func (p *parser) length(word token) (test, error) {
	t := p.next()
	isNumber, n, err := number(t.text)
	if !isNumber || err != nil {
		return nil, p.unexpected(t, fmt.Sprintf("a number of bytes after %q", word.text))
	}
	if word.text == "less" {
		return compare("<=", frameLength(), constant(n)), nil
	}
	return compare(">=", frameLength(), constant(n)), nil
}

// group makes the test for "broadcast" or "multicast" after a protocol's word.
func (p *parser) group(word token, proto protocol) (test, error) {
	isEther := proto.carrier == noCarrier || proto.carrier == link
	switch {
	case word.text == "broadcast" && isEther:
		return mac(dstOnly, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), nil
	case word.text == "multicast" && isEther:
		return not(field(0, 1, 1, 0)), nil
	case word.text == "multicast" && proto.word == "ip":
		return every(p.layout.ether(etherIPv4), not(atMost(p.layout.payload+16, 1, 223))), nil
	case word.text == "multicast" && proto.word == "ip6":
		return every(p.layout.ether(etherIPv6), field(p.layout.payload+24, 1, whole, 255)), nil
	case word.text == "broadcast" && proto.word == "ip":
		err := p.errorAt(word, "\"ip broadcast\" would need the network's mask, which a filter does not know")
		err.Suggestion = "ether broadcast"
		return nil, err
	}
	return nil, p.errorAt(word, "%s has no %s addresses", proto.word, word.text)
}

// qualified parses direction, kind and what they qualify.
func (p *parser) qualified(proto protocol) (test, error) {
	q := qualifiers{protocol: proto, kind: unsaid}
	q.direction = p.direction()
	if t := p.peek(); t.kind == wordToken && addressKinds[t.text] != noAddress {
		q.kind = addressKinds[t.text]
		p.next()
	}
	made, err := p.identifier(q)
	p.last = q
	return made, err
}

func (p *parser) direction() direction {
	first := p.peek()
	if !p.accept("src", "dst") {
		return srcOrDst
	}
	other, alone := "dst", srcOnly
	if first.text == "dst" {
		other, alone = "src", dstOnly
	}
	before := p.at
	if p.accept("or", "||") && p.accept(other) {
		return srcOrDst
	}
	p.at = before
	if p.accept("and", "&&") && p.accept(other) {
		return srcAndDst
	}
	p.at = before
	return alone
}

// identifier parses what qualifiers qualify: one address, port or number, or
// several in parentheses.
func (p *parser) identifier(q qualifiers) (test, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	t := p.next()
	switch {
	case t.kind == markToken && t.text == "(":
		made, err := p.identifiers(q)
		if err != nil {
			return nil, err
		}
		return made, p.expect(")", fmt.Sprintf("for the parenthesis of column %d", t.at+1))
	case (t.kind == markToken || t.kind == wordToken) && (t.text == "!" || t.text == "not"):
		made, err := p.identifier(q)
		if err != nil {
			return nil, err
		}
		return not(made), nil
	case t.kind == wordToken || t.kind == nameToken:
		return p.address(q, t)
	}
	return nil, p.unexpected(t, "an address, a port or a name")
}

func (p *parser) identifiers(q qualifiers) (test, error) {
	made, err := p.identifier(q)
	for err == nil {
		join := every
		if p.accept("or", "||") {
			join = either
		} else if !p.accept("and", "&&") {
			break
		}
		var right test
		if right, err = p.identifier(q); err == nil {
			made = join(made, right)
		}
	}
	return made, err
}

// address makes the test for one address, port or number with its qualifiers.
func (p *parser) address(q qualifiers, t token) (test, error) {
	switch q.kind {
	case port, portRange:
		return p.ports(q, t)
	case protoNumber:
		return p.proto(q, t)
	}
	form := aName
	if t.kind == wordToken {
		form = classify(t.text)
	}
	if q.protocol.carrier == link {
		return p.hardware(q, t, form)
	}
	switch {
	case form == aMAC:
		err := p.errorAt(t, "%v is a hardware address", t)
		err.Suggestion = "ether host " + t.text
		return nil, err
	case q.protocol.carrier != noCarrier && !slices.Contains([]string{"ip", "ip6", "arp", "rarp"}, q.protocol.word):
		err := p.errorAt(t, "%s has no addresses of its own", q.protocol.word)
		err.Suggestion = fmt.Sprintf("%s and host %s", q.protocol.word, t.text)
		return nil, err
	case form == anIPv4 && q.protocol.word == "ip6":
		return nil, p.errorAt(t, "%v is an IPv4 address, and ip6 has none", t)
	case form == anIPv4:
		return p.ipv4(q, t)
	case form == anIPv6 && q.protocol.carrier != noCarrier && q.protocol.word != "ip6":
		return nil, p.errorAt(t, "%v is an IPv6 address, and %s has none", t, q.protocol.word)
	case form == anIPv6:
		return p.ipv6(q, t)
	}
	return p.named(q, t)
}

// form is what a word looks like.
type form uint8

const (
	aName form = iota
	anIPv4
	anIPv6
	aMAC
)

func classify(text string) form {
	if strings.Trim(text, "0123456789.") == "" {
		return anIPv4
	}
	if isNumber, _, _ := number(text); isNumber {
		return anIPv4
	}
	if _, err := netip.ParseAddr(text); err == nil && strings.Contains(text, ":") {
		return anIPv6
	}
	if _, ok := parseMAC(text); ok {
		return aMAC
	}
	return aName
}

// parseMAC reads a hardware address as tcpdump does: six groups of one or two
// digits between colons, dashes or dots, three groups of four, or twelve digits.
func parseMAC(text string) ([]byte, bool) {
	groups := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '-' || r == '.' })
	width := 2
	switch {
	case len(groups) == 3 && len(text) == 14:
		width = 4
	case len(groups) == 1 && len(text) == 12:
		width = 12
	case len(groups) != 6 || len(text) < 11:
		return nil, false
	}
	var digits strings.Builder
	for _, g := range groups {
		if len(g) > width || width > 2 && len(g) != width {
			return nil, false
		}
		digits.WriteString(strings.Repeat("0", width-len(g)) + g)
	}
	n, err := strconv.ParseUint(digits.String(), 16, 48)
	if err != nil {
		return nil, false
	}
	return []byte{byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, true
}

func (p *parser) hardware(q qualifiers, t token, f form) (test, error) {
	if q.kind == network {
		return nil, p.errorAt(t, "there are no networks of hardware addresses")
	}
	if a, ok := parseMAC(t.text); ok && t.kind == wordToken {
		return mac(q.direction, a), nil
	}
	if f != aName {
		err := p.errorAt(t, "%v is not a hardware address", t)
		err.Suggestion = "host " + t.text
		return nil, err
	}
	var tests []test
	for _, a := range p.names.Ethers[t.text] {
		if len(a) == 6 {
			tests = append(tests, mac(q.direction, a))
		}
	}
	if tests == nil {
		return nil, p.unknown(t, "no machine's hardware address is known by the name %v", keys(p.names.Ethers))
	}
	return either(tests...), nil
}

// named makes the test for a host or a network by name.
func (p *parser) named(q qualifiers, t token) (test, error) {
	prefixes := slices.Clone(p.names.Networks[t.text])
	message, known := "no network is known by the name %v", keys(p.names.Networks)
	if q.kind != network {
		prefixes = nil
		for _, a := range p.names.Hosts[t.text] {
			prefixes = append(prefixes, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		}
		message, known = "no machine's address is known by the name %v", keys(p.names.Hosts)
	}
	prefixes = slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() })
	if len(prefixes) == 0 {
		return nil, p.unknown(t, message, known)
	}
	var tests []test
	for _, prefix := range prefixes {
		switch {
		case prefix.Addr().Is4() && q.protocol.word != "ip6":
			a, mask := prefix.Masked().Addr().As4(), prefixMask(prefix.Bits())
			addr := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
			tests = append(tests, p.layout.ipv4Addr(q.protocol, q.direction, addr, mask))
		case prefix.Addr().Is6() && (q.protocol.carrier == noCarrier || q.protocol.word == "ip6"):
			tests = append(tests, p.layout.ipv6Addr(q.direction, prefix))
		}
	}
	if tests == nil {
		return nil, p.errorAt(t, "%v has no address that %s could carry", t, q.protocol.word)
	}
	return either(tests...), nil
}

func keys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names) // so that the suggestion is always the same
	return names
}

func (p *parser) unknown(t token, format string, known []string) *SyntaxError {
	err := p.errorAt(t, format, t)
	if err.Suggestion = spell.Nearest(t.text, known); err.Suggestion == "" && t.kind == wordToken {
		err.Suggestion = nearestWord(t.text)
	}
	return err
}
