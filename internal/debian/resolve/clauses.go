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
// settled. It walks from the wants along what is chosen, depth first as apt
// does, so that what is chosen but no longer needed asks for nothing.
// Recommends come when nothing else is open.
func (s *search) next() int32 {
	for i := range s.wants {
		if _, q := s.open(&s.wants[i]); q != 0 {
			return q
		}
	}
	s.walked++
	var order []int32
	for i := range s.wants {
		met, _ := s.open(&s.wants[i])
		if q := s.walk(met, &order); q != 0 {
			return q
		}
	}
	for i := 0; i < len(order) && s.recommends; i++ {
		soft := s.vars[order[i]].soft
		for j := range soft {
			met, q := s.open(&soft[j])
			if met != 0 {
				q = s.walk(met, &order)
			}
			if q != 0 {
				return q
			}
		}
	}
	return 0
}

// walk looks for an open choice among what the chosen package n needs. It
// notes in order where it has been. Its depth is bounded by the number of
// packages that are chosen.
func (s *search) walk(n int32, order *[]int32) int32 {
	if s.vars[n].walked == s.walked {
		return 0
	}
	s.vars[n].walked = s.walked
	*order = append(*order, n)
	deps := s.vars[n].deps
	for i := range deps {
		met, q := s.open(&deps[i])
		if met != 0 {
			q = s.walk(met, order)
		}
		if q != 0 {
			return q
		}
	}
	return 0
}

// open gives the best package that meets the choice c, or if none does the
// best that still may; both are 0 if c can't be met any more.
func (s *search) open(c *choice) (met, try int32) {
	for _, q := range c.order {
		switch s.vars[q].value {
		case 1:
			return q, 0
		case 0:
			if try == 0 {
				try = q
			}
		}
	}
	return 0, try
}
