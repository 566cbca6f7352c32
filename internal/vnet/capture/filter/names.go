package filter

import (
	"context"
	"net"
	"slices"
)

// carrier says what a protocol's packets are found in.
type carrier uint8

const (
	noCarrier carrier = iota // not a protocol: no qualifier was given
	link                     // the Ethernet header itself
	inEther                  // by EtherType
	inLLC                    // by the DSAP of an 802.2 header
	inIP                     // by protocol number, in IPv4 and IPv6
	inIPv4                   // in IPv4 alone
	inIPv6                   // in IPv6 alone
)

// protocol is a word for a protocol.
type protocol struct {
	word    string
	carrier carrier
	number  uint32
	ports   bool // has ports where TCP has them
	indexed bool // its bytes can be asked for
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherIPv6 = 0x86dd

	protoFragment = 44
	maxLength     = 1500 // an EtherType up to this is a length (IEEE 802.3)
)

var protocols = []protocol{
	{"ether", link, 0, false, true},
	{"link", link, 0, false, true},
	{"ip", inEther, etherIPv4, false, true},
	{"ip6", inEther, etherIPv6, false, true},
	{"arp", inEther, etherARP, false, true},
	{"rarp", inEther, etherRARP, false, true},
	{"lldp", inEther, 0x88cc, false, false},
	{"stp", inLLC, 0x42, false, false},
	{"tcp", inIP, 6, true, true},
	{"udp", inIP, 17, true, true},
	{"sctp", inIP, 132, true, true},
	{"icmp", inIPv4, 1, false, true},
	{"icmp6", inIPv6, 58, false, true},
	{"igmp", inIPv4, 2, false, true},
	{"pim", inIP, 103, false, true},
	{"vrrp", inIPv4, 112, false, true},
	{"ah", inIP, 51, false, false},
	{"esp", inIP, 50, false, false},
}

func protocolOf(word string) (protocol, bool) {
	i := slices.IndexFunc(protocols, func(p protocol) bool { return p.word == word })
	if i < 0 {
		return protocol{}, false
	}
	return protocols[i], true
}

// constants are the words that stand for a number: offsets, flags and types,
// as pcap-filter(7) lists them.
var constants = map[string]uint32{
	"tcpflags": 13, "icmptype": 0, "icmpcode": 1, "icmp6type": 0, "icmp6code": 1,

	"tcp-fin": 0x01, "tcp-syn": 0x02, "tcp-rst": 0x04, "tcp-push": 0x08,
	"tcp-ack": 0x10, "tcp-urg": 0x20, "tcp-ece": 0x40, "tcp-cwr": 0x80,

	"icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5,
	"icmp-echo": 8, "icmp-routeradvert": 9, "icmp-routersolicit": 10, "icmp-timxceed": 11,
	"icmp-paramprob": 12, "icmp-tstamp": 13, "icmp-tstampreply": 14, "icmp-ireq": 15,
	"icmp-ireqreply": 16, "icmp-maskreq": 17, "icmp-maskreply": 18,

	"icmp6-destinationunreach": 1, "icmp6-destinationrunreach": 1, "icmp6-packettoobig": 2,
	"icmp6-timeexceeded": 3, "icmp6-parameterproblem": 4, "icmp6-echo": 128, "icmp6-echoreply": 129,
	"icmp6-multicastlistenerquery": 130, "icmp6-multicastlistenerreportv1": 131,
	"icmp6-multicastlistenerdone": 132, "icmp6-routersolicit": 133, "icmp6-routeradvert": 134,
	"icmp6-neighborsolicit": 135, "icmp6-neighboradvert": 136, "icmp6-redirect": 137,
	"icmp6-routerrenum": 138, "icmp6-nodeinformationquery": 139, "icmp6-nodeinformationresponse": 140,
	"icmp6-ineighbordiscoverysolicit": 141, "icmp6-ineighbordiscoveryadvert": 142,
	"icmp6-multicastlistenerreportv2": 143, "icmp6-homeagentdiscoveryrequest": 144,
	"icmp6-homeagentdiscoveryreply": 145, "icmp6-mobileprefixsolicit": 146,
	"icmp6-mobileprefixadvert": 147, "icmp6-certpathsolicit": 148, "icmp6-certpathadvert": 149,
	"icmp6-multicastrouteradvert": 151, "icmp6-multicastroutersolicit": 152,
	"icmp6-multicastrouterterm": 153,
}

// ipProtocols and etherTypes are names that may follow "proto" besides the
// words of protocols.
var ipProtocols = map[string]uint32{
	"ipencap": 4, "egp": 8, "igp": 9, "dccp": 33, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": protoFragment,
	"rsvp": 46, "gre": 47, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88, "ospf": 89,
	"ipip": 94, "etherip": 97, "ipcomp": 108, "l2tp": 115, "udplite": 136,
}

var etherTypes = map[string]uint32{"loopback": 0x9000, "atalk": 0x809b, "aarp": 0x80f3}

// The transports that a service is found on.
const (
	onTCP = 1 << iota
	onUDP
)

type service struct {
	port uint32
	on   int
}

// services are the ports that people really name, on the transports that IANA
// and Debian's /etc/services have them, so that a filter means the same on any
// host.
var services = map[string]service{
	"ftp": {21, onTCP}, "ssh": {22, onTCP}, "telnet": {23, onTCP}, "smtp": {25, onTCP},
	"domain": {53, onTCP | onUDP}, "bootps": {67, onUDP}, "bootpc": {68, onUDP}, "tftp": {69, onUDP},
	"http": {80, onTCP}, "kerberos": {88, onTCP | onUDP}, "pop3": {110, onTCP}, "sunrpc": {111, onTCP | onUDP},
	"ntp": {123, onUDP}, "imap2": {143, onTCP}, "snmp": {161, onTCP | onUDP}, "bgp": {179, onTCP},
	"ldap": {389, onTCP | onUDP}, "https": {443, onTCP | onUDP}, "syslog": {514, onUDP},
	"dhcpv6-client": {546, onUDP}, "dhcpv6-server": {547, onUDP}, "imaps": {993, onTCP},
	"nfs": {2049, onTCP | onUDP}, "mysql": {3306, onTCP}, "postgresql": {5432, onTCP | onUDP},
	"mdns": {5353, onUDP},
}

// findService finds a service by name; found is false when nobody knows it.
func findService(name string) (s service, found bool) {
	if s, found = services[name]; found {
		return s, true
	}
	// The context matters to nobody: this reads a file.
	var r net.Resolver
	if port, err := r.LookupPort(context.Background(), "tcp", name); err == nil {
		s = service{uint32(port), onTCP}
	}
	if port, err := r.LookupPort(context.Background(), "udp", name); err == nil && (s.on == 0 || s.port == uint32(port)) {
		s = service{uint32(port), s.on | onUDP}
	}
	return s, s.on != 0
}
