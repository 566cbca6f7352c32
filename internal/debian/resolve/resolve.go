package resolve

import (
	"errors"
	"fmt"
	"slices"

	"wolffia/internal/debian/control"
)

// Resolve finds the packages that req entails, in unpack order.
//
// Errors are *NotFoundError for a wanted name or version that is not there,
// *UnsatisfiableError if the rules leave no solution, and a plain error for a
// malformed request or one that needs more than MaxSteps.
func Resolve(idx *Index, req Request) (*Solution, error) {
	s, err := newSearch(idx, req)
	if err != nil {
		return nil, err
	}
	conflict, err := s.require(req)
	if err != nil {
		return nil, err
	}
	steps := req.MaxSteps
	if steps == 0 {
		steps = 100_000
	}
	for {
		if conflict < 0 {
			conflict = s.propagate()
		}
		if conflict >= 0 {
			if s.level() == 0 {
				return nil, s.explain(conflict)
			}
			s.learn(conflict)
			conflict = -1
			continue
		}
		q := s.next()
		if q == 0 {
			return s.solution(), nil
		}
		if steps--; steps < 0 {
			return nil, errors.New("resolve packages: the search was given up; ask for fewer packages at once, or name the alternatives that you want")
		}
		s.decide(lit(q))
	}
}

func newSearch(idx *Index, req Request) (*search, error) {
	if req.Native == "" || req.Native == "all" {
		return nil, fmt.Errorf("resolve packages: native architecture %q", req.Native)
	}
	v := view{idx: idx, native: req.Native, rank: map[string]int{req.Native: 0}, excluded: map[string]bool{}}
	for _, a := range req.Foreign {
		if _, twice := v.rank[a]; !twice {
			v.rank[a] = len(v.rank)
			v.foreign = append(v.foreign, a)
		}
	}
	for _, name := range req.Exclude {
		v.excluded[name] = true
	}
	return &search{
		view:       v,
		vars:       make([]variable, 1),
		number:     map[*control.Package]int32{},
		watches:    make([][]int32, 2),
		recommends: req.Recommends,
	}, nil
}

// require states what the request asks for, on level 0.
func (s *search) require(req Request) (conflict int32, err error) {
	conflict = -1
	state := func(text string, found []*control.Package) {
		c := choice{text: text}
		var lits []lit
		for _, q := range found {
			n := s.variable(q)
			c.order, lits = append(c.order, n), append(lits, lit(n))
		}
		s.wants = append(s.wants, c)
		if id, bad := s.add(clause{lits: lits, kind: ruleWant, text: text}); bad && conflict < 0 {
			conflict = id
		}
	}
	for _, w := range req.Want {
		found, err := s.view.wanted(w)
		if err != nil {
			return conflict, err
		}
		state(w.String(), found)
	}
	seen := map[string]bool{}
	for _, p := range s.view.idx.base {
		want := req.Essential && p.Essential || req.Required && p.Priority == control.PriorityRequired
		if !want || seen[p.Name] || s.view.excluded[p.Name] || s.view.arch(p) != s.view.native {
			continue
		}
		seen[p.Name] = true
		found, err := s.view.wanted(Want{Name: p.Name})
		if err != nil {
			return conflict, err
		}
		text := "every essential package"
		if !p.Essential {
			text = "every required package"
		}
		state(text, found)
	}
	return conflict, nil
}

// wanted gives what meets a Want, best first. Providers count only where there
// is no package of that name, and other architectures only where there is
// none for the one that is meant.
func (v *view) wanted(w Want) ([]*control.Package, error) {
	r := w.relation()
	if v.excluded[w.Name] {
		return nil, fmt.Errorf("resolve packages: %s is both wanted and excluded", w.Name)
	}
	if _, ok := v.rank[w.Arch]; w.Arch != "" && w.Arch != "any" && w.Arch != "native" && w.Arch != "all" && !ok {
		return nil, fmt.Errorf("resolve packages: %s is wanted for architecture %s, which is neither native (%s) nor foreign here", w.Name, w.Arch, v.native)
	}
	if r.Arch == "all" {
		r.Arch = ""
	}
	found := v.matches(v.native, &r)
	if len(found) == 0 && r.Arch == "" {
		for _, r.Arch = range v.foreign {
			if found = v.matches(r.Arch, &r); len(found) > 0 {
				break
			}
		}
	}
	if len(found) > 0 && found[0].Name == w.Name {
		found = slices.DeleteFunc(found, func(p *control.Package) bool { return p.Name != w.Name })
	}
	found = slices.DeleteFunc(found, func(p *control.Package) bool { return v.excluded[p.Name] })
	if len(found) == 0 {
		return nil, v.notFound(w)
	}
	return found, nil
}

// solution is what the request needs of all that is chosen: a choice that was
// settled early may have become needless later.
func (s *search) solution() *Solution {
	k := keeper{s: s, why: map[int32]Reason{}, edges: map[int32][]edge{}}
	for i := range s.wants {
		k.keep(&s.wants[i])
	}
	for done, soft := 0, 0; done < len(k.kept) || soft < len(k.kept); {
		if done < len(k.kept) {
			deps := s.vars[k.kept[done]].deps
			for i := range deps {
				k.keep(&deps[i])
			}
			done++
			continue
		}
		recs := s.vars[k.kept[soft]].soft
		for i := range recs {
			k.keep(&recs[i])
		}
		soft++
	}
	sol := &Solution{}
	for _, n := range k.order() {
		sol.Packages = append(sol.Packages, Selected{s.vars[n].pkg, k.why[n]})
	}
	for _, c := range s.unmet {
		if _, kept := k.why[c.by]; kept {
			sol.Unmet = append(sol.Unmet, Unmet{s.vars[c.by].pkg, c.text})
		}
	}
	return sol
}

// keeper gathers the packages that are needed, with what asked for them first.
type keeper struct {
	s     *search
	kept  []int32
	why   map[int32]Reason
	edges map[int32][]edge // what a kept package needs
}

type edge struct {
	to  int32
	pre bool // Pre-Depends
}

// keep takes the best chosen package of c.
func (k *keeper) keep(c *choice) {
	for _, q := range c.order {
		if k.s.vars[q].value <= 0 {
			continue
		}
		if c.by != 0 && c.field != control.Recommends {
			k.edges[c.by] = append(k.edges[c.by], edge{q, c.field == control.PreDepends})
		}
		if _, have := k.why[q]; !have {
			k.why[q] = Reason{By: k.s.vars[c.by].pkg, Kind: c.field, Relation: c.text}
			k.kept = append(k.kept, q)
		}
		return
	}
}
