package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/store"
)

// suite is a suite of an archive, as a release consists of several.
type suite struct {
	archive  string // archiveMain or archiveSecurity
	root     string // URI of the archive
	name     string
	optional bool // the release can do without it
	guessed  bool // nobody said that it is there
}

func (s suite) inRelease() string { return s.root + "/dists/" + s.name + "/InRelease" }

// suitesOf lists the suites that make up a release: itself, its updates and
// its security updates. The rolling ones and those before their release as
// stable get their fixes in place.
func (m *Mirror) suitesOf(release string) []suite {
	main := suite{archive: archiveMain, root: m.URI, name: release}
	switch release {
	case "sid", "unstable":
		return []suite{main}
	case "experimental":
		return []suite{main, {archive: archiveMain, root: m.URI, name: "unstable"}}
	}
	list := []suite{main}
	if base := baseSuite(release); base != release {
		// Such as backports, which stand on the release that they are for.
		list = append([]suite{{archive: archiveMain, root: m.URI, name: base}}, main)
		release = base
	}
	list = append(list, suite{archive: archiveMain, root: m.URI, name: release + "-updates", optional: true})
	if m.Security != "" {
		name := release + "-security"
		if release == "buster" {
			name = "buster/updates"
		}
		list = append(list, suite{archive: archiveSecurity, root: m.Security, name: name, optional: true, guessed: m.Guessed})
	}
	return list
}

