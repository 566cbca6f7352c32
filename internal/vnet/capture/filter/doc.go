// Package filter understands the filter expressions of tcpdump, and tells
// which Ethernet frames they select.
//
//	f, err := filter.Parse("tcp port 80 and host bob", filter.Options{Hosts: hosts})
//	if f.Match(filter.Packet{Data: frame, Length: len(frame)}) { … }
//
// The language is that of pcap-filter(7)
// (https://www.tcpdump.org/manpages/pcap-filter.7.html), and a filter selects
// the same frames as tcpdump -r does, down to what it is known for: "and" and
// "or" bind equally and from left to right; "port 80 or 443" carries its
// qualifiers on; ports are looked for in first fragments only, and right
// behind the fixed header of IPv6; each "vlan" moves what follows it in the
// expression behind a tag; a frame too short for a field that is looked at is
// not selected, whatever the rest of the expression says.
//
// Understood are
//
//   - host, net (with /bits or mask), port, portrange and proto, with src, dst,
//     "src or dst" and "src and dst", and after a protocol (tcp dst port 80);
//   - ether host, ether src, ether dst, ether proto, vlan with and without a
//     number, broadcast and multicast for ether, ip and ip6;
//   - ether, ip, ip6, arp, rarp, tcp, udp, sctp, icmp, icmp6, igmp, pim, vrrp,
//     ah, esp and stp; and lldp, which tcpdump has no word for;
//   - less, greater, and arithmetic over len, numbers, bytes of a protocol
//     (ip[0] & 0xf, tcp[tcpflags], ether[12:2]) and the names of flags and
//     types (tcp-syn, icmp-echo);
//   - inbound and outbound, as the machine sees it whose card the frame passed;
//   - not, and, or, !, &&, || and parentheses.
//
// Names of hosts and networks are those given in [Options]: nothing is looked
// up in the DNS. Names of ports that are not in a table of the usual ones are
// looked up in the host's /etc/services.
//
// Three things differ from libpcap on purpose. In arithmetic, % binds as * does
// and ^ between & and |, as in C. Every byte access demands its protocol, also
// on the right of an arithmetic operator. A protocol's word may follow "proto"
// without a backslash.
//
// Deliberately absent: MPLS, PPPoE and Geneve, protochain, gateway, "ip
// broadcast" (which needs the netmask), 802.11, ATM and OSI, and the link types
// that are not Ethernet.
package filter
