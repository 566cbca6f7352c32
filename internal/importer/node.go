package importer

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/lab"
)

// node reads one node of a topology.
func (c *clabLab) node(name string, line int, v *value) {
	if v != nil && v.kind != mapping {
		c.fail(c.file, line, "node %q must be a mapping (key: value)", name)
		return
	}
	n := c.merge(v)
	switch kind := c.word(n.get("kind")); kind {
	case "linux":
	case "bridge", "ovs-bridge":
		c.warn(c.file, line, "%s is a network of the lab alone, and not the host's bridge of that name", name)
		c.bridges[name] = &segment{title: name}
		c.t.segments = append(c.t.segments, c.bridges[name])
		return
	default:
		c.warn(c.file, line, "node %s is of kind %q, and only linux can be a machine; left out, with its ends of links", name, kind)
		c.others[name] = kind
		return
	}
	m := newMachine(name, c.file, line)
	m.managed = true
	c.machines[name] = m
	c.t.machines = append(c.t.machines, m)
	for _, p := range n.pairs {
		c.option(m, p)
	}
	if cmd := append(c.split(n.get("entrypoint")), c.split(n.get("cmd"))...); len(cmd) > 0 {
		m.commands = append(m.commands, shell(cmd...)+" &")
		m.usesWords(cmd)
	}
	if s := c.word(n.get("startup-delay")); s != "" && s != "0" {
		seconds, err := strconv.Atoi(s)
		if err != nil || seconds < 0 || seconds > 86400 {
			c.warn(c.file, line, "machine %q: startup-delay %s is no number of seconds; left out", name, s)
		} else {
			m.commands = append(m.commands, "sleep "+strconv.Itoa(seconds))
		}
	}
	for _, e := range n.get("exec").list() {
		words := c.split(e)
		if len(words) > 0 {
			m.commands = append(m.commands, shell(words...))
			m.usesWords(words)
		}
	}
}

func (v *value) list() []*value {
	if v == nil {
		return nil
	}
	if v.kind == scalar {
		return []*value{v}
	}
	return v.items
}

// merged are the keys whose values of all levels count.
var merged = []string{"env", "labels", "sysctls", "binds", "exec"}

// merge lays a node over its group, its kind and the defaults.
func (c *clabLab) merge(v *value) *value {
	out := &value{kind: mapping, line: v.lineOr(0)}
	layer := func(level *value) {
		if level == nil {
			return
		}
		for _, p := range level.pairs {
			i := slices.IndexFunc(out.pairs, func(q pair) bool { return q.key == p.key })
			switch {
			case i < 0:
				out.pairs = append(out.pairs, p)
			case slices.Contains(merged, p.key):
				out.pairs[i] = pair{p.key, p.line, join(out.pairs[i].value, p.value)}
			default:
				out.pairs[i] = p
			}
		}
	}
	of := func(key string) string {
		for _, level := range []*value{v, c.levels.defaults} {
			if w := level.get(key); w != nil {
				return strings.TrimSpace(w.text)
			}
		}
		return ""
	}
	group := c.levels.groups.get(of("group"))
	kind := of("kind")
	if v.get("kind") == nil && group.get("kind") != nil {
		kind = group.get("kind").text
	}
	layer(c.levels.defaults)
	layer(c.levels.kinds.get(kind))
	layer(group)
	layer(v)
	if out.get("kind") == nil && kind != "" {
		out.pairs = append(out.pairs, pair{"kind", out.line, &value{text: kind}})
	}
	return out
}

// join lays one collection over another: keys and items of both.
func join(under, over *value) *value {
	if under == nil || over == nil || under.kind != over.kind || over.kind == scalar {
		return over
	}
	out := &value{kind: over.kind, line: over.line, items: slices.Concat(under.items, over.items)}
	for _, p := range slices.Concat(under.pairs, over.pairs) {
		if i := slices.IndexFunc(out.pairs, func(q pair) bool { return q.key == p.key }); i >= 0 {
			out.pairs[i] = p
		} else {
			out.pairs = append(out.pairs, p)
		}
	}
	return out
}

