package importer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"wolffia/internal/lab"
)

// topology is a lab, whatever program it was written for.
type topology struct {
	r        *reader
	file     string // that it was read from
	kind     string // the program's name
	name     string
	about    []string // what the lab says of itself, for comments
	segments []*segment
	machines []*machine
	images   []*image // made by plan
}

// segment is one broadcast domain.
type segment struct {
	title   string // for the comment
	name    string
	gateway bool
	subnet  netip.Prefix
	subnet6 netip.Prefix
	mtu     int // 0 is the default
	closed  bool
}

// machine is one Linux of the lab.
type machine struct {
	title string // its name in the lab
	name  string
	file  string
	line  int

	image    string // of a registry; empty means Debian's packages
	imageAt  int    // the line that says so
	memory   lab.Size
	cards    []card
	after    []string // titles
	forwards []lab.Forward
	restart  lab.RestartPolicy
	layers   []layer // that lie under /hostlab/NAME
	startup  bool    // it has a startup file
	shared   bool    // all machines have one
	shell    string  // of root; empty means the image's own
	shellAt  int
	managed  bool   // it has a card on a management network
	address  string // there

	env      [][2]string
	before   []string        // lines of the boot script, before the startup files
	commands []string        // and after them
	used     map[string]bool // commands, and kinds of interfaces
	modules  []string        // of the kernel
	demands  []string        // what the kernel of User-Mode Linux can't do
	renames  bool            // a card is not called eth0, eth1 and so on
}

func newMachine(title, file string, line int) *machine {
	return &machine{title: title, file: file, line: line, used: map[string]bool{}}
}

// layer is a file or folder of the host that goes over the machine's root.
type layer struct{ from, to string }

// card is a network card. Its machine calls it iface.
type card struct {
	segment *segment
	iface   string
	mac     string
	address string // none, an address, or nothing for what the network gives
	line    int
}

// image is what machines start from.
type image struct {
	name     string
	from     string // of a registry
	packages []string
	machines []*machine
	shell    string
}

// maxNICs is how many cards a machine may have, on any backend.
const maxNICs = 16

// check holds the whole to what a lab of wolffia's may be, and gives everything
// its name there.
func (t *topology) check(r *reader) {
	if len(t.machines) == 0 {
		r.fail(t.file, 0, "the lab has no machine")
		return
	}
	if len(t.machines) > maxMachines {
		r.fail(t.file, 0, "the lab has more than %d machines", maxMachines)
		return
	}
	t.name = wordOf(t.name, "lab")
	used := map[string]bool{}
	for _, m := range t.machines {
		if m.name = unique(wordOf(m.title, "machine"), used); m.name != m.title {
			r.warn(m.file, m.line, "machine %q is called %s: names are lower-case letters, digits and dashes", m.title, m.name)
		}
	}
	used = map[string]bool{}
	for _, s := range t.segments {
		s.name = unique(wordOf(s.title, "net"), used)
	}
	for _, m := range t.machines {
		m.checkCards(r)
	}
	t.order(r)
}

func (m *machine) checkCards(r *reader) {
	if len(m.cards) > maxNICs {
		r.fail(m.file, m.line, "machine %q has %d network cards, and can have %d", m.title, len(m.cards), maxNICs)
		return
	}
	on, ifaces := map[*segment]bool{}, map[string]bool{}
	for _, c := range m.cards {
		if on[c.segment] {
			r.fail(m.file, c.line, "machine %q is on %q twice, which can't be", m.title, c.segment.title)
		}
		if ifaces[c.iface] {
			r.fail(m.file, c.line, "machine %q has interface %s twice", m.title, c.iface)
		}
		on[c.segment], ifaces[c.iface] = true, true
	}
	// Cards are eth0, eth1 and so on in their order; others get their name at boot.
	var renames []string
	for i, c := range m.cards {
		if at := fmt.Sprintf("eth%d", i); at != c.iface {
			renames = append(renames, at, c.iface)
		}
	}
	if m.renames = len(renames) > 0; m.renames {
		m.before = append([]string{shell(append([]string{"rename"}, renames...)...)}, m.before...)
	}
}