// record is what a mirror said last about a suite, as kept in the store.
type record struct {
	URL          string    `json:"url"`
	Checked      time.Time `json:"checked"` // when the mirror last said that it is so
	Absent       bool      `json:"absent,omitempty"`
	Why          string    `json:"why,omitempty"` // it counts as absent
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"lastModified,omitempty"`
	text         []byte    // the InRelease file, signature and all
}

const kindRelease = "release"

// releaseKey names a record by what it is of.
func releaseKey(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:16])
}

// loadRecord gives nil where there is none that can be used.
func (c *Client) loadRecord(url string) *record {
	path, ok := c.store.Get(kindRelease, releaseKey(url))
	if !ok {
		return nil
	}
	data, err := readBounded(path, maxRelease+1<<16)
	if err != nil {
		return nil
	}
	head, text, ok := bytes.Cut(data, []byte("\n"))
	var r record
	if !ok || json.Unmarshal(head, &r) != nil || r.URL != url {
		return nil
	}
	r.text = text
	return &r
}

// saveRecord keeps a record. A cache that can't be written costs only asking
// the mirror again.
func (c *Client) saveRecord(ctx context.Context, r *record) error {
	head, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = c.store.Replace(ctx, kindRelease, releaseKey(r.URL), func(f *os.File) error {
		_, err := f.Write(append(append(head, '\n'), r.text...))
		return err
	})
	if errors.As(err, new(*store.ReadOnlyError)) {
		c.warn("release", r.URL, err.Error())
		return nil
	}
	return err
}

// OfflineError says that something is not in the cache, and that the network
// was not to be used.
type OfflineError struct {
	What string
}

func (e *OfflineError) Error() string { return e.What + " is not in the cache; " + e.Fix() }

// Fix says what to do about it.
func (e *OfflineError) Fix() string { return "run it once without --offline" }

// release gives what a suite's InRelease says: from the cache while that is
// fresh, else from the mirror, else from the cache after all, with a warning.
// An optional suite that is not there gives nil.
func (c *Client) release(ctx context.Context, s suite) (*Release, error) {
	url := s.inRelease()
	rec := c.loadRecord(url)
	cached, cachedErr := c.verifyRecord(rec, s)
	switch {
	case c.o.Offline && s.optional && (rec == nil || rec.Absent):
		return nil, nil
	case c.o.Offline && (rec == nil || rec.Absent):
		return nil, &OfflineError{What: "what the mirror says about " + s.name}
	case c.o.Offline:
		return c.staleOK(cached, cachedErr, s)
	}
	if age := c.now().Sub(recordTime(rec)); !c.o.Update && age >= 0 && age < c.o.MaxAge {
		if rec.Absent && s.optional {
			return nil, nil
		}
		if cachedErr == nil && !rec.Absent {
			return cached, nil
		}
	}
	fresh, err := c.askRelease(ctx, s, rec, cached)
	if err != nil && again(err) && cached != nil {
		c.warn("release", s.name, fmt.Sprintf("using what the mirror said on %s: %v", stamp(rec.Checked), err))
		return c.staleOK(cached, cachedErr, s)
	}
	return fresh, err
}

func recordTime(r *record) time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.Checked
}

// staleOK lets a copy pass that was good when it came and only is out of date
// now: there is no network to get a better one from.
func (c *Client) staleOK(r *Release, err error, s suite) (*Release, error) {
	var stale *StaleError
	if r != nil && errors.As(err, &stale) {
		c.warn("release", s.name, stale.Why)
		return r, nil
	}
	return r, err
}

// verifyRecord checks a cached file again, as keys expire and time goes by. A
// file that is only out of date is given together with the *StaleError.
func (c *Client) verifyRecord(rec *record, s suite) (*Release, error) {
	if rec == nil || rec.Absent {
		return nil, nil
	}
	return c.verifyRelease(rec.text, s)
}

func (c *Client) verifyRelease(data []byte, s suite) (*Release, error) {
	url := s.inRelease()
	keys, err := c.keys()
	if err != nil {
		return nil, err
	}
	text, err := verifyInRelease(data, url, keys, c.now())
	if err != nil {
		return nil, err
	}
	r, err := ParseRelease(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", redact(url), err)
	}
	warning, err := checkRelease(r, url, s.name, c.now(), c.o.AllowExpired)
	if warning != "" {
		c.warnOnce("release", s.name, warning)
	}
	return r, err
}

// askRelease asks the mirror, and keeps its answer.
func (c *Client) askRelease(ctx context.Context, s suite, rec *record, cached *Release) (*Release, error) {
	url := s.inRelease()
	if s.root == "" {
		return nil, c.noMirror()
	}
	var since document
	if rec != nil && cached != nil {
		since = document{etag: rec.ETag, lastModified: rec.LastModified}
	}
	doc, err := c.fetch.get(ctx, url, maxRelease, since)
	if isAbsent(err) {
		return nil, c.absent(ctx, s, err)
	}
	if err != nil {
		return nil, err
	}
	if doc.notModified {
		if cached == nil {
			return nil, fmt.Errorf("fetch %s: the mirror says that nothing changed, but was not asked that; %s", redact(url), tryMirror)
		}
		rec.Checked = c.now()
		if _, err := c.verifyRecord(rec, s); err != nil {
			return nil, err
		}
		return cached, c.saveRecord(ctx, rec)
	}
	r, err := c.verifyRelease(doc.data, s)
	if err != nil {
		return nil, err
	}
	if cached != nil && r.Date.Before(cached.Date) && !c.o.AllowDowngrade {
		c.warn("release", s.name, fmt.Sprintf("the mirror's InRelease is of %s, older than the one of %s that it gave before, which stays in use",
			stamp(r.Date), stamp(cached.Date)))
		return cached, nil
	}
	return r, c.saveRecord(ctx, &record{URL: url, Checked: c.now(), ETag: doc.etag, LastModified: doc.lastModified, text: doc.data})
}

// absent deals with a suite that the mirror does not have.
func (c *Client) absent(ctx context.Context, s suite, err error) error {
	if !s.optional {
		var status *StatusError
		if errors.As(err, &status) {
			status.Remedy = fmt.Sprintf("the mirror %s has no release %q; see the folders in %s/dists/", redact(s.root), s.name, redact(s.root))
			return status
		}
		return fmt.Errorf("%w; the mirror has no release %q", err, s.name)
	}
	e := event.Event{Kind: event.Note, Task: "release", Subject: s.name, Message: "the mirror has no suite " + s.name}
	if s.archive == archiveSecurity {
		e.Message = "no security updates: there is no " + redact(s.inRelease())
		if !s.guessed {
			e.Kind = event.Warn
		}
	}
	c.o.Events.Emit(e)
	return c.saveRecord(ctx, &record{URL: s.inRelease(), Checked: c.now(), Absent: true})
}

// packagesFiles picks the indexes of a component and an architecture: the
// packages of that architecture, and those of "all" where they are kept apart.
// Of each it gives the forms that the suite has, the cheapest first: gzip is
// larger than xz, and decoded five times as fast.
func (r *Release) packagesFiles(component, arch string) [][]string {
	var out [][]string
	archs := []string{arch}
	if !r.NoAll && slices.Contains(r.Architectures, "all") {
		archs = append(archs, "all")
	}
	for _, a := range archs {
		var forms []string
		for _, end := range []string{".gz", ".xz", ""} {
			name := component + "/binary-" + a + "/Packages"
			_, plain := r.files[name] // its size, which xz needs in advance
			if _, ok := r.files[name+end]; ok && (plain || end != ".xz") {
				forms = append(forms, name+end)
			}
		}
		if len(forms) > 0 {
			out = append(out, forms)
		}
	}
	return out
}

// byHash gives the name under which a file stays when the suite moves on.
func byHash(name string, sum [32]byte) string {
	dir := name[:strings.LastIndexByte(name, '/')+1]
	return dir + "by-hash/SHA256/" + hex.EncodeToString(sum[:])
}
