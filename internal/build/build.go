// Package build turns descriptions into files that can be booted: it pins an
// image's packages, fetches and unpacks them, makes the root file system, and
// writes it in a format. Every step's outcome is kept in the store under a
// name that says all that went into it, so a second time is a look-up.
//
//	b := build.Builder{Store: st, Client: client, LockFile: "wolffia.lock"}
//	art, err := b.Image(ctx, spec.Images["base"], build.Format{Name: "cpio"})
//	defer art.Release()
//	// art.Path
//
// A disk ([Format] of the name "disk") is complete by itself: the root with a
// kernel and its modules, an initial RAM disk that finds the root, and boot
// loaders for UEFI and, on PCs, for a BIOS, all pinned as the image's packages
// are. [Builder.Disk] says what is on it.
//
// Deliberately absent: anything that runs a program of the image, and disks of
// several images.
package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
	"wolffia/internal/store"
	"wolffia/internal/tree"
)

// Kinds of objects in the store.
const (
	kindImage = "image"
	kindLock  = "lock"
)

// lockAge is how long a lock that no file pins is taken as it is.
const lockAge = 24 * time.Hour

// accessPackages are in every image: wolffia comes in by ssh.
var accessPackages = []string{"busybox-static", "dropbear-bin"}

// Builder makes images and kernels. Store, Client and Dir must be set.
type Builder struct {
	Store    *store.Store
	Client   *debian.Client
	Events   event.Sink
	Dir      string              // folder that an image's relative names start from
	LockFile string              // wolffia.lock; empty keeps locks in the store
	Update   bool                // pin anew
	Offline  bool                // never speak to a registry; Client has a switch of its own
	Getenv   func(string) string // tells of HOME and proxies; may be nil
	Now      func() time.Time
}

// Artifact is a file in the store.
type Artifact struct {
	Path    string
	Key     string       // names the content
	Cached  bool         // it was there already
	Lock    *debian.Lock // the packages in it
	Base    string       // what it starts from; empty for nothing else
	Release func()       // lets the store remove it again

	report string // names the report on an image
}

// HostArch is Debian's name of the architecture that this program runs on.
func HostArch() string {
	if runtime.GOARCH == "arm" {
		return "armhf"
	}
	if runtime.GOARCH == "386" {
		return "i386"
	}
	return runtime.GOARCH
}

// Request is what an image asks of the archive.
func Request(img *lab.Image) debian.Request {
	packages := slices.Clone(img.Packages)
	for _, p := range accessPackages {
		if !slices.ContainsFunc(packages, func(q string) bool { return packageName(q) == p }) {
			packages = append(packages, p)
		}
	}
	arch := img.Arch
	if arch == "" {
		arch = HostArch()
	}
	return debian.Request{Release: img.Release, Arch: arch, Packages: packages}
}

// Wants says whether an image names a package.
func Wants(img *lab.Image, pkg string) bool {
	return slices.ContainsFunc(img.Packages, func(q string) bool { return packageName(q) == pkg })
}

func packageName(wish string) string {
	wish, _, _ = strings.Cut(wish, "=")
	wish, _, _ = strings.Cut(wish, ":")
	return wish
}

// LockFileError is a lock file that can't be read. Update makes it anew.
type LockFileError struct{ Err error }

func (e *LockFileError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *LockFileError) Unwrap() error { return e.Err }

// Lock pins a request's packages: as the lock file has them, else as the
// archive has them now.
func (b *Builder) Lock(ctx context.Context, req debian.Request) (*debian.Lock, error) {
	if b.LockFile == "" {
		return b.storedLock(ctx, req)
	}
	locks, err := readLocks(b.LockFile)
	if err != nil && !b.Update {
		return nil, &LockFileError{err}
	}
	if found := locks.packages.Find(req); found != nil && !b.Update {
		return found, nil
	}
	lock, err := b.resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	locks.packages = locks.packages.Put(lock)
	b.writeLocks(locks)
	return lock, nil
}

