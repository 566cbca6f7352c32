package control

import "fmt"

// MultiArch is the field Multi-Arch.
type MultiArch uint8

// The values of Multi-Arch. No is that of a package without the field.
const (
	MultiArchNo      MultiArch = iota
	MultiArchSame              // can be installed for several architectures at once
	MultiArchForeign           // meets dependencies of any architecture
	MultiArchAllowed           // meets dependencies that say :any
)

var multiArchText = [...]string{"no", "same", "foreign", "allowed"}

func (m MultiArch) String() string {
	if int(m) < len(multiArchText) {
		return multiArchText[m]
	}
	return fmt.Sprintf("MultiArch(%d)", uint8(m))
}

// Priority is the field Priority; a higher one is more important.
type Priority uint8

// The priorities of Policy 2.5. PriorityNone is that of a package without the
// field or with one of another value.
const (
	PriorityNone Priority = iota
	PriorityExtra
	PriorityOptional
	PriorityStandard
	PriorityImportant
	PriorityRequired
)

var priorityText = [...]string{"", "extra", "optional", "standard", "important", "required"}

func (p Priority) String() string {
	if int(p) < len(priorityText) {
		return priorityText[p]
	}
	return fmt.Sprintf("Priority(%d)", uint8(p))
}

// Package is a paragraph of a Packages index, without descriptions. Relations
// are kept as text: an index holds some 60,000 packages, of which a resolver
// looks at few. The struct has only exported fields and no pointers, so it can
// be encoded.
type Package struct {
	Name         string
	Version      Version
	Architecture string // "all" or an architecture
	MultiArch    MultiArch
	Essential    bool
	Priority     Priority
	Section      string
	Source       string // "name" or "name (version)"; "" if it is as Name and Version

	PreDepends string
	Depends    string
	Recommends string
	Suggests   string
	Provides   string
	Conflicts  string
	Breaks     string
	Replaces   string

	Filename      string   // relative to the archive's root, not yet checked for ".."
	Size          int64    // of the .deb, in bytes
	SHA256        [32]byte // of the .deb; zero if the index has none
	InstalledSize int64    // in bytes, an estimate
}

// ID is name:architecture=version, unique in an archive.
func (p *Package) ID() string { return p.Name + ":" + p.Architecture + "=" + p.Version.String() }

// String is as ID, for messages.
func (p *Package) String() string { return p.ID() }

// Kind names a relation field.
type Kind uint8

// The relation fields of binary packages.
const (
	PreDepends Kind = iota
	Depends
	Recommends
	Suggests
	Provides
	Conflicts
	Breaks
	Replaces
)

var kindText = [...]string{"Pre-Depends", "Depends", "Recommends", "Suggests", "Provides", "Conflicts", "Breaks", "Replaces"}

func (k Kind) String() string {
	if int(k) < len(kindText) {
		return kindText[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Relations parses one of the relation fields. It parses anew each time.
func (p *Package) Relations(k Kind) (Relations, error) {
	text := [...]string{p.PreDepends, p.Depends, p.Recommends, p.Suggests, p.Provides, p.Conflicts, p.Breaks, p.Replaces}[k]
	if text == "" {
		return nil, nil
	}
	r, err := ParseRelations(text)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", k, p.ID(), err)
	}
	return r, nil
}
