package resolve

import (
	"cmp"
	"slices"

	"wolffia/internal/debian/control"
)

// Index is the packages of one or several suites, ready to be resolved. It
// does not change, so resolutions may run side by side.
type Index struct {
	byName    map[string][]*control.Package // highest version first
	providers map[string][]provider         // by the name that is provided
	base      []*control.Package            // essential or required, in the order of the lists
}

// provider is a package that provides a name, perhaps in a version.
type provider struct {
	pkg     *control.Package
	op      control.Operator // AnyVersion or Equal
	version control.Version
}

// NewIndex merges the lists of several suites or architectures. Of packages
// that agree in name, architecture and version, which suites and the indexes
// of several architectures share, the one of the earlier list is kept.
//
// A Provides field that can't be read provides nothing; a package of which
// another relation can't be read is never chosen, and Resolve says why.
func NewIndex(lists ...[]*control.Package) *Index {
	total := 0
	for _, list := range lists {
		total += len(list)
	}
	idx := &Index{byName: make(map[string][]*control.Package, total), providers: map[string][]provider{}}
	for _, list := range lists {
		for _, p := range list {
			idx.add(p)
		}
	}
	return idx
}

func (idx *Index) add(p *control.Package) {
	same := idx.byName[p.Name]
	at := len(same)
	for i, q := range same {
		c := p.Version.Compare(q.Version)
		if c == 0 && p.Architecture == q.Architecture {
			return
		}
		if c > 0 && i < at {
			at = i
		}
	}
	idx.byName[p.Name] = slices.Insert(same, at, p)
	if p.Essential || p.Priority == control.PriorityRequired {
		idx.base = append(idx.base, p)
	}
	if p.Provides == "" {
		return
	}
	provides, err := p.Relations(control.Provides)
	if err != nil {
		return
	}
	for _, alternatives := range provides {
		for _, r := range alternatives {
			if r.Op == control.AnyVersion || r.Op == control.Equal {
				idx.providers[r.Name] = append(idx.providers[r.Name], provider{p, r.Op, r.Version})
			}
		}
	}
}

// Lookup gives the packages of that name of all architectures, the highest
// version first. The slice is the index's own.
func (idx *Index) Lookup(name string) []*control.Package { return idx.byName[name] }

// Providers gives the packages that provide a virtual name.
func (idx *Index) Providers(name string) []*control.Package {
	var list []*control.Package
	for _, p := range idx.providers[name] {
		list = append(list, p.pkg)
	}
	return list
}

// view is an Index as seen by one request: the architectures that count and
// the names that are excluded.
type view struct {
	idx      *Index
	native   string
	foreign  []string
	rank     map[string]int // architectures that count: native 0, then foreign
	excluded map[string]bool
}

// arch is a package's architecture for the rules of Multi-Arch, which treat
// "all" as native.
func (v *view) arch(p *control.Package) string {
	if p.Architecture == "all" {
		return v.native
	}
	return p.Architecture
}

// usable reports whether p is of an architecture that counts.
func (v *view) usable(p *control.Package) bool {
	_, ok := v.rank[v.arch(p)]
	return ok
}

// archMeets reports whether q is of an architecture that meets the relation r
// of a package of architecture arch.
func (v *view) archMeets(arch string, r *control.Relation, q *control.Package) bool {
	switch r.Arch {
	case "":
		return v.arch(q) == arch || q.MultiArch == control.MultiArchForeign
	case "any":
		return v.arch(q) == arch || q.MultiArch != control.MultiArchNo && q.MultiArch != control.MultiArchSame
	case "native":
		return v.arch(q) == v.native
	}
	return v.arch(q) == r.Arch
}

// matches gives what meets the relation r of a package of architecture arch,
// in the order of preference: real packages, highest version first, then
// providers. Of each name and architecture all fitting versions are there.
func (v *view) matches(arch string, r *control.Relation) []*control.Package {
	var out []*control.Package
	for _, q := range v.idx.byName[r.Name] {
		if v.usable(q) && v.archMeets(arch, r, q) && r.Op.Holds(q.Version, r.Version) {
			out = append(out, q)
		}
	}
	// The depending package's own architecture first, then native, and so on.
	slices.SortStableFunc(out, func(a, b *control.Package) int { return v.compareArch(arch, a, b) })
	real := len(out)
	for _, pr := range v.idx.providers[r.Name] {
		if v.usable(pr.pkg) && v.archMeets(arch, r, pr.pkg) && pr.meets(r) && !slices.Contains(out, pr.pkg) {
			out = append(out, pr.pkg)
		}
	}
	slices.SortStableFunc(out[real:], func(a, b *control.Package) int { return v.compareProviders(arch, a, b) })
	return out
}

// meets: only a versioned Provides meets a versioned relation (Policy 7.5).
func (p provider) meets(r *control.Relation) bool {
	return r.Op == control.AnyVersion || p.op == control.Equal && r.Op.Holds(p.version, r.Version)
}

func (v *view) compareArch(arch string, a, b *control.Package) int {
	return cmp.Or(
		first(v.arch(a) == arch, v.arch(b) == arch),
		cmp.Compare(v.rank[v.arch(a)], v.rank[v.arch(b)]))
}

// compareProviders is apt's order of providers, which ends with what apt
// decides by internal numbers and we by name.
func (v *view) compareProviders(arch string, a, b *control.Package) int {
	return cmp.Or(
		first(a.Essential, b.Essential),
		v.compareArch(arch, a, b),
		-cmp.Compare(a.Priority, b.Priority),
		cmp.Compare(a.Name, b.Name),
		-a.Version.Compare(b.Version))
}

// first orders what holds before what does not.
func first(a, b bool) int {
	switch {
	case a && !b:
		return -1
	case b && !a:
		return 1
	}
	return 0
}

// candidates gives what meets one of the alternatives, in the order in which
// it is tried: of each package the highest version that fits, in the order of
// the alternatives, then all older versions. An excluded package is left out,
// and dropped tells that there was one.
func (v *view) candidates(arch string, alternatives control.Alternatives) (out []*control.Package, dropped bool) {
	type slot struct{ name, arch string }
	var older []*control.Package
	seen := map[*control.Package]bool{}
	newest := map[slot]bool{}
	for i := range alternatives {
		for _, q := range v.matches(arch, &alternatives[i]) {
			if v.excluded[q.Name] {
				dropped = true
				continue
			}
			if seen[q] {
				continue
			}
			seen[q] = true
			if s := (slot{q.Name, q.Architecture}); v.isCandidate(q) && !newest[s] {
				newest[s] = true
				out = append(out, q)
			} else {
				older = append(older, q)
			}
		}
	}
	return append(out, older...), dropped
}

// isCandidate reports whether q is the highest version of its name and
// architecture: what apt would choose unless it was told otherwise.
func (v *view) isCandidate(q *control.Package) bool {
	for _, p := range v.idx.byName[q.Name] {
		if v.arch(p) == v.arch(q) {
			return p.Version.Compare(q.Version) == 0
		}
	}
	return false
}
