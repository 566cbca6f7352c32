package importer

import (
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/lab"
	"wolffia/internal/lazy"
)

// kathara reads a lab.conf and what lies in its folder.
func (r *reader) kathara(name string) *topology {
	text, ok := r.read(name)
	if !ok {
		r.fail(name, 0, "there is no such file")
		return nil
	}
	k := &katharaLab{
		reader: r, conf: name,
		t:        &topology{r: r, file: name, kind: "Kathará", name: r.o.Name},
		machines: map[string]*machine{}, domains: map[string]*segment{}, cards: map[*machine]map[int]card{},
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		k.line(number, strings.TrimSpace(line))
	}
	for _, m := range k.t.machines {
		k.finish(m)
	}
	k.dependencies()
	k.folder()
	return k.t
}

// katharaLab is a lab.conf that is being read.
type katharaLab struct {
	*reader
	t        *topology
	conf     string
	machines map[string]*machine
	domains  map[string]*segment
	cards    map[*machine]map[int]card
	bridged  *segment
	outside  []*machine // with a card to the host's network, behind their others
	ports    []port
}

// port is a [port] whose machine may turn out to be bridged.
type port struct {
	m    *machine
	line int
	text string
}

// The lines of a lab.conf. Of machines' names netkit takes more than Kathará.
var (
	confLine = lazy.Regexp(`^([A-Za-z0-9_.-]{1,63})\[(\w{1,32})\]\s*=\s*(.*)$`)
	metaLine = lazy.Regexp(`^([A-Za-z_]\w{0,63})\s*=\s*(.*)$`)
)

func (k *katharaLab) line(number int, line string) {
	if line == "" || strings.HasPrefix(line, "#") {
		return
	}
	if f := confLine().FindStringSubmatch(line); f != nil {
		value, ok := confValue(f[3])
		if !ok {
			k.fail(k.conf, number, "%.80q has no end of its quotes", line)
			return
		}
		if f[1] == "shared" {
			k.fail(k.conf, number, "no machine can be called shared, which is the folder and the startup file of all")
			return
		}
		m := k.machine(f[1], number)
		if i, err := strconv.Atoi(f[2]); err == nil {
			k.card(m, i, value, number)
		} else {
			k.option(m, f[2], value, number)
		}
		return
	}
	f := metaLine().FindStringSubmatch(line)
	if f == nil {
		k.fail(k.conf, number, "%.80q is neither MACHINE[INTERFACE]=DOMAIN nor MACHINE[OPTION]=VALUE", line)
		return
	}
	value, _ := confValue(f[2])
	switch key := strings.TrimPrefix(f[1], "LAB_"); {
	case f[1] == "machines": // netkit's list of those that start
		for _, name := range strings.Fields(value) {
			if name != "shared" {
				k.machine(name, number)
			}
		}
	case key == "NAME" && key != f[1]:
		k.t.name = value
	case key != f[1]:
		k.t.about = append(k.t.about, strings.ToLower(key)+": "+value)
	default:
		k.warn(k.conf, number, "%s is nothing that wolffia knows; left out", f[1])
	}
}

// confValue takes quotes and a comment off a value.
func confValue(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if s == "" || s[0] != '"' && s[0] != '\'' {
		if cut := strings.Index(s, " #"); cut >= 0 {
			s = strings.TrimSpace(s[:cut])
		}
		return clean(s), true
	}
	for end := 1; end < len(s); end++ {
		if s[end] != s[0] {
			continue
		}
		if rest := strings.TrimSpace(s[end+1:]); rest == "" || rest[0] == '#' {
			return clean(s[1:end]), true
		}
	}
	return "", false
}

// clean takes out what is no text.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\t' || c >= 0x7f && c < 0xa0 || c == 0x2028 || c == 0x2029 || c == 0xfeff {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

func (k *katharaLab) machine(name string, line int) *machine {
	m := k.machines[name]
	if m == nil {
		m = newMachine(clean(name), k.conf, line)
		k.machines[name] = m
		k.cards[m] = map[int]card{}
		k.t.machines = append(k.t.machines, m)
	}
	return m
}

// domainName is what a collision domain may be called.
var domainName = lazy.Regexp(`^[\w.-]{1,63}$`)

