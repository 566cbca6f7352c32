package control

import (
	"fmt"
	"strings"
)

// maxRelations bounds how many relations one field may hold, alternatives
// counted. The longest field of Debian's archive has some 3,000.
const maxRelations = 1 << 16

// Operator compares an available version (left) with a relation's (right).
type Operator uint8

// The operators of Policy 7.1.
const (
	AnyVersion   Operator = iota
	Earlier               // <<
	EarlierEqual          // <=
	Equal                 // =
	LaterEqual            // >=
	Later                 // >>
)

var operatorText = [...]string{"", "<<", "<=", "=", ">=", ">>"}

func (op Operator) String() string {
	if int(op) < len(operatorText) {
		return operatorText[op]
	}
	return fmt.Sprintf("Operator(%d)", uint8(op))
}

// Holds reports whether "have op want" is true.
func (op Operator) Holds(have, want Version) bool {
	if op == AnyVersion {
		return true
	}
	c := have.Compare(want)
	switch op {
	case Earlier:
		return c < 0
	case EarlierEqual:
		return c <= 0
	case Equal:
		return c == 0
	case LaterEqual:
		return c >= 0
	case Later:
		return c > 0
	}
	return false
}

// Relation names one package: a single alternative of a dependency, a
// conflict, or something that is provided.
type Relation struct {
	Name     string
	Arch     string // qualifier: "", "any", "native" or an architecture
	Op       Operator
	Version  Version         // zero if Op is AnyVersion
	Arches   []Restriction   // [amd64 !i386]; nil means everywhere
	Profiles [][]Restriction // <!nocheck> <cross stage1>: any list of which all hold
}

// Restriction is a term of an architecture or build profile list.
type Restriction struct {
	Not  bool
	Name string
}

// Alternatives are relations of which one is enough: "a | b".
type Alternatives []Relation

// Relations is a whole field: all of them have to hold.
type Relations []Alternatives

// String writes the relation as Policy 7.1 does.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != AnyVersion {
		s += " (" + r.Op.String() + " " + r.Version.String() + ")"
	}
	if len(r.Arches) > 0 {
		s += " [" + joinRestrictions(r.Arches) + "]"
	}
	for _, list := range r.Profiles {
		s += " <" + joinRestrictions(list) + ">"
	}
	return s
}

func joinRestrictions(list []Restriction) string {
	words := make([]string, len(list))
	for i, t := range list {
		words[i] = t.Name
		if t.Not {
			words[i] = "!" + t.Name
		}
	}
	return strings.Join(words, " ")
}

// String joins the alternatives with " | ".
func (a Alternatives) String() string {
	words := make([]string, len(a))
	for i, r := range a {
		words[i] = r.String()
	}
	return strings.Join(words, " | ")
}

