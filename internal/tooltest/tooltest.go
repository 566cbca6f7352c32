// Package tooltest finds the programs that tests compare wolffia with. In
// continuous integration one that is missing fails the test; elsewhere it is
// skipped, with the name of the Debian package to install. Nothing else skips a test.
//
//	e2fsck := tooltest.Require(t, "e2fsck", "e2fsprogs")
package tooltest

import (
	"os"
	"os/exec"
	"testing"
)

// Require gives the path of a program, which an ordinary user's PATH may lack
// when it lies in /usr/sbin or /sbin.
func Require(t testing.TB, tool, debianPackage string) string {
	t.Helper()
	for _, name := range []string{tool, "/usr/sbin/" + tool, "/sbin/" + tool} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Missing(t, "%s is missing: apt-get install %s", tool, debianPackage)
	return ""
}

// Missing ends a test for which this host lacks something: in continuous
// integration it fails, elsewhere it is skipped.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
