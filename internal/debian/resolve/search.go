package resolve

import (
	"slices"

	"wolffia/internal/debian/control"
)

// lit is a package chosen (positive) or not chosen (negative). Packages are
// numbered from 1 in the order in which the search comes across them.
type lit int32

func (l lit) pkg() int32 {
	if l < 0 {
		return int32(-l)
	}
	return int32(l)
}

// slot numbers literals from 0 for indexing.
func (l lit) slot() int {
	if l < 0 {
		return int(-l)*2 + 1
	}
	return int(l) * 2
}

// clauseKind says which rule a clause states.
type clauseKind uint8

const (
	ruleWant     clauseKind = iota // one of lits is asked for
	ruleDepends                    // by needs one of lits[1:]
	ruleConflict                   // by excludes lits[1]
	ruleOne                        // by and lits[1] can't be there together
	ruleBroken                     // by has relations that can't be read
	ruleLearnt                     // follows from others
)

// clause is a disjunction: one of lits holds. The first two are watched.
type clause struct {
	lits  []lit
	kind  clauseKind
	by    int32        // the package whose rule it is; 0 for a Want
	field control.Kind // of by
	text  string       // the relation as written
	rel   control.Alternatives
	err   error // of ruleBroken

	// Of ruleLearnt: the clauses it follows from, and the packages that were
	// settled on level 0 and so do not stand in it.
	from, settled []int32
}

// variable is the state of one package.
type variable struct {
	pkg      *control.Package
	value    int8 // 0 open, 1 chosen, -1 not chosen
	level    int32
	reason   int32    // clause that forced it; -1 for a decision
	expanded bool     // its clauses have been made
	deps     []choice // in the order of the fields
	soft     []choice // Recommends
	walked   int      // walk of next that came here last
}

const noReason = -1

// search is a conflict-driven search (CDCL): decide, propagate what follows,
// and at a conflict learn a clause and go back to where it would have mattered.
// Clauses of a package are made when it is first chosen.
type search struct {
	view    view
	vars    []variable // by number; vars[0] is unused
	number  map[*control.Package]int32
	clauses []clause
	wants   []choice
	watches [][]int32 // clauses by the slot of a watched literal
	trail   []lit
	done    int      // literals of trail that are propagated
	levels  []int    // length of the trail where each decision's level began
	walked  int      // number of the last walk of next
	unmet   []choice // dependencies dropped because of Exclude

	recommends bool
}

func (s *search) variable(p *control.Package) int32 {
	if n, ok := s.number[p]; ok {
		return n
	}
	n := int32(len(s.vars))
	s.vars = append(s.vars, variable{pkg: p, reason: noReason})
	s.watches = append(s.watches, nil, nil)
	s.number[p] = n
	return n
}

func (s *search) value(l lit) int8 {
	v := s.vars[l.pkg()].value
	if l < 0 {
		return -v
	}
	return v
}

func (s *search) level() int32 { return int32(len(s.levels)) }

// assign makes l true.
func (s *search) assign(l lit, reason int32) {
	v := &s.vars[l.pkg()]
	v.value, v.level, v.reason = 1, s.level(), reason
	if l < 0 {
		v.value = -1
	}
	s.trail = append(s.trail, l)
}

// add puts a clause in, which may be a conflict right now (the result) or
// force a literal. A clause is only added when its first literal's package is
// being propagated, or on level 0: so nothing forced by it is forced too late.
func (s *search) add(c clause) (id int32, conflict bool) {
	id = int32(len(s.clauses))
	// Watch what is not false, else what became false last.
	slices.SortStableFunc(c.lits, func(a, b lit) int { return s.watchRank(b) - s.watchRank(a) })
	s.clauses = append(s.clauses, c)
	for _, l := range c.lits[:min(2, len(c.lits))] {
		s.watches[l.slot()] = append(s.watches[l.slot()], id)
	}
	switch {
	case len(c.lits) == 0 || s.value(c.lits[0]) < 0:
		return id, true
	case s.value(c.lits[0]) == 0 && (len(c.lits) == 1 || s.value(c.lits[1]) < 0):
		s.assign(c.lits[0], id)
	}
	return id, false
}

