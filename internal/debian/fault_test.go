package debian

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wolffia/internal/store"
)

// faultyMirror stands on the loopback before the real mirror and hands on what
// that has, but for what a test breaks.
type faultyMirror struct {
	idle time.Duration // patience of clients; 0 means the usual
	*httptest.Server
	upstream string

	mu     sync.Mutex
	broken func(w http.ResponseWriter, r *http.Request, file []byte) bool // reports whether it answered
	asked  []string                                                       // path and range of each request
	files  map[string][]byte
}

func newFaultyMirror(t *testing.T) *faultyMirror {
	m := hostMirror(t)
	f := &faultyMirror{upstream: m.URI, files: map[string][]byte{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *faultyMirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.Path+" "+r.Header.Get("Range"))
	broken := f.broken
	file, err := f.file(r.URL.Path)
	f.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if broken != nil && broken(w, r, file) {
		return
	}
	if file == nil {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
}

// file gets a file of the real mirror, once; nil where there is none.
func (f *faultyMirror) file(path string) ([]byte, error) {
	if data, ok := f.files[path]; ok {
		return data, nil
	}
	resp, err := http.Get(f.upstream + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		data = nil
	}
	f.files[path] = data
	return data, nil
}

// set breaks the files whose path has one of the parts; nil mends all.
func (f *faultyMirror) set(fault fault, parts ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = nil
	if fault == nil {
		f.broken = nil
		return
	}
	var mu sync.Mutex
	n := 0
	f.broken = func(w http.ResponseWriter, r *http.Request, file []byte) bool {
		for _, p := range parts {
			if strings.Contains(r.URL.Path, p) && file != nil {
				mu.Lock()
				n++
				nth := n
				mu.Unlock()
				return fault(w, r, file, nth)
			}
		}
		return false
	}
}

// requests gives those that were made of a part since the last set.
func (f *faultyMirror) requests(part string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, a := range f.asked {
		if strings.Contains(a, part) {
			out = append(out, a)
		}
	}
	return out
}

// fault answers the nth request for a file wrongly, or reports false.
type fault func(w http.ResponseWriter, r *http.Request, file []byte, nth int) bool

func flipped(w http.ResponseWriter, r *http.Request, file []byte, _ int) bool {
	bad := bytes.Clone(file)
	bad[len(bad)/2] ^= 1
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bad))
	return true
}

func status(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int) bool {
		w.WriteHeader(code)
		return true
	}
}

// times makes a fault stop after n requests.
func times(n int, f fault) fault {
	return func(w http.ResponseWriter, r *http.Request, file []byte, nth int) bool {
		return nth <= n && f(w, r, file, nth)
	}
}

