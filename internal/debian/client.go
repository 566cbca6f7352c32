package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/klauspost/compress/gzip"
	"github.com/mikelolasagasti/xz"
	"golang.org/x/sync/errgroup"

	"wolffia/internal/debian/control"
	"wolffia/internal/debian/resolve"
	"wolffia/internal/event"
	"wolffia/internal/spell"
	"wolffia/internal/store"
)

// Options of [New]. Only Store is needed.
type Options struct {
	Store     *store.Store
	Mirror    Mirror
	MirrorErr error    // why there is no mirror; returned when one is needed
	Keyrings  []string // files of public keys that are trusted too
	Events    event.Sink
	Getenv    func(string) string // for http_proxy, https_proxy and no_proxy; nil: no proxy

	MaxAge         time.Duration // how long what a mirror said is taken without asking again; 0 means 24 hours
	Update         bool          // ask the mirror again whatever the age
	Offline        bool          // never use the network
	AllowExpired   bool          // take an InRelease that is past its Valid-Until, with a warning
	AllowDowngrade bool          // take an InRelease that is older than the one before

	Idle     time.Duration    // how long a mirror may send nothing; 0 means 30 seconds
	Parallel int              // downloads at the same time; 0 means 6
	Now      func() time.Time // the clock; nil means time.Now

	pause time.Duration // before a request is repeated; 0 means half a second
}

func (o Options) withDefaults() Options {
	o.Events = event.Or(o.Events)
	if o.MaxAge == 0 {
		o.MaxAge = 24 * time.Hour
	}
	if o.Idle == 0 {
		o.Idle = 30 * time.Second
	}
	if o.Parallel == 0 {
		o.Parallel = 6
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.pause == 0 {
		o.pause = 500 * time.Millisecond
	}
	return o
}

// Client fetches from one mirror into one store. Its methods may be called
// from any goroutine.
type Client struct {
	o     Options
	store *store.Store
	fetch *fetcher
	keys  func() (openpgp.EntityList, error)
	said  sync.Map // warnings that were given already
}

// New makes a client. It touches neither the network nor the disk.
func New(o Options) *Client {
	o = o.withDefaults()
	c := &Client{o: o, store: o.Store}
	c.fetch = newFetcher(&c.o)
	c.keys = sync.OnceValues(func() (openpgp.EntityList, error) {
		found := append([]string{hostKeyring}, o.Mirror.Keyrings...)
		return loadKeyring(o.Keyrings, found, o.Mirror.Keys)
	})
	return c
}

func (c *Client) now() time.Time { return c.o.Now() }

func (c *Client) warn(task, subject, message string) {
	c.o.Events.Emit(event.Event{Kind: event.Warn, Task: task, Subject: redact(subject), Message: message})
}

func (c *Client) warnOnce(task, subject, message string) {
	if _, said := c.said.LoadOrStore(task+subject+message, true); !said {
		c.warn(task, subject, message)
	}
}

func (c *Client) noMirror() error {
	if c.o.MirrorErr != nil {
		return c.o.MirrorErr
	}
	return &NoMirrorError{}
}

// ArchError says that a release does not have an architecture.
type ArchError struct {
	Release, Arch string
	Have          []string
}

func (e *ArchError) Error() string {
	s := fmt.Sprintf("release %s has no packages for architecture %q; it has %s", e.Release, e.Arch, strings.Join(e.Have, ", "))
	if near := spell.Nearest(e.Arch, e.Have); near != "" {
		s += fmt.Sprintf(" (did you mean %s?)", near)
	}
	return s
}

// RequestError is a request that can't be met as it is written.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// Resolve finds the packages that a request entails and pins them. What the
// mirror said last is used while it is fresh ([Options.MaxAge]).
func (c *Client) Resolve(ctx context.Context, req Request) (*Lock, error) {
	wants, archs, err := parseRequest(req)
	if err != nil {
		return nil, &RequestError{err}
	}
	lock, err := c.resolveOnce(ctx, req, wants, archs)
	if errors.Is(err, errIndex) {
		// Damaged on the disk: resolveOnce took it away, so it is made anew.
		lock, err = c.resolveOnce(ctx, req, wants, archs)
	}
	return lock, err
}

// parseRequest reads the wishes; archs is the native architecture, then those
// that wishes name.
func parseRequest(req Request) (wants []resolve.Want, archs []string, err error) {
	if err := req.check(); err != nil {
		return nil, nil, err
	}
	archs = []string{req.Arch}
	for _, text := range req.Packages {
		w, err := resolve.ParseWant(text)
		if err != nil {
			return nil, nil, err
		}
		if w.Arch != "" && w.Arch != "all" && w.Arch != "any" && !slices.Contains(archs, w.Arch) {
			archs = append(archs, w.Arch)
		}
		wants = append(wants, w)
	}
	return wants, archs, nil
}

func (c *Client) resolveOnce(ctx context.Context, req Request, wants []resolve.Want, archs []string) (*Lock, error) {
	suites, date, err := c.releases(ctx, req)
	if err != nil {
		return nil, err
	}
	u, done, err := c.openUniverse(ctx, req, suites, archs)
	if err != nil {
		return nil, err
	}
	defer done()
	solution, err := solve(u, req, wants, archs)
	if errors.Is(err, errIndex) {
		for _, p := range u.parts {
			c.store.Remove(kindIndex, p.key)
		}
	}
	if err != nil {
		return nil, err
	}
	lock := &Lock{Request: req.normal(), Date: date}
	for _, s := range solution.Packages {
		p := Pin{Name: s.Name, Arch: s.Architecture, Version: s.Version, SHA256: s.SHA256, Size: s.Size,
			Archive: u.from[s.Package], Path: strings.TrimPrefix(s.Filename, "./")}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("read index: package %s: %w", s.Package, err)
		}
		lock.Packages = append(lock.Packages, p)
	}
	return lock, nil
}

