package resolve

import (
	"wolffia/internal/debian/control"
)

// choice is a group of alternatives that some package asks for, with what
// meets it, best first.
type choice struct {
	by    int32 // the package that asks; 0 for the request
	field control.Kind
	text  string
	order []int32
}

// expand makes the clauses of package n, which has been chosen for the first
// time. It gives a clause that can't be met, or -1.
func (s *search) expand(n int32) int32 {
	conflict := int32(-1)
	add := func(c clause) {
		if id, bad := s.add(c); bad && conflict < 0 {
			conflict = id
		}
	}
	p := s.vars[n].pkg
	for _, field := range []control.Kind{control.PreDepends, control.Depends, control.Recommends} {
		if field == control.Recommends && !s.recommends {
			continue
		}
		rels, err := p.Relations(field)
		if err != nil {
			add(clause{lits: []lit{-lit(n)}, kind: ruleBroken, by: n, err: err})
			continue
		}
		for _, alternatives := range rels.Filter(s.view.arch(p), nil) {
			s.expandGroup(n, field, alternatives, add)
		}
	}
	for _, field := range []control.Kind{control.Conflicts, control.Breaks} {
		rels, err := p.Relations(field)
		if err != nil {
			add(clause{lits: []lit{-lit(n)}, kind: ruleBroken, by: n, err: err})
			continue
		}
		for _, alternatives := range rels.Filter(s.view.arch(p), nil) {
			for i := range alternatives {
				for _, q := range s.view.conflicting(p, &alternatives[i]) {
					add(clause{lits: []lit{-lit(n), -lit(s.variable(q))}, kind: ruleConflict, by: n, field: field, text: alternatives[i].String()})
				}
			}
		}
	}
	for _, q := range s.view.exclusive(p) {
		add(clause{lits: []lit{-lit(n), -lit(s.variable(q))}, kind: ruleOne, by: n})
	}
	return conflict
}

// expandGroup makes the clause of one group of alternatives of package n.
func (s *search) expandGroup(n int32, field control.Kind, alternatives control.Alternatives, add func(clause)) {
	p := s.vars[n].pkg
	found, dropped := s.view.candidates(s.view.arch(p), alternatives)
	c := choice{by: n, field: field, text: alternatives.String()}
	for _, q := range found {
		if q == p {
			return // met by itself
		}
		c.order = append(c.order, s.variable(q))
	}
	if field == control.Recommends {
		s.vars[n].soft = append(s.vars[n].soft, c)
		return
	}
	if len(found) == 0 && dropped {
		s.unmet = append(s.unmet, c)
		return
	}
	s.vars[n].deps = append(s.vars[n].deps, c)
	lits := []lit{-lit(n)}
	for _, q := range c.order {
		lits = append(lits, lit(q))
	}
	add(clause{lits: lits, kind: ruleDepends, by: n, field: field, text: c.text, rel: alternatives})
}

// conflicting gives what the relation r of p's Conflicts or Breaks excludes.
// Without a qualifier that is any architecture. Packages of p's own name are
// no matter of conflicts: see exclusive.
func (v *view) conflicting(p *control.Package, r *control.Relation) (out []*control.Package) {
	hits := func(q *control.Package) bool {
		switch {
		case q.Name == p.Name || !v.usable(q):
			return false
		case r.Arch == "" || r.Arch == "any":
			return true
		case r.Arch == "native":
			return v.arch(q) == v.native
		}
		return v.arch(q) == r.Arch
	}
	for _, q := range v.idx.byName[r.Name] {
		if hits(q) && r.Op.Holds(q.Version, r.Version) {
			out = append(out, q)
		}
	}
	for _, pr := range v.idx.providers[r.Name] {
		if hits(pr.pkg) && pr.meets(r) {
			out = append(out, pr.pkg)
		}
	}
	return out
}

// exclusive gives the packages of p's name that can't be there beside it: all
// but the same version for another architecture, if both are Multi-Arch: same.
func (v *view) exclusive(p *control.Package) (out []*control.Package) {
	for _, q := range v.idx.byName[p.Name] {
		if q == p || !v.usable(q) {
			continue
		}
		together := v.arch(p) != v.arch(q) && p.Version.Compare(q.Version) == 0 &&
			p.MultiArch == control.MultiArchSame && q.MultiArch == control.MultiArchSame
		if !together {
			out = append(out, q)
		}
	}
	return out
}

// next gives the package to try for the first open choice, or 0 if all are
// settled: wants first, then the dependencies of what is chosen, in the order
// in which it was chosen, and Recommends when nothing else is open.
func (s *search) next() int32 {
	for ; s.cursor.wants < len(s.wants); s.cursor.wants++ {
		if q := s.open(&s.wants[s.cursor.wants]); q != 0 {
			return q
		}
	}
	for ; s.cursor.pkg < len(s.trail); s.cursor.pkg, s.cursor.dep = s.cursor.pkg+1, 0 {
		if s.trail[s.cursor.pkg] < 0 {
			continue
		}
		deps := s.vars[s.trail[s.cursor.pkg].pkg()].deps
		for ; s.cursor.dep < len(deps); s.cursor.dep++ {
			if q := s.open(&deps[s.cursor.dep]); q != 0 {
				return q
			}
		}
	}
	for ; s.cursor.softPkg < len(s.trail); s.cursor.softPkg, s.cursor.soft = s.cursor.softPkg+1, 0 {
		if s.trail[s.cursor.softPkg] < 0 {
			continue
		}
		soft := s.vars[s.trail[s.cursor.softPkg].pkg()].soft
		for ; s.cursor.soft < len(soft); s.cursor.soft++ {
			if q := s.open(&soft[s.cursor.soft]); q != 0 {
				return q
			}
		}
	}
	return 0
}

// open gives the best package that may still meet the choice c; 0 if c is met
// already or can't be.
func (s *search) open(c *choice) int32 {
	best := int32(0)
	for _, q := range c.order {
		switch s.vars[q].value {
		case 1:
			return 0
		case 0:
			if best == 0 {
				best = q
			}
		}
	}
	return best
}
