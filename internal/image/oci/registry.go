package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	v1layout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/sync/errgroup"

	"wolffia/internal/event"
)

// RegistryOptions says how a registry is spoken to.
type RegistryOptions struct {
	// Arch is the architecture that is wanted, by Debian's name. Empty takes the
	// only image that there is.
	Arch string
	// MaxSize bounds what is pulled, in bytes. 0 means 16 GiB.
	MaxSize int64
	// Idle is for how long next to nothing may come before it is given up. 0
	// means a minute.
	Idle time.Duration
	// Getenv tells of http_proxy, https_proxy and no_proxy; nil means that there
	// are none.
	Getenv func(string) string
	// Events takes the progress; nil drops it.
	Events event.Sink
}

// parallel is how many blobs are on their way at once.
const parallel = 4

// RegistryError says what went wrong with an image of a registry.
type RegistryError struct {
	Op  string // "pull", "push" or "resolve"
	Ref string
	Err error
}

func (e *RegistryError) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.Ref, e.Err)
	if fix := e.Fix(); fix != "" {
		s += "; " + fix
	}
	return s
}

func (e *RegistryError) Unwrap() error { return e.Err }

// Fix is what a person can do; it may be empty.
func (e *RegistryError) Fix() string {
	var answer *transport.Error
	if !errors.As(e.Err, &answer) || answer.Request == nil {
		if errors.As(e.Err, new(*net.OpError)) || errors.As(e.Err, new(*net.DNSError)) {
			return "check the registry's name and the network, and https_proxy if one is needed; of what is here already the name begins with ./"
		}
		return ""
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "log in: docker login " + answer.Request.URL.Host
	case http.StatusNotFound:
		return "check the name and its tag"
	case http.StatusTooManyRequests:
		return "try again later, or log in: docker login " + answer.Request.URL.Host
	}
	return ""
}

// registry is a connection to the registry of one reference.
type registry struct {
	ref    name.Reference
	o      RegistryOptions
	puller *remote.Puller
	http   *http.Transport
}

func connect(ref string, o RegistryOptions) (*registry, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if o.MaxSize == 0 {
		o.MaxSize = 16 << 30
	}
	if o.Idle == 0 {
		o.Idle = time.Minute
	}
	o.Events = event.Or(o.Events)
	r := &registry{ref: parsed, o: o, http: &http.Transport{
		Proxy:                 proxies(o.Getenv),
		DialContext:           (&net.Dialer{Timeout: o.Idle}).DialContext,
		TLSHandshakeTimeout:   o.Idle,
		ResponseHeaderTimeout: o.Idle,
		MaxIdleConnsPerHost:   parallel,
		ForceAttemptHTTP2:     true,
	}}
	r.puller, err = remote.NewPuller(r.options()...)
	return r, err
}

// proxies finds the proxy for a request.
func proxies(getenv func(string) string) func(*http.Request) (*url.URL, error) {
	if getenv == nil {
		return nil
	}
	pick := (&httpproxy.Config{
		HTTPProxy:  cmp.Or(getenv("http_proxy"), getenv("HTTP_PROXY")),
		HTTPSProxy: cmp.Or(getenv("https_proxy"), getenv("HTTPS_PROXY")),
		NoProxy:    cmp.Or(getenv("no_proxy"), getenv("NO_PROXY")),
	}).ProxyFunc()
	return func(q *http.Request) (*url.URL, error) { return pick(q.URL) }
}

func (r *registry) options() []remote.Option {
	return []remote.Option{
		remote.WithTransport(&impatient{r.http, r.o.Idle}),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithUserAgent("wolffia"),
		remote.WithJobs(parallel),
	}
}

func (r *registry) close() { r.http.CloseIdleConnections() }

// fail makes of err the error that a caller gets.
func (r *registry) fail(op string, err error) error {
	if p := (*PlatformError)(nil); errors.As(err, &p) {
		return err
	}
	return &RegistryError{op, r.ref.String(), err}
}