// solve reads what the request can reach and runs the resolver over it.
func solve(u *universe, req Request, wants []resolve.Want, archs []string) (*resolve.Solution, error) {
	var names []string
	for _, w := range wants {
		names = append(names, w.Name)
	}
	if req.Essential || req.Required {
		names = append(names, "")
	}
	kinds := []control.Kind{control.PreDepends, control.Depends}
	if req.Recommends {
		kinds = append(kinds, control.Recommends)
	}
	if err := u.reach(names, kinds); err != nil {
		return nil, err
	}
	solution, err := resolve.Resolve(resolve.NewIndex(u.lists()...), resolve.Request{
		Want: wants, Native: req.Arch, Foreign: archs[1:], Exclude: req.Exclude,
		Essential: req.Essential, Required: req.Required, Recommends: req.Recommends,
	})
	var missing *resolve.NotFoundError
	if errors.As(err, &missing) {
		// The resolver saw only what it was given.
		missing.Nearest = nil
		var all []string
		for _, p := range u.parts {
			all = append(all, p.names()...)
		}
		if near := spell.Nearest(missing.Name, all); near != "" {
			missing.Nearest = []string{near}
		}
	}
	if err != nil {
		return nil, &RequestError{err}
	}
	return solution, nil
}

// releaseOf is a suite that is there.
type releaseOf struct {
	suite
	*Release
}

