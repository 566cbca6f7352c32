package rootfs

import (
	"strings"
	"testing"

	"wolffia/internal/tree"
)

// FuzzAccounts reads anything as the accounts of a base, and what is written of
// them once more.
func FuzzAccounts(f *testing.F) {
	f.Fuzz(func(t *testing.T, passwd, shadow, group string) {
		base := tree.New()
		if err := base.MkdirAll("/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"/etc/passwd": passwd, "/etc/shadow": shadow, "/etc/group": group} {
			if err := base.Put(name, tree.File(0o644, tree.Bytes(text))); err != nil {
				t.Fatal(err)
			}
		}
		write := func() (string, error) {
			b := &builder{Recipe: Recipe{Tools: tree.New()}, t: base, rep: &Report{}}
			if err := b.accounts(); err != nil {
				return "", err
			}
			out, err := base.ReadFile("/etc/passwd", maxAccounts)
			return string(out), err
		}
		first, err := write()
		if err != nil {
			return
		}
		if !strings.Contains("\n"+first, "\nroot:x:") {
			t.Errorf("without root: %q", first)
		}
		again, err := write()
		if err != nil || again != first {
			t.Errorf("%q became %q: %v", first, again, err)
		}
	})
}

// FuzzStatus joins anything with a list of packages.
func FuzzStatus(f *testing.F) {
	f.Fuzz(func(t *testing.T, old, added string) {
		of := func(text string) *tree.Tree {
			tr := tree.New()
			if err := tr.MkdirAll("/var/lib/dpkg", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tr.Put(dpkgStatus, tree.File(0o644, tree.Bytes(text))); err != nil {
				t.Fatal(err)
			}
			return tr
		}
		out, err := Lay(of(old), of(added))
		if err != nil {
			t.Fatal(err)
		}
		text, err := out.ReadFile(dpkgStatus, maxStatus)
		if err != nil || !strings.HasSuffix(string(text), added) {
			t.Errorf("%q and %q give %q: %v", old, added, text, err)
		}
	})
}
