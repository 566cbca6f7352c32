package importer

import (
	"net/netip"
	"strings"

	"wolffia/internal/lab"
)

// end is one end of a link.
type end struct {
	node, iface string
	mac         string
	addrs       []string // with their prefixes
	line        int
}

// link reads one link of a topology.
func (c *clabLab) link(v *value) {
	if v == nil || v.kind != mapping {
		c.fail(c.file, v.lineOr(0), "a link must be a mapping with endpoints")
		return
	}
	kind := c.word(v.get("type"))
	var ends []end
	for _, p := range v.pairs {
		switch p.key {
		case "type":
		case "endpoints", "endpoint":
			items := p.value.list()
			if p.value != nil && p.value.kind == mapping {
				items = []*value{p.value}
			}
			for _, e := range items {
				ends = append(ends, c.end(e))
			}
		case "mtu":
		case "ipv4", "ipv6":
		default:
			c.warn(c.file, p.line, "%s of a link has no counterpart; left out", clean(p.key))
		}
	}
	for _, key := range []string{"ipv4", "ipv6"} {
		for i, a := range v.get(key).list() {
			if i < len(ends) {
				c.addAddress(&ends[i], a)
			}
		}
	}
	want := 2
	switch kind {
	case "", "veth":
	case "dummy":
		want = 1
	case "mgmt-net":
		want = 1
		ends = append(ends, end{node: "mgmt-net", line: v.line})
	default: // host, macvlan, vxlan, vxlan-stitch: the other end is outside
		want = 1
		c.warn(c.file, v.line, "a link of type %s leads out of the lab; its network has no other end here", clean(kind))
	}
	if len(ends) < want {
		c.fail(c.file, v.line, "a link needs two endpoints, such as [a:eth1, b:eth1]")
		return
	}
	if len(ends) > 2 {
		c.fail(c.file, v.line, "a link has two endpoints, and this has %d", len(ends))
		return
	}
	c.connect(ends, v)
}

// end reads NODE:INTERFACE, or a mapping of the same.
func (c *clabLab) end(v *value) end {
	e := end{line: v.lineOr(0)}
	if v != nil && v.kind == mapping {
		e.node, e.iface = c.word(v.get("node")), c.word(v.get("interface"))
		if mac := c.word(v.get("mac")); mac != "" {
			if _, err := lab.ParseMAC(mac); err != nil {
				c.warn(c.file, e.line, "%v; another one is taken", err)
			} else {
				e.mac = mac
			}
		}
		for _, p := range v.pairs {
			switch p.key {
			case "node", "interface", "mac":
			case "ipv4", "ipv6":
				c.addAddress(&e, p.value)
			default:
				c.warn(c.file, p.line, "%s of an endpoint has no counterpart; left out", clean(p.key))
			}
		}
		return e
	}
	e.node, e.iface, _ = strings.Cut(c.word(v), ":")
	return e
}

func (c *clabLab) addAddress(e *end, v *value) {
	s := c.word(v)
	if s == "" {
		return
	}
	if _, err := netip.ParsePrefix(s); err != nil {
		c.warn(c.file, v.line, "%.60q is no address with its prefix, such as 10.0.0.1/24; left out", s)
		return
	}
	e.addrs = append(e.addrs, s)
}

// connect makes a network of a link, or plugs its one end into a network that
// there is.
func (c *clabLab) connect(ends []end, v *value) {
	var on *segment
	var title []string
	known := 0
	for _, e := range ends {
		switch {
		case c.bridges[e.node] != nil && on != nil:
			c.warn(c.file, e.line, "a link from one bridge to another is left out")
			return
		case c.bridges[e.node] != nil:
			on = c.bridges[e.node]
		case c.machines[e.node] != nil:
			known++
			title = append(title, e.node)
		case e.node == "mgmt-net":
			on = c.mgmt
		case e.node == "host" || e.node == "macvlan":
			c.warn(c.file, e.line, "%s:%s is outside of the lab; the network has no other end here", e.node, e.iface)
		case c.others[e.node] == "":
			c.fail(c.file, e.line, "there is no node %q", e.node)
			return
		}
	}
	if known == 0 {
		return
	}
	if on == nil {
		on = &segment{title: strings.Join(title, "-")}
		c.t.segments = append(c.t.segments, on)
	}
	if mtu := v.get("mtu"); mtu != nil && on != c.mgmt {
		c.mtu(on, mtu)
	}
	for _, e := range ends {
		if m := c.machines[e.node]; m != nil {
			c.plug(m, e, on)
		}
	}
}

func (c *clabLab) plug(m *machine, e end, on *segment) {
	if !validIface(e.iface) {
		c.fail(c.file, e.line, "%.40q is no name of an interface of Linux's", e.iface)
		return
	}
	o := card{segment: on, iface: e.iface, mac: e.mac, address: string(lab.CardNone), line: e.line}
	if on == c.mgmt {
		o.address = ""
	}
	m.cards = append(m.cards, o)
	for _, a := range e.addrs {
		m.before = append(m.before, shell("ip", "addr", "add", a, "dev", e.iface))
	}
}
