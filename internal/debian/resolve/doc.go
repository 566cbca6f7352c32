// Package resolve picks the packages that a wish for some of them entails.
package resolve

import "wolffia/internal/debian/control"

// Index is the packages of one or several suites, ready to be resolved.
type Index struct{}

// NewIndex merges lists; of equal packages (name, architecture, version) the
// first is kept.
func NewIndex(lists ...[]*control.Package) *Index { return &Index{} }

// Want is a wanted package.
type Want struct {
	Name    string
	Arch    string // "" means the native one
	Op      control.Operator
	Version control.Version
}

// ParseWant reads name[:arch][=version].
func ParseWant(s string) (Want, error) { panic("being written") }

// Request is what to resolve.
type Request struct {
	Want       []Want
	Native     string   // architecture, such as "amd64"
	Foreign    []string // further architectures
	Exclude    []string // names never chosen; a dependency that only they meet counts as met
	Essential  bool     // also every Essential package of the native architecture
	Required   bool     // also every package of priority required
	Recommends bool     // follow Recommends where they can be met
	MaxSteps   int      // decisions of the search; 0 means 1,000,000
}

// Solution is a closed, conflict-free set.
type Solution struct {
	Packages []Selected // in unpack order
	Unmet    []Unmet    // dependencies dropped because of Exclude
}

// Selected is a chosen package.
type Selected struct {
	*control.Package
	Why Reason
}

// Reason says why a package was chosen.
type Reason struct {
	By       *control.Package // the package that asked, nil if the request itself did
	Kind     control.Kind     // field of By
	Relation string           // what was asked for: a group of alternatives, or the Want
}

// Unmet is a dependency that was dropped.
type Unmet struct {
	By       *control.Package
	Relation string
}

// NotFoundError says that a wanted name is not in the index.
type NotFoundError struct {
	Name    string
	Nearest []string // names that are near, best first
}

func (e *NotFoundError) Error() string { return "no package " + e.Name }

// Resolve finds the packages that req entails.
func Resolve(idx *Index, req Request) (*Solution, error) { panic("being written") }
