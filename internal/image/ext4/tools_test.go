package ext4

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/tree"
)

// requireTool gives the path of a program that a test compares us with. In CI
// its absence is a failure.
func requireTool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/sbin/" + name) // not in an ordinary user's PATH
	}
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: install the Debian package %s", name, pkg)
	}
	t.Skipf("%s is missing: install the Debian package %s", name, pkg)
	return ""
}

// image writes tr into a new file.
func image(t testing.TB, tr *tree.Tree, o Options) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fs.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	err = Write(f, tr, o)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// silent is all that e2fsck says about what is in order.
var silent = regexp.MustCompile(`^(e2fsck .*|Pass \d: .*|[^:]+: \d+/\d+ files \(.* non-contiguous\), \d+/\d+ blocks)$`)

// fsck fails the test where e2fsck has anything to say.
func fsck(t testing.TB, name string) {
	t.Helper()
	cmd := exec.Command(requireTool(t, "e2fsck", "e2fsprogs"), "-fn", name)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	bad := err != nil
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		bad = bad || !silent.MatchString(line)
	}
	if bad {
		t.Fatalf("e2fsck: %v\n%.5000s", err, out)
	}
}

// kinds are all the combinations that there are.
func kinds(t *testing.T, fn func(t *testing.T, o Options)) {
	for _, o := range []Options{{Type: Ext2}, {Type: Ext3}, {Type: Ext4}, {Type: Ext4, NoJournal: true, Checksums: true}, {Type: Ext4, Checksums: true, wide: true}} {
		for _, o.BlockSize = range []int{1024, 2048, 4096} {
			name := fmt.Sprintf("%s %d", o.Type, o.BlockSize)
			if o.Checksums {
				name += " checksums"
			}
			if o.wide {
				name += " 64bit"
			}
			t.Run(name, func(t *testing.T) { fn(t, o) })
		}
	}
}

// sizes are the kinds that differ most.
func sizes(t *testing.T, fn func(t *testing.T, o Options)) {
	for _, o := range []Options{{Type: Ext2}, {Type: Ext3}, {Type: Ext4}} {
		for _, o.BlockSize = range []int{1024, 2048, 4096} {
			o.Checksums = o.Type == Ext4 && o.BlockSize == 1024
			t.Run(fmt.Sprintf("%s %d", o.Type, o.BlockSize), func(t *testing.T) { fn(t, o) })
		}
	}
}
