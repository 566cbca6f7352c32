package hostnet

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// obstacles finds what the host has that drops what the plan forwards. It only
// looks; what it can't see it says nothing of.
func obstacles(p *Plan) []Warning {
	var links []string
	for _, f := range p.faces() {
		if f.forwards() {
			links = append(links, f.name)
		}
	}
	bridged := bridgesFiltered(p)
	if len(links)+len(bridged) == 0 {
		return nil
	}
	var out []Warning
	for _, c := range droppingChains(p.tableName()) {
		out = append(out, c.warning(links, bridged))
	}
	if policy := legacyPolicy("iptables-legacy", "/proc/net/ip_tables_names"); policy {
		out = append(out, iptablesWarning("iptables-legacy", links, bridged))
	}
	if v6(p) && legacyPolicy("ip6tables-legacy", "/proc/net/ip6_tables_names") {
		out = append(out, iptablesWarning("ip6tables-legacy", links, bridged))
	}
	return out
}

func v6(p *Plan) bool {
	return slices.ContainsFunc(p.faces(), func(f face) bool { return f.v6() && f.forwards() })
}

// bridgesFiltered are the plan's bridges, where the kernel shows bridged
// packets to the rules for forwarded ones (br_netfilter).
func bridgesFiltered(p *Plan) (out []string) {
	if v, err := readSysctl("net/bridge/bridge-nf-call-iptables"); err != nil || v != "1" {
		return nil
	}
	for _, b := range p.Bridges {
		out = append(out, b.Name)
	}
	for _, t := range p.Taps {
		if t.Bridge != "" && !slices.Contains(out, t.Bridge) {
			out = append(out, t.Bridge)
		}
	}
	return out
}

// dropper is a chain of another table that drops what no rule of it accepts.
type dropper struct {
	family string // ip, ip6, inet
	table  string
	chain  string
}

// droppingChains are the base chains on the forward hook that drop by policy,
// or by a last rule without a condition.
func droppingChains(ours string) (out []dropper) {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil
	}
	families := map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}
	for _, ch := range chains {
		fam, ok := families[ch.Table.Family]
		if !ok || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || strings.HasPrefix(ch.Table.Name, "wolffia-") || ch.Table.Name == ours {
			continue
		}
		drops := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		if !drops {
			rules, err := c.GetRules(ch.Table, ch)
			drops = err == nil && len(rules) > 0 && refuses(rules[len(rules)-1])
		}
		if drops {
			out = append(out, dropper{fam, ch.Table.Name, ch.Name})
		}
	}
	return out
}

// refuses says whether a rule drops or rejects without looking at the packet.
func refuses(r *nftables.Rule) bool {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return true
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return false
}

func (d dropper) warning(links, bridged []string) Warning {
	w := Warning{What: fmt.Sprintf("chain %s of table %s %s drops what is forwarded, and with it that of %s",
		d.chain, d.family, d.table, strings.Join(slices.Concat(links, bridged), ", "))}
	// Rules of iptables are better left to iptables, which may not read others.
	if d.chain == "FORWARD" && d.table == "filter" && d.family != "inet" {
		tool := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[d.family]
		return Warning{w.What, iptablesWarning(tool, links, bridged).Fix}
	}
	var fixes []string
	insert := func(match string) {
		fixes = append(fixes, fmt.Sprintf("nft insert rule %s %s %s '%s accept'", d.family, d.table, d.chain, match))
	}
	for _, l := range links {
		insert(fmt.Sprintf(`iifname "%s"`, l))
		insert(fmt.Sprintf(`oifname "%s"`, l))
	}
	for _, l := range bridged {
		insert(fmt.Sprintf(`iifname "%s" oifname "%s"`, l, l))
	}
	w.Fix = strings.Join(fixes, " && ")
	if d.table == "firewalld" {
		w.Fix = "firewall-cmd --zone=trusted --add-interface=" + strings.Join(slices.Concat(links, bridged), " --add-interface=")
	}
	return w
}

func iptablesWarning(tool string, links, bridged []string) Warning {
	w := Warning{What: fmt.Sprintf("the FORWARD chain of %s drops what is forwarded, and with it that of %s",
		tool, strings.Join(slices.Concat(links, bridged), ", "))}
	var fixes []string
	for _, l := range links {
		fixes = append(fixes, tool+" -I FORWARD -i "+l+" -j ACCEPT", tool+" -I FORWARD -o "+l+" -j ACCEPT")
	}
	for _, l := range bridged {
		fixes = append(fixes, tool+" -I FORWARD -i "+l+" -o "+l+" -j ACCEPT")
	}
	w.Fix = strings.Join(fixes, " && ")
	return w
}

// legacyPolicy says whether the old kind of iptables, which nftables can't show,
// drops by policy. Its tables are only looked at when they are loaded: looking
// would load them.
func legacyPolicy(tool, loaded string) bool {
	names, err := os.ReadFile(loaded)
	if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
		return false
	}
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if out, err := exec.Command(dir+tool, "-w", "1", "-S", "FORWARD").Output(); err == nil {
			return strings.Contains(string(out), "-P FORWARD DROP")
		}
	}
	return false
}