func (b *Builder) resolve(ctx context.Context, req debian.Request) (*debian.Lock, error) {
	events := event.Or(b.Events)
	e := event.Event{Kind: event.Begin, Task: "resolve", Subject: req.Release + "/" + req.Arch}
	events.Emit(e)
	lock, err := b.Client.Resolve(ctx, req)
	e.Kind = event.Done
	if err != nil {
		e.Kind, e.Message = event.Fail, err.Error()
	}
	events.Emit(e)
	return lock, err
}

// storedLock keeps the lock of those who keep no file, for a day: then the
// archive is asked again, and where it can't be reached the old lock goes on.
func (b *Builder) storedLock(ctx context.Context, req debian.Request) (*debian.Lock, error) {
	text, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	key := digest(text)
	old, checked := b.readStoredLock(key, req)
	if old != nil && !b.Update && b.now().Sub(checked) < lockAge && b.now().After(checked) {
		return old, nil
	}
	lock, err := b.resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	_, err = b.Store.Replace(ctx, kindLock, key, func(f *os.File) error {
		_, err := fmt.Fprintf(f, "%s\n%s", b.now().UTC().Format(time.RFC3339), debian.Locks{lock}.Bytes())
		return err
	})
	var readOnly *store.ReadOnlyError
	if errors.As(err, &readOnly) {
		err = nil // the next run asks again
	}
	return lock, err
}

func (b *Builder) readStoredLock(key string, req debian.Request) (*debian.Lock, time.Time) {
	f, ok := b.Store.Open(kindLock, key)
	if !ok {
		return nil, time.Time{}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err != nil {
		return nil, time.Time{}
	}
	stamp, rest, _ := strings.Cut(string(data), "\n")
	checked, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return nil, time.Time{}
	}
	locks, err := debian.ParseLocks([]byte(rest))
	if err != nil {
		return nil, time.Time{}
	}
	return locks.Find(req), checked
}

func (b *Builder) now() time.Time {
	if b.Now != nil {
		return b.Now()
	}
	return time.Now()
}

// description is all that goes into an image, apart from its format.
type description struct {
	recipe   rootfs.Recipe
	lock     *debian.Lock   // of the packages; of the tools where there are no others
	base     *base          // what it starts from; nil for nothing
	tools    *debian.Lock   // with a base: of rootfs.ToolPackages
	over     *debian.Lock   // with a base: of what is laid over it; nil for nothing
	contents map[string]any // of the name in the store
}

// ingredients finds out what an image starts from, and pins its packages.
func (b *Builder) ingredients(ctx context.Context, img *lab.Image) (*description, error) {
	if img.From.IsZero() {
		lock, err := b.Lock(ctx, Request(img))
		return &description{lock: lock}, err
	}
	return b.onBase(ctx, img)
}

// Ingredients says what an image is made of, without making it.
func (b *Builder) Ingredients(ctx context.Context, img *lab.Image) (*Artifact, error) {
	d, err := b.ingredients(ctx, img)
	if err != nil {
		return nil, err
	}
	return &Artifact{Lock: d.lock, Base: d.baseName()}, nil
}

func (d *description) baseName() string {
	if d.base == nil {
		return ""
	}
	return d.base.name
}

// describe finds out what an image is made of.
func (b *Builder) describe(ctx context.Context, img *lab.Image) (*description, error) {
	d, err := b.ingredients(ctx, img)
	if err != nil {
		return nil, err
	}
	return d, b.name(img, d)
}

// name fills in all that the names of what is made of d stand for.
func (b *Builder) name(img *lab.Image, d *description) error {
	overlays, err := b.overlays(img)
	if err != nil {
		return err
	}
	id, err := self()
	if err != nil {
		return err
	}
	d.recipe = b.recipe(img, d.lock)
	d.contents = map[string]any{"wolffia": id, "lock": d.lock.Digest(), "recipe": d.recipe, "overlays": overlays}
	if d.base != nil {
		d.contents["base"], d.contents["tools"] = d.base.digest, d.tools.Digest()
	}
	if _, err := json.Marshal(d.contents); err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	return nil
}

