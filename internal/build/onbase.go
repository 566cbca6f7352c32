package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/debian/control"
	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// onBase pins what an image with a base is made of: the base, the packages to
// be laid over it, and apart from them the tools that wolffia comes in with.
func (b *Builder) onBase(ctx context.Context, img *lab.Image) (*description, error) {
	from, err := b.base(ctx, img)
	if err != nil {
		return nil, err
	}
	d := &description{base: from}
	arch := archOf(img)
	if d.tools, err = b.Lock(ctx, debian.Request{Release: img.Release, Arch: arch, Packages: slices.Clone(rootfs.ToolPackages)}); err != nil {
		return nil, err
	}
	if d.lock = d.tools; len(img.Packages) == 0 {
		return d, nil
	}
	release := img.Release
	if img.Guess {
		if release, err = b.releaseOf(ctx, img, from); err != nil {
			return nil, err
		}
	}
	d.over, err = b.Lock(ctx, debian.Request{Release: release, Arch: arch, Packages: slices.Clone(img.Packages)})
	d.lock = d.over
	return d, err
}

// releaseOf is the release of a base that is Debian's, else the image's.
func (b *Builder) releaseOf(ctx context.Context, img *lab.Image, from *base) (string, error) {
	t, end, err := b.opened(ctx, from)
	if err != nil {
		return "", b.baseError(img, err)
	}
	defer end()
	text, err := t.ReadFile("/etc/os-release", 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return img.Release, nil
	}
	if err != nil {
		return "", b.baseError(img, err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = strings.Trim(value, `"'`)
	}
	code := values["VERSION_CODENAME"]
	if values["ID"] != "debian" || lab.CheckRelease(code) != nil {
		return img.Release, nil
	}
	return code, nil
}

// limit is the latest time that a file of the image may have: none where a base
// brings times of its own.
func (d *description) limit() time.Time {
	if d.base != nil {
		return time.Time{}
	}
	return d.recipe.Time
}

// treeOnBase unpacks the base and what goes over it.
func (b *Builder) treeOnBase(ctx context.Context, img *lab.Image, d *description) (_ *built, err error) {
	var ends []func()
	end := func() {
		for _, f := range slices.Backward(ends) {
			f()
		}
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	from, endBase, err := b.opened(ctx, d.base)
	if err != nil {
		return nil, b.baseError(img, err)
	}
	ends = append(ends, endBase)
	tools, err := b.Client.Unpack(ctx, d.tools, debian.UnpackOptions{})
	if err != nil {
		return nil, err
	}
	ends = append(ends, func() { tools.Close() })
	var packages *debian.Unpacked
	if d.over != nil {
		if packages, err = b.unpackOver(ctx, from, d.over); err != nil {
			return nil, err
		}
		ends = append(ends, func() { packages.Close() })
		if from, err = lay(from, packages.Tree, d.recipe); err != nil {
			return nil, b.baseError(img, err)
		}
	}
	out, err := b.finish(ctx, img, d, packages, from, tools.Tree)
	if err != nil {
		return nil, err
	}
	out.close = end
	return out, nil
}

// unpackOver unpacks the packages that the base hasn't got, or has older ones of.
func (b *Builder) unpackOver(ctx context.Context, from *tree.Tree, lock *debian.Lock) (*debian.Unpacked, error) {
	have, err := installed(from)
	if err != nil {
		return nil, err
	}
	missing := *lock
	missing.Packages = slices.DeleteFunc(slices.Clone(lock.Packages), func(p debian.Pin) bool {
		return slices.ContainsFunc(have[p.Name], func(i installation) bool {
			return (i.arch == p.Arch || i.arch == "all" || p.Arch == "all") && i.version.Compare(p.Version) >= 0
		})
	})
	if err := b.Client.Fetch(ctx, &missing); err != nil {
		return nil, err
	}
	bin := from.Get("/bin")
	return b.Client.Unpack(ctx, &missing, debian.UnpackOptions{SplitUsr: bin != nil && bin.IsDir()})
}

// lay puts packages over a base, or what programs need of them.
func lay(from, packages *tree.Tree, recipe rootfs.Recipe) (*tree.Tree, error) {
	if recipe.Deps == rootfs.DepsELF {
		there := slices.DeleteFunc(slices.Clone(recipe.Packages), func(name string) bool {
			_, err := rootfs.PackageFiles(packages, []string{name})
			return err != nil // the base has it
		})
		wanted, err := rootfs.PackageFiles(packages, there)
		if err != nil {
			return nil, err
		}
		if packages, _, err = rootfs.Prune(packages, wanted); err != nil {
			return nil, err
		}
	}
	return rootfs.Lay(from, packages)
}

// installation is a package that a base has.
type installation struct {
	arch    string
	version control.Version
}

// installed reads dpkg's list; a tree without one has no packages.
func installed(t *tree.Tree) (map[string][]installation, error) {
	_, n, err := t.Resolve("/var/lib/dpkg/status")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := n.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string][]installation{}
	for r := control.NewReader(f, control.ReaderOptions{}); ; {
		p, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the list of packages of the base: %w", err)
		}
		version, err := control.ParseVersion(p.Get("Version"))
		if err != nil || !strings.HasSuffix(p.Get("Status"), " installed") {
			continue // it was removed
		}
		name := p.Get("Package")
		out[name] = append(out[name], installation{cmp.Or(p.Get("Architecture"), "all"), version})
	}
}
