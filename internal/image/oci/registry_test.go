package oci

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"wolffia/internal/event"
	"wolffia/internal/image/oci/ocitest"
	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// TestRegistry pushes to and pulls from a real registry, as skopeo does, too.
func TestRegistry(t *testing.T) {
	addr := ocitest.Registry(t, "")
	ctx := context.Background()
	want, other := random(3), random(4)
	date := time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)
	one, digest := layoutOf(t, "", Image{Tree: want, Arch: "amd64", Time: date})
	both, _ := layoutOf(t, "", Image{Tree: want, Arch: "amd64", Time: date}, Image{Tree: other, Arch: "arm64", Time: date})

	var news recorder
	pushed, err := Push(ctx, one, addr+"/a/one:latest", RegistryOptions{Events: &news})
	must(t, err)
	if pushed != digest {
		t.Errorf("pushed %s, not %s", pushed, digest)
	}
	news.check(t, "push")
	_, err = Push(ctx, both, addr+"/a/both:tag", RegistryOptions{})
	must(t, err)

	for _, c := range []struct {
		ref, arch string
		want      *tree.Tree
	}{
		{"/a/one", "", want}, {"/a/one", "amd64", want}, {"/a/both:tag", "amd64", want}, {"/a/both:tag", "arm64", other}, {"/a/one@" + digest, "amd64", want},
	} {
		dir := filepath.Join(t.TempDir(), "pulled")
		var news recorder
		got, err := Pull(ctx, addr+c.ref, dir, RegistryOptions{Arch: c.arch, Events: &news})
		must(t, err)
		news.check(t, "pull")
		tr, info := read(t, dir, ReadOptions{Arch: c.arch, Scratch: t.TempDir()})
		treetest.Equal(t, tr, c.want)
		pinned, err := Resolve(ctx, addr+c.ref, RegistryOptions{Arch: c.arch})
		must(t, err)
		if info.Digest != got || !strings.HasSuffix(pinned, "@"+got) {
			t.Errorf("%s for %q: pulled %s, read %s, resolved %s", c.ref, c.arch, got, info.Digest, pinned)
		}
	}

	out := filepath.Join(t.TempDir(), "skopeo")
	skopeo(t, "copy", "--src-tls-verify=false", "docker://"+addr+"/a/one", "oci:"+out)
	tr, _ := read(t, out, ReadOptions{})
	treetest.Equal(t, tr, want)
	for _, format := range []string{"oci", "v2s2"} {
		skopeo(t, "copy", "--dest-tls-verify=false", "--format", format, "oci:"+out, "docker://"+addr+"/b/"+format)
		dir := filepath.Join(t.TempDir(), "pulled")
		_, err := Pull(ctx, addr+"/b/"+format, dir, RegistryOptions{Arch: "amd64"})
		must(t, err)
		tr, _ := read(t, dir, ReadOptions{})
		treetest.Equal(t, tr, want)
	}
	refusals(t, ctx, addr)
}

