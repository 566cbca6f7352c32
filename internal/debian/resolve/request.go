package resolve

import (
	"fmt"
	"strings"

	"wolffia/internal/debian/control"
)

// Want is a wanted package, real or virtual.
type Want struct {
	Name    string
	Arch    string           // "" means the native one
	Op      control.Operator // AnyVersion means the highest version there is
	Version control.Version
}

// ParseWant reads name, name=version, name:arch or name:arch=version, as apt
// does, and also a relation such as "name (>= version)".
func ParseWant(s string) (Want, error) {
	text := strings.TrimSpace(s)
	if name, version, ok := strings.Cut(text, "="); ok && !strings.ContainsAny(name, "(<>|, ") {
		text = name + " (= " + version + ")"
	}
	r, err := control.ParseRelation(text)
	if err == nil && (r.Arches != nil || r.Profiles != nil) {
		err = fmt.Errorf("a wanted package can't have restrictions")
	}
	if err != nil {
		return Want{}, fmt.Errorf("package %q is not of the form name, name:arch or name=version: %w", s, err)
	}
	return Want{Name: r.Name, Arch: r.Arch, Op: r.Op, Version: r.Version}, nil
}

func (w Want) relation() control.Relation {
	return control.Relation{Name: w.Name, Arch: w.Arch, Op: w.Op, Version: w.Version}
}

// String is the Want in the form that ParseWant reads.
func (w Want) String() string {
	if w.Op != control.Equal {
		return w.relation().String()
	}
	bare := control.Relation{Name: w.Name, Arch: w.Arch}
	return bare.String() + "=" + w.Version.String()
}

// Request is what to resolve.
type Request struct {
	Want    []Want
	Native  string   // architecture, such as "amd64"; needed
	Foreign []string // further architectures, as dpkg --add-architecture, preferred ones first

	// Exclude names packages that are never chosen. A dependency with another
	// alternative takes that one; one that only excluded packages could meet
	// counts as met and is listed in Solution.Unmet.
	Exclude []string

	Essential  bool // also every Essential package of the native architecture
	Required   bool // also every native package of priority required
	Recommends bool // also what is recommended, as far as it can be had

	MaxSteps int // decisions before the search gives up; 0 means 100,000
}

// Solution is a closed set of packages without conflicts.
type Solution struct {
	// Packages are in unpack order: a package follows what it depends on, and
	// within a cycle at least what it pre-depends on; else sorted by name.
	Packages []Selected
	Unmet    []Unmet // dependencies that Request.Exclude left unmet
}

// Selected is a chosen package.
type Selected struct {
	*control.Package
	Why Reason
}

// Reason says why a package is there.
type Reason struct {
	By       *control.Package // who asked for it; nil if the request did
	Kind     control.Kind     // the field of By
	Relation string           // what was asked for, such as "awk | mawk"
}

// String is the reason as half a sentence, such as "bash depends on awk | mawk".
func (r Reason) String() string {
	if r.By == nil {
		return r.Relation + " was asked for"
	}
	verb := "depends on"
	switch r.Kind {
	case control.PreDepends:
		verb = "pre-depends on"
	case control.Recommends:
		verb = "recommends"
	}
	return fmt.Sprintf("%s %s %s", r.By.Name, verb, r.Relation)
}

// Unmet is a dependency that an excluded package would have met.
type Unmet struct {
	By       *control.Package // nil if the request itself asked for it
	Relation string
}

// Chain lists why the package of that name is there: from a package that was
// asked for, each needing the next, to the package itself.
func (s *Solution) Chain(name string) []Selected {
	at := map[*control.Package]Selected{}
	var p *control.Package
	for _, sel := range s.Packages {
		at[sel.Package] = sel
		if sel.Name == name && p == nil {
			p = sel.Package
		}
	}
	var chain []Selected
	for p != nil && len(chain) <= len(s.Packages) {
		chain = append([]Selected{at[p]}, chain...)
		p = at[p].Why.By
	}
	return chain
}
