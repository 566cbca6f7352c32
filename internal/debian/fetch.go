package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"

	"wolffia/internal/event"
	"wolffia/internal/stall"
)

// StatusError is an answer of a mirror that is neither the file nor a redirect.
type StatusError struct {
	URL    string
	Code   int    // of HTTP
	Remedy string // what to do about it; may be empty
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("fetch %s: the mirror answered %d %s", redact(e.URL), e.Code, http.StatusText(e.Code))
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Fix says what to do about it.
func (e *StatusError) Fix() string { return e.Remedy }

// StallError says that a mirror sent nothing for too long, or next to nothing.
type StallError struct {
	URL  string
	Idle time.Duration // how long it was waited for
	Came int64         // bytes that came meanwhile
}

func (e *StallError) Error() string {
	what := fmt.Sprintf("nothing came for %v", e.Idle)
	if e.Came > 0 {
		what = fmt.Sprintf("only %d bytes came in %v", e.Came, e.Idle)
	}
	return fmt.Sprintf("fetch %s: %s; %s", redact(e.URL), what, e.Fix())
}

// Fix says what to do about it.
func (e *StallError) Fix() string { return tryMirror }

// NetworkError says that a mirror can't be reached, or broke off.
type NetworkError struct {
	URL string
	Err error
}

func (e *NetworkError) Error() string {
	err := e.Err
	var ue *url.Error // says the URL once more
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if err == io.ErrUnexpectedEOF {
		err = errors.New("the connection broke off")
	}
	return fmt.Sprintf("fetch %s: %v; %s", redact(e.URL), err, e.Fix())
}

func (e *NetworkError) Unwrap() error { return e.Err }

// Fix says what to do about it.
func (e *NetworkError) Fix() string {
	return "check the network, or http_proxy if one is needed, or try another mirror with --mirror"
}

// fetcher gets files over HTTP or from the disk. It bounds how long nothing may
// come, and repeats what may succeed the next time.
type fetcher struct {
	client *http.Client
	idle   time.Duration
	pause  time.Duration // before the second try; doubled for the third
	events event.Sink
	told   sync.Map // hosts and numbers of tries of which it was said
}

// tries is how often a request is made before it is given up.
const tries = 3

func newFetcher(o *Options) *fetcher {
	transport := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: o.Idle}).DialContext,
		TLSHandshakeTimeout:    o.Idle,
		ResponseHeaderTimeout:  o.Idle,
		MaxIdleConnsPerHost:    o.Parallel,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true, // digests are of what is on the mirror
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 1 << 18,
	}
	if o.Getenv != nil {
		proxy := httpproxy.Config{
			HTTPProxy:  either(o.Getenv, "http_proxy", "HTTP_PROXY"),
			HTTPSProxy: either(o.Getenv, "https_proxy", "HTTPS_PROXY"),
			NoProxy:    either(o.Getenv, "no_proxy", "NO_PROXY"),
		}
		pick := proxy.ProxyFunc()
		transport.Proxy = func(r *http.Request) (*url.URL, error) { return pick(r.URL) }
	}
	return &fetcher{
		client: &http.Client{Transport: transport, CheckRedirect: checkRedirect},
		idle:   o.Idle, pause: o.pause, events: o.Events,
	}
}

func either(getenv func(string) string, names ...string) string {
	for _, n := range names {
		if v := getenv(n); v != "" {
			return v
		}
	}
	return ""
}

// maxRedirects is enough for a mirror that sends on to a nearby one.
const maxRedirects = 5

var errRedirect = errors.New("redirect refused")

func checkRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d in a row", errRedirect, maxRedirects)
	case r.URL.Scheme != "http" && r.URL.Scheme != "https":
		return fmt.Errorf("%w: to scheme %q", errRedirect, r.URL.Scheme)
	case r.URL.Scheme == "http" && via[len(via)-1].URL.Scheme == "https":
		return fmt.Errorf("%w: from https to http", errRedirect)
	}
	return nil
}

