package lab

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Ready says when a machine counts as up. The zero value is when its init is
// done; otherwise one of Port and Command holds besides.
type Ready struct {
	Port    int           // a TCP port of the machine that takes connections
	Command string        // a line for the machine's /bin/sh that ends with status 0
	Timeout time.Duration // for that, once it has booted; 0 means [DefaultReadyTimeout]
}

// DefaultReadyTimeout is how long a port or a command may take.
const DefaultReadyTimeout = 2 * time.Minute

// RestartPolicy says what becomes of a machine of a lab that has ended.
type RestartPolicy string

// The policies.
const (
	RestartNo        RestartPolicy = "no"         // it stays down; one that asked for a restart is started again
	RestartOnFailure RestartPolicy = "on-failure" // it is started again unless it powered off
	RestartAlways    RestartPolicy = "always"     // it is started again
)

// RestartPolicies are the words for the policies.
func RestartPolicies() []string {
	return []string{string(RestartNo), string(RestartOnFailure), string(RestartAlways)}
}

// Share is a folder of the host that a machine sees.
type Share struct {
	From     string // on the host; relative to the file
	To       string // in the machine
	ReadOnly bool
}

// lifeKeys are those of a machine that is one of several, in the background.
func lifeKeys() []key[Machine] {
	return []key[Machine]{
		{"after", "Machines that have to be ready before this one starts.", listShape(textShape("alice")),
			func(d *decoder, n ast.Node, m *Machine) { m.After = d.texts(n, "after") }},
		{"ready", "When it counts as ready, besides having booted.", objectShape(readyKeys()),
			func(d *decoder, n ast.Node, m *Machine) {
				object(d, n, "ready", readyKeys(), &m.Ready)
				if m.Ready.Port != 0 && m.Ready.Command != "" {
					d.fail(n, "ready is a port or a command, not both; let the command look at the port, too")
				}
			}},
		{"restart", "Whether it is started again when it has ended: no, on-failure or always.", wordShape(RestartPolicies()...),
			func(d *decoder, n ast.Node, m *Machine) { choice(d, n, "restart", RestartPolicies(), &m.Restart) }},
		{"forwarding", "Whether it is a router: packets that are not for it go on.", boolShape(),
			func(d *decoder, n ast.Node, m *Machine) { d.flag(n, "forwarding", &m.Forwarding) }},
		{"shares", "Folders of the host that it sees.", listShape(objectShape(shareKeys())),
			func(d *decoder, n ast.Node, m *Machine) { m.Shares = d.shares(n) }},
		{"disks", "Disks that it has besides that of its root: new ones, and images of yours.", listShape(objectShape(diskKeys())),
			func(d *decoder, n ast.Node, m *Machine) { m.Disks = d.disks(n) }},
	}
}

func readyKeys() []key[Ready] {
	return []key[Ready]{
		{"port", "A TCP port of the machine takes connections, at 127.0.0.1 or at the IPv4 address of a card.", intShape(1, 65535),
			func(d *decoder, n ast.Node, r *Ready) { d.number(n, "port", 1, 65535, &r.Port) }},
		{"command", "A line for the machine's shell ends well; it is tried until it does.", textShape("wget -q -O /dev/null http://127.0.0.1/"),
			func(d *decoder, n ast.Node, r *Ready) { d.set(n, "command", &r.Command) }},
		{"timeout", "How long that may take once it has booted; two minutes if absent.", textShape("30s"),
			func(d *decoder, n ast.Node, r *Ready) { parsed(d, n, "timeout", parseTimeout, &r.Timeout) }},
	}
}

func parseTimeout(s string) (time.Duration, error) {
	t, err := time.ParseDuration(s)
	if err != nil || t <= 0 {
		return 0, fmt.Errorf("%q is no time; write one such as 30s or 2m", s)
	}
	return t, nil
}

func shareKeys() []key[Share] {
	return []key[Share]{
		{"from", "The folder on the host, relative to this file.", textShape("./src"),
			func(d *decoder, n ast.Node, s *Share) { d.set(n, "from", &s.From) }},
		{"to", "Where the machine sees it.", textShape("/mnt/src"),
			func(d *decoder, n ast.Node, s *Share) { parsed(d, n, "to", parseMountPoint, &s.To) }},
		{"read-only", "Whether the machine can only read it.", boolShape(),
			func(d *decoder, n ast.Node, s *Share) { d.flag(n, "read-only", &s.ReadOnly) }},
	}
}

// parseMountPoint reads a path that the machine's shell takes as it is, in its one
// form: two of a machine are compared.
func parseMountPoint(s string) (string, error) {
	p, err := parsePath(s)
	if p = path.Clean(p); err == nil && p == "/" {
		err = fmt.Errorf("%q is the machine's root, which nothing goes over; give a place such as /mnt", s)
	}
	if err == nil && strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_.-") != "" {
		err = fmt.Errorf("path %q to mount something on: letters, digits, slashes, dots, dashes and underscores are needed", s)
	}
	return p, err
}

// ParseShare reads "FOLDER:PLACE[:ro]", as in "./src:/mnt/src:ro".
func ParseShare(s string) (Share, error) {
	rest, readOnly := strings.CutSuffix(s, ":ro")
	at := strings.LastIndexByte(rest, ':')
	if at <= 0 || at == len(rest)-1 {
		return Share{}, fmt.Errorf("share %q is no folder of the host and a place in the machine; write it as ./src:/mnt/src, or ./src:/mnt/src:ro", s)
	}
	to, err := parseMountPoint(rest[at+1:])
	if err != nil {
		return Share{}, fmt.Errorf("share %q: %w", s, err)
	}
	return Share{From: rest[:at], To: to, ReadOnly: readOnly}, nil
}

func (d *decoder) shares(n ast.Node) (out []Share) {
	for _, item := range d.sequence(n, "shares") {
		var s Share
		before := len(d.errs)
		object(d, item, "a share", shareKeys(), &s)
		if len(d.errs) == before && (s.From == "" || s.To == "") {
			d.fail(item, "a share needs a folder of the host (from) and a place in the machine (to)")
		}
		if slices.ContainsFunc(out, func(other Share) bool { return other.To == s.To && s.To != "" }) {
			d.fail(item, "two shares are at %s", s.To)
		}
		out = append(out, s)
	}
	return out
}

// Order gives the machines' names so that each comes behind those it starts
// after, and otherwise as they stand in the file. Of machines that wait for each
// other it gives the names in cycle.
func (s *Spec) Order() (order, cycle []string) {
	state := map[string]int{} // 1 while its own are looked at, 2 when it is in order
	var way []string
	var visit func(name string) bool
	visit = func(name string) bool {
		m := s.Machines[name]
		if m == nil || state[name] == 2 {
			return true
		}
		way = append(way, name)
		if state[name] == 1 {
			cycle = way[slices.Index(way, name):]
			return false
		}
		state[name] = 1
		for _, a := range m.After {
			if !visit(a) {
				return false
			}
		}
		way = way[:len(way)-1]
		state[name] = 2
		order = append(order, name)
		return true
	}
	for _, name := range s.inFileOrder() {
		if !visit(name) {
			return nil, cycle
		}
	}
	return order, nil
}

// inFileOrder are the machines' names as they stand in the file.
func (s *Spec) inFileOrder() []string {
	names := s.MachineNames()
	slices.SortStableFunc(names, func(a, b string) int { return s.Machines[a].Place - s.Machines[b].Place })
	return names
}