// key names what was made of d in the store.
func (d *description) key(format any) string {
	contents := maps.Clone(d.contents)
	contents["format"] = format
	text, err := json.Marshal(contents)
	if err != nil {
		panic(err) // describe has tried it, and formats are words and numbers
	}
	return digest(text)
}

// artifact finds an object, or makes it, and holds on to it.
func (b *Builder) artifact(ctx context.Context, kind, key string, lock *debian.Lock, write func(*os.File) error) (*Artifact, error) {
	a := &Artifact{Key: key, Lock: lock, Cached: true}
	for range 3 { // it may be pruned between making and holding
		path, release, ok := b.Store.Hold(kind, key)
		if ok {
			a.Path, a.Release = path, release
			return a, nil
		}
		a.Cached = false
		if _, err := b.Store.Create(ctx, kind, key, write); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s %s vanishes from the cache as soon as it is made: is another wolffia pruning it?", kind, key)
}

// built is a tree whose contents lie in the store until it is closed.
type built struct {
	tree   *tree.Tree
	base   *tree.Tree // has a busybox that needs no libraries
	report *Report
	close  func()
}

func (b *Builder) recipe(img *lab.Image, lock *debian.Lock) rootfs.Recipe {
	var names []string
	for _, p := range lock.Request.Packages {
		names = append(names, packageName(p))
	}
	return rootfs.Recipe{
		Arch: lock.Request.Arch, Release: img.Release, Hostname: img.Hostname, Packages: names, Deps: img.Deps,
		Users: img.Users, Groups: img.Groups, Files: img.Files, Services: img.Services, Init: img.Init, Time: lock.Date,
	}
}

// tree unpacks and makes the root file system.
func (b *Builder) tree(ctx context.Context, img *lab.Image, d *description) (*built, error) {
	if d.base != nil {
		return b.treeOnBase(ctx, img, d)
	}
	if err := b.Client.Fetch(ctx, d.lock); err != nil {
		return nil, err
	}
	unpacked, err := b.Client.Unpack(ctx, d.lock, debian.UnpackOptions{})
	if err != nil {
		return nil, err
	}
	out, err := b.finish(ctx, img, d, unpacked, unpacked.Tree, nil)
	if err != nil {
		unpacked.Close()
		return nil, err
	}
	out.close = func() { unpacked.Close() }
	return out, nil
}

// finish makes the root file system of a tree of packages, or of a base.
func (b *Builder) finish(ctx context.Context, img *lab.Image, d *description, unpacked *debian.Unpacked, from, tools *tree.Tree) (*built, error) {
	recipe := d.recipe
	recipe.Tools = tools
	if unpacked != nil { // nothing is laid over a base
		for _, s := range unpacked.Scripts {
			recipe.SystemUsers = append(recipe.SystemUsers, rootfs.ScriptUsers(s.Text)...)
		}
	}
	recipe.Dir = b.Dir // not part of the image's name: overlays are named by content
	t, made, err := rootfs.Build(recipe, from)
	if err != nil {
		return nil, fmt.Errorf("make image %s: %w", img.Name, err)
	}
	report := newReport(unpacked, made)
	if unpacked != nil && recipe.Deps == rootfs.DepsELF {
		report.LeftOut = leftOut(unpacked.Tree, t, recipe.Packages)
	}
	return &built{tree: t, base: cmp.Or(tools, from), report: report}, b.keepReport(ctx, d.key(""), report)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// self identifies this program, so that what another build of it has made is
// not taken for what this one would make.
var self = sync.OnceValues(func() (string, error) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("read the build id of this program: %w", err)
	}
	defer f.Close()
	s := f.Section(".note.go.buildid")
	if s == nil {
		return "", errors.New("this program has no build id: build it with the Go toolchain's defaults")
	}
	note, err := s.Data()
	if err != nil {
		return "", fmt.Errorf("read the build id of this program: %w", err)
	}
	return digest(note), nil
})
