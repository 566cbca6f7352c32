package resolve

import (
	"testing"

	"wolffia/internal/debian/control"
)

// checkSound verifies a solution on its own, without the search: every
// dependency is met, nothing conflicts, what is needed comes first.
func checkSound(t testing.TB, sol *Solution) {
	t.Helper()
	chosen := map[*control.Package]int{} // position
	for i, p := range sol.Packages {
		if _, twice := chosen[p.Package]; twice {
			t.Errorf("%s is there twice", p.ID())
		}
		chosen[p.Package] = i
	}
	relations := func(p *control.Package, k control.Kind) control.Relations {
		r, err := p.Relations(k)
		if err != nil {
			t.Errorf("%s: %v", p.ID(), err)
		}
		return r
	}
	type offer struct {
		by       *control.Package
		versions []control.Version // nil if it is offered without one
	}
	offers := map[string][]offer{}
	for p := range chosen {
		offers[p.Name] = append(offers[p.Name], offer{p, []control.Version{p.Version}})
		for _, group := range relations(p, control.Provides) {
			for _, r := range group {
				o := offer{by: p}
				if r.Op == control.Equal {
					o.versions = []control.Version{r.Version}
				}
				offers[r.Name] = append(offers[r.Name], o)
			}
		}
	}
	meeting := func(r control.Relation) (list []*control.Package) {
		for _, o := range offers[r.Name] {
			ok := r.Op == control.AnyVersion
			for _, v := range o.versions {
				ok = ok || r.Op.Holds(v, r.Version)
			}
			if ok {
				list = append(list, o.by)
			}
		}
		return list
	}
	dropped := map[Unmet]bool{}
	for _, u := range sol.Unmet {
		dropped[u] = true
	}
	for i, sel := range sol.Packages {
		p := sel.Package
		for _, k := range []control.Kind{control.PreDepends, control.Depends} {
			for _, group := range relations(p, k) {
				met, before := false, false
				for _, r := range group {
					for _, q := range meeting(r) {
						met = true
						before = before || chosen[q] <= i
					}
				}
				if !met && !dropped[Unmet{p, group.String()}] {
					t.Errorf("%s: %s %s is not met", p.ID(), k, group)
				}
				if k == control.PreDepends && met && !before {
					t.Errorf("%s: %s comes too late for Pre-Depends", p.ID(), group)
				}
			}
		}
		for _, k := range []control.Kind{control.Conflicts, control.Breaks} {
			for _, group := range relations(p, k) {
				for _, q := range meeting(group[0]) {
					if q.Name != p.Name {
						t.Errorf("%s: %s %s, but %s is there", p.ID(), k, group, q.ID())
					}
				}
			}
		}
		if sel.Why.By != nil {
			if _, ok := chosen[sel.Why.By]; !ok {
				t.Errorf("%s is there for %s, which is not", p.ID(), sel.Why.By.ID())
			}
		}
		if chain := sol.Chain(p.Name); len(chain) == 0 || chain[0].Why.By != nil {
			t.Errorf("%s: no chain from the request: %v", p.ID(), chain)
		}
	}
}
