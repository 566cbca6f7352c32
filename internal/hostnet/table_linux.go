package hostnet

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableStep makes the plan's table of nftables rules, in one transaction.
type tableStep struct {
	Name    string
	Forward []string // interfaces that are forwarded to and from
	Own     []string // all interfaces of the plan: between them nothing is masqueraded
	Masq4   []string // whose IPv4 is masqueraded
	Masq6   []string // whose IPv6 is
}

const (
	chainForward     = "forward"
	chainPostrouting = "postrouting"
)

func (s *tableStep) masquerades() bool { return len(s.Masq4)+len(s.Masq6) > 0 }

func (s *tableStep) commands() []string {
	table := "inet " + s.Name
	out := []string{"nft create table " + table}
	if len(s.Forward) > 0 {
		out = append(out, fmt.Sprintf("nft add chain %s %s '{ type filter hook forward priority filter; policy accept; }'", table, chainForward))
	}
	rule := func(chain, format string, args ...any) {
		out = append(out, fmt.Sprintf("nft add rule %s %s '%s'", table, chain, fmt.Sprintf(format, args...)))
	}
	for _, l := range s.Forward {
		rule(chainForward, `iifname "%s" accept`, l)
		rule(chainForward, `oifname "%s" accept`, l)
	}
	if !s.masquerades() {
		return out
	}
	out = append(out, fmt.Sprintf("nft add chain %s %s '{ type nat hook postrouting priority srcnat; policy accept; }'", table, chainPostrouting))
	for _, l := range s.Own {
		rule(chainPostrouting, `oifname "%s" accept`, l)
	}
	for _, l := range s.Masq4 {
		rule(chainPostrouting, `meta nfproto ipv4 iifname "%s" masquerade`, l)
	}
	for _, l := range s.Masq6 {
		rule(chainPostrouting, `meta nfproto ipv6 iifname "%s" masquerade`, l)
	}
	return out
}

func (s *tableStep) do(*actor) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := c.CreateTable(&nftables.Table{Name: s.Name, Family: nftables.TableFamilyINet})
	accept := nftables.ChainPolicyAccept
	rule := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		r := &nftables.Rule{Table: table, Chain: chain}
		for _, e := range exprs {
			r.Exprs = append(r.Exprs, e...)
		}
		c.AddRule(r)
	}
	if len(s.Forward) > 0 {
		chain := c.AddChain(&nftables.Chain{
			Name: chainForward, Table: table, Type: nftables.ChainTypeFilter, Policy: &accept,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		})
		for _, l := range s.Forward {
			rule(chain, nameIs(expr.MetaKeyIIFNAME, l), verdictAccept())
			rule(chain, nameIs(expr.MetaKeyOIFNAME, l), verdictAccept())
		}
	}
	if s.masquerades() {
		chain := c.AddChain(&nftables.Chain{
			Name: chainPostrouting, Table: table, Type: nftables.ChainTypeNAT, Policy: &accept,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		for _, l := range s.Own {
			rule(chain, nameIs(expr.MetaKeyOIFNAME, l), verdictAccept())
		}
		masquerade := []expr.Any{&expr.Masq{}}
		for _, l := range s.Masq4 {
			rule(chain, protocolIs(unix.NFPROTO_IPV4), nameIs(expr.MetaKeyIIFNAME, l), masquerade)
		}
		for _, l := range s.Masq6 {
			rule(chain, protocolIs(unix.NFPROTO_IPV6), nameIs(expr.MetaKeyIIFNAME, l), masquerade)
		}
	}
	return nftError(c.Flush(), s.Name)
}

func (s *tableStep) undo(*actor) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	c.DelTable(&nftables.Table{Name: s.Name, Family: nftables.TableFamilyINet})
	return unlessGone(c.Flush())
}

func nftError(err error, table string) error {
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("there is a table inet %s already, of a lab with the same name: %w", table, err)
	}
	return err
}

// nameIs matches the name of the interface that a packet came from or leaves by.
func nameIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded}}
}

func protocolIs(family byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
}

func verdictAccept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
