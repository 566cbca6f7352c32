package resolve

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"wolffia/internal/tooltest"

	"wolffia/internal/debian/control"
)

// apt is apt with folders of its own and nothing installed, on the host's
// sources. It needs no privilege.
type apt struct {
	args  []string
	arch  string
	lists [][]*control.Package
	raw   [][]byte // the indexes
}

// realApt is updated once for all tests of the package, into a folder that
// TestMain removes.
var realApt = sync.OnceValues(func() (*apt, error) { return newApt(aptDir) })

var aptDir string

func TestMain(m *testing.M) {
	var err error
	if aptDir, err = os.MkdirTemp("", "wolffia-apt"); err != nil {
		panic(err)
	}
	status := m.Run()
	os.RemoveAll(aptDir)
	os.Exit(status)
}

func newApt(dir string) (*apt, error) {
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	a := &apt{}
	for _, o := range []string{
		"Dir::State=" + dir + "/state", "Dir::State::status=" + dir + "/status", "Dir::Cache=" + dir + "/cache",
		"Dir::Cache::pkgcache=pkgcache.bin", "Dir::Cache::srcpkgcache=srcpkgcache.bin", "Acquire::GzipIndexes=false",
		"APT::Sandbox::User=root", "Acquire::Languages=none", "Debug::NoLocking=true", "APT::Get::List-Cleanup=false",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"APT::Install-Recommends=false", "APT::Install-Suggests=false", "APT::Architectures=",
	} {
		a.args = append(a.args, "-o", o)
	}
	arch, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		return nil, err
	}
	a.arch = strings.TrimSpace(string(arch))
	if _, err := a.run("apt-get", "update"); err != nil {
		return nil, err
	}
	if _, err := a.run("apt-cache", "gencaches"); err != nil {
		return nil, err
	}
	files, err := a.run("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
	if err != nil {
		return nil, err
	}
	for file := range strings.FieldsSeq(string(files)) {
		text, err := a.run("/usr/lib/apt/apt-helper", "cat-file", file)
		if err != nil {
			return nil, err
		}
		list, err := control.ParsePackages(bytes.NewReader(text), nil)
		if err != nil {
			return nil, err
		}
		a.raw, a.lists = append(a.raw, text), append(a.lists, list)
	}
	return a, nil
}

func (a *apt) run(tool string, args ...string) ([]byte, error) {
	cmd := exec.Command(tool, append(slices.Clone(a.args), args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		return out, &aptError{args, string(exit.Stderr) + string(out)}
	}
	return out, err
}

type aptError struct {
	args   []string
	output string
}

func (e *aptError) Error() string { return "apt " + strings.Join(e.args, " ") + ": " + e.output }

// install gives what apt would install for names, as name:arch=version,
// sorted. Asking for addresses spares apt the order of unpacking, which takes
// it longer than the choice.
func (a *apt) install(names ...string) ([]string, error) {
	out, err := a.run("apt-get", append([]string{"install", "-qq", "--print-uris", "--no-install-recommends"}, names...)...)
	if err != nil {
		return nil, err
	}
	var set []string
	for line := range strings.Lines(string(out)) {
		// 'ADDRESS' NAME_VERSION_ARCH.deb SIZE SUM
		f := strings.Fields(line)
		if len(f) < 3 || !strings.HasSuffix(f[1], ".deb") {
			continue
		}
		part := strings.Split(strings.TrimSuffix(f[1], ".deb"), "_")
		if len(part) != 3 {
			return nil, fmt.Errorf("apt-get printed %q", line)
		}
		set = append(set, part[0]+":"+part[2]+"="+strings.ReplaceAll(part[1], "%3a", ":"))
	}
	slices.Sort(set)
	return set, nil
}

// archive gives apt and the index of the same lists.
func archive(t testing.TB) (*apt, *Index) {
	t.Helper()
	tooltest.Require(t, "apt-get", "apt")
	a, err := realApt()
	if err != nil {
		tooltest.Missing(t, "update apt's lists: %v", err)
	}
	return a, NewIndex(a.lists...)
}