// answer is an open response. Its body ends with a *StallError when nothing, or
// too little, comes for too long.
type answer struct {
	code   int // 200, 206 or 304
	header http.Header
	length int64 // -1 if unknown
	body   io.ReadCloser
}

// open starts one request, without repeating it.
func (f *fetcher) open(ctx context.Context, uri string, header http.Header) (*answer, error) {
	if p, ok := localPath(uri); ok {
		return openLocal(uri, p)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silent := &StallError{URL: uri, Idle: f.idle}
	timer := time.AfterFunc(f.idle, func() { cancel(silent) })
	end := func() { timer.Stop(); cancel(nil) }

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		end()
		return nil, fmt.Errorf("fetch %s: %w", redact(uri), err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "wolffia")
	resp, err := f.client.Do(req)
	if err != nil {
		defer end()
		return nil, classify(ctx, silent, err)
	}
	body := &idleBody{ctx: ctx, stall: silent, r: resp.Body, timer: timer, end: end, rate: stall.Rate{Idle: f.idle}}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified:
		timer.Reset(f.idle)
		return &answer{resp.StatusCode, resp.Header, resp.ContentLength, body}, nil
	}
	body.Close()
	return nil, &StatusError{URL: uri, Code: resp.StatusCode, Remedy: tryMirror}
}

func openLocal(uri, path string) (*answer, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", uri, err)
	}
	st, err := file.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("fetch %s: %w", uri, err)
	}
	return &answer{http.StatusOK, http.Header{}, st.Size(), file}, nil
}

// classify finds what really ended a request: the caller, a stall, or the
// network. Whatever made the caller end it is told elsewhere.
func classify(ctx context.Context, stall *StallError, err error) error {
	switch {
	case context.Cause(ctx) == error(stall):
		return stall
	case ctx.Err() != nil:
		return fmt.Errorf("fetch %s: %w", redact(stall.URL), ctx.Err())
	case errors.Is(err, errRedirect):
		return fmt.Errorf("fetch %s: %w; %s", redact(stall.URL), errRedirectOf(err), tryMirror)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return stall
	}
	return &NetworkError{URL: stall.URL, Err: err}
}

