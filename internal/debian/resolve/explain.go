package resolve

import (
	"fmt"
	"slices"
	"strings"

	"wolffia/internal/debian/control"
	"wolffia/internal/spell"
)

// NotFoundError says that a wanted package is not in the index, or not in the
// wanted version or architecture.
type NotFoundError struct {
	Want    Want
	Name    string   // as in Want
	Have    []string // what there is of that name: "version (architecture)"
	Nearest []string // if there is nothing of that name: names like it, best first
}

func (e *NotFoundError) Error() string {
	msg := fmt.Sprintf("package %s is not in the archive", e.Want)
	switch {
	case len(e.Have) > 0:
		msg += ", which has " + e.Name + " " + strings.Join(e.Have, ", ")
	case len(e.Nearest) > 0:
		msg += "; did you mean " + strings.Join(e.Nearest, " or ") + "?"
	}
	return msg
}

// UnsatisfiableError says why no set of packages meets the request. Causes
// alone are enough to rule out every set.
type UnsatisfiableError struct {
	Causes []Cause
}

// Cause is one rule that stands in the way.
type Cause struct {
	// Text is the rule, such as "foo 1.0 needs bar (>= 2), but the archive
	// has bar 1.0".
	Text string
	// Chain is why the rule's package matters: from a wanted package, each
	// needing the next, to that package. Empty for what the request states.
	Chain []*control.Package
	// Missing tells that the rule can't be met by anything in the archive.
	Missing bool
}

// String is the cause with its chain.
func (c Cause) String() string {
	if len(c.Chain) < 2 {
		return c.Text
	}
	names := make([]string, len(c.Chain))
	for i, p := range c.Chain {
		names[i] = p.Name
	}
	return c.Text + " (" + strings.Join(names, " -> ") + ")"
}

const maxCauses = 8 // in the text of an error

func (e *UnsatisfiableError) Error() string {
	lines := make([]string, 0, maxCauses+1)
	for i, c := range e.Causes {
		if i == maxCauses {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Causes)-i))
			break
		}
		lines = append(lines, c.String())
	}
	return "no set of packages meets the request: " + strings.Join(lines, "; ")
}

// notFound explains why nothing meets w.
func (v *view) notFound(w Want) error {
	e := &NotFoundError{Want: w, Name: w.Name}
	for _, p := range v.idx.byName[w.Name] {
		e.Have = append(e.Have, fmt.Sprintf("%s (%s)", p.Version, p.Architecture))
	}
	for _, pr := range v.idx.providers[w.Name] {
		have := "from " + pr.pkg.Name
		if pr.op == control.Equal {
			have = pr.version.String() + " " + have
		}
		e.Have = append(e.Have, have)
	}
	if len(e.Have) == 0 {
		e.Nearest = v.nearest(w.Name)
	}
	return e
}

const maxNearest = 3

// nearest finds the names most like name, real or virtual.
func (v *view) nearest(name string) []string {
	type near struct {
		name     string
		distance int
	}
	limit := max(1, len(name)/3)
	var found []near
	look := func(candidate string) {
		if d := len(candidate) - len(name); d > limit || -d > limit {
			return
		}
		if d := spell.Distance(name, candidate); d <= limit {
			found = append(found, near{candidate, d})
		}
	}
	for candidate := range v.idx.byName {
		look(candidate)
	}
	for candidate := range v.idx.providers {
		if len(v.idx.byName[candidate]) == 0 {
			look(candidate)
		}
	}
	slices.SortFunc(found, func(a, b near) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return strings.Compare(a.name, b.name)
	})
	var out []string
	for _, n := range found[:min(len(found), maxNearest)] {
		out = append(out, n.name)
	}
	return out
}

// explain turns a conflict on level 0 into an error: the rules from which it
// follows, those nearest to the request first.
func (s *search) explain(conflict int32) error {
	core := s.core(conflict)
	chains := s.chains(core)
	e := &UnsatisfiableError{}
	for _, id := range core {
		c := &s.clauses[id]
		cause := Cause{Text: s.describe(c), Chain: chains[c.by], Missing: c.kind == ruleDepends && len(c.lits) == 1 || c.kind == ruleBroken}
		if cause.Text != "" {
			e.Causes = append(e.Causes, cause)
		}
	}
	// What is missing is what a person can do something about.
	slices.SortStableFunc(e.Causes, func(a, b Cause) int {
		if a.Missing != b.Missing {
			return first(a.Missing, b.Missing)
		}
		return len(a.Chain) - len(b.Chain)
	})
	// A chain of single choices that ends in something missing needs no
	// further words: the chain says them.
	if len(e.Causes) > 0 && e.Causes[0].Missing && s.isLine(core) {
		e.Causes = e.Causes[:1]
	}
	return e
}

// isLine reports whether the rules leave no choice at all on the way from the
// request to the conflict.
func (s *search) isLine(core []int32) bool {
	for _, id := range core {
		c := &s.clauses[id]
		if c.kind == ruleConflict || c.kind == ruleOne || c.kind == ruleDepends && len(c.lits) > 2 || c.kind == ruleWant && len(c.lits) > 1 {
			return false
		}
	}
	return true
}

