package rootfs

import (
	"context"
	"os"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/machine/machinetest"
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