// manifest finds the manifest of the image for the architecture.
func (r *registry) manifest(ctx context.Context) (descriptor, []byte, error) {
	got, err := r.puller.Get(ctx, r.ref)
	if err != nil {
		return descriptor{}, nil, err
	}
	top := descriptor{MediaType: string(got.MediaType), Digest: got.Digest.String(), Size: int64(len(got.Manifest))}
	if !top.isIndex() {
		if r.o.Arch != "" {
			err = r.checkArch(ctx, top, got.Manifest)
		}
		return top, got.Manifest, err
	}
	get := func(d descriptor) ([]byte, error) { return r.byDigest(ctx, d) }
	all, err := collect(got.Manifest, "", "", get)
	if err != nil {
		return descriptor{}, nil, err
	}
	c, err := choose(r.ref.String(), r.o.Arch, all, func(d descriptor) (platform, error) {
		b, err := r.byDigest(ctx, d)
		if err != nil {
			return platform{}, err
		}
		return r.platform(ctx, b)
	})
	if err != nil {
		return descriptor{}, nil, err
	}
	b, err := r.byDigest(ctx, c.descriptor)
	return c.descriptor, b, err
}

// checkArch refuses an image for another architecture.
func (r *registry) checkArch(ctx context.Context, d descriptor, b []byte) error {
	_, err := choose(r.ref.String(), r.o.Arch, []candidate{{descriptor: d}}, func(descriptor) (platform, error) { return r.platform(ctx, b) })
	return err
}

func (r *registry) platform(ctx context.Context, b []byte) (platform, error) {
	m, err := parseManifest(b)
	if err != nil {
		return platform{}, err
	}
	if m.Config.Size > maxDocument {
		return platform{}, fmt.Errorf("a configuration of %d bytes is larger than the limit of %d", m.Config.Size, maxDocument)
	}
	body, err := r.blob(ctx, m.Config)
	if err != nil {
		return platform{}, err
	}
	defer body.Close()
	b, err = io.ReadAll(verify(body, m.Config))
	if err != nil {
		return platform{}, err
	}
	c, err := document[configuration](b)
	if err != nil {
		return platform{}, fmt.Errorf("configuration: %w", err)
	}
	return c.platform, nil
}

// byDigest gets a manifest or an index, which the library checks.
func (r *registry) byDigest(ctx context.Context, d descriptor) ([]byte, error) {
	got, err := r.puller.Get(ctx, r.ref.Context().Digest(d.Digest))
	if err != nil {
		return nil, err
	}
	return got.Manifest, nil
}

// blob gets a layer or a configuration.
func (r *registry) blob(ctx context.Context, d descriptor) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.ref.Context().Digest(d.Digest))
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

// Resolve asks the registry which image ref is at present, for the architecture
// that o wants, and gives the name that will always be that image: with the
// digest of its manifest.
func Resolve(ctx context.Context, ref string, o RegistryOptions) (pinned string, err error) {
	r, err := connect(ref, o)
	if err != nil {
		return "", &RegistryError{"resolve", ref, err}
	}
	defer r.close()
	d, _, err := r.manifest(ctx)
	if err != nil {
		return "", r.fail("resolve", err)
	}
	return r.ref.Context().Digest(d.Digest).String(), nil
}

// Pull gets the image ref, for the architecture that o wants, into the folder
// dir, which must be empty or not be there, as a layout of that one image. It
// gives the digest of its manifest. After an error, dir holds no index.json.
func Pull(ctx context.Context, ref, dir string, o RegistryOptions) (digest string, err error) {
	r, err := connect(ref, o)
	if err != nil {
		return "", &RegistryError{"pull", ref, err}
	}
	defer r.close()
	d, err := r.pull(ctx, dir)
	if err != nil {
		return "", r.fail("pull", err)
	}
	return d.Digest, nil
}

