// Package term shows events to people and programs: bars on a terminal, plain
// lines elsewhere, JSON on request. Nothing below the command line prints by
// itself; it emits events, and a [Renderer] decides what they look like.
//
//	r := term.New(os.Stderr, term.Bars)
//	defer r.Close()
//	client.Events = r
package term

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	xterm "golang.org/x/term"

	"wolffia/internal/event"
)

// Style is how events are shown.
type Style int

// The styles.
const (
	Lines Style = iota // one line when a task that takes time begins, and each note and warning
	Bars               // a live picture, for terminals only
	JSON               // one JSON object a line, every event
	Quiet              // warnings only
)

// patience is how long a task must run before it earns a line or a bar: what
// is over sooner only flickers.
const patience = 150 * time.Millisecond

// frame is how often the bars are drawn again.
const frame = 100 * time.Millisecond

// maxBars is how many bars are drawn at one time, and maxHeld how many notes
// and warnings are held back while paused; later ones are dropped, and counted.
const (
	maxBars = 8
	maxHeld = 50
)

// maxTasks bounds the tasks that are followed at one time; further ones are
// not shown.
const maxTasks = 4096

// Renderer is an event.Sink that writes. Make one with [New] and end it with
// [Renderer.Close], which leaves a terminal clean.
type Renderer struct {
	out   io.Writer
	style Style
	now   func() time.Time

	mu     sync.Mutex
	tasks  map[string]*task
	order  []string
	said   map[string]bool // notes and warnings that were shown: once is enough
	drawn  int             // bar lines on the screen now
	paused bool
	held   []string // notes and warnings for the end of the pause
	lost   int      // those that found no room in held
	stop   chan struct{}
	wake   chan struct{} // a task began while there was none
	done   sync.WaitGroup
}

type task struct {
	event.Event
	since time.Time
	shown bool
}

// New makes a renderer that writes to out.
func New(out io.Writer, style Style) *Renderer {
	r := &Renderer{out: out, style: style, now: time.Now, tasks: map[string]*task{}, said: map[string]bool{}, stop: make(chan struct{}), wake: make(chan struct{}, 1)}
	if style == Bars || style == Lines {
		r.done.Go(r.tick)
	}
	return r
}

// Close wipes the bars, writes what a pause held back, and ends the renderer's
// goroutine.
func (r *Renderer) Close() {
	r.mu.Lock()
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	r.mu.Unlock()
	r.done.Wait()
	r.setPaused(false)
}

// Pause wipes the bars and holds everything back until Resume or Close, while
// something else owns the terminal or the stream. JSON goes on: whoever asked
// for it wants it as it comes.
func (r *Renderer) Pause() { r.setPaused(true) }

// Resume ends Pause.
func (r *Renderer) Resume() { r.setPaused(false) }

func (r *Renderer) setPaused(p bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	r.wipe(&out)
	if r.paused = p; !p {
		for _, line := range r.held {
			out.WriteString(line + "\n")
		}
		if r.lost > 0 {
			fmt.Fprintf(&out, "wolffia: warning: %d further warnings are not shown\n", r.lost)
		}
		r.held, r.lost = nil, 0
	}
	r.write(&out)
}

// Emit takes an event.
func (r *Renderer) Emit(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.style == JSON {
		b, err := json.Marshal(e)
		if err == nil {
			r.out.Write(append(b, '\n'))
		}
		return
	}
	key := e.Task + "\x00" + e.Subject
	switch e.Kind {
	case event.Begin, event.Step:
		t := r.tasks[key]
		if t == nil {
			if len(r.tasks) >= maxTasks {
				return
			}
			t = &task{since: r.now()}
			r.tasks[key] = t
			r.order = append(r.order, key)
			select {
			case r.wake <- struct{}{}:
			default:
			}
		}
		total := t.Total
		t.Event = e
		if t.Total == 0 {
			t.Total = total
		}
	case event.Done, event.Fail:
		r.forget(key)
	case event.Note, event.Warn:
		if r.style == Quiet && e.Kind == event.Note || r.said[message(e)] {
			return
		}
		if len(r.said) < maxTasks {
			r.said[message(e)] = true
		}
		prefix := ""
		if e.Kind == event.Warn {
			prefix = "warning: "
		}
		r.say("wolffia: " + prefix + Clean(message(e)))
	}
}

