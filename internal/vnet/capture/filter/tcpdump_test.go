package filter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// expressions are what people type, and what the grammar has corners for.
var expressions = []string{
	"", "ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "pim", "vrrp", "ah", "esp", "stp",
	"host 10.0.0.1", "src host 10.0.0.1", "dst host 10.0.0.1", "src 10.0.0.1", "dst 10.0.2.15", "src or dst host 10.0.0.1",
	"src and dst host 192.168.7.3", "dst and src 192.168.7.3", "dst or src 192.168.7.3", "host 10.0.0.1 or 10.0.2.15",
	"host 10.0.0.1 and 10.0.2.15", "host (10.0.0.1 or 192.168.7.3)", "host not 10.0.0.1", "host 10.1", "host 0xa000001",
	"host 2001:db8::1", "src host 2001:db8::1", "dst host fe80::1", "host ::1", "host ::ffff:10.0.0.1", "src ff02::1 or fe80::1",
	"ip host 10.0.0.1", "arp host 10.0.0.1", "rarp src host 10.0.0.1", "ip6 host fe80::1", "arp src 10.0.0.1", "arp net 10",
	"net 10.0.0.0/8", "net 10", "src net 10.0.2.0/24", "dst net 192.168", "net 192.168.7", "net 10.0.2.0 mask 255.255.254.0",
	"net 0.0.0.0/0", "net 10.0.0.1/32", "net 10.0.0.1", "net 2001:db8::/32", "net 2001:db8::1", "src net fe80::/10", "net ff00::/8", "net ::/0",
	"not net 10.0.0.0/8", "net 10.0.0.0/31", "net 192.168.0.0/16 or 10.0.2.0/24", "net 2001:db8:0:1::/64", "net 2001:db8::/33",
	"port 80", "src port 80", "dst port 80", "tcp port 80", "tcp src port 80", "udp dst port 53", "sctp port 80", "port 80 or 443",
	"port 80 or 443 or 53", "port (80 or 443)", "port not 80", "src and dst port 22", "src or dst port 22", "port 0x50", "port 010",
	"port domain", "udp port domain", "port ssh", "port bootps or bootpc", "tcp port http", "port https", "port dhcpv6-client",
	"portrange 1-1024", "tcp portrange 400-500", "src portrange 1024-65535", "portrange 500-400", "portrange 80", "udp portrange 67-68",
	"portrange ssh-http", "dst and src portrange 50-60", "tcp portrange 20-30 or 400-500",
	"ether host 52:54:00:12:34:56", "ether src 52:54:0:12:34:56", "ether dst 02:00:00:00:00:0b", "ether host 52-54-00-12-34-56",
	"ether dst ff:ff:ff:ff:ff:ff", "ether host 5254.0012.3456", "ether src and dst 52:54:00:12:34:56", "not ether host 2:0:0:0:0:b",
	"ether host 52.54.00.12.34.56", "ether host 52540012345f", "ether src 02000000000b or 52:54:00:12:34:56",
	`ether proto \ip`, `ether proto 0x88cc`, `ether proto \arp or \rarp`, `ether proto \ip6`, "ether proto 0x42", `ether proto loopback`,
	`ip proto \tcp`, "ip proto 17", `ip proto (6 or 17)`, `ip6 proto \tcp`, "ip6 proto 58", `proto \udp`, "proto 89", "ip proto ospf", "proto 0",
	`ip6 proto ipv6-frag`, `ip proto \icmp or \igmp`, "ip proto ipv6-icmp",
	"broadcast", "ether broadcast", "multicast", "ether multicast", "ip multicast", "ip6 multicast", "not broadcast and not multicast",
	"less 100", "greater 100", "len > 100", "len <= 64", "len == 60", "len != 60", "len < 60", "len >= 1000", "length > 200", "100 < len",
	"tcp[tcpflags] & tcp-syn != 0", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "tcp[tcpflags] == tcp-syn", "tcp[13] & 2 != 0", "tcp[13] = 18",
	"tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)", "not tcp[13] & 2 != 0", "(tcp[13] & 2) != 0", "tcp[2:2] = 80", "tcp[0:2]=80",
	"ip[0] & 0xf != 5", "(ip[0] & 0xf) > 5", "ip[6:2] & 0x1fff = 0", "ip[6] & 0x20 != 0", "ip[8] < 65", "ip[9] = 6", "ip[12:4] = 0x0a000001",
	"ip[2:2] > 100", "ip[16] >= 224", "ip6[6] = 58", "ip6[7] == 64", "ip6[40] = 135", "arp[6:2] = 1", "arp[7] = 2", "rarp[6:2] != 3",
	"ether[0] & 1 = 0", "ether[0] & 1 = 0 and ip[16] >= 224", "ether[12:2] = 0x0800", "ether[6:4] = 0x52540012", "link[12:2] > 1500",
	"icmp[icmptype] = icmp-echo", "icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply", "icmp[icmptype] == icmp-unreach",
	"icmp[0] = 8 or icmp[icmpcode] = 1", "icmp6[icmp6type] = icmp6-neighborsolicit", "icmp6[0] = 128", "icmp6[icmp6code] = 0",
	"udp[4:2] > 100", "udp[0:2] = udp[2:2]", "sctp[0:2] = 80", "igmp[0] = 0", "vrrp[0] & 0xf = 1", "pim[0] = 0",
	"tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420", "ip[0] * 4 / 2 - 1 > 100", "ip[8] - 1 = 63", "ip[8] + 1 << 2 = 260",
	"(ip[8] % 7) = 1", "(ip[8] ^ 0xff) = 191", "ip[9] | 1 = 7", "ip[8] >> 2 << 2 = 64", "-1 = 4294967295", "ip[0] - 0x46 > 1", "1 = 1", "1 > 2",
	"-(1 - 2) = 1", "ip[ip[8]] > 0", "ether[len - 1] = 0", "tcp[ip[0] & 3 : 2] > 80", "ip[8] << ip[9] != 0",
	"vlan", "vlan 10", "vlan 20", "not vlan", "vlan and tcp", "vlan 10 and port 80", "vlan and vlan", "vlan 100 and vlan 20", "vlan and vlan and arp",
	"vlan 100 and vlan 20 and host 10.0.0.1", "vlan or tcp", "tcp or vlan", "vlan and ip[8] = 64", "not vlan and tcp", "vlan and tcp[13] = 2",
	"vlan 10 or vlan 20", "(vlan 10 and tcp) or udp", "vlan and stp", "vlan and ether[12:2] = 0x8100", "vlan and ip6[6] = 58", "vlan and icmp6[0] = 128",
	"vlan and ether host 52:54:00:12:34:56", "vlan and net 10.0.2.0/24", "vlan and arp host 10.0.0.1", "vlan and portrange 1-100", "vlan and ip multicast",
	"tcp and port 80", "tcp or udp", "tcp or udp and port 53", "tcp && port 80", "tcp || udp", "! tcp", "not tcp", "not not tcp", "!(tcp or udp)",
	"not tcp and udp", "not (tcp and port 80)", "tcp and not port 80", "arp or icmp or port 53 and host 10.0.0.1", "(tcp)", "((tcp or (udp)))",
	"tcp port 80 or udp port 53", "tcp port 80 or udp port 53 or 5353", "tcp dst port 80 or 443 and host 10.0.0.1", "port 80 and not host 10.0.0.1",
	"host 10.0.0.1 and (port 80 or 443)", "host 10.0.0.1 and not (port 80 or 22)", "(src host 10.0.0.1 or dst host 10.0.2.15) and tcp",
	"port 80 or (443 or 53)", "host 10.0.0.1 and ! 10.0.2.15", "port 80 or not 443", "src host 10.0.0.1 or 10.0.2.15", "tcp\tand\nport 80",
	"icmp or icmp6", "ip and not tcp", "ip6 and tcp", "ip6 and port 443", "ether host 52:54:00:12:34:56 and not arp", "not port 22 and not arp",
	"(tcp[tcpflags] & tcp-rst) != 0", "port 67 or port 68", "udp and (port 67 or port 68)", "greater 200 and tcp", "less 60 or arp", "((len)) > 5",
	"tcp[tcpflags]&tcp-syn!=0&&tcp[tcpflags]&tcp-ack==0", "host 10.0.0.1 && !(port 80||port 443)",
}

