package main

import (
	"regexp"
	"sync"
	"testing"
	"time"
)

// transcript keeps what a program has written, for those who wait for it.
type transcript struct {
	mu   sync.Mutex
	text []byte
	seen int // what expect has passed
}

func (r *transcript) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, b...)
	return len(b), nil
}

func (r *transcript) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text)
}

// patience is how long a test waits for what a machine is to say.
const patience = time.Minute

// expect waits until what was written since the last call matches, and gives
// the match and its groups.
func (r *transcript) expect(t testing.TB, pattern string) []string {
	t.Helper()
	return r.within(t, patience, pattern)
}

// within is expect with a patience of its own.
func (r *transcript) within(t testing.TB, limit time.Duration, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		r.mu.Lock()
		at := re.FindSubmatchIndex(r.text[r.seen:])
		if at == nil {
			r.mu.Unlock()
			continue
		}
		var groups []string
		for i := 0; i < len(at); i += 2 {
			groups = append(groups, string(r.text[r.seen+at[i]:r.seen+at[i+1]]))
		}
		r.seen += at[1]
		r.mu.Unlock()
		return groups
	}
	t.Fatalf("%q did not come within %v; there was:\n%s", pattern, limit, clip(r.String()))
	return nil
}