// releases gives the suites of a release that the mirror has, and the date of
// the release's own: its updates are dated anew every day, with or without
// anything new, and equal packages should make an equal lock.
func (c *Client) releases(ctx context.Context, req Request) ([]releaseOf, time.Time, error) {
	suites := c.o.Mirror.suitesOf(req.Release)
	found := make([]*Release, len(suites))
	g, gctx := errgroup.WithContext(ctx)
	for i, s := range suites {
		g.Go(func() (err error) {
			found[i], err = c.release(gctx, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, time.Time{}, err
	}
	var out []releaseOf
	for i, r := range found {
		if r != nil {
			out = append(out, releaseOf{suites[i], r})
		}
	}
	return out, out[0].Date, nil
}

const (
	kindIndex    = "index"
	kindPackages = "packages" // indexes as they come, until they are read
)

// openUniverse opens the indexes of all suites, components and architectures,
// and fetches those that the store does not have.
func (c *Client) openUniverse(ctx context.Context, req Request, suites []releaseOf, archs []string) (u *universe, done func(), err error) {
	type job struct {
		r     releaseOf
		forms []string
	}
	var jobs []job
	for _, r := range suites {
		for _, arch := range archs {
			if !slices.Contains(r.Architectures, arch) {
				if r.optional {
					continue
				}
				have := slices.DeleteFunc(slices.Clone(r.Architectures), func(a string) bool { return a == "all" })
				return nil, nil, &RequestError{&ArchError{Release: r.name, Arch: arch, Have: have}}
			}
			for _, component := range c.o.Mirror.components() {
				for _, forms := range r.packagesFiles(component, arch) {
					jobs = append(jobs, job{r, forms})
				}
			}
		}
	}
	u = &universe{parts: make([]part, len(jobs)), from: map[*control.Package]string{}}
	files := make([]*os.File, len(jobs))
	done = func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for i, j := range jobs {
		g.Go(func() error {
			file, key, x, err := c.openIndex(gctx, j.r, j.forms)
			files[i] = file
			u.parts[i] = part{index: x, key: key, archive: j.r.archive, loaded: map[uint32]bool{}}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		done()
		return nil, nil, err
	}
	return u, done, nil
}

// openIndex opens the index of a Packages file that is there in several forms.
func (c *Client) openIndex(ctx context.Context, r releaseOf, forms []string) (*os.File, string, *index, error) {
	for _, name := range forms {
		key := indexKey(r, name)
		if f, x := c.cachedIndex(key); x != nil {
			return f, key, x, nil
		}
	}
	if c.o.Offline {
		return nil, "", nil, &OfflineError{What: "the package index of " + r.name}
	}
	var err error
	for _, name := range forms {
		key := indexKey(r, name)
		if err = c.makeIndex(ctx, r, name, key); err == nil {
			f, x := c.cachedIndex(key)
			if x == nil {
				return nil, "", nil, fmt.Errorf("read the index of %s again: %w", r.name, errIndex)
			}
			return f, key, x, nil
		}
		if !isAbsent(err) {
			break
		}
	}
	return nil, "", nil, err
}

// indexKey has the format's version, so that a new one makes new indexes.
func indexKey(r releaseOf, name string) string { return fmt.Sprintf("1-%x", r.files[name].sum) }

// cachedIndex gives nil where there is none; a damaged one is taken away.
func (c *Client) cachedIndex(key string) (*os.File, *index) {
	f, ok := c.store.Open(kindIndex, key)
	if !ok {
		return nil, nil
	}
	st, err := f.Stat()
	if err == nil {
		var x *index
		if x, err = openIndex(f, st.Size()); err == nil {
			return f, x
		}
	}
	f.Close()
	if errors.Is(err, errIndex) {
		c.store.Remove(kindIndex, key)
	}
	return nil, nil
}

func (c *Client) makeIndex(ctx context.Context, r releaseOf, name, key string) error {
	_, err := c.store.Create(ctx, kindIndex, key, func(out *os.File) error {
		path, err := c.fetchPackages(ctx, r, name)
		if err != nil {
			return err
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		uri := r.root + "/dists/" + r.suite.name + "/" + name
		if err := decodeIndex(out, in, r, name); err != nil {
			return fmt.Errorf("read %s: %w", redact(uri), err)
		}
		return nil
	})
	if err == nil {
		c.store.Remove(kindPackages, fmt.Sprintf("%x", r.files[name].sum))
	}
	return err
}

// fetchPackages brings a Packages file into the store as it is on the mirror.
func (c *Client) fetchPackages(ctx context.Context, r releaseOf, name string) (string, error) {
	file := r.files[name]
	return c.store.Resume(ctx, kindPackages, fmt.Sprintf("%x", file.sum), func(f *os.File) error {
		p := beginProgress(c.o.Events, "fetch index", r.suite.name+" "+name, file.size, event.Bytes)
		dir := r.root + "/dists/" + r.suite.name + "/"
		w := want{uri: dir + name, size: file.size, sum: file.sum,
			note: "the mirror is being updated, or lacks a part of the release: try again later, or another mirror with --mirror"}
		var err error
		if r.ByHash {
			byName := w
			w.uri = dir + byHash(name, file.sum)
			if err = c.fetch.download(ctx, f, w, p.add); isAbsent(err) {
				err = c.fetch.download(ctx, f, byName, p.add)
			}
		} else {
			err = c.fetch.download(ctx, f, w, p.add)
		}
		p.end(err)
		return err
	})
}

// maxIndexText bounds an index whose uncompressed size the Release doesn't say.
const maxIndexText = 1 << 30

func decodeIndex(out io.Writer, in io.Reader, r releaseOf, name string) error {
	text, base := in, name
	var err error
	switch {
	case strings.HasSuffix(name, ".gz"):
		base = strings.TrimSuffix(name, ".gz")
		text, err = gzip.NewReader(in)
	case strings.HasSuffix(name, ".xz"):
		base = strings.TrimSuffix(name, ".xz")
		text, err = xz.NewReader(in, 64<<20)
	}
	if err != nil {
		return err
	}
	limit := int64(maxIndexText)
	if plain, ok := r.files[base]; ok {
		limit = plain.size
	}
	limited := &io.LimitedReader{R: text, N: limit + 1}
	if err := writeIndex(out, limited); err != nil {
		return err
	}
	if limited.N == 0 {
		return fmt.Errorf("it unpacks to more than %d bytes", limit)
	}
	return nil
}

const kindDeb = "deb"

// Fetch brings all packages of a lock into the store, several at a time. What
// came of a package before is continued.
func (c *Client) Fetch(ctx context.Context, lock *Lock) error {
	return c.fetchPins(ctx, lock.Packages)
}

func (c *Client) fetchPins(ctx context.Context, pins []Pin) error {
	var missing []*Pin
	var total int64
	for i := range pins {
		if p := &pins[i]; !c.haveUnpacked(p) && !c.haveDeb(p) {
			missing = append(missing, p)
			total += p.Size
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if c.o.Offline {
		return &OfflineError{What: "package " + missing[0].String()}
	}
	subject := fmt.Sprintf("%d packages", len(missing))
	if len(missing) == 1 {
		subject = missing[0].Name
	}
	progress := beginProgress(c.o.Events, "fetch", subject, total, event.Bytes)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Parallel)
	for _, p := range missing {
		g.Go(func() error { return c.fetchDeb(gctx, p, progress) })
	}
	err := g.Wait()
	progress.end(err)
	return err
}

// haveDeb looks whether the store has a package. One of another size was cut
// off by a power failure.
func (c *Client) haveDeb(p *Pin) bool {
	path, ok := c.store.Get(kindDeb, p.Key())
	if !ok {
		return false
	}
	if st, err := os.Stat(path); err != nil || st.Size() != p.Size {
		c.store.Remove(kindDeb, p.Key())
		return false
	}
	return true
}

func (c *Client) fetchDeb(ctx context.Context, p *Pin, progress *progress) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("fetch package %s: %w", p, err)
	}
	if c.o.Mirror.URI == "" {
		return c.noMirror()
	}
	root, err := c.o.Mirror.root(p.Archive)
	if err != nil {
		return fmt.Errorf("fetch package %s: %w", p, err)
	}
	w := want{uri: root + "/" + escapePath(p.Path), size: p.Size, sum: p.SHA256,
		note: fmt.Sprintf("the mirror no longer has package %s: choose its present version with --update, or give a mirror that keeps old ones (a snapshot) with --mirror", p)}
	_, err = c.store.Resume(ctx, kindDeb, p.Key(), func(f *os.File) error {
		return c.fetch.download(ctx, f, w, progress.add)
	})
	return err
}

func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}