// refusals asks the registry for what it hasn't got.
func refusals(t *testing.T, ctx context.Context, addr string) {
	for ref, want := range map[string]string{
		addr + "/a/none":           "MANIFEST_UNKNOWN",
		addr + "/a/one@sha256:abc": "could not parse reference",
		"UPPER/case":               "could not parse reference",
		addr + "/a/one:nope":       "manifest unknown",
		"127.0.0.1:1/a/one":        "refused; check the registry's name and the network",
	} {
		dir := filepath.Join(t.TempDir(), "none")
		_, err := Pull(ctx, ref, dir, RegistryOptions{Arch: "amd64"})
		if e := (*RegistryError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", ref, err, want)
		}
	}
	_, err := Pull(ctx, addr+"/a/both:tag", t.TempDir(), RegistryOptions{Arch: "riscv64"})
	if e := (*PlatformError)(nil); !errors.As(err, &e) || strings.Join(e.Have, " ") != "amd64 arm64" {
		t.Errorf("for riscv64: %v", err)
	}
	_, err = Pull(ctx, addr+"/a/one", t.TempDir(), RegistryOptions{Arch: "arm64"})
	if e := (*PlatformError)(nil); !errors.As(err, &e) || strings.Join(e.Have, " ") != "amd64" {
		t.Errorf("for arm64: %v", err)
	}
	_, err = Pull(ctx, addr+"/a/one", t.TempDir(), RegistryOptions{MaxSize: 1000})
	if err == nil || !strings.Contains(err.Error(), "more than the limit of 1000") {
		t.Errorf("of 1000 bytes: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err = Pull(gone, addr+"/a/one", t.TempDir(), RegistryOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("when nobody waits: %v", err)
	}
}

// recorder remembers what it is told.
type recorder struct {
	mu  sync.Mutex
	all []event.Event
}

func (r *recorder) Emit(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *recorder) check(t *testing.T, task string) {
	t.Helper()
	first, last := r.all[0], r.all[len(r.all)-1]
	if first.Task != task || first.Kind != event.Begin || last.Kind != event.Done || len(r.all) < 3 {
		t.Errorf("%d events, from %+v to %+v", len(r.all), first, last)
	}
}

// TestCredentials logs in as docker's configuration says.
func TestCredentials(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("duckweed"), bcrypt.MinCost)
	must(t, err)
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	must(t, os.WriteFile(htpasswd, fmt.Appendf(nil, "anna:%s\n", hash), 0o600))
	addr := ocitest.Registry(t, fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", htpasswd))
	dir, _ := layoutOf(t, "", Image{Tree: tree.New(), Arch: "amd64"})
	_, err = Push(context.Background(), dir, addr+"/x", RegistryOptions{})
	if err == nil || !strings.Contains(err.Error(), "log in: docker login "+addr) {
		t.Errorf("without a password: %v", err)
	}
	auth := base64.StdEncoding.EncodeToString([]byte("anna:duckweed"))
	must(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, addr, auth), 0o600))
	_, err = Push(context.Background(), dir, addr+"/x", RegistryOptions{})
	must(t, err)
	_, err = Pull(context.Background(), addr+"/x", filepath.Join(t.TempDir(), "x"), RegistryOptions{})
	must(t, err)
}

// TestLyingRegistry gets blobs that are not what the manifest promises.
func TestLyingRegistry(t *testing.T) {
	ocitest.NoCredentials(t)
	dir, digest := layoutOf(t, "", Image{Tree: random(5), Arch: "amd64"})
	file := func(digest string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, blobName(digest)))
		must(t, err)
		return b
	}
	m, err := parseManifest(file(digest))
	must(t, err)
	for name, lie := range map[string]func(b []byte) []byte{
		"other":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"short":  func(b []byte) []byte { return b[:len(b)-1] },
		"longer": func(b []byte) []byte { return append(b, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				switch what := q.URL.Path[strings.LastIndexByte(q.URL.Path, '/')+1:]; what {
				case "":
				case "latest":
					w.Header().Set("Content-Type", typeManifest)
					w.Write(file(digest))
				case m.Layers[0].Digest:
					w.(http.Flusher).Flush() // without a length
					w.Write(lie(file(what)))
				default:
					w.Write(file(what))
				}
			}))
			defer s.Close()
			to := filepath.Join(t.TempDir(), "pulled")
			_, err := Pull(context.Background(), strings.TrimPrefix(s.URL, "http://")+"/x", to, RegistryOptions{})
			if err == nil {
				t.Error("nobody saw it")
			}
			if _, err := os.Stat(filepath.Join(to, "index.json")); err == nil {
				t.Error("there is an index.json")
			}
		})
	}
}

// TestStall connects to a registry that says half of what it has, and to one that
// goes on, but so slowly that it would never come to an end.
func TestStall(t *testing.T) {
	ocitest.NoCredentials(t)
	for name, c := range map[string]struct {
		pause time.Duration // between two bytes
		says  string
	}{"silent": {time.Hour, "sent nothing for"}, "trickling": {20 * time.Millisecond, "sent only"}} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/v2/" {
					return
				}
				w.Header().Set("Content-Type", typeManifest)
				trickle(w, "{", c.pause, done)
			}))
			defer s.Close()
			defer close(done)
			_, err := Resolve(context.Background(), strings.TrimPrefix(s.URL, "http://")+"/x", RegistryOptions{Idle: 500 * time.Millisecond})
			if e := (*StallError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// trickle writes text, and then spaces one by one.
func trickle(w http.ResponseWriter, text string, pause time.Duration, done <-chan struct{}) {
	for {
		if _, err := io.WriteString(w, text); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
		text = " "
	}
}

// TestNobody connects to where no registry is.
func TestNobody(t *testing.T) {
	ocitest.NoCredentials(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	_, err = Resolve(context.Background(), addr+"/x", RegistryOptions{})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
}
