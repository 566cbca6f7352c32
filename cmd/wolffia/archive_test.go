package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"
)

// archive stands before the real archive, hands on what it has, and spoils
// that as a test wants.
type archive struct {
	server *httptest.Server

	mu    sync.Mutex
	fault fault
	asked map[string]int // how often each path below pool was asked for
	seen  chan string    // paths, as they are asked for
}

// fault spoils an answer: it gives what to send instead, or answers by itself
// and gives nil.
type fault func(w http.ResponseWriter, r *http.Request, body []byte) []byte

// upstream holds what the real archive answered, for all tests.
var upstream struct {
	mu    sync.Mutex
	files map[string]*upstreamFile
}

type upstreamFile struct {
	once sync.Once
	code int
	body []byte
	err  error
}

func fetchUpstream(url string) *upstreamFile {
	upstream.mu.Lock()
	if upstream.files == nil {
		upstream.files = map[string]*upstreamFile{}
	}
	f := upstream.files[url]
	if f == nil {
		f = &upstreamFile{}
		upstream.files[url] = f
	}
	upstream.mu.Unlock()
	f.once.Do(func() {
		client := http.Client{Timeout: 3 * time.Minute}
		res, err := client.Get(url)
		if err != nil {
			f.err = err
			return
		}
		defer res.Body.Close()
		f.code = res.StatusCode
		f.body, f.err = io.ReadAll(res.Body)
	})
	return f
}

// openArchive starts an archive without faults.
func openArchive(t testing.TB) *archive {
	t.Helper()
	m := mirror(t)
	a := &archive{asked: map[string]int{}, seen: make(chan string, 1000)}
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		root, rest := m.URI, strings.TrimPrefix(r.URL.Path, "/debian")
		if security, ok := strings.CutPrefix(r.URL.Path, "/debian-security"); ok {
			root, rest = m.Security, security
		}
		f := fetchUpstream(root + rest)
		if f.err != nil {
			http.Error(w, f.err.Error(), http.StatusBadGateway)
			return
		}
		a.mu.Lock()
		if strings.HasPrefix(rest, "/pool/") {
			a.asked[rest]++
		}
		spoil := a.fault
		a.mu.Unlock()
		select {
		case a.seen <- r.URL.Path:
		default:
		}
		if f.code != http.StatusOK {
			http.Error(w, "no such file", f.code)
			return
		}
		body := f.body
		if spoil != nil {
			if body = spoil(w, r, body); body == nil {
				return
			}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	t.Cleanup(a.server.Close)
	return a
}

// flag makes wolffia use the archive.
func (a *archive) flag() string {
	return fmt.Sprintf("--mirror=%s/debian %s/debian-security", a.server.URL, a.server.URL)
}

// spoil sets the fault; nil is none.
func (a *archive) spoil(f fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = f
}

// only limits a fault to files whose name holds part.
func only(part string, f fault) fault {
	return func(w http.ResponseWriter, r *http.Request, body []byte) []byte {
		if !strings.Contains(path.Base(r.URL.Path), part) && !strings.Contains(r.URL.Path, part) {
			return body
		}
		return f(w, r, body)
	}
}

// answer is a fault: a status in place of the file.
func answer(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) []byte {
		http.Error(w, "a fault", code)
		return nil
	}
}

// change is a fault: one bit of the file is another.
func change(_ http.ResponseWriter, _ *http.Request, body []byte) []byte {
	body = bytes.Clone(body)
	body[len(body)/2] ^= 1
	return body
}

// cut is a fault: the connection ends in the middle of the file, however often
// it is asked for.
func cut(w http.ResponseWriter, r *http.Request, body []byte) []byte {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Write(body[:len(body)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// hang is a fault: nothing comes until the client has gone.
func hang(_ http.ResponseWriter, r *http.Request, _ []byte) []byte {
	<-r.Context().Done()
	return nil
}

// drop is a fault: the connection is closed without an answer.
func drop(http.ResponseWriter, *http.Request, []byte) []byte { panic(http.ErrAbortHandler) }

// trickle is a fault that is none: the file comes, but slowly.
func trickle(w http.ResponseWriter, r *http.Request, body []byte) []byte {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	for len(body) > 0 {
		n, err := w.Write(body[:min(len(body), 64<<10)])
		if err != nil {
			return nil
		}
		w.(http.Flusher).Flush()
		body = body[n:]
		select {
		case <-r.Context().Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
