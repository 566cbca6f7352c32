package debian

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"wolffia/internal/event"
	"wolffia/internal/store"
	"wolffia/internal/tooltest"
)

// hostMirror is the real archive, as the host's apt knows it.
func hostMirror(t testing.TB) Mirror {
	t.Helper()
	m, err := FindMirror(MirrorOptions{Env: os.Getenv("WOLFFIA_MIRROR"), AptDir: "/etc/apt"})
	if err != nil {
		tooltest.Missing(t, "%v", err)
	}
	return m
}

// shared is a store that the tests of one run share, so that each thing is
// fetched once. Tests that break things have their own.
func shared(t testing.TB) *store.Store {
	t.Helper()
	return openStore(t, sharedDir)
}

var sharedDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "wolffia-debian-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sharedDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func openStore(t testing.TB, dir string) *store.Store {
	t.Helper()
	st, err := store.Open(store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// log is a sink that keeps what it hears, but steps.
type log struct {
	mu     sync.Mutex
	events []event.Event
}

func (l *log) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Kind != event.Step {
		l.events = append(l.events, e)
	}
}

// warnings joins all that was warned of.
func (l *log) warnings() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, e := range l.events {
		if e.Kind == event.Warn {
			fmt.Fprintf(&b, "%s %s: %s\n", e.Task, e.Subject, e.Message)
		}
	}
	return b.String()
}

func fileSum(t *testing.T, f *os.File) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
