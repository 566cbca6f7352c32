// Package host says what the machine that wolffia runs on can really do.
//
// Every probe tries the thing itself and is cached for the life of the
// process, so that doctor, the code that needs the feature and the tests that
// need it all tell the same story. A missing feature is an [UnsupportedError],
// which names the fix.
package host

import "fmt"

// UnsupportedError says that the host lacks a feature.
type UnsupportedError struct {
	Feature string // "KVM", "user namespaces", ...
	Why     string // what was tried and how it failed
	Fix     string // the command or setting that mends it
}

func (e *UnsupportedError) Error() string {
	s := fmt.Sprintf("%s can't be used here: %s", e.Feature, e.Why)
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}