// alone are not combined with others: libpcap forgets what the right side of
// an operator needs, and its optimizer may leave out a division by zero, which
// would have ended the program.
var alone = []string{
	"ip[8] / ip[1] = 2", "ip[8] % ip[1] = 2",
	"tcp port 443 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
}

// refused are expressions that both must refuse.
var refused = []string{
	"tpc", "tcp port", "host", "port 99999", "port http80", "tcp host 10.0.0.1", "tcp and", "(tcp", "tcp)", "tcp udp", "vlan 5000", "ether host 10.0.0.1",
	"host 10.0.0.0/8", "net 10.0.0.1/8", "net 10.0.0.0/33", "net 2001:db8::1/32", "host 52:54:00:12:34:56", "10.0.0.1", "80", "port 80-90", "host 1.2.3.400",
	"tcp[13", "tcp[13:3] = 1", "tcp[]=1", "tcp[13] &", "stp[0] = 1", "ip[0] >> 33 = 0", "ip[0] / 0 = 1", "len", "ether", "src", "tcp multicast", "and", "or tcp",
	"not", "()", "ip[0] = = 1", "arp proto 6", "udp port ssh", "tcp port bootps", "icmp port 80", "portrange 1-", "ip6 host 10.0.0.1", "ip host ::1",
	"host 09", "tcp[tcp] = 1", "ip[0] + = 3", "tcp > 5", "5 > tcp", "host 10.0.0.1 443", "net 1.2.3.4.5", "ether host 1:2:3:4:5", "ip proto \\ip6x",
}

