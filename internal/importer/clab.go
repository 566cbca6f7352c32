package importer

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/lab"
	"wolffia/internal/lazy"
)

// containerlab reads a topology.
func (r *reader) containerlab(name string) *topology {
	text, ok := r.read(name)
	if !ok {
		r.fail(name, 0, "there is no such file")
		return nil
	}
	root := r.yaml(name, text)
	if root == nil {
		return nil
	}
	c := &clabLab{
		reader: r, file: name,
		t:        &topology{r: r, file: name, kind: "containerlab", name: r.o.Name},
		machines: map[string]*machine{}, bridges: map[string]*segment{}, others: map[string]string{},
	}
	c.root(root)
	return c.t
}

// clabLab is a topology that is being read.
type clabLab struct {
	*reader
	t        *topology
	file     string
	mgmt     *segment
	machines map[string]*machine
	bridges  map[string]*segment // nodes that are bridges of the host
	others   map[string]string   // nodes that can't be machines, with their kinds
	levels   struct{ defaults, kinds, groups *value }
}

func (c *clabLab) root(root *value) {
	topology := root.get("topology")
	for _, p := range root.pairs {
		switch p.key {
		case "name":
			c.t.name = c.word(p.value)
		case "topology", "mgmt":
		default:
			c.warn(c.file, p.line, "%s has no counterpart; left out", clean(p.key))
		}
	}
	c.management(root.get("mgmt"))
	if topology == nil || topology.kind != mapping {
		c.fail(c.file, root.line, "there is no topology")
		return
	}
	for _, p := range topology.pairs {
		switch p.key {
		case "nodes", "links":
		case "defaults":
			c.levels.defaults = p.value
		case "kinds":
			c.levels.kinds = p.value
		case "groups":
			c.levels.groups = p.value
		default:
			c.warn(c.file, p.line, "topology.%s has no counterpart; left out", clean(p.key))
		}
	}
	nodes := topology.get("nodes")
	if nodes == nil || nodes.kind != mapping {
		c.fail(c.file, topology.line, "the topology has no nodes")
		return
	}
	for _, p := range nodes.pairs {
		c.node(clean(p.key), p.line, p.value)
	}
	if l := topology.get("links"); l != nil {
		for _, item := range l.items {
			c.link(item)
		}
	}
	for _, m := range c.t.machines {
		c.finish(m)
	}
}

// word is the text of a scalar, in which variables with a default have it.
func (c *clabLab) word(v *value) string {
	if v == nil || v.kind != scalar {
		return ""
	}
	s := clean(v.text)
	if !strings.Contains(s, "$") {
		return s
	}
	out := expansion().ReplaceAllStringFunc(s, func(part string) string {
		if part == "$$" {
			return "$"
		}
		f := expansion().FindStringSubmatch(part)
		switch {
		case f[2] != "":
			c.warn(c.file, v.line, "%s is taken for %q, whatever the environment says", part, f[3])
			return f[3]
		default:
			c.warn(c.file, v.line, "%s stays as it is: variables of the environment are not read", part)
			return part
		}
	})
	return out
}

// expansion is what containerlab replaces by variables of the environment.
var expansion = lazy.Regexp(`\$\$|\$\{(\w+)(:?[-=])?([^{}]*)\}|\$(\w+)`)

