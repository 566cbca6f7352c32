// Package lazy puts off what not every start of the program needs: a package's
// variables are made at each, also when it only prints its version or keeps a
// machine.
package lazy

import (
	"regexp"
	"sync"
)

// Regexp is a regular expression that is compiled, which takes some ten
// microseconds, when it is first asked for. One that is wrong panics then.
func Regexp(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
