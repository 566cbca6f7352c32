package resolve

import (
	"errors"
	"strings"
	"testing"

	"wolffia/internal/debian/control"
)

// FuzzResolve resolves the packages of any index: every answer is a sound
// solution or an error that gives a cause.
func FuzzResolve(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nArchitecture: amd64\nDepends: b | c\n\nPackage: b\nVersion: 1\nArchitecture: amd64\nConflicts: a\n\nPackage: c\nVersion: 2\nArchitecture: all\nProvides: b (= 3)\n", "a", false)
	f.Add("Package: a\nVersion: 1\nArchitecture: amd64\nDepends: b (>= 2)\n\nPackage: b\nVersion: 1\nArchitecture: arm64\n", "a c", true)
	f.Fuzz(func(t *testing.T, index, want string, recommends bool) {
		list, err := control.ParsePackages(strings.NewReader(index), nil)
		if err != nil || len(list) > 50 {
			return
		}
		req := Request{Native: "amd64", Foreign: []string{"arm64"}, Recommends: recommends, MaxSteps: 1000}
		for word := range strings.FieldsSeq(want) {
			w, err := ParseWant(word)
			if err != nil {
				return
			}
			req.Want = append(req.Want, w)
		}
		sol, err := Resolve(NewIndex(list), req)
		var unsat *UnsatisfiableError
		if errors.As(err, &unsat) && len(unsat.Causes) == 0 {
			t.Fatalf("no cause: %v", err)
		}
		if err == nil && plain(list) {
			checkSound(t, sol)
		}
	})
}

// plain reports whether checkSound can judge: it knows nothing of restrictions
// and architectures, and wants no cycle of Pre-Depends.
func plain(list []*control.Package) bool {
	for _, p := range list {
		if p.Architecture == "arm64" || p.PreDepends != "" || strings.ContainsAny(p.Depends+p.Provides+p.Conflicts+p.Breaks, "[:<") {
			return false
		}
		if _, err := p.Relations(control.Provides); err != nil {
			return false
		}
	}
	return true
}
