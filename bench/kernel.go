package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"wolffia/internal/debian"
	"wolffia/internal/store"
)

// kernelTime measures how a kernel's package is unpacked, which is one xz
// stream of many blocks, onto the same disk by both sides. What wolffia's store
// keeps is the archive in the package: dpkg-deb --fsys-tarfile does the same job,
// and dpkg-deb -x the one that a person would do instead, with a file for each.
func kernelTime(ctx context.Context, b *bench) (*result, error) {
	dir, err := os.MkdirTemp(b.dir, "kernel-")
	if err != nil {
		return nil, err
	}
	client, st, err := archive(filepath.Join(dir, "cache"))
	if err != nil {
		return nil, err
	}
	r := &result{}
	for _, release := range []string{"bookworm", "trixie"} {
		lock, err := kernelPackage(ctx, client, release)
		if err != nil {
			return r, err
		}
		pin := lock.Packages[0]
		deb, ok := st.Get("deb", pin.Key())
		if !ok {
			return r, fmt.Errorf("package %s is not in the store", pin.Name)
		}
		x, err := b.alternate(ctx, b.unpackInto(filepath.Join(dir, "cache", "unpacked"), client, lock), b.dpkgDeb(deb), b.dpkgTar(deb))
		if err != nil {
			return r, err
		}
		took := x[0][0]
		for i, against := range []string{"`dpkg-deb -x`", "`dpkg-deb --fsys-tarfile`"} {
			other := x[i+1][0]
			r.rows = append(r.rows, row{
				what: fmt.Sprintf("%s, %.0f MB", pin.Name, float64(pin.Size)/1e6), unit: milliseconds, wolffia: took,
				against: against, other: other, goal: "faster", met: ratioOf(took, other) < 1,
			})
		}
	}
	r.notes = append(r.notes, "wolffia writes the package's archive into its store, as --fsys-tarfile does into a file, and reads all names in it; -x makes a file of each")
	return r, nil
}

// archive is the host's mirror, with a store of its own in a new folder.
func archive(dir string) (*debian.Client, *store.Store, error) {
	st, err := store.Open(store.Options{Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	mirror, err := debian.FindMirror(debian.MirrorOptions{Env: os.Getenv("WOLFFIA_MIRROR"), AptDir: "/etc/apt"})
	if err != nil {
		return nil, nil, err
	}
	return debian.New(debian.Options{Store: st, Mirror: mirror, Getenv: os.Getenv, AllowExpired: true}), st, nil
}

// kernelPackage pins and fetches the package with the kernel itself, alone.
func kernelPackage(ctx context.Context, client *debian.Client, release string) (*debian.Lock, error) {
	lock, err := client.Resolve(ctx, debian.Request{Release: release, Arch: "amd64", Packages: []string{"linux-image-amd64"}})
	if err != nil {
		return nil, err
	}
	largest := lock.Packages[0]
	for _, p := range lock.Packages {
		if p.Size > largest.Size {
			largest = p
		}
	}
	lock.Packages = []debian.Pin{largest}
	return lock, client.Fetch(ctx, lock)
}

func (b *bench) unpackInto(unpacked string, client *debian.Client, lock *debian.Lock) sampler {
	return func(ctx context.Context) ([]float64, error) {
		if err := os.RemoveAll(unpacked); err != nil {
			return nil, err
		}
		return inside(func() error {
			u, err := client.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true})
			if err != nil {
				return err
			}
			return u.Close()
		})(ctx)
	}
}

func (b *bench) dpkgDeb(deb string) sampler {
	return b.fresh(wall(command{argv: []string{"dpkg-deb", "-x", deb, filepath.Join(b.dir, "out")}}))
}

func (b *bench) dpkgTar(deb string) sampler {
	return b.fresh(wall(command{
		argv: []string{"sh", "-c", `dpkg-deb --fsys-tarfile "$DEB" >"$OUT"`},
		env:  []string{"DEB=" + deb, "OUT=" + filepath.Join(b.dir, "out")},
	}))
}
