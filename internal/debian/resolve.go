package debian

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"wolffia/internal/debian/control"
	"wolffia/internal/debian/resolve"
	"wolffia/internal/spell"
)

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