// core lists the rules from which a conflict on level 0 follows, in the order
// in which they were made.
func (s *search) core(conflict int32) []int32 {
	var (
		seenClause = map[int32]bool{}
		seenPkg    = map[int32]bool{}
		clauses    = []int32{conflict}
		pkgs       []int32
		core       []int32
	)
	for _, l := range s.clauses[conflict].lits {
		pkgs = append(pkgs, l.pkg())
	}
	for len(clauses) > 0 || len(pkgs) > 0 {
		if n := len(pkgs); n > 0 {
			p := pkgs[n-1]
			pkgs = pkgs[:n-1]
			reason := s.vars[p].reason
			if seenPkg[p] || reason == noReason {
				continue
			}
			seenPkg[p] = true
			clauses = append(clauses, reason)
			for _, l := range s.clauses[reason].lits {
				pkgs = append(pkgs, l.pkg())
			}
			continue
		}
		id := clauses[len(clauses)-1]
		clauses = clauses[:len(clauses)-1]
		if seenClause[id] {
			continue
		}
		seenClause[id] = true
		c := &s.clauses[id]
		if c.kind != ruleLearnt {
			core = append(core, id)
			continue
		}
		clauses = append(clauses, c.from...)
		pkgs = append(pkgs, c.settled...)
	}
	slices.Sort(core)
	return core
}

// chains finds for each package of the core the shortest way to it from what
// is wanted, along rules of the core.
func (s *search) chains(core []int32) map[int32][]*control.Package {
	chains := map[int32][]*control.Package{}
	var queue []int32
	reach := func(n int32, by []*control.Package) {
		if _, ok := chains[n]; !ok {
			chains[n] = append(slices.Clone(by), s.vars[n].pkg)
			queue = append(queue, n)
		}
	}
	needs := map[int32][]int32{}
	for _, id := range core {
		c := &s.clauses[id]
		for _, l := range c.lits {
			switch {
			case l < 0:
			case c.kind == ruleWant:
				reach(l.pkg(), nil)
			case c.kind == ruleDepends:
				needs[c.by] = append(needs[c.by], l.pkg())
			}
		}
	}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		for _, to := range needs[n] {
			reach(to, chains[n])
		}
	}
	return chains
}

// describe writes a rule as a sentence.
func (s *search) describe(c *clause) string {
	name := func(n int32) string {
		p := s.vars[n].pkg
		text := p.Name
		if s.view.arch(p) != s.view.native {
			text += ":" + p.Architecture
		}
		return text + " " + p.Version.String()
	}
	other := func() int32 {
		for _, l := range c.lits {
			if l.pkg() != c.by {
				return l.pkg()
			}
		}
		return c.by
	}
	switch c.kind {
	case ruleWant:
		return c.text + " is wanted"
	case ruleDepends:
		if len(c.lits) == 1 {
			return fmt.Sprintf("%s needs %s, but %s", name(c.by), c.text, s.view.available(c.rel))
		}
		return fmt.Sprintf("%s needs %s", name(c.by), c.text)
	case ruleConflict:
		verb := "conflicts with"
		if c.field == control.Breaks {
			verb = "breaks"
		}
		q := s.vars[other()].pkg
		text := fmt.Sprintf("%s %s %s", name(c.by), verb, name(other()))
		if !strings.HasPrefix(c.text, q.Name) {
			text += ", which provides " + c.text
		}
		return text
	case ruleOne:
		return fmt.Sprintf("%s and %s can't be there together", name(c.by), name(other()))
	case ruleBroken:
		return fmt.Sprintf("%s can't be used: %v", name(c.by), c.err)
	}
	return ""
}

// available tells what there is of the names in alternatives, none of which
// can be met.
func (v *view) available(alternatives control.Alternatives) string {
	var have, none []string
	for i := range alternatives {
		name := alternatives[i].Name
		if slices.Contains(none, name) {
			continue
		}
		found := false
		for _, p := range v.idx.byName[name] {
			found = true
			switch {
			case !v.usable(p):
				have = append(have, fmt.Sprintf("%s only for %s", name, p.Architecture))
			case v.excluded[name]:
				have = append(have, name+", which is excluded")
			case p.Architecture != v.native && p.Architecture != "all":
				have = append(have, fmt.Sprintf("%s:%s %s", name, p.Architecture, p.Version))
			default:
				have = append(have, name+" "+p.Version.String())
			}
		}
		for _, pr := range v.idx.providers[name] {
			if pr.op == control.Equal {
				found = true
				have = append(have, fmt.Sprintf("%s %s from %s", name, pr.version, pr.pkg.Name))
			}
		}
		if !found {
			none = append(none, name)
		}
	}
	if len(have) > 4 {
		have = append(have[:4], fmt.Sprintf("%d more", len(have)-4))
	}
	if len(have) == 0 {
		return "the archive has no " + strings.Join(none, " and no ")
	}
	return "the archive has " + strings.Join(have, ", ")
}