// say writes a line above the bars, now or at the end of a pause.
func (r *Renderer) say(line string) {
	switch {
	case !r.paused:
		var out strings.Builder
		r.wipe(&out)
		out.WriteString(line + "\n")
		r.write(&out)
	case len(r.held) < maxHeld:
		r.held = append(r.held, line)
	default:
		r.lost++
	}
}

func message(e event.Event) string {
	m := e.Message
	if m == "" {
		m = strings.TrimSpace(e.Task + " " + e.Subject)
	}
	return m
}

func (r *Renderer) forget(key string) {
	if r.tasks[key] == nil {
		return
	}
	delete(r.tasks, key)
	for i, k := range r.order {
		if k == key {
			r.order = append(r.order[:i], r.order[i+1:]...)
			break
		}
	}
}

// tick draws again and again while there are tasks, and sleeps while there are
// none: a machine may run for days behind it.
func (r *Renderer) tick() {
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		}
		for busy := true; busy; {
			select {
			case <-r.stop:
				return
			case <-time.After(frame):
			}
			r.mu.Lock()
			r.draw()
			busy = len(r.tasks) > 0
			r.mu.Unlock()
		}
	}
}

// draw shows the tasks that have run long enough: as bars, or as one line each.
func (r *Renderer) draw() {
	if r.paused {
		return
	}
	var out strings.Builder
	if r.style == Bars {
		r.wipe(&out)
	}
	now, columns := r.now(), r.columns()
	for _, k := range r.order {
		t := r.tasks[k]
		if now.Sub(t.since) < patience {
			continue
		}
		switch {
		case r.style == Lines && !t.shown:
			t.shown = true
			out.WriteString("wolffia: " + Clean(message(event.Event{Task: t.Task, Subject: t.Subject})) + size(t.Event) + "\n")
		case r.style == Bars && r.drawn < maxBars:
			out.WriteString(cut(bar(t.Event), columns) + "\n")
			r.drawn++
		}
	}
	r.write(&out)
}

// columns is how many letters fit in a line: one more would wrap, and the
// bars could not be wiped.
func (r *Renderer) columns() int {
	if f, ok := r.out.(*os.File); ok && r.style == Bars {
		if n, _, err := xterm.GetSize(int(f.Fd())); err == nil && n > 1 {
			return n - 1
		}
	}
	return 79
}

// write shows what was put together, at once so that nothing flickers.
func (r *Renderer) write(out *strings.Builder) {
	if out.Len() > 0 {
		io.WriteString(r.out, out.String())
	}
}

// wipe takes the bars off the screen.
func (r *Renderer) wipe(out *strings.Builder) {
	if r.drawn > 0 {
		fmt.Fprintf(out, "\x1b[%dA\x1b[J", r.drawn)
		r.drawn = 0
	}
}

// cut shortens s to n letters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-1, 0)]) + "…"
}

func size(e event.Event) string {
	if e.Total == 0 || e.Unit != event.Bytes {
		return ""
	}
	return " (" + Bytes(e.Total) + ")"
}

// bar is one line about a task.
func bar(e event.Event) string {
	const width = 24
	label := cut(Clean(strings.TrimSpace(e.Task+" "+e.Subject)), 34)
	if e.Total <= 0 {
		if e.Current > 0 && e.Unit == event.Bytes {
			return fmt.Sprintf("%-34s %s", label, Bytes(e.Current))
		}
		return fmt.Sprintf("%-34s …", label)
	}
	full := int(float64(max(0, min(e.Current, e.Total))) / float64(e.Total) * width)
	count := fmt.Sprintf("%d/%d", e.Current, e.Total)
	if e.Unit == event.Bytes {
		count = Bytes(e.Current) + "/" + Bytes(e.Total)
	}
	return fmt.Sprintf("%-34s %s%s %s", label, strings.Repeat("━", full), strings.Repeat("╌", width-full), count)
}

// Bytes writes a number of bytes for people, in binary units: "1.5 MiB".
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), "KMGTPE"
	for i := range units {
		if f /= 1024; f < 1024 || i == len(units)-1 {
			return fmt.Sprintf("%.1f %ciB", f, units[i])
		}
	}
	return ""
}
