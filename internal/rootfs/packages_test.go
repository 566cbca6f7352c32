package rootfs_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/machine/machinetest"
	. "wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

func TestMain(m *testing.M) {
	keeper.Main()
	os.Exit(m.Run())
}

// released stands for the Release's date.
var released = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// packages unpacks Debian's packages, with all that they depend on and dpkg's
// lists, from the real archive.
func packages(t testing.TB, release, arch string, names ...string) *tree.Tree {
	t.Helper()
	c, _ := machinetest.Archive(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	lock, err := c.Resolve(ctx, debian.Request{Release: release, Arch: arch, Packages: names})
	must(t, err)
	must(t, c.Fetch(ctx, lock))
	u, err := c.Unpack(ctx, lock, debian.UnpackOptions{})
	must(t, err)
	t.Cleanup(func() { u.Close() })
	return u.Tree
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, tr *tree.Tree, name string) string {
	t.Helper()
	b, err := tr.ReadFile(name, 1<<20)
	must(t, err)
	return string(b)
}

// TestApplets compares with what busybox says of itself; for other
// architectures it can't be asked, but has the same source.
func TestApplets(t *testing.T) {
	var first []string
	for _, arch := range []string{"amd64", "arm64", "riscv64"} {
		base := packages(t, "trixie", arch, "busybox-static")
		where, names, err := Applets(base)
		must(t, err)
		if where != "/usr/bin/busybox" || len(names) < 200 {
			t.Errorf("%s: %d commands at %s", arch, len(names), where)
		}
		if arch == "amd64" {
			first = names
			program := filepath.Join(t.TempDir(), "busybox")
			b, err := base.ReadFile(where, 64<<20)
			must(t, err)
			must(t, os.WriteFile(program, b, 0o755))
			out, err := exec.Command(program, "--list").Output()
			if err != nil {
				t.Logf("busybox can't be asked here: %v", err)
				continue
			}
			if want := strings.Fields(string(out)); !slices.Equal(names, want) {
				t.Errorf("%v\nbusybox says\n%v", names, want)
			}
		} else if !slices.Equal(names, first) {
			t.Errorf("%s has other commands: %v", arch, names)
		}
	}
}
