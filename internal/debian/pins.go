package debian

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"wolffia/internal/event"
)

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
