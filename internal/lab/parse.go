package lab

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Parse reads a lab's file. name is how errors call it. The error is of type
// [Errors].
func Parse(name string, data []byte) (*Spec, error) {
	d := &decoder{file: name}
	s := newSpec()
	at := &places{d: d}
	if root := d.root(data); root != nil {
		object(d, root, "the file", specKeys(), s)
		at.root = root
	}
	if len(d.errs) == 0 {
		s.complete(at)
	}
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	return s, nil
}

// places finds the node of a machine's key again, for errors about names that
// only make sense once the whole file is read.
type places struct {
	d    *decoder
	root ast.Node
}

func (p *places) fail(path []string, item int, format string, args ...any) {
	n := p.node(path...)
	if s, ok := n.(*ast.SequenceNode); ok && item < len(s.Values) {
		n = s.Values[item]
	}
	p.d.fail(n, format, args...)
}

// node finds the value of the last key of path, or of the last that there is.
func (p *places) node(path ...string) ast.Node {
	n := p.root
	for _, step := range path {
		var next ast.Node
		for _, e := range p.d.mapping(n, step) {
			if e.name == step {
				next = e.value
				if next == nil || next.GetToken() == nil {
					next = e.key
				}
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return n
}

// complete fills in what follows from the rest of the file, and checks that
// names lead somewhere.
func (s *Spec) complete(at *places) {
	if s.Name == "" {
		s.Name = "lab"
	}
	if len(s.Images) == 0 {
		s.Images["base"] = Default().Images["base"]
	}
	s.inherit(at)
	if len(s.Networks) == 0 {
		s.Networks["lan"] = newNetwork("lan")
	}
	for _, name := range s.MachineNames() {
		s.completeMachine(s.Machines[name], at)
	}
	if len(s.Machines) == 0 {
		for _, name := range s.ImageNames() {
			s.Machines[name] = s.Throwaway(name)
		}
	}
}

func (s *Spec) completeMachine(m *Machine, at *places) {
	path := func(key string) []string { return []string{"machines", m.Name, key} }
	images := s.ImageNames()
	switch {
	case m.Image == "" && len(images) == 1:
		m.Image = images[0]
	case m.Image == "":
		at.fail(path("image"), 0, "machine %q names no image; it may be %s", m.Name, strings.Join(images, ", "))
	case s.Images[m.Image] == nil:
		at.fail(path("image"), 0, "%s", OneOf("image", m.Image, images))
	}
	seen := map[string]bool{}
	for i, n := range m.Networks {
		if s.Networks[n] == nil {
			at.fail(path("networks"), i, "%s", OneOf("network", n, s.NetworkNames()))
		}
		if seen[n] {
			at.fail(path("networks"), i, "machine %q is on network %q twice", m.Name, n)
		}
		seen[n] = true
	}
	if a, b := s.clash(m); a != nil {
		at.fail(path("networks"), 0, "machine %q is on networks %q and %q, which have the same addresses (%s and %s); give one another subnet",
			m.Name, a.Name, b.Name, a.Subnet, b.Subnet)
	}
	if len(m.Forwards) > 0 && s.Uplink(m) == nil {
		at.fail(path("forwards"), 0, "machine %q has forwards, and no network with a gateway to forward over", m.Name)
	}
	for i, p := range m.Cmdline {
		if strings.ContainsAny(p, " \t\n\x00") {
			at.fail(path("cmdline"), i, "kernel parameter %q holds a blank; give each as an item of its own", p)
		}
	}
}

// clash finds two networks of a machine whose gateways hand out the same
// addresses; nobody could be reached over the second.
func (s *Spec) clash(m *Machine) (a, b *Network) {
	for i, first := range m.Networks {
		for _, second := range m.Networks[i+1:] {
			a, b := s.Networks[first], s.Networks[second]
			if a != nil && b != nil && a != b && !a.NoGateway && !b.NoGateway && a.Subnet.Overlaps(b.Subnet) {
				return a, b
			}
		}
	}
	return nil, nil
}

// Uplink is the first of a machine's networks that has a gateway, or nil.
func (s *Spec) Uplink(m *Machine) *Network {
	for _, n := range m.Networks {
		if w := s.Networks[n]; w != nil && !w.NoGateway {
			return w
		}
	}
	return nil
}

// Throwaway is a machine made up for an image that is run by itself, on the
// lab's first network with a gateway.
func (s *Spec) Throwaway(image string) *Machine {
	m := newMachine(image)
	m.Image = image
	for _, n := range s.NetworkNames() {
		if !s.Networks[n].NoGateway {
			m.Networks = []string{n}
			break
		}
	}
	return m
}

func parseRelease(s string) (string, error) { return s, CheckRelease(s) }

// CheckRelease holds a release to what a code name or suite may be.
func CheckRelease(s string) error {
	if s == "" || len(s) > 64 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || s[0] == '.' || s[0] == '-' {
		return fmt.Errorf("release %q is no Debian code name; write one such as %s", s, DefaultRelease)
	}
	return nil
}

func parsePath(s string) (string, error) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("path %q must start with a slash", s)
	case len(s) > 4095 || strings.IndexByte(s, 0) >= 0:
		return "", fmt.Errorf("path %.40q can't be one", s)
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == ".." || len(part) > 255 {
			return "", fmt.Errorf("path %.80q can't be one", s)
		}
	}
	return s, nil
}

func parseMode(s string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n > 0o7777 || n == 0 {
		return 0, fmt.Errorf("mode %q is no octal permission; write one such as 0755", s)
	}
	return uint32(n), nil
}

func parseHash(s string) (string, error) {
	if !strings.HasPrefix(s, "$") || strings.Count(s, "$") < 3 || strings.ContainsAny(s, ":\n\r\x00 ") || len(s) > 512 {
		return "", fmt.Errorf("this password is no crypt(3) hash; make one with: mkpasswd -m sha-512 (an image holds no plain passwords)")
	}
	return s, nil
}

func validAccount(s string) bool {
	if s == "" || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
