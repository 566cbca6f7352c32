package deb

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// run gives a program's standard output.
func run(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		stderr := ""
		if exit, ok := err.(*exec.ExitError); ok {
			stderr = string(exit.Stderr)
		}
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, stderr)
	}
	return out
}

// download fetches packages from the host's apt sources into a folder and
// gives the files. Where the host's lists are missing or stale it updates
// lists of its own, so it needs no privilege.
func download(t testing.TB, packages ...string) []string {
	t.Helper()
	tooltest.Require(t, "apt-get", "apt")
	dir := t.TempDir()
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	apt := func(args ...string) error {
		args = append(args, "-q", "-o", "Dir::Cache="+dir+"/cache", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true")
		cmd := exec.Command("apt-get", args...)
		cmd.Dir = filepath.Join(dir, "out")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("apt-get %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return err
	}
	fetch := append([]string{"download"}, packages...)
	if apt(fetch...) != nil {
		own := []string{"-o", "Dir::State=" + dir + "/state", "-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"}
		if err := apt(append(own, "update")...); err != nil {
			tooltest.Missing(t, "apt-get update: %v", err)
		}
		if err := apt(append(own, fetch...)...); err != nil {
			tooltest.Missing(t, "apt-get download: %v", err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "out", "*.deb"))
	if err != nil || len(files) != len(packages) {
		t.Fatalf("downloaded %v, %v", files, err)
	}
	return files
}

// openFile opens a package for the time of the test.
func openFile(t testing.TB, name string, opts Options) *Archive {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(f, info.Size(), opts)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return a
}