func (c *clabLab) option(m *machine, p pair) {
	left := func(why string) {
		c.warn(c.file, p.line, "machine %q: %s: %s; left out", m.title, clean(p.key), why)
	}
	s := ""
	if p.value != nil && p.value.kind == scalar && p.key != "cmd" && p.key != "entrypoint" && p.key != "exec" && p.key != "startup-delay" {
		s = c.word(p.value)
	}
	switch p.key {
	case "kind", "group", "cmd", "entrypoint", "exec", "startup-delay": // read elsewhere
	case "image":
		from, ok := reference(s)
		if !ok {
			left("this is no container image; it starts from Debian packages")
			return
		}
		m.image, m.imageAt = from, p.line
	case "memory":
		limit, err := lab.ParseSize(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			left(err.Error())
			return
		}
		raised := false
		if m.memory, raised = memoryOf(limit); raised {
			c.warn(c.file, p.line, "machine %q gets %s of memory, because a kernel of its own is in it, too", m.title, m.memory)
		}
	case "binds":
		for _, b := range p.value.list() {
			c.bind(m, b)
		}
	case "ports":
		for _, w := range p.value.list() {
			c.port(m, w)
		}
	case "env":
		c.environment(m, p.value)
	case "sysctls":
		c.sysctls(m, p.value)
	case "restart-policy":
		switch strings.ToLower(s) {
		case "no":
		case "on-failure":
			m.restart = lab.RestartOnFailure
		case "always", "unless-stopped":
			m.restart = lab.RestartAlways
		default:
			left("this is no policy")
		}
	case "mgmt-ipv4", "mgmt_ipv4":
		c.address(m, s, left)
	case "network-mode":
		if m.managed = s != "none"; m.managed && s != "bridge" {
			left("the machine has a network of its own")
		}
	case "wait-for":
		m.after = append(m.after, c.words(p.value)...)
	case "stages":
		c.stages(m, p.value)
	default:
		left("it has no counterpart")
	}
}

// address takes an address on the management network, which wolffia's gateway
// may have itself.
func (c *clabLab) address(m *machine, s string, left func(string)) {
	a, err := netip.ParseAddr(s)
	n := c.mgmt.subnet
	switch {
	case err != nil || !a.Is4() || !n.Contains(a) || a == n.Addr() || !n.Contains(a.Next()):
		left("it is not in the management network, " + n.String())
	case a == n.Addr().Next().Next() || a == n.Addr().Next().Next().Next():
		left("it belongs to the gateway; another one is given out")
	case slices.ContainsFunc(c.t.machines, func(o *machine) bool { return o != m && o.address == a.String() }):
		left("another machine has it")
	default:
		m.address = a.String()
	}
}

func (c *clabLab) environment(m *machine, v *value) {
	if v == nil {
		return
	}
	for _, p := range v.pairs {
		if !variable().MatchString(p.key) || strings.HasPrefix(p.key, "__") {
			c.warn(c.file, p.line, "machine %q: env: %s is no variable of a shell; left out", m.title, clean(p.key))
			continue
		}
		m.env = append(m.env, [2]string{p.key, c.word(p.value)})
	}
}

func (c *clabLab) sysctls(m *machine, v *value) {
	if v == nil {
		return
	}
	for _, p := range v.pairs {
		if strings.Trim(p.key, pathLetters) != "" || p.key == "" {
			c.warn(c.file, p.line, "machine %q: sysctls: %s is none; left out", m.title, clean(p.key))
			continue
		}
		m.before = append(m.before, shell("sysctl", "-w", p.key+"="+c.word(p.value)))
	}
}

