package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"wolffia/internal/event"
)

// maxQueued is how many events wait for who hears of them. When they are read so
// slowly that half as many wait, steps of a task are dropped, and when no room is
// left everything but the end is: what goes on in the lab waits for nobody.
const maxQueued = 512

// stream tells events while f goes on, and how it ended.
func stream(w http.ResponseWriter, r *http.Request, f func(context.Context, event.Sink) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &lines{queue: make(chan event.Event, maxQueued)}
	var telling sync.WaitGroup
	telling.Go(func() { out.tell(w) })
	err := f(r.Context(), out)
	out.close()
	telling.Wait()
	send(w, news{End: &end{wireError(err)}})
}

// lines are events on their way to who asked.
type lines struct {
	mu     sync.Mutex
	closed bool
	queue  chan event.Event
}

// Emit implements [event.Sink]. It does not wait.
func (l *lines) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || e.Kind == event.Step && len(l.queue) > maxQueued/2 {
		return
	}
	select {
	case l.queue <- e:
	default:
	}
}

func (l *lines) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	close(l.queue)
}

// tell writes the events until close.
func (l *lines) tell(w http.ResponseWriter) {
	for e := range l.queue {
		send(w, news{Event: &e})
	}
}

// send writes one JSON object a line.
func send(w http.ResponseWriter, n news) {
	data, err := json.Marshal(n)
	if err != nil {
		return // an event that JSON can't say
	}
	_, _ = w.Write(append(data, '\n')) // who has gone ends the request's context
	_ = http.NewResponseController(w).Flush()
}