// card reads MACHINE[NUMBER]=DOMAIN, or DOMAIN/MAC, or netkit's
// tap,HOST-ADDRESS,MACHINE-ADDRESS.
func (k *katharaLab) card(m *machine, number int, value string, line int) {
	c := card{iface: "eth" + strconv.Itoa(number), address: string(lab.CardNone), line: line}
	domain, mac, withMAC := strings.Cut(value, "/")
	if withMAC {
		if _, err := lab.ParseMAC(mac); err != nil {
			k.warn(k.conf, line, "%v; machine %q gets another one", err, m.title)
		} else {
			c.mac = mac
		}
	}
	switch {
	case number > 999:
		k.fail(k.conf, line, "interface %d is beyond all machines", number)
		return
	case strings.HasPrefix(value, "tap,"):
		k.warn(k.conf, line, "%s of machine %q gets its addresses by DHCP, from wolffia's own gateway to the host, in place of %s", c.iface, m.title, value)
		c.segment, c.mac, c.address = k.outsideNetwork(), "", ""
	case !domainName().MatchString(domain):
		k.fail(k.conf, line, "%.80q is no collision domain: letters, digits and underscores are needed", domain)
		return
	default:
		if k.domains[domain] == nil {
			k.domains[domain] = &segment{title: domain}
			k.t.segments = append(k.t.segments, k.domains[domain])
		}
		c.segment = k.domains[domain]
	}
	if other, taken := k.cards[m][number]; taken {
		k.warn(k.conf, line, "machine %q has eth%d in line %d already; this one counts", m.title, number, other.line)
	}
	k.cards[m][number] = c
}

// bridgedSubnet is docker's own, which labs keep clear of.
var bridgedSubnet = netip.MustParsePrefix("172.17.0.0/16")

// outsideNetwork is the one that leads to the host's.
func (k *katharaLab) outsideNetwork() *segment {
	if k.bridged == nil {
		k.bridged = &segment{title: "outside", gateway: true, subnet: bridgedSubnet}
		k.t.segments = append(k.t.segments, k.bridged)
	}
	return k.bridged
}

// sysctlKey is a parameter that a lab may set.
var sysctlKey = lazy.Regexp(`^net\.[\w./-]+$`)

// variable is the name of one that a shell has.
var variable = lazy.Regexp(`^[A-Za-z_]\w*$`)

func (k *katharaLab) option(m *machine, name, value string, line int) {
	left := func(why string) {
		k.warn(k.conf, line, "%s[%s]=%s: %s; left out", m.title, name, value, why)
	}
	switch name {
	case "image":
		switch from, ok := reference(value); {
		case !ok:
			left("this is no container image")
		case shortName(from) == "base" && strings.HasPrefix(from, "kathara/"):
			k.warn(k.conf, line, "machine %q: Debian packages in the place of Kathará's default image, %s", m.title, value)
		default:
			m.image, m.imageAt = from, line
		}
	case "mem":
		k.memory(m, value, line, left)
	case "bridged":
		switch strings.ToLower(value) {
		case "true", "t", "yes", "y", "on", "1":
			if !slices.Contains(k.outside, m) {
				k.outside = append(k.outside, m)
			}
		}
	case "port":
		k.ports = append(k.ports, port{m, line, value})
	case "exec":
		m.commands = append(m.commands, shell("sh", "-c", value))
		m.uses(value)
	case "sysctl":
		key, v, ok := strings.Cut(value, "=")
		if key, v = strings.TrimSpace(key), strings.TrimSpace(v); !ok || !sysctlKey().MatchString(key) {
			left("it takes the form net.NAME=VALUE")
			return
		}
		m.before = append(m.before, shell("sysctl", "-w", key+"="+v))
	case "env":
		key, v, ok := strings.Cut(value, "=")
		if !ok || !variable().MatchString(key) {
			left("it takes the form NAME=VALUE")
			return
		}
		m.env = append(m.env, [2]string{key, v})
	case "ipv6":
		if strings.EqualFold(value, "false") || value == "0" {
			m.before = append(m.before, "sysctl -w net.ipv6.conf.all.disable_ipv6=1")
		}
	case "shell":
		if path.IsAbs(value) && strings.Trim(value, pathLetters) == "" {
			m.shell, m.shellAt = value, line
		} else {
			left("this is no path of a shell")
		}
	case "privileged": // root of a machine may do anything in it
	case "num_terms":
		left("terminals are opened by wolffia console and wolffia exec")
	case "cpus", "ulimit":
		left("machines of wolffia's have no such limit")
	default:
		left("it has no counterpart")
	}
}

const pathLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_.-"

func (k *katharaLab) memory(m *machine, value string, line int, left func(string)) {
	limit, err := lab.ParseSize(value)
	if err == nil && strings.Trim(value, "0123456789") == "" { // a number is of megabytes
		limit, err = lab.ParseSize(value + "M")
	}
	if err != nil {
		left(err.Error())
		return
	}
	raised := false
	if m.memory, raised = memoryOf(limit); raised {
		k.warn(k.conf, line, "machine %q gets %s of memory, because a kernel of its own is in it, too", m.title, m.memory)
	}
}