// stages reads stages.STAGE.wait-for: whatever the stage, the other machine is
// ready first.
func (c *clabLab) stages(m *machine, v *value) {
	if v == nil {
		return
	}
	for _, stage := range v.pairs {
		if stage.value == nil {
			continue
		}
		for _, p := range stage.value.pairs {
			if p.key != "wait-for" {
				c.warn(c.file, p.line, "machine %q: stages.%s.%s has no counterpart; left out", m.title, clean(stage.key), clean(p.key))
				continue
			}
			for _, w := range p.value.list() {
				if other := c.word(w.get("node")); other != "" {
					m.after = append(m.after, other)
				}
			}
		}
	}
}

// bind reads SOURCE:TARGET[:MODE]. What it names is copied into the image.
func (c *clabLab) bind(m *machine, v *value) {
	s := c.word(v)
	s = strings.ReplaceAll(s, "__clabNodeName__", m.title)
	s = strings.ReplaceAll(s, "__clabNodeDir__", "__clabDir__/"+m.title)
	s = strings.ReplaceAll(s, "__clabDir__", "clab-"+c.t.name)
	f := strings.Split(s, ":")
	line := v.lineOr(m.line)
	if len(f) == 1 && path.IsAbs(f[0]) { // a volume of the container's own
		return
	}
	host, inside, ok := "", "", false
	if len(f) >= 2 {
		host, inside, ok = c.hostPath(f[0])
	}
	if !ok || !path.IsAbs(f[1]) || slices.Contains(strings.Split(f[1], "/"), "..") || len(f[1]) > 2000 || len(host) > 2000 {
		c.warn(c.file, line, "machine %q: bind %.80q is not SOURCE:TARGET; left out", m.title, s)
		return
	}
	if inside != "" && !strings.HasPrefix(inside, "../") {
		if _, there := c.exists(inside); !there {
			c.warn(c.file, line, "machine %q: bind %.80q: there is no %s; left out", m.title, s, inside)
			return
		}
	}
	if host == "/lib/modules" || strings.HasPrefix(host, "/dev") || strings.HasPrefix(host, "/sys") || strings.HasPrefix(host, "/proc") || strings.HasPrefix(host, "/run") || strings.HasPrefix(host, "/var/run") {
		c.warn(c.file, line, "machine %q: bind %.80q is of the host's own kernel; left out", m.title, s)
		return
	}
	c.warn(c.file, line, "%s is a copy of %s, as it was when the image was built", f[1], f[0])
	m.layers = slices.DeleteFunc(m.layers, func(l layer) bool { return l.to == f[1] })
	m.layers = append(m.layers, layer{host, f[1]})
}

// port reads [[ADDRESS:]HOST:]PORT[/PROTOCOL].
func (c *clabLab) port(m *machine, v *value) {
	s := c.word(v)
	line := v.lineOr(m.line)
	spec := s
	switch strings.Count(s, ":") {
	case 0: // docker takes a free one of the host's
		spec = "0:" + s
	}
	f, err := lab.ParseForward(spec)
	if err != nil {
		c.warn(c.file, line, "machine %q: %v; left out", m.title, err)
		return
	}
	if strings.Count(s, ":") < 2 {
		c.warn(c.file, line, "machine %q: port %s: the host listens on 127.0.0.1 alone", m.title, s)
	}
	m.forwards = append(m.forwards, f)
}

// split takes a command apart as containerlab does: no shell sees it, so that
// quotes and backslashes count, and nothing else does.
func (c *clabLab) split(v *value) []string {
	if v == nil {
		return nil
	}
	if v.kind == list {
		return c.words(v)
	}
	words, ok := shellWords(c.word(v))
	if !ok {
		c.warn(c.file, v.line, "%.80q has no end of its quotes; left out", clean(v.text))
	}
	return words
}

// shellWords splits at blanks outside of quotes.
func shellWords(s string) (words []string, ok bool) {
	var word strings.Builder
	var quote rune
	started, escaped := false, false
	for _, c := range s {
		switch {
		case escaped:
			if quote == '"' && c != '"' && c != '\\' && c != '$' && c != '`' {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, started = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, started = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if started {
				words = append(words, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(c)
			started = true
		}
	}
	if started {
		words = append(words, word.String())
	}
	if quote != 0 || escaped {
		return nil, false
	}
	return words, true
}