func (r *registry) pull(ctx context.Context, dir string) (descriptor, error) {
	d, b, err := r.manifest(ctx)
	if err != nil {
		return descriptor{}, err
	}
	m, err := parseManifest(b)
	if err != nil {
		return descriptor{}, err
	}
	blobs, total := map[string]descriptor{}, int64(0)
	for _, l := range append(m.Layers, m.Config) {
		if _, twice := blobs[l.Digest]; !twice {
			blobs[l.Digest] = l
			total += min(l.Size, r.o.MaxSize+1) // without an overflow
		}
	}
	if total > r.o.MaxSize {
		return descriptor{}, fmt.Errorf("its %d bytes are more than the limit of %d", total, r.o.MaxSize)
	}
	f, err := newFolder(dir)
	if err != nil {
		return descriptor{}, err
	}
	if err := r.blobs(ctx, f, blobs, total); err != nil {
		return descriptor{}, err
	}
	top := descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(b)), Platform: d.Platform}
	_, err = f.blob(func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return descriptor{}, err
	}
	ref := ""
	if t, ok := r.ref.(name.Tag); ok {
		ref = t.TagStr()
	}
	return top, f.finish(top, ref)
}

// blobs gets several blobs at once.
func (r *registry) blobs(ctx context.Context, f *folder, blobs map[string]descriptor, total int64) (err error) {
	e := event.Event{Kind: event.Begin, Task: "pull", Subject: r.ref.String(), Total: total, Unit: event.Bytes}
	r.o.Events.Emit(e)
	defer func() {
		e := e
		e.Kind = event.Done
		if err != nil {
			e.Kind, e.Message = event.Fail, err.Error()
		}
		r.o.Events.Emit(e)
	}()
	var done atomic.Int64
	count := func(n int) {
		e := e
		e.Kind, e.Current = event.Step, done.Add(int64(n))
		r.o.Events.Emit(e)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, d := range blobs {
		g.Go(func() error {
			body, err := r.blob(ctx, d)
			if err != nil {
				return err
			}
			defer body.Close()
			_, err = f.blob(func(w io.Writer) error {
				_, err := io.Copy(w, counted{verify(body, d), count})
				return err
			})
			return err
		})
	}
	return g.Wait()
}

type counted struct {
	io.Reader
	count func(n int)
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.count(n)
	return n, err
}

// Push sends what is in the layout dir, which must be one image or one index, to
// a registry, as ref, and gives its digest there. The architecture that o wants
// is not looked at.
func Push(ctx context.Context, dir, ref string, o RegistryOptions) (digest string, err error) {
	r, err := connect(ref, o)
	if err != nil {
		return "", &RegistryError{"push", ref, err}
	}
	defer r.close()
	digest, err = r.push(ctx, dir)
	if err != nil {
		return "", r.fail("push", err)
	}
	return digest, nil
}

func (r *registry) push(ctx context.Context, dir string) (digest string, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", err
	}
	i, err := document[index](b)
	if err != nil {
		return "", fmt.Errorf("index.json: %w", err)
	}
	if len(i.Manifests) != 1 {
		return "", fmt.Errorf("%s holds %d images, not one", dir, len(i.Manifests))
	}
	d := i.Manifests[0]
	what, err := readPushed(dir, d)
	if err != nil {
		return "", err
	}
	updates := make(chan v1.Update, 16)
	shown := make(chan struct{})
	go r.show(updates, shown)
	defer func() { <-shown }() // the library closes updates, whatever happens
	return d.Digest, remote.Push(r.ref, what, append(r.options(), remote.WithContext(ctx), remote.WithProgress(updates))...)
}

// readPushed has the library read what it is to send.
func readPushed(dir string, d descriptor) (remote.Taggable, error) {
	hash, err := v1.NewHash(d.Digest)
	if err != nil {
		return nil, err
	}
	l, err := v1layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	if d.isIndex() {
		return l.ImageIndex(hash)
	}
	return l.Image(hash)
}

// show tells of what the library says it has sent.
func (r *registry) show(updates <-chan v1.Update, shown chan<- struct{}) {
	defer close(shown)
	e := event.Event{Kind: event.Begin, Task: "push", Subject: r.ref.String(), Unit: event.Bytes}
	r.o.Events.Emit(e)
	failed := error(nil)
	for u := range updates {
		e.Kind, e.Current, e.Total = event.Step, u.Complete, u.Total
		if u.Error != nil {
			failed = u.Error
			continue
		}
		r.o.Events.Emit(e)
	}
	e.Kind = event.Done
	if failed != nil {
		e.Kind, e.Message = event.Fail, failed.Error()
	}
	r.o.Events.Emit(e)
}