// order finds machines that wait for each other, or for none that there is.
func (t *topology) order(r *reader) {
	byTitle := map[string]*machine{}
	for _, m := range t.machines {
		byTitle[m.title] = m
	}
	for _, m := range t.machines {
		m.after = slices.DeleteFunc(m.after, func(a string) bool { return byTitle[a] == nil })
	}
	state := map[*machine]int{} // 1 while its own are looked at, 2 when all is well
	var visit func(m *machine) bool
	visit = func(m *machine) bool {
		if state[m] != 0 {
			return state[m] == 2
		}
		state[m] = 1
		for _, a := range m.after {
			if !visit(byTitle[a]) {
				return false
			}
		}
		state[m] = 2
		return true
	}
	for _, m := range t.machines {
		if !visit(m) {
			r.fail(m.file, m.line, "machine %q waits for itself, by way of those it starts after", m.title)
			return
		}
	}
	for _, m := range t.machines {
		for i, a := range m.after {
			m.after[i] = byTitle[a].name
		}
		slices.Sort(m.after)
		m.after = slices.Compact(m.after)
	}
}

// plan decides what the machines start from.
func (t *topology) plan(r *reader) {
	byFrom := map[string]*image{}
	used := map[string]bool{}
	for _, m := range t.machines {
		from := m.image
		if from != "" && r.o.Debian {
			r.warn(m.file, m.imageAt, "machine %q: Debian packages in the place of image %s", m.title, from)
			from = ""
		}
		i := byFrom[from]
		if i == nil {
			i = &image{name: "base", from: from, shell: m.shell}
			if from != "" {
				i.name = wordOf(shortName(from), "image")
			}
			i.name = unique(i.name, used)
			byFrom[from] = i
			t.images = append(t.images, i)
		}
		i.machines = append(i.machines, m)
		if i.shell != m.shell {
			r.warn(m.file, cmp.Or(m.shellAt, m.line), "machine %q: the shell is the same for all machines of image %s: %s", m.title, i.name, orNone(i.shell))
		}
		if m.memory == 0 {
			m.memory = plainMemory
			if from != "" {
				m.memory = imageMemory
			}
		}
	}
	for _, i := range t.images {
		i.need()
		for _, m := range i.machines {
			if i.from == "" && (m.used["zebra"] || m.used["quagga"]) {
				r.warn(m.file, m.line, "machine %q starts quagga, which Debian has no more; its successor frr reads /etc/frr/daemons and /etc/frr/frr.conf", m.title)
			}
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "its own"
	}
	return s
}

// shortName is the last part of a reference, without tag and digest.
func shortName(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	ref = ref[strings.LastIndexByte(ref, '/')+1:]
	ref, _, _ = strings.Cut(ref, ":")
	return ref
}

// Memory of machines that ask for none. It is taken only as far as it is used.
const (
	plainMemory = 256 * lab.MiB
	imageMemory = 512 * lab.MiB
	leastMemory = 128 * lab.MiB
)

// memoryOf is what a container's limit means for a machine, which has a kernel
// and its root in memory besides.
func memoryOf(limit lab.Size) (n lab.Size, raised bool) {
	if limit < leastMemory {
		return leastMemory, true
	}
	return min(limit, lab.MaxMemory), false
}

// wordOf makes a name of wolffia's of any other.
func wordOf(s, otherwise string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0:
			b.WriteByte('-')
		}
		if b.Len() >= 50 {
			break
		}
	}
	if s = strings.Trim(b.String(), "-"); s == "" {
		return otherwise
	}
	return s
}

// unique gives a name that is not used yet.
func unique(name string, used map[string]bool) string {
	out := name
	for n := 2; used[out]; n++ {
		out = fmt.Sprintf("%s-%d", name, n)
	}
	used[out] = true
	return out
}

// validIface reports whether Linux takes a name for an interface, and shells do
// without quotes.
func validIface(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@"
	return s != "" && len(s) <= 15 && s != "." && s != ".." && s != "lo" && strings.Trim(s, letters) == ""
}

// shell joins words to a line of a shell script that means just them.
func shell(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if quoted[i] = quote(w); i == 0 && quoted[i] == w && strings.Contains(w, "=") {
			quoted[i] = "'" + w + "'" // else it would set a variable
		}
	}
	return strings.Join(quoted, " ")
}

// quote writes one word of a shell script.
func quote(w string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%"
	if w != "" && strings.Trim(w, plain) == "" {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// host is the path of a file of the lab as wolffia.yaml writes it.
func (t *topology) host(name string) string { return t.r.host(name) }
