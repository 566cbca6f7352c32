package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// sets are the package sets that images are made of: the default image's, and
// one with the tools of somebody who develops.
var sets = []struct {
	name     string
	packages []string
}{
	{"default image", []string{"busybox-static", "dropbear-bin"}},
	{"with strace, gdbserver, tcpdump", []string{"busybox-static", "dropbear-bin", "strace", "gdbserver", "tcpdump"}},
}

// rebuildTime measures images made from what is already here: the image
// itself, unpacked packages, packages.
func rebuildTime(ctx context.Context, b *bench) (*result, error) {
	r := &result{}
	for _, set := range sets {
		if err := b.rebuild(ctx, r, set.name, set.packages); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (b *bench) rebuild(ctx context.Context, r *result, name string, packages []string) error {
	dir, err := os.MkdirTemp(b.dir, "rebuild-")
	if err != nil {
		return err
	}
	cache, ours, theirs := filepath.Join(dir, "cache"), filepath.Join(dir, "wolffia.tar"), filepath.Join(dir, "mmdebstrap.tar")
	build := command{
		argv: []string{b.wolffia, "build", "-q", "-o", ours, "--deps", "packages"},
		env:  []string{"WOLFFIA_CACHE=" + cache}, dir: dir,
	}
	for _, p := range packages[2:] { // the first two are in every image
		build.argv = append(build.argv, "-p", p)
	}
	if _, err := build.run(ctx); err != nil { // downloads
		return err
	}
	repo := filepath.Join(dir, "repo")
	n, err := makeRepo(ctx, filepath.Join(cache, "deb"), repo)
	if err != nil {
		return err
	}
	strap := command{argv: []string{
		"mmdebstrap", "--quiet", "--variant=extract", "--include=" + strings.Join(packages, ","),
		"trixie", theirs, "deb [trusted=yes] copy:" + repo + " ./",
	}}
	x, err := b.alternate(ctx,
		wall(build),
		without(cache, build, "image"),
		without(cache, build, "image", "unpacked"),
		wall(strap))
	if err != nil {
		return err
	}
	if err := sameFiles(ours, theirs); err != nil {
		return err
	}
	const cached = 300 // ms
	for i, what := range []string{"again, image in the cache", "again, only unpacked packages in the cache"} {
		r.rows = append(r.rows, row{
			what: name + ": " + what, unit: milliseconds, wolffia: x[i][0],
			goal: fmt.Sprintf("under %d ms", cached), met: median(x[i][0]) < cached,
		})
	}
	fresh, other := x[2][0], x[3][0]
	r.rows = append(r.rows, row{
		what: name + ": from downloaded packages to a tar", unit: milliseconds, wolffia: fresh,
		against: "`mmdebstrap --variant=extract`", other: other,
		goal: "at most half", met: ratioOf(fresh, other) <= 0.5,
	})
	r.notes = append(r.notes, fmt.Sprintf("%s: %d packages; every file that mmdebstrap unpacks is in wolffia's archive, too", name, n))
	return os.RemoveAll(dir)
}

// without times a command after kinds of objects were removed from the store.
func without(cache string, c command, kinds ...string) sampler {
	return func(ctx context.Context) ([]float64, error) {
		for _, k := range kinds {
			if err := os.RemoveAll(filepath.Join(cache, k)); err != nil {
				return nil, err
			}
		}
		return wall(c)(ctx)
	}
}

// makeRepo makes a flat repository of the packages in the store, and says how
// many there are.
func makeRepo(ctx context.Context, from, to string) (int, error) {
	debs, err := os.ReadDir(from)
	if err != nil {
		return 0, err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return 0, err
	}
	for _, d := range debs {
		if err := os.Link(filepath.Join(from, d.Name()), filepath.Join(to, d.Name()+".deb")); err != nil {
			return 0, err
		}
	}
	_, err = command{argv: []string{"sh", "-c", "apt-ftparchive packages . >Packages"}, dir: to}.run(ctx)
	return len(debs), err
}

// sameFiles checks that all that mmdebstrap unpacked from packages is in
// wolffia's archive.
func sameFiles(ours, theirs string) error {
	have, err := members(ours)
	if err != nil {
		return err
	}
	want, err := members(theirs)
	if err != nil {
		return err
	}
	var missing []string
	for name := range want {
		own := false // what apt and dpkg make for themselves
		for _, dir := range []string{"etc/apt", "etc/dpkg", "var/cache/apt", "var/lib/apt", "var/lib/dpkg", "var/log/apt"} {
			own = own || name == dir || strings.HasPrefix(name, dir+"/")
		}
		if !own && !have[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("the images differ: only mmdebstrap has %q", missing[:min(len(missing), 10)])
	}
	return nil
}

// members lists the names in a tar archive, through the links of merged /usr.
func members(name string) (map[string]bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]bool{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(name), err)
		}
		member := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
			if strings.HasPrefix(member, dir+"/") {
				member = "usr/" + member
			}
		}
		out[member] = true
	}
}