func errRedirectOf(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// idleBody is a response's body under the watch of a timer, which each read
// that gives something winds up again, and of its rate.
type idleBody struct {
	ctx   context.Context
	stall *StallError
	r     io.ReadCloser
	timer *time.Timer
	end   func()
	rate  stall.Rate
}

func (b *idleBody) Read(p []byte) (int, error) {
	begun := time.Now()
	n, err := b.r.Read(p)
	if n > 0 {
		b.timer.Reset(b.stall.Idle)
	}
	if err != nil && err != io.EOF {
		return n, classify(b.ctx, b.stall, err)
	}
	if waited, came, stalled := b.rate.Add(time.Since(begun), n); stalled && err == nil {
		return n, &StallError{URL: b.stall.URL, Idle: waited.Round(time.Millisecond), Came: came}
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.end()
	return b.r.Close()
}

// again reports whether a request that ended with err may succeed when it is
// made once more.
func again(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Code >= 500 || status.Code == http.StatusTooManyRequests || status.Code == http.StatusRequestTimeout
	}
	return errors.As(err, new(*StallError)) || errors.As(err, new(*NetworkError))
}

// warn says that the n-th try follows a failure; of a mirror that can't be reached
// once, and not for each file that is wanted of it. What to do about it is said if
// nothing helps.
func (f *fetcher) warn(uri string, err error, n int) {
	text := err.Error()
	if fixed, ok := err.(interface{ Fix() string }); ok {
		text = strings.TrimSuffix(text, "; "+fixed.Fix())
	}
	var broken *net.OpError
	if u, bad := url.Parse(uri); errors.As(err, &broken) && broken.Op == "dial" && bad == nil {
		if _, told := f.told.LoadOrStore(fmt.Sprint(u.Host, " ", n), true); told {
			return
		}
		text = fmt.Sprintf("%s can't be reached: %v", u.Host, broken.Err)
	}
	f.events.Emit(event.Event{Kind: event.Warn, Task: "fetch", Subject: redact(uri),
		Message: fmt.Sprintf("%s; trying again (%d of %d)", text, n, tries)})
}

// repeat calls try until it succeeds, fails for good, or has failed too often.
func (f *fetcher) repeat(ctx context.Context, uri string, try func() error) error {
	pause := f.pause
	for n := 1; ; n++ {
		err := try()
		if err == nil || n == tries || !again(err) {
			return err
		}
		f.warn(uri, err, n+1)
		select {
		case <-ctx.Done():
			return fmt.Errorf("fetch %s: %w", redact(uri), ctx.Err())
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// document is a small file with what the mirror said to recognise it by.
type document struct {
	data         []byte
	notModified  bool
	etag         string
	lastModified string
}

// get fetches a small file of at most limit bytes, unless it is still the one
// that since describes.
func (f *fetcher) get(ctx context.Context, uri string, limit int64, since document) (doc document, err error) {
	header := http.Header{}
	if since.etag != "" {
		header.Set("If-None-Match", since.etag)
	}
	if since.lastModified != "" {
		header.Set("If-Modified-Since", since.lastModified)
	}
	// What a cache in between keeps may be older than what we have.
	header.Set("Cache-Control", "max-age=0")
	err = f.repeat(ctx, uri, func() error {
		a, err := f.open(ctx, uri, header)
		if err != nil {
			return err
		}
		defer a.body.Close()
		if a.code == http.StatusNotModified {
			doc = document{notModified: true}
			return nil
		}
		data, err := io.ReadAll(io.LimitReader(a.body, limit+1))
		if err != nil {
			return err
		}
		if int64(len(data)) > limit {
			return fmt.Errorf("fetch %s: it has more than %d bytes; %s", redact(uri), limit, tryMirror)
		}
		doc = document{data: data, etag: a.header.Get("Etag"), lastModified: a.header.Get("Last-Modified")}
		return nil
	})
	return doc, err
}

// progress counts towards a task and emits a Step now and then.
type progress struct {
	events  event.Sink
	task    event.Event // as it began
	current atomic.Int64
	said    atomic.Int64 // when the last Step was emitted, in nanoseconds of the clock
}

func beginProgress(events event.Sink, task, subject string, total int64, unit event.Unit) *progress {
	p := &progress{events: events, task: event.Event{Kind: event.Begin, Task: task, Subject: subject, Total: total, Unit: unit}}
	events.Emit(p.task)
	return p
}

// stepEvery keeps a fast download from flooding the renderer.
const stepEvery = 50 * time.Millisecond

func (p *progress) add(n int64) {
	cur := p.current.Add(n)
	now, last := time.Now().UnixNano(), p.said.Load()
	if now-last >= int64(stepEvery) && p.said.CompareAndSwap(last, now) {
		e := p.task
		e.Kind, e.Current = event.Step, cur
		p.events.Emit(e)
	}
}

func (p *progress) end(err error) {
	e := p.task
	e.Kind, e.Current = event.Done, p.current.Load()
	if err != nil {
		e.Kind, e.Message = event.Fail, err.Error()
	}
	p.events.Emit(e)
}

// rangeStart reads where a partial answer begins: "bytes 100-199/200".
func rangeStart(header http.Header) (int64, bool) {
	s, ok := strings.CutPrefix(header.Get("Content-Range"), "bytes ")
	if !ok {
		return 0, false
	}
	s, _, ok = strings.Cut(s, "-")
	n, err := strconv.ParseInt(s, 10, 64)
	return n, ok && err == nil && n >= 0
}
