package fat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// tool runs a program in a UTF-8 locale and UTC, and gives all that it says.
func tool(t testing.TB, name, pkg string, args ...string) string {
	t.Helper()
	rc := filepath.Join(t.TempDir(), "mtoolsrc")
	must(t, os.WriteFile(rc, []byte("default_codepage=437\n"), 0o600)) // as on Linux, not 850
	cmd := exec.Command(tooltest.Require(t, name, pkg), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLSRC="+rc)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%.5000s", name, args, err, out)
	}
	return string(out)
}

// silent is all that fsck.vfat says about what is in order.
var silent = regexp.MustCompile(`^(fsck\.fat .*|[^:]+: \d+ files, \d+/\d+ clusters)$`)

// fsck fails the test where fsck.vfat, or Check, has anything to say.
func fsck(t testing.TB, name string) {
	t.Helper()
	out := tool(t, "fsck.vfat", "dosfstools", "-n", name)
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if !silent.MatchString(line) {
			t.Fatalf("fsck.vfat says:\n%.5000s", out)
		}
	}
	b, err := os.ReadFile(name)
	must(t, err)
	checkClean(t, b)
}

// ofTools is the specimen without what is beyond mtools.
func ofTools(t testing.TB) *tree.Tree {
	tr := specimen(t)
	tr.Remove("/names/🌱🌱🌱")
	tr.Remove("/🌱🌱🌱x")
	return tr
}

// TestTools has the reference tools look at, list and give back what we write.
func TestTools(t *testing.T) {
	kindsOf(t, func(t *testing.T, o Options) {
		want := ofTools(t)
		name := image(t, want, o)
		fsck(t, name)
		out := t.TempDir()
		tool(t, "mcopy", "mtools", "-s", "-p", "-m", "-n", "-i", name, "::/", out)
		got, err := tree.FromDir(out, tree.DirOptions{})
		must(t, err)
		compare(t, got, want)
		if listing := tool(t, "mdir", "mtools", "-i", name, "::/names"); !strings.Contains(listing, "2024-02-29  23:59") || !strings.Contains(listing, "longfilename2.txt") {
			t.Errorf("mdir lists:\n%.3000s", listing)
		}
		if attrs := tool(t, "mattrib", "mtools", "-i", name, "::/read-only"); !strings.Contains(attrs, "  A    R ") {
			t.Errorf("mattrib says %q", attrs)
		}
		if label := tool(t, "mlabel", "mtools", "-s", "-i", name, "::"); o.Label != "" && !strings.Contains(label, "Volume label is "+strings.ToUpper(o.Label)) {
			t.Errorf("mlabel says %s", label)
		}
	})
}

// compare looks at names, contents and the times of files: mcopy sets no
// directory's, and no modes.
func compare(t testing.TB, got, want *tree.Tree) {
	t.Helper()
	for _, tr := range []*tree.Tree{got, want} {
		must(t, tr.Walk(func(name string, n *tree.Node) error {
			if n.IsDir() {
				n.ModTime, n.Mode = time.Time{}, tree.TypeDir|0o755
			} else {
				n.Mode = tree.TypeRegular | 0o644
			}
			return nil
		}))
	}
	treetest.Equal(t, got, want)
}

// TestReadsWhatToolsWrite reads file systems of mkfs.vfat, filled by mcopy.
func TestReadsWhatToolsWrite(t *testing.T) {
	want := ofTools(t)
	// Which mcopy takes for a device of DOS, and stores without the accents.
	for _, name := range []string{"/names/NUL", "/names/ünïcödé", "/ünïcödéx"} {
		want.Remove(name)
	}
	src := t.TempDir()
	must(t, want.Walk(func(name string, n *tree.Node) error {
		at := filepath.Join(src, name)
		if n.IsDir() {
			return os.MkdirAll(at, 0o755)
		}
		b, err := want.ReadFile(name, 1<<20)
		if err == nil {
			err = os.WriteFile(at, b, 0o644)
		}
		if err == nil {
			err = os.Chtimes(at, n.ModTime, n.ModTime)
		}
		return err
	}))
	entries, err := os.ReadDir(src)
	must(t, err)
	for _, args := range [][]string{
		{"-F", "12", "-s", "8", "-C", "IMG", "16000"}, {"-F", "16", "-C", "IMG", "20000"}, {"-F", "32", "-C", "IMG", "40000"},
		{"-F", "32", "-s", "8", "-C", "IMG", "300000"}, {"-F", "16", "-S", "2048", "-s", "1", "-C", "IMG", "32000"}, {"-F", "16", "-f", "1", "-r", "1024", "-C", "IMG", "32000"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "fat.img")
			args[len(args)-2] = name
			tool(t, "mkfs.vfat", "dosfstools", append([]string{"-n", "THEIRS", "-i", "1234abcd"}, args...)...)
			copied := []string{"-s", "-m", "-i", name}
			for _, e := range entries {
				copied = append(copied, filepath.Join(src, e.Name()))
			}
			tool(t, "mcopy", "mtools", append(copied, "::/")...)
			got, info := load(t, name)
			compare(t, got, want)
			if info.Label != "THEIRS" || info.Serial != 0x1234ABCD || !info.Clean || info.Free <= 0 {
				t.Errorf("info is %+v", info)
			}
		})
	}
}

// TestFragments reads a file in many pieces.
func TestFragments(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fat.img")
	tool(t, "mkfs.vfat", "dosfstools", "-F", "16", "-s", "1", "-C", name, "8000")
	src := t.TempDir()
	var all []string
	for i := range 60 {
		f := filepath.Join(src, fmt.Sprintf("f%02d", i))
		must(t, os.WriteFile(f, []byte(strings.Repeat(fmt.Sprintf("%02d", i), 60000)), 0o644))
		all = append(all, f)
	}
	tool(t, "mcopy", "mtools", append(append([]string{"-i", name}, all...), "::/")...)
	for i := 0; i < 60; i += 2 {
		tool(t, "mdel", "mtools", "-i", name, fmt.Sprintf("::/f%02d", i))
	}
	big := filepath.Join(src, "big")
	text := strings.Repeat("0123456789abcdef!", 200000)
	must(t, os.WriteFile(big, []byte(text), 0o644))
	tool(t, "mcopy", "mtools", "-i", name, big, "::/")
	got, _ := load(t, name)
	b, err := got.ReadFile("/big", 1<<30)
	must(t, err)
	if string(b) != text {
		t.Error("the content differs")
	}
	if got.Get("/f00") != nil || got.Get("/f01") == nil {
		t.Errorf("names are %q", got.Root().Names())
	}
	if runs := got.Get("/big").Content.(*content).runs; len(runs) < 10 {
		t.Errorf("it lies in %d pieces: the test tests nothing", len(runs))
	}
}