// cut announces the whole file and breaks off in its middle.
func cut(w http.ResponseWriter, _ *http.Request, file []byte, _ int) bool {
	w.Header().Set("Content-Length", strconv.Itoa(len(file)))
	w.Write(file[:len(file)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// half announces half of the file, and sends it.
func half(w http.ResponseWriter, _ *http.Request, file []byte, _ int) bool {
	w.Header().Set("Content-Length", strconv.Itoa(len(file)/2))
	w.Write(file[:len(file)/2])
	return true
}

// hang sends some and then nothing.
func hang(sent int) fault {
	return func(w http.ResponseWriter, r *http.Request, file []byte, _ int) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(file)))
		w.Write(file[:sent])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
}

// trickle sends one byte at a time, and would take hours for the file.
func trickle(w http.ResponseWriter, r *http.Request, file []byte, _ int) bool {
	w.Header().Set("Content-Length", strconv.Itoa(len(file)))
	for i := range file {
		w.Write(file[i : i+1])
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return true
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

func silent(_ http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
	<-r.Context().Done()
	return true
}

// endless never stops, and doesn't say how long it is.
func endless(w http.ResponseWriter, r *http.Request, file []byte, _ int) bool {
	for r.Context().Err() == nil {
		if _, err := w.Write(file); err != nil {
			break
		}
	}
	return true
}

func longer(w http.ResponseWriter, _ *http.Request, file []byte, _ int) bool {
	w.Header().Set("Content-Length", strconv.Itoa(len(file)+1))
	w.Write(append(file, 'x'))
	return true
}

func loop(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
	http.Redirect(w, r, r.URL.Path+"?again", http.StatusFound)
	return true
}

func replaced(with func(file []byte) []byte) fault {
	return func(w http.ResponseWriter, _ *http.Request, file []byte, _ int) bool {
		w.Write(with(file))
		return true
	}
}

// client makes one for the faulty mirror. It is impatient only where a test of
// hanging says so: a loaded host is slow, too.
func (f *faultyMirror) client(st *store.Store, l *log) *Client {
	return New(Options{Store: st, Mirror: Mirror{URI: f.URL}, Events: l, Idle: f.idle, pause: time.Millisecond})
}

const (
	releaseFile = "/bookworm/InRelease"
	indexGZ     = "Packages.gz"
	debFile     = "busybox-static"
)

var small = Request{Release: "bookworm", Arch: "amd64", Packages: []string{"busybox-static"}}

// all does everything that a run does with packages.
func all(t *testing.T, c *Client) error {
	lock, err := c.Resolve(t.Context(), small)
	if err != nil {
		return err
	}
	u, err := c.Unpack(t.Context(), lock, UnpackOptions{})
	if err != nil {
		return err
	}
	return u.Close()
}

// TestFaults breaks one thing after the other. Each time there is a clear error,
// nothing broken is kept, and the next run succeeds.
func TestFaults(t *testing.T) {
	f := newFaultyMirror(t)
	is := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	signature := is(new(*SignatureError))
	// The index's name by hash does not say what it is, so both are broken.
	index := []string{indexGZ, "binary-amd64/by-hash/"}
	byHashGZ := f.byHash(t, "main/binary-amd64/Packages.gz")
	for _, tc := range []struct {
		name  string
		fault fault
		parts []string
		kind  func(error) bool // nil: it succeeds all the same
		want  string           // in the error, or in a warning
	}{
		{"InRelease changed", flipped, []string{releaseFile}, signature, "not what was signed"},
		{"InRelease with text after", replaced(func(b []byte) []byte { return append(bytes.Clone(b), "\nOrigin: evil\n"...) }), []string{releaseFile}, signature, "after the signature"},
		{"InRelease with text before", replaced(func(b []byte) []byte { return append([]byte("Origin: evil\n\n"), b...) }), []string{releaseFile}, signature, "no signed Release"},
		{"InRelease cut off", half, []string{releaseFile}, signature, "cut off"},
		{"InRelease is a login page", replaced(func([]byte) []byte { return []byte("<html>Log in first</html>") }), []string{releaseFile}, signature, "no signed Release"},
		{"InRelease of another suite", replaced(func([]byte) []byte { return f.mustFile(t, "/dists/trixie/InRelease") }), []string{releaseFile}, is(new(*StaleError)), "trixie"},
		{"InRelease endless", endless, []string{releaseFile}, nil0, "more than"},
		{"InRelease hangs", silent, []string{releaseFile}, is(new(*StallError)), "nothing came for 1s"},
		{"InRelease trickles", trickle, []string{releaseFile}, is(new(*StallError)), "bytes came in 1"},
		{"InRelease missing", status(404), []string{releaseFile}, is(new(*StatusError)), "has no release \"bookworm\""},
		{"InRelease forbidden", status(403), []string{releaseFile}, is(new(*StatusError)), "403"},
		{"server error, once", times(1, status(500)), []string{releaseFile}, nil, "trying again (2 of 3)"},
		{"server error", status(503), []string{releaseFile}, is(new(*StatusError)), "503"},
		{"redirects in a circle", loop, []string{releaseFile}, nil0, "more than 5 in a row"},

		{"index changed", flipped, index, is(new(*DigestError)), "SHA-256"},
		{"index missing", status(404), []string{"binary-amd64/"}, is(new(*StatusError)), "Packages"},
		{"index in gzip missing", status(404), []string{indexGZ, byHashGZ}, nil, ""},
		{"index by hash missing", status(404), index[1:], nil, ""},
		{"index cut off", half, index, is(new(*DigestError)), "announces"},
		{"index breaks off", cut, index, is(new(*NetworkError)), "binary-amd64"},
		{"index trickles", trickle, index, is(new(*StallError)), "bytes came in 1"},
		{"index endless", endless, index, is(new(*DigestError)), "more than"},

		{"package changed", flipped, []string{debFile}, is(new(*DigestError)), "SHA-256"},
		{"package missing", status(404), []string{debFile}, is(new(*StatusError)), "--update"},
		{"package cut off", half, []string{debFile}, is(new(*DigestError)), "announces"},
		{"package breaks off, once", times(1, cut), []string{debFile}, nil, "trying again"},
		{"package breaks off", times(9, cut), []string{debFile}, is(new(*NetworkError)), debFile},
		{"package longer than said", longer, []string{debFile}, is(new(*DigestError)), "announces"},
		{"package endless", endless, []string{debFile}, is(new(*DigestError)), "more than"},
		{"package hangs", hang(1000), []string{debFile}, is(new(*StallError)), "nothing came"},
		{"package hangs, once", times(1, hang(1000)), []string{debFile}, nil, "nothing came"},
		{"package trickles", trickle, []string{debFile}, is(new(*StallError)), "bytes came in 1"},
		{"package redirects in a circle", loop, []string{debFile}, nil0, "redirect"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := openStore(t, t.TempDir())
			seed(t, st, tc.parts[0] == debFile || tc.parts[0] == releaseFile)
			heard := &log{}
			f.set(tc.fault, tc.parts...)
			switch {
			case strings.HasSuffix(tc.name, "hangs"), strings.HasSuffix(tc.name, "trickles"):
				f.idle = time.Second
			case strings.HasSuffix(tc.name, "hangs, once"):
				f.idle = 5 * time.Second // the second try must get through
			}
			err := all(t, f.client(st, heard))
			f.idle = 0
			text := heard.warnings()
			switch {
			case tc.kind == nil && err != nil:
				t.Errorf("failed: %v", err)
			case tc.kind != nil && err == nil:
				t.Error("succeeded")
			case tc.kind != nil && !tc.kind(err):
				t.Errorf("%T: %v", err, err)
			}
			if err != nil {
				text = err.Error()
				t.Log(text)
			}
			if !strings.Contains(text, tc.want) {
				t.Errorf("%q does not say %q", text, tc.want)
			}
			if err != nil && !strings.Contains(text, f.URL) {
				t.Errorf("%q does not name the file", text)
			}
			checkStore(t, st)
			f.set(nil)
			if err := all(t, f.client(st, &log{})); err != nil {
				t.Errorf("the next run: %v", err)
			}
		})
	}
}

// byHash is the other name of an index.
func (f *faultyMirror) byHash(t *testing.T, name string) string {
	t.Helper()
	text := f.mustFile(t, "/dists"+releaseFile)
	_, sums, _ := strings.Cut(string(text), "\nSHA256:\n")
	for line := range strings.Lines(sums) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == name {
			return fields[0]
		}
	}
	t.Fatalf("%s is not in InRelease", name)
	return ""
}

// nil0 is the kind of an error that has no type of its own.
func nil0(err error) bool { return err != nil }

func (f *faultyMirror) mustFile(t *testing.T, path string) []byte {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := f.file(path)
	if err != nil || data == nil {
		t.Errorf("%s: %v", path, err)
	}
	return data
}

// seed puts the index, which takes a second to make, into a store.
func seed(t *testing.T, st *store.Store, with bool) {
	t.Helper()
	if !with {
		return
	}
	from := shared(t)
	if err := all(t, New(Options{Store: from, Mirror: hostMirror(t), Getenv: os.Getenv})); err != nil {
		t.Fatal(err)
	}
	entries, err := from.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Kind != kindIndex {
			continue
		}
		path, _ := from.Get(e.Kind, e.Key)
		_, err := st.Create(t.Context(), e.Kind, e.Key, func(out *os.File) error {
			in, err := os.Open(path)
			if err != nil {
				return err
			}
			defer in.Close()
			_, err = io.Copy(out, in)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkStore sees whether everything in a store is what it should be.
func checkStore(t *testing.T, st *store.Store) {
	t.Helper()
	entries, err := st.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Partial {
			continue
		}
		f, ok := st.Open(e.Kind, e.Key)
		if !ok {
			t.Errorf("%s %s is gone", e.Kind, e.Key)
			continue
		}
		switch e.Kind {
		case kindDeb, kindPackages:
			if sum := fileSum(t, f); sum != e.Key {
				t.Errorf("%s %s is %s", e.Kind, e.Key, sum)
			}
		case kindIndex:
			info, _ := f.Stat()
			if _, err := openIndex(f, info.Size()); err != nil {
				t.Errorf("%s %s: %v", e.Kind, e.Key, err)
			}
		case kindUnpacked:
			if _, err := readUnpacked(f); err != nil {
				t.Errorf("%s %s: %v", e.Kind, e.Key, err)
			}
		}
		f.Close()
	}
}

// TestResume looks at how a package is continued, whatever the mirror makes of
// the range that it is asked for.
func TestResume(t *testing.T) {
	f := newFaultyMirror(t)
	ignoresRange := func(w http.ResponseWriter, r *http.Request, file []byte, nth int) bool {
		if nth == 1 {
			return cut(w, r, file, nth)
		}
		w.Write(file)
		return true
	}
	otherRange := func(w http.ResponseWriter, r *http.Request, file []byte, nth int) bool {
		if nth == 1 {
			return cut(w, r, file, nth)
		}
		if r.Header.Get("Range") == "" {
			return false
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(file)-1, len(file)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(file)
		return true
	}
	changedTail := func(w http.ResponseWriter, r *http.Request, file []byte, nth int) bool {
		switch nth {
		case 1:
			return cut(w, r, file, nth)
		case 2:
			bad := bytes.Clone(file)
			bad[len(bad)-1] ^= 1
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bad))
			return true
		}
		return false
	}
	for _, tc := range []struct {
		name   string
		fault  fault
		ranges []bool // which requests ask for a range
	}{
		{"range honoured", times(1, cut), []bool{false, true}},
		{"range ignored", ignoresRange, []bool{false, true}},
		{"another range", otherRange, []bool{false, true, false}},
		{"wrong at the end", changedTail, []bool{false, true, false}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := openStore(t, t.TempDir())
			seed(t, st, true)
			f.set(tc.fault, debFile)
			if err := all(t, f.client(st, &log{})); err != nil {
				t.Fatal(err)
			}
			var got []bool
			for _, r := range f.requests(debFile) {
				got = append(got, strings.Contains(r, "bytes="))
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.ranges) {
				t.Errorf("asked for ranges: %v, want %v", got, tc.ranges)
			}
			checkStore(t, st)
		})
	}
	t.Run("in the next run", func(t *testing.T) {
		st := openStore(t, t.TempDir())
		seed(t, st, true)
		f.set(hang(100_000), debFile)
		f.idle = time.Second
		if err := all(t, f.client(st, &log{})); !errors.As(err, new(*StallError)) {
			t.Fatal(err)
		}
		f.set(nil)
		f.idle = 0
		if err := all(t, f.client(st, &log{})); err != nil {
			t.Fatal(err)
		}
		if got := f.requests(debFile); len(got) != 1 || !strings.Contains(got[0], "bytes=100000-") {
			t.Errorf("asked: %q", got)
		}
	})
}

// TestMirrorGone: what is cached is used, with a warning, when the mirror no
// longer answers.
func TestMirrorGone(t *testing.T) {
	f := newFaultyMirror(t)
	st := openStore(t, t.TempDir())
	seed(t, st, true)
	if err := all(t, f.client(st, &log{})); err != nil {
		t.Fatal(err)
	}
	f.set(nil)
	if err := all(t, f.client(st, &log{})); err != nil || len(f.requests("")) > 0 {
		t.Errorf("a fresh cache: %v; asked: %q", err, f.requests(""))
	}
	c := f.client(st, &log{})
	c.o.Update = true
	if err := all(t, c); err != nil || len(f.requests(releaseFile)) != 1 {
		t.Errorf("update: %v; asked: %q", err, f.requests(""))
	}
	f.Close()
	heard := &log{}
	c = f.client(st, heard)
	c.o.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	if err := all(t, c); err != nil || !strings.Contains(heard.warnings(), "using what the mirror said on") {
		t.Errorf("mirror gone: %v, %q", err, heard.warnings())
	}
	// Nothing cached.
	heard = &log{}
	err := all(t, f.client(openStore(t, t.TempDir()), heard))
	if !errors.As(err, new(*NetworkError)) || !strings.Contains(err.Error(), "--mirror") {
		t.Errorf("nothing cached: %v", err)
	}
	// A mirror is told of once for each further try, whatever is wanted of it, and
	// what to do about it at the end.
	fetch := &fetcher{events: heard}
	fetch.warn(f.URL, err, 4)
	fetch.warn(f.URL+"/another", err, 4)
	if said := heard.warnings(); strings.Count(said, "can't be reached: ") != tries-1+1 || strings.Contains(said, "--mirror") || !strings.Contains(said, "trying again (2 of 3)") {
		t.Error(said)
	}
	c = f.client(openStore(t, t.TempDir()), &log{})
	c.o.Offline = true
	if err := all(t, c); !errors.As(err, new(*OfflineError)) {
		t.Errorf("offline, nothing cached: %v", err)
	}
}

// TestNotModified: a mirror that knows conditional requests need not send the
// file again.
func TestNotModified(t *testing.T) {
	f := newFaultyMirror(t)
	st := openStore(t, t.TempDir())
	seed(t, st, true)
	sent := 0
	f.set(func(w http.ResponseWriter, r *http.Request, file []byte, _ int) bool {
		w.Header().Set("Etag", `"abc"`)
		if r.Header.Get("If-None-Match") == `"abc"` {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
		sent++
		return false
	}, releaseFile)
	for range 3 {
		c := f.client(st, &log{})
		c.o.Update = true
		if err := all(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if sent != 1 {
		t.Errorf("InRelease was sent %d times", sent)
	}
}

func TestProxy(t *testing.T) {
	f := newFaultyMirror(t)
	proxied := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied++
		if r.URL.Host != "mirror.invalid" {
			t.Errorf("asked for %s", r.URL)
		}
		f.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	env := map[string]string{"http_proxy": proxy.URL}
	c := New(Options{Store: openStore(t, t.TempDir()), Mirror: Mirror{URI: "http://mirror.invalid"}, Getenv: func(k string) string { return env[k] }})
	if _, err := c.release(t.Context(), c.o.Mirror.suitesOf("bookworm")[0]); err != nil || proxied != 1 {
		t.Errorf("%v, %d requests", err, proxied)
	}
}

func TestRedirects(t *testing.T) {
	from := func(scheme string) []*http.Request {
		return []*http.Request{{URL: &url.URL{Scheme: scheme}}}
	}
	to := func(scheme string) *http.Request { return &http.Request{URL: &url.URL{Scheme: scheme}} }
	if err := checkRedirect(to("http"), from("https")); !errors.Is(err, errRedirect) {
		t.Error("from https to http:", err)
	}
	if err := checkRedirect(to("ftp"), from("http")); !errors.Is(err, errRedirect) {
		t.Error("to ftp:", err)
	}
	if err := checkRedirect(to("https"), from("http")); err != nil {
		t.Error("from http to https:", err)
	}
}