// reference completes the name of a container image as wolffia writes it.
func reference(s string) (string, bool) {
	s = strings.TrimPrefix(s, "docker.io/")
	if s != "" && !strings.ContainsAny(s[strings.LastIndexByte(s, '/')+1:], ":@") {
		s += ":latest"
	}
	b, err := lab.ParseBase(s)
	return s, err == nil && b.Reference == s
}

// finish puts a machine's cards in order, and gives it what lies in the folder.
func (k *katharaLab) finish(m *machine) {
	numbers := make([]int, 0, len(k.cards[m]))
	for n := range k.cards[m] {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	next := 0
	for _, n := range numbers {
		m.cards = append(m.cards, k.cards[m][n])
		next = n + 1
	}
	if slices.Contains(k.outside, m) {
		m.cards = append(m.cards, card{segment: k.outsideNetwork(), iface: "eth" + strconv.Itoa(next), line: m.line})
	}
	for _, p := range k.ports {
		if p.m == m {
			k.forward(p)
		}
	}
	m.startup = k.script(m, m.title+".startup")
	m.shared = k.script(m, "shared.startup")
	if info, ok := k.exists(m.title); ok && info.IsDir() && m.title != "." && m.title != ".." {
		m.layers = append(m.layers, layer{k.host(m.title), "/"})
	}
	for _, end := range []string{m.title + ".shutdown", m.title + ".test"} {
		if _, ok := k.exists(end); ok {
			k.warn(end, 0, "nothing runs this file: machines of wolffia's are switched off")
		}
	}
}

// forward reads [HOST:]GUEST[/PROTOCOL]; port 3000 of the host is meant where
// none is named.
func (k *katharaLab) forward(p port) {
	ports, proto, ok := strings.Cut(p.text, "/")
	if !ok {
		proto = "tcp"
	}
	if !strings.Contains(ports, ":") {
		ports = "3000:" + ports
	}
	f, err := lab.ParseForward(ports + "/" + strings.ToLower(proto))
	switch {
	case err != nil:
		k.warn(k.conf, p.line, "%s[port]: %v; left out", p.m.title, err)
	case !slices.ContainsFunc(p.m.cards, func(c card) bool { return c.segment.gateway }):
		k.warn(k.conf, p.line, "%s[port]=%s: only a machine with [bridged]=true can be reached from the host; left out", p.m.title, p.text)
	default:
		k.warn(k.conf, p.line, "%s[port]=%s: the host listens on 127.0.0.1 alone", p.m.title, p.text)
		p.m.forwards = append(p.m.forwards, f)
	}
}

// script notes what a startup file uses; the file itself goes into the image.
func (k *katharaLab) script(m *machine, name string) bool {
	info, ok := k.exists(name)
	if !ok || info.IsDir() {
		return false
	}
	text, ok := k.read(name)
	if ok {
		m.uses(text)
	}
	return ok
}

// dependencies reads lab.dep: lines of MACHINE: MACHINE...
func (k *katharaLab) dependencies() {
	const name = "lab.dep"
	text, _ := k.read(name)
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		who, those, ok := strings.Cut(line, ":")
		m := k.machines[strings.TrimSpace(who)]
		if !ok || m == nil {
			k.warn(name, number, "%.80q is about no machine of the lab; left out", clean(line))
			continue
		}
		for _, other := range strings.Fields(those) {
			if k.machines[other] == nil {
				k.warn(name, number, "%.80q is no machine of the lab; left out", clean(other))
				continue
			}
			m.after = append(m.after, other)
		}
	}
}

// folder looks for what else lies in the lab.
func (k *katharaLab) folder() {
	entries, err := fs.ReadDir(k.fsys, ".")
	if err != nil {
		k.fail(k.conf, 0, "read its folder: %v", err)
		return
	}
	for _, e := range entries {
		name := e.Name()
		base, startup := strings.CutSuffix(name, ".startup")
		switch {
		case startup && base != "shared" && k.machines[base] == nil:
			k.warn(name, 0, "%s has no line in lab.conf; left out", base)
		case name == "lab.ext":
			k.warn(name, 0, "collision domains are not joined with networks of the host; see the key plugs of a network")
		case name == "shared" && e.IsDir():
			k.warn(name, 0, "the machines have a copy of this folder in /shared, as it was when the image was built; the key shares of a machine gives it the folder itself")
			for _, m := range k.t.machines {
				m.layers = append(m.layers, layer{k.host(name), "/shared"})
			}
		case name == "shared.shutdown":
			k.warn(name, 0, "nothing runs this file: machines of wolffia's are switched off")
		case name == "_test" && e.IsDir():
			k.warn(name, 0, "tests of the lab are left out")
		}
	}
}