func (s *search) watchRank(l lit) int {
	if s.value(l) >= 0 {
		return int(s.value(l)) + 1<<30
	}
	return int(s.vars[l.pkg()].level)
}

// propagate assigns all that follows. It gives the clause that can't be met
// any more, or -1.
func (s *search) propagate() int32 {
	for s.done < len(s.trail) {
		l := s.trail[s.done]
		s.done++
		if conflict := s.visit(-l); conflict >= 0 {
			return conflict
		}
		if v := &s.vars[l.pkg()]; l > 0 && !v.expanded {
			v.expanded = true
			if conflict := s.expand(l.pkg()); conflict >= 0 {
				return conflict
			}
		}
	}
	return -1
}

// visit looks at the clauses that watch the literal f, which became false.
func (s *search) visit(f lit) int32 {
	list := s.watches[f.slot()]
	kept := list[:0]
	for i, id := range list {
		c := &s.clauses[id]
		if len(c.lits) > 1 && c.lits[0] == f {
			c.lits[0], c.lits[1] = c.lits[1], c.lits[0]
		}
		if c.lits[0] != f && s.value(c.lits[0]) > 0 {
			kept = append(kept, id)
			continue
		}
		if s.rewatch(id) {
			continue
		}
		kept = append(kept, id)
		if s.value(c.lits[0]) < 0 {
			s.watches[f.slot()] = append(kept, list[i+1:]...)
			return id
		}
		s.assign(c.lits[0], id)
	}
	s.watches[f.slot()] = kept
	return -1
}

// rewatch finds another literal to watch in place of the second.
func (s *search) rewatch(id int32) bool {
	lits := s.clauses[id].lits
	for k := 2; k < len(lits); k++ {
		if s.value(lits[k]) >= 0 {
			lits[1], lits[k] = lits[k], lits[1]
			s.watches[lits[1].slot()] = append(s.watches[lits[1].slot()], id)
			return true
		}
	}
	return false
}

// decide opens a level and makes l true.
func (s *search) decide(l lit) {
	s.levels = append(s.levels, len(s.trail))
	s.assign(l, noReason)
}

// backTo undoes all levels above level.
func (s *search) backTo(level int32) {
	if s.level() <= level {
		return
	}
	at := s.levels[level]
	for _, l := range s.trail[at:] {
		v := &s.vars[l.pkg()]
		v.value, v.reason = 0, noReason
	}
	s.trail = s.trail[:at]
	s.done = at
	s.levels = s.levels[:level]
}

// learn turns a conflict into a clause with one literal of the current level
// (the first unique implication point), goes back to where that literal is
// forced, and adds it. On level 0 there is nothing to learn.
func (s *search) learn(conflict int32) {
	var (
		seen       = map[int32]bool{}
		c          = clause{lits: []lit{0}, kind: ruleLearnt}
		open       int // literals of the current level yet to be explained
		back       int32
		at         = len(s.trail) - 1
		antecedent = conflict
	)
	for {
		c.from = append(c.from, antecedent)
		for _, l := range s.clauses[antecedent].lits {
			n := l.pkg()
			if s.value(l) > 0 || seen[n] {
				continue
			}
			seen[n] = true
			switch lv := s.vars[n].level; {
			case lv == s.level():
				open++
			case lv > 0:
				c.lits = append(c.lits, l)
				back = max(back, lv)
			default:
				c.settled = append(c.settled, n)
			}
		}
		for !seen[s.trail[at].pkg()] {
			at--
		}
		c.lits[0] = -s.trail[at]
		antecedent = s.vars[s.trail[at].pkg()].reason
		at--
		if open--; open == 0 {
			break
		}
	}
	s.backTo(back)
	s.add(c)
}
