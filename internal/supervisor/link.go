package supervisor

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"wolffia/internal/lab"
	"wolffia/internal/vnet/link"
)

// Link is the cable of one port of the lab's networks, as what can be changed.
type Link struct {
	// That of a machine, which keeps it over its lives,
	machine *member
	card    int
	// or of what else is plugged in: a gateway, the host, a plug.
	network *network
	port    string
}

// Link finds a link by its name: MACHINE, if that has one card, MACHINE/NETWORK,
// or what [Lab.Links] calls it, with NETWORK/ before it where several networks have
// one of that name. A machine goes before all others. The error is a mistake of who
// asks.
func (l *Lab) Link(name string) (*Link, error) {
	first, rest, _ := strings.Cut(name, "/")
	m, _ := l.member(first)
	var notOn error // the network that m is asked for
	if m != nil {
		var card int
		if card, notOn = m.cardOn(rest); notOn == nil {
			return &Link{machine: m, card: card}, nil
		}
	}
	nets := l.running()
	n := nets[first]
	if n != nil && rest != "" {
		if x := l.linkOf(n, rest); x != nil {
			return x, nil
		}
	}
	var found *Link
	var on []string
	for _, network := range slices.Sorted(maps.Keys(nets)) {
		if x := l.linkOf(nets[network], name); x != nil {
			found, on = x, append(on, network)
		}
	}
	switch {
	case len(on) == 1:
		return found, nil
	case len(on) > 1:
		return nil, fmt.Errorf("link %s is on %s; name one, as in %[3]s/%[1]s", name, strings.Join(on, ", "), on[0])
	case m != nil:
		return nil, notOn
	case n != nil && rest != "":
		return nil, &lab.UnknownError{What: "link of network " + first, Word: rest, Valid: n.ports()}
	}
	machines := l.Status()
	valid := LinkNames(machines, l.Links())
	for _, s := range machines {
		valid = append(valid, s.Name)
	}
	slices.Sort(valid)
	return nil, &lab.UnknownError{What: "link", Word: name, Valid: valid}
}

// linkOf is the link of a port of a network; nil where there is none.
func (l *Lab) linkOf(n *network, port string) *Link {
	name, _, _ := strings.Cut(port, "/")
	if m, _ := l.member(name); m != nil {
		for i, c := range m.description().Cards {
			if c.Network == n.name && name+"/"+cardName(i) == port {
				return &Link{machine: m, card: i}
			}
		}
	}
	if n.cable(port) == nil {
		return nil
	}
	return &Link{network: n, port: port}
}

// LinkNames are the shortest names by which [Lab.Link] finds the links of machines,
// and the others that are plugged in.
func LinkNames(machines []MachineStatus, links []LinkStatus) (out []string) {
	taken, many := map[string]bool{}, map[string]int{}
	for _, m := range machines {
		taken[m.Name] = true
		for _, c := range m.Cards {
			out = append(out, m.Name+"/"+c.Network)
			taken[m.Name+"/"+c.Network], taken[c.Network+"/"+m.Name+"/"+c.Name] = true, true
		}
	}
	for _, s := range links {
		many[s.Name]++
	}
	for _, s := range links {
		switch full := s.Network + "/" + s.Name; {
		case taken[full]:
		case taken[s.Name] || many[s.Name] > 1:
			out = append(out, full)
		default:
			out = append(out, s.Name)
		}
	}
	return out
}

// cardOn finds a machine's card on a network, or by its own name; with one card
// that may be left out.
func (m *member) cardOn(network string) (int, error) {
	cards := m.description().Cards
	var names []string
	for i := range cards {
		if cards[i].Network == network || cardName(i) == network || network == "" && len(cards) == 1 {
			return i, nil
		}
		names = append(names, cards[i].Network)
	}
	switch {
	case len(names) == 0:
		return 0, fmt.Errorf("machine %s is on no network", m.name)
	case network == "":
		return 0, fmt.Errorf("machine %s is on %s; name one, as in %s/%s", m.name, strings.Join(names, ", "), m.name, names[0])
	}
	return 0, &lab.UnknownError{What: "network of machine " + m.name, Word: network, Valid: names}
}

// SetUp plugs the cable in, or pulls it out.
func (x *Link) SetUp(up bool) error {
	if x.machine != nil {
		return x.machine.setLink(x.card, up)
	}
	return x.network.setPort(x.port, func(to *lab.Card, c *cable) error {
		to.Down = !up
		c.SetUp(up)
		return nil
	})
}

// SetImpairment makes the cable worse, or good again, in the directions that are not
// nil.
func (x *Link) SetImpairment(out, in *link.Impairment) error {
	for _, i := range []*link.Impairment{out, in} {
		if i == nil {
			continue
		}
		if err := i.Check(); err != nil {
			return err
		}
	}
	if x.machine != nil {
		return x.machine.impair(x.card, out, in)
	}
	return x.network.setPort(x.port, func(to *lab.Card, c *cable) error {
		replace(&to.Link, out, in)
		return c.impair(out, in)
	})
}

// replace sets the directions of a cable that are not nil.
func replace(c *lab.Cable, out, in *link.Impairment) {
	if out != nil {
		c.Out = *out
	}
	if in != nil {
		c.In = *in
	}
}

// impair sets the directions of the link that are not nil, also to what they are
// already: the sequence of decisions begins anew. One that is ending is left alone;
// what a machine or a gateway has in its place has what was set.
func (c *cable) impair(out, in *link.Impairment) (err error) {
	if out != nil {
		err = c.SetImpairment(link.Out, *out)
	}
	if in != nil {
		err = errors.Join(err, c.SetImpairment(link.In, *in))
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// become gives the link its impairments. Setting one that it has would begin the
// sequence of decisions again.
func (c *cable) become(to lab.Cable) error {
	var out, in *link.Impairment
	if c.Impairment(link.Out) != to.Out {
		out = &to.Out
	}
	if c.Impairment(link.In) != to.In {
		in = &to.In
	}
	return c.impair(out, in)
}
