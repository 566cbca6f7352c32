package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"wolffia/internal/debian/control"
	"wolffia/internal/event"
	"wolffia/internal/image/xz"
)

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
	parts := make([]part, len(jobs))
	u = &universe{from: map[*control.Package]string{}}
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
			parts[i] = part{index: x, key: key, archive: j.r.archive, loaded: map[uint32]bool{}}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		done()
		return nil, nil, err
	}
	u.parts = slices.DeleteFunc(parts, func(p part) bool { return p.index == nil })
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
	url := r.root + "/dists/" + r.suite.name + "/" + forms[0]
	if why, known := c.knownMissing(url); known && r.optional {
		c.warnOnce("fetch index", r.suite.name, why)
		return nil, "", nil, nil
	}
	if c.o.Offline {
		return nil, "", nil, &OfflineError{What: "the package index of " + r.suite.name}
	}
	var err error
	for _, name := range forms {
		key := indexKey(r, name)
		if err = c.makeIndex(ctx, r, name, key); err == nil {
			f, x := c.cachedIndex(key)
			if x == nil {
				return nil, "", nil, fmt.Errorf("read the index of %s again: %w", r.suite.name, errIndex)
			}
			return f, key, x, nil
		}
		if !isAbsent(err) {
			break
		}
	}
	if r.optional && (isAbsent(err) || errors.As(err, new(*DigestError))) {
		err = c.missing(ctx, r, url, err)
	}
	return nil, "", nil, err
}

// missing does without an index of updates that the mirror promises and does
// not have, as those that lag behind in one architecture: the release itself
// is whole. It is said each time, and not tried again before the mirror is asked
// again anyway.
func (c *Client) missing(ctx context.Context, r releaseOf, url string, err error) error {
	why := fmt.Sprintf("going on without %s: %v", r.suite.name, err)
	c.warnOnce("fetch index", r.suite.name, why)
	return c.saveRecord(ctx, &record{URL: url, Checked: c.now(), Absent: true, Why: why})
}

// knownMissing reports whether an index was missing when the mirror was asked
// the last time.
func (c *Client) knownMissing(url string) (why string, known bool) {
	rec := c.loadRecord(url)
	if rec == nil || !rec.Absent {
		return "", false
	}
	age := c.now().Sub(rec.Checked)
	return rec.Why, c.o.Offline || !c.o.Update && age >= 0 && age < c.o.MaxAge
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
		if err := decodeIndex(ctx, out, in, r.Release, name); err != nil {
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

// decodeIndex turns a Packages file as it is on the mirror into an index.
func decodeIndex(ctx context.Context, out io.Writer, in *os.File, r *Release, name string) error {
	base, form := name, ""
	if ext := path.Ext(name); ext == ".gz" || ext == ".xz" {
		base, form = strings.TrimSuffix(name, ext), ext
	}
	limit := int64(maxIndexText)
	if plain, ok := r.files[base]; ok {
		limit = min(limit, plain.size)
	}
	text := io.Reader(in)
	var err error
	switch form {
	case ".gz":
		text, err = gzip.NewReader(in)
	case ".xz":
		text, err = decodeXZ(ctx, in, r.files[name].size, limit)
	}
	if err != nil {
		return err
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

// decodeXZ decompresses into memory, on all cores.
func decodeXZ(ctx context.Context, in io.ReaderAt, size, limit int64) (io.Reader, error) {
	text := make(fixedBuffer, limit)
	n, err := xz.Decode(ctx, in, size, text, xz.Options{MaxSize: limit})
	return bytes.NewReader(text[:n]), err
}

// fixedBuffer is written at any place, but never grows. Writers to disjoint
// places don't disturb each other.
type fixedBuffer []byte

func (b fixedBuffer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(b)) || int64(len(p)) > int64(len(b))-off {
		return 0, io.ErrShortBuffer
	}
	return copy(b[off:], p), nil
}