func TestSelectsWhatTcpdumpSelects(t *testing.T) {
	tcpdump := tooltest.Require(t, "tcpdump", "tcpdump")
	sound, odd := corpus()
	soundFile, oddFile := pcap(sound), pcap(odd)
	for _, e := range slices.Concat(expressions, alone, combinations()) {
		f, err := Parse(e, Options{})
		if err != nil {
			t.Errorf("%q: %v", e, err)
			continue
		}
		compareWithTcpdump(t, tcpdump, f, sound, soundFile)
		// The optimizer may leave out a load behind the frame's end, which would
		// have ended the program.
		compareWithTcpdump(t, tcpdump, f, odd, oddFile, "-O")
	}
}

func TestRefusesWhatTcpdumpRefuses(t *testing.T) {
	tcpdump := tooltest.Require(t, "tcpdump", "tcpdump")
	for _, e := range refused {
		if f, err := Parse(e, Options{}); err == nil {
			t.Errorf("%q was taken", f)
		}
		if err := exec.Command(tcpdump, "-y", "EN10MB", "-d", "--", e).Run(); err == nil {
			t.Errorf("tcpdump takes %q", e)
		}
	}
}

// combinations joins conditions by chance.
func combinations() (made []string) {
	rnd := rand.New(rand.NewPCG(3, 5))
	parts := expressions[1:]
	for range 150 {
		e := parts[rnd.IntN(len(parts))]
		for range 1 + rnd.IntN(3) {
			operand := parts[rnd.IntN(len(parts))]
			switch rnd.IntN(3) {
			case 0:
				operand = "(" + operand + ")"
			case 1:
				operand = "not (" + operand + ")"
			}
			e += []string{" and ", " or ", " && ", " || "}[rnd.IntN(4)] + operand
		}
		made = append(made, e)
	}
	return made
}

func compareWithTcpdump(t *testing.T, tcpdump string, f *Filter, frames [][]byte, file []byte, options ...string) {
	t.Helper()
	var want, got []int
	args := append(append([]string{"-r", "-", "-w", "-"}, options...), "--", f.String())
	c := exec.Command(tcpdump, args...)
	c.Stdin = bytes.NewReader(file)
	var complaint strings.Builder
	c.Stderr = &complaint
	out, err := c.Output()
	if strings.Contains(complaint.String(), "expression rejects all packets") {
		out, err = make([]byte, 24), nil // the optimizer saw that nothing can match
	}
	if err != nil {
		t.Errorf("tcpdump %q: %v: %s", args, err, complaint.String())
		return
	}
	for at := 24; at < len(out); at += 16 + int(binary.LittleEndian.Uint32(out[at+8:])) {
		want = append(want, int(binary.LittleEndian.Uint32(out[at:])))
	}
	for i, data := range frames {
		if f.Match(Packet{Data: data, Length: len(data)}) {
			got = append(got, i)
		}
	}
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%q %v: tcpdump selects %d frames, the filter %d%s", f, options, len(want), len(got), firstDifference(want, got, frames))
}

func firstDifference(want, got []int, frames [][]byte) string {
	for i, data := range frames {
		if a, b := slices.Contains(want, i), slices.Contains(got, i); a != b {
			return fmt.Sprintf("; frame %d (tcpdump %v, filter %v): %x", i, a, b, data)
		}
	}
	return ""
}

// pcap is a capture file of the classic format, with each frame's number as
// its time.
func pcap(frames [][]byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint16(le.AppendUint16(b, 2), 4)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(le.AppendUint32(b, 262144), 1)
	for i, f := range frames {
		b = le.AppendUint32(le.AppendUint32(b, uint32(i)), 0)
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(f))), uint32(len(f)))
		b = append(b, f...)
	}
	return b
}
