package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"strconv"
	"strings"
)

// Metrics are what a supervisor takes of its host: what must not grow while a
// lab does the same for long.
type Metrics struct {
	Goroutines  int   `json:"goroutines"`
	Descriptors int   `json:"descriptors"` // open files and sockets
	Threads     int   `json:"threads"`
	Resident    int64 `json:"resident"` // bytes of memory, RSS, of the supervisor alone
	Heap        int64 `json:"heap"`     // bytes of it that were in use after the last collection
}

// heapMetric is the heap that the last collection found in use.
const heapMetric = "/gc/heap/live:bytes"

func readMetrics() (m Metrics, err error) {
	m.Goroutines = runtime.NumGoroutine()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return m, fmt.Errorf("count open files: %w", err)
	}
	m.Descriptors = len(files) - 1 // without that of the folder itself
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return m, fmt.Errorf("read the supervisor's memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "VmRSS":
			m.Resident = n << 10
		case "Threads":
			m.Threads = int(n)
		}
	}
	heap := []metrics.Sample{{Name: heapMetric}}
	metrics.Read(heap)
	if heap[0].Value.Kind() == metrics.KindUint64 {
		m.Heap = int64(heap[0].Value.Uint64())
	}
	return m, nil
}

// profile writes one of the runtime's own profiles as text: what every goroutine
// does, or what holds the heap.
func (s *Server) profile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if name != "goroutine" && name != "heap" {
		reply(w, nil, Usage(fmt.Errorf("there is no profile %q, but goroutine and heap", name)))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = pprof.Lookup(name).WriteTo(w, 1) // fails when who asked has gone
}

// Metrics tells what the supervisor takes of its host.
func (c *Client) Metrics(ctx context.Context) (m Metrics, err error) {
	err = c.call(ctx, "GET", []string{"metrics"}, nil, nil, &m)
	return m, err
}

// Profile tells, as text, what the supervisor's goroutines do ("goroutine") or
// what holds its memory ("heap").
func (c *Client) Profile(ctx context.Context, name string) (string, error) {
	in, err := c.do(ctx, "GET", []string{"profiles", name}, nil, nil)
	if err != nil {
		return "", err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxAnswer))
	if err != nil {
		return "", &GoneError{errors.Join(err, ctx.Err())}
	}
	return string(text), nil
}
