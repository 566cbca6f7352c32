package importer

import (
	"path"
	"slices"
	"strings"
)

// plainPackages are those of every machine that starts from no container image:
// enough for what labs do to their interfaces and routes.
var plainPackages = []string{"busybox-static", "dropbear-bin", "bash", "iproute2", "iputils-ping", "net-tools"}

// packagesOf names the Debian packages that a command or a service is in.
// Busybox has the commands that are missing here.
var packagesOf = map[string]string{
	"apache2": "apache2", "arping": "arping", "bird": "bird2", "birdc": "bird2", "bind9": "bind9", "brctl": "bridge-utils",
	"conntrack": "conntrack", "curl": "curl", "dhclient": "isc-dhcp-client", "dhcpd": "isc-dhcp-server",
	"dhcrelay": "isc-dhcp-relay", "dig": "bind9-dnsutils", "dnsmasq": "dnsmasq", "ethtool": "ethtool", "fping": "fping",
	"frr": "frr", "frrinit.sh": "frr", "haproxy": "haproxy", "host": "bind9-host", "hping3": "hping3", "ip6tables": "iptables",
	"ip6tables-restore": "iptables", "iperf": "iperf", "iperf3": "iperf3", "ipset": "ipset", "iptables": "iptables",
	"iptables-restore": "iptables", "isc-dhcp-relay": "isc-dhcp-relay", "isc-dhcp-server": "isc-dhcp-server",
	"keepalived": "keepalived", "lighttpd": "lighttpd", "mtr": "mtr-tiny", "named": "bind9", "nft": "nftables",
	"nginx": "nginx-light", "nmap": "nmap", "nsupdate": "bind9-dnsutils", "openvpn": "openvpn", "ovs-vsctl": "openvswitch-switch",
	"pimd": "pimd", "python3": "python3", "radvd": "radvd", "rndc": "bind9", "scp": "openssh-client", "smcroute": "smcroute",
	"socat": "socat", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "sshd": "openssh-server", "tcpdump": "tcpdump",
	"tcpreplay": "tcpreplay", "tshark": "tshark", "vtysh": "frr", "wg": "wireguard-tools", "wg-quick": "wireguard-tools",
}

// modulesOf names the kernel modules behind a command, or behind the kind of an
// interface or of a queue, as ip and tc call it. A machine's kernel loads none
// by itself.
var modulesOf = map[string][]string{
	"vconfig": {"8021q"}, "brctl": {"bridge"}, "openvpn": {"tun"},
	"type bond": {"bonding"}, "type bridge": {"bridge"}, "type dummy": {"dummy"}, "type geneve": {"geneve"},
	"type gre": {"ip_gre"}, "type gretap": {"ip_gre"}, "type ip6gre": {"ip6_gre"}, "type ip6tnl": {"ip6_tunnel"},
	"type ipip": {"ipip"}, "type ipvlan": {"ipvlan"}, "type macvlan": {"macvlan"}, "type sit": {"sit"},
	"type veth": {"veth"}, "type vlan": {"8021q"}, "type vrf": {"vrf"}, "type vti": {"ip_vti"}, "type vxlan": {"vxlan"},
	"mode gre": {"ip_gre"}, "mode ip6ip6": {"ip6_tunnel"}, "mode ipip": {"ipip"}, "mode sit": {"sit"}, "mode tap": {"tun"},
	"mode tun": {"tun"}, "root htb": {"sch_htb"}, "root netem": {"sch_netem"}, "root tbf": {"sch_tbf"}, "encap mpls": {"mpls_router", "mpls_iptunnel"},
}

// demanding are commands that the kernel of User-Mode Linux has no modules for,
// with those that they need of Debian's ordinary kernel; and what its network
// cards can't do.
var demanding = map[string][]string{
	"iptables": netfilter, "iptables-restore": netfilter, "ip6tables": netfilter, "ip6tables-restore": netfilter,
	"nft": netfilter, "wg": {"wireguard"}, "wg-quick": {"wireguard"}, "type wireguard": {"wireguard"},
	ifaceDown: nil,
}

// ifaceDown notes that an interface is taken down, after which User-Mode Linux
// can't bring it up again.
const ifaceDown = "an interface that is taken down"

var netfilter = []string{
	"nf_tables", "nft_compat", "nft_chain_nat", "nft_ct", "nft_masq", "nft_nat", "nft_limit", "nft_log", "nft_reject_inet",
	"xt_MASQUERADE", "xt_conntrack", "xt_state", "xt_nat", "xt_tcpudp", "xt_multiport", "xt_LOG", "xt_REDIRECT", "xt_limit", "ipt_REJECT",
}

// uses notes the commands of a shell script: the first word of each, the kind
// of each interface, and the services that are started.
func (m *machine) uses(script string) {
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
			continue
		}
		for command := range strings.FieldsFuncSeq(line, func(c rune) bool { return strings.ContainsRune(";&|()`{}", c) }) {
			m.usesWords(strings.Fields(command))
		}
	}
}

// leaders are words that a command may follow.
var leaders = []string{"!", "$", "do", "else", "elif", "exec", "if", "nohup", "sudo", "then", "time", "until", "while"}

func (m *machine) usesWords(words []string) {
	for len(words) > 0 && (slices.Contains(leaders, words[0]) || strings.Contains(words[0], "=")) {
		words = words[1:]
	}
	if len(words) == 0 {
		return
	}
	trim := func(s string) string { return path.Base(strings.Trim(s, `"'`)) }
	command := trim(words[0])
	m.used[command] = true
	for i, w := range words[1:] {
		switch {
		case command == "service" && i == 0, command == "systemctl" && i > 0:
			m.used[strings.TrimSuffix(trim(w), ".service")] = true
		case command == "bash" || command == "sh":
			m.used[trim(w)] = true
		}
		m.used[words[i]+" "+w] = true
	}
	if (command == "ip" || command == "ifconfig") && slices.Contains(words, "down") || command == "ifdown" {
		m.used[ifaceDown] = true
	}
}

// need finds out which packages the image has to have, and which modules.
func (i *image) need() {
	if i.from == "" {
		i.packages = slices.Clone(plainPackages)
	}
	for _, m := range i.machines {
		for word := range m.used {
			if p := packagesOf[word]; p != "" && i.from == "" {
				i.packages = append(i.packages, p)
			}
			m.modules = append(m.modules, modulesOf[word]...)
			if modules, ok := demanding[word]; ok {
				m.modules = append(m.modules, modules...)
				m.demands = append(m.demands, word)
			}
		}
		for _, list := range []*[]string{&m.modules, &m.demands} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
	}
	if i.has("frr") {
		i.packages = append(i.packages, "libpam-modules") // which vtysh asks
	}
	extra := i.packages[min(len(i.packages), len(plainPackages)):]
	slices.Sort(extra)
	i.packages = slices.Compact(i.packages)
}

// uses reports whether a machine of the image does.
func (i *image) uses(words ...string) bool {
	return slices.ContainsFunc(i.machines, func(m *machine) bool {
		return slices.ContainsFunc(words, func(w string) bool { return m.used[w] })
	})
}

// has reports whether the image has a package.
func (i *image) has(name string) bool { return slices.Contains(i.packages, name) }