// words are the texts of a list, or of a scalar.
func (c *clabLab) words(v *value) (out []string) {
	if v == nil {
		return nil
	}
	if v.kind == scalar {
		return []string{c.word(v)}
	}
	for _, item := range v.items {
		if s := c.word(item); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// The management network that containerlab makes unless told otherwise.
var (
	mgmtSubnet  = netip.MustParsePrefix("172.20.20.0/24")
	mgmtSubnet6 = netip.MustParsePrefix("3fff:172:20:20::/64")
)

func (c *clabLab) management(v *value) {
	c.mgmt = &segment{title: "mgmt", gateway: true, subnet: mgmtSubnet, subnet6: mgmtSubnet6}
	if v == nil {
		return
	}
	for _, p := range v.pairs {
		s := c.word(p.value)
		switch p.key {
		case "network":
			c.mgmt.title = s
		case "ipv4-subnet", "ipv4_subnet":
			if n, err := lab.ParseSubnet(s); err == nil {
				c.mgmt.subnet = n
			} else if s != "auto" {
				c.warn(c.file, p.line, "%v; the management network is %s", err, c.mgmt.subnet)
			}
		case "ipv6-subnet", "ipv6_subnet":
			if n, err := lab.ParseSubnet6(s); err == nil {
				c.mgmt.subnet6 = n
			} else if s != "auto" {
				c.warn(c.file, p.line, "%v; the management network is %s", err, c.mgmt.subnet6)
			}
		case "mtu":
			c.mtu(c.mgmt, p.value)
		case "external-access":
			c.mgmt.closed = s == "false"
		default:
			c.warn(c.file, p.line, "mgmt.%s has no counterpart; left out", clean(p.key))
		}
	}
}

func (c *clabLab) mtu(s *segment, v *value) {
	n, err := strconv.Atoi(c.word(v))
	if err != nil || n < lab.MinMTU || n > lab.MaxMTU {
		c.warn(c.file, v.lineOr(0), "an mtu is %d to %d; it is left at %d", lab.MinMTU, lab.MaxMTU, lab.DefaultMTU)
		return
	}
	s.mtu = n
}

func (v *value) lineOr(n int) int {
	if v == nil {
		return n
	}
	return v.line
}

// finish gives a machine its card on the management network, and puts the
// others in the order of their names.
func (c *clabLab) finish(m *machine) {
	for _, a := range m.after {
		if c.machines[a] == nil {
			c.warn(m.file, m.line, "machine %q waits for %q, which is none; left out", m.title, a)
		}
	}
	slices.SortStableFunc(m.cards, func(a, b card) int { return compareNumbered(a.iface, b.iface) })
	if m.managed && slices.ContainsFunc(m.cards, func(o card) bool { return o.iface == "eth0" || o.segment == c.mgmt }) {
		c.warn(m.file, m.line, "machine %q has a link in the place of its management interface", m.title)
		m.managed = false
	}
	if m.managed {
		m.cards = append([]card{{segment: c.mgmt, iface: "eth0", address: m.address, line: m.line}}, m.cards...)
	}
	if slices.ContainsFunc(m.cards, func(o card) bool { return o.segment == c.mgmt }) && !slices.Contains(c.t.segments, c.mgmt) {
		c.t.segments = append([]*segment{c.mgmt}, c.t.segments...)
	}
	if len(m.forwards) > 0 && !m.managed {
		c.warn(m.file, m.line, "machine %q has no management interface, and so no ports of the host; left out", m.title)
		m.forwards = nil
	}
}

// compareNumbered has eth2 before eth10.
func compareNumbered(a, b string) int {
	cut := func(s string) (string, int) {
		word := strings.TrimRight(s, "0123456789")
		n, err := strconv.Atoi(s[len(word):])
		if err != nil {
			n = -1
		}
		return word, n
	}
	aw, an := cut(a)
	bw, bn := cut(b)
	if d := strings.Compare(aw, bw); d != 0 {
		return d
	}
	return an - bn
}

// hostPath is where a path of the topology lies on the host, and its name in
// the lab's folder if it is there.
func (c *clabLab) hostPath(s string) (host, inside string, ok bool) {
	switch {
	case s == "":
		return "", "", false
	case s == "~" || strings.HasPrefix(s, "~/"):
		if c.o.Home == "" {
			return "", "", false
		}
		return path.Join(c.o.Home, s[1:]), "", true
	case path.IsAbs(s):
		return path.Clean(s), "", true
	}
	inside = path.Join(path.Dir(c.file), s)
	return c.host(inside), inside, true
}