// String joins the relations with ", ".
func (r Relations) String() string {
	words := make([]string, len(r))
	for i, a := range r {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}

// Applies evaluates the restrictions on architectures and build profiles.
// Binary packages of an archive carry none, so there it is always true.
func (r Relation) Applies(arch string, profiles []string) bool {
	return archApplies(r.Arches, arch) && profilesApply(r.Profiles, profiles)
}

// archApplies: a list of plain names holds if one matches, a list of negated
// names if none does (deb-src-control(5)).
func archApplies(list []Restriction, arch string) bool {
	if len(list) == 0 {
		return true
	}
	for _, t := range list {
		if archMatches(arch, t.Name) {
			return !t.Not
		}
	}
	return list[0].Not
}

// archMatches compares an architecture with a wildcard of the common forms:
// any, linux-any and any-CPU. Names of the form OS-CPU are compared as they
// stand.
func archMatches(arch, wildcard string) bool {
	switch {
	case wildcard == arch || wildcard == "any":
		return true
	case wildcard == "linux-any":
		return !strings.Contains(arch, "-")
	}
	cpu, ok := strings.CutPrefix(wildcard, "any-")
	return ok && (cpu == arch || strings.HasSuffix(arch, "-"+cpu))
}

func profilesApply(lists [][]Restriction, profiles []string) bool {
	if len(lists) == 0 {
		return true
	}
	for _, list := range lists {
		all := true
		for _, t := range list {
			active := false
			for _, p := range profiles {
				active = active || p == t.Name
			}
			all = all && active != t.Not
		}
		if all {
			return true
		}
	}
	return false
}

// Filter leaves out what does not apply to arch and profiles.
func (r Relations) Filter(arch string, profiles []string) Relations {
	var out Relations
	for _, alternatives := range r {
		var kept Alternatives
		for _, rel := range alternatives {
			if rel.Applies(arch, profiles) {
				kept = append(kept, rel)
			}
		}
		if len(kept) > 0 {
			out = append(out, kept)
		}
	}
	return out
}

// ParseRelations reads the value of Depends and its kin. It allows what dpkg
// allows: folding, empty items between commas, no blanks around operators, and
// the old < and > for <= and >=.
func ParseRelations(s string) (Relations, error) {
	p := relationParser{s: s}
	out := make(Relations, 0, strings.Count(s, ",")+1)
	for {
		p.blanks()
		if p.s == "" {
			return out, nil
		}
		if p.take(',') {
			continue
		}
		alternatives, err := p.alternatives()
		if err != nil {
			return nil, fmt.Errorf("parse relation %q: %w", clip(strings.TrimSpace(s)), err)
		}
		out = append(out, alternatives)
	}
}

// ParseRelation reads a single relation, such as "libc6 (>= 2.36)".
func ParseRelation(s string) (Relation, error) {
	list, err := ParseRelations(s)
	if err != nil {
		return Relation{}, err
	}
	if len(list) != 1 || len(list[0]) != 1 {
		return Relation{}, fmt.Errorf("parse relation %q: want exactly one", clip(s))
	}
	return list[0][0], nil
}

type relationParser struct {
	s     string // what is left
	count int
}

func (p *relationParser) blanks() { p.s = strings.TrimLeft(p.s, " \t\r\n") }

func (p *relationParser) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

// until cuts everything up to and with c.
func (p *relationParser) until(c byte) (string, error) {
	before, after, ok := strings.Cut(p.s, string(c))
	if !ok {
		return "", fmt.Errorf("%q is missing", c)
	}
	p.s = after
	return before, nil
}

// alternatives reads up to a comma or the end.
func (p *relationParser) alternatives() (Alternatives, error) {
	var out Alternatives
	for {
		r, err := p.relation()
		if err != nil {
			return nil, err
		}
		if p.count++; p.count > maxRelations {
			return nil, fmt.Errorf("more than %d relations", maxRelations)
		}
		out = append(out, r)
		p.blanks()
		switch {
		case p.take('|'):
			p.blanks()
		case p.s == "" || p.take(','):
			return out, nil
		default:
			return nil, fmt.Errorf("%q follows %s, want a comma or a bar", clip(p.s), r.Name)
		}
	}
}

func (p *relationParser) relation() (r Relation, err error) {
	word := p.s
	if i := strings.IndexAny(word, " \t\r\n,|([<"); i >= 0 {
		word = word[:i]
	}
	p.s = p.s[len(word):]
	var qualified bool
	r.Name, r.Arch, qualified = strings.Cut(word, ":")
	if !ValidName(r.Name) {
		return r, fmt.Errorf("%q is not a package name", clip(r.Name))
	}
	if qualified && !validArch(r.Arch) {
		return r, fmt.Errorf("%q is not an architecture", clip(r.Arch))
	}
	p.blanks()
	if p.take('(') {
		text, err := p.until(')')
		if err != nil {
			return r, err
		}
		if r.Op, r.Version, err = parseConstraint(text); err != nil {
			return r, err
		}
		p.blanks()
	}
	if p.take('[') {
		text, err := p.until(']')
		if err != nil {
			return r, err
		}
		if r.Arches, err = parseRestrictions(text); err != nil {
			return r, err
		}
		p.blanks()
	}
	for p.take('<') {
		text, err := p.until('>')
		if err != nil {
			return r, err
		}
		list, err := parseRestrictions(text)
		if err != nil {
			return r, err
		}
		if p.count += len(list); p.count > maxRelations {
			return r, fmt.Errorf("more than %d restrictions", maxRelations)
		}
		r.Profiles = append(r.Profiles, list)
		p.blanks()
	}
	return r, nil
}

// parseConstraint reads what stands between parentheses.
func parseConstraint(text string) (Operator, Version, error) {
	text = strings.TrimSpace(text)
	n := 0
	for n < len(text) && strings.IndexByte("<>=", text[n]) >= 0 {
		n++
	}
	var op Operator
	switch text[:n] {
	case "<<":
		op = Earlier
	case "<=", "<":
		op = EarlierEqual
	case "=", "": // dpkg reads a bare version as an exact one
		op = Equal
	case ">=", ">":
		op = LaterEqual
	case ">>":
		op = Later
	default:
		return 0, Version{}, fmt.Errorf("%q is not an operator", text[:n])
	}
	v, err := ParseVersion(strings.TrimSpace(text[n:]))
	return op, v, err
}

// parseRestrictions reads "amd64 !i386". Names are checked, so that what is
// printed again is what was read.
func parseRestrictions(text string) ([]Restriction, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, fmt.Errorf("a restriction list is empty")
	}
	if len(words) > 1024 {
		return nil, fmt.Errorf("a restriction list has %d terms", len(words))
	}
	list := make([]Restriction, len(words))
	for i, w := range words {
		list[i].Name, list[i].Not = strings.CutPrefix(w, "!")
		if !validArch(list[i].Name) {
			return nil, fmt.Errorf("%q is not a restriction", clip(w))
		}
	}
	return list, nil
}

// ValidName reports whether s can name a package. Policy 5.6.1 wants lower
// case letters, digits, and + - . and at least two of them, the first
// alphanumeric; like apt this also lets upper case and underscores pass, which
// some third-party archives use.
func ValidName(s string) bool {
	if s == "" || len(s) > 255 || !isDigit(s[0]) && !isLetter(s[0]) {
		return false
	}
	_, bad := strange(s, "+-._")
	return !bad
}

// validArch also holds for build profiles, which may have dots.
func validArch(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	_, bad := strange(s, "-.+_")
	return !bad
}
