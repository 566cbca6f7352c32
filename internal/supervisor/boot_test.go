package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/machine"
	"wolffia/internal/vnet"
)

// guest is a machine of which only the status lines matter. It ends when it is
// killed.
type guest struct {
	r    *io.PipeReader
	w    *io.PipeWriter
	once sync.Once
	dead chan struct{}
}

func newGuest() *guest {
	r, w := io.Pipe()
	return &guest{r: r, w: w, dead: make(chan struct{})}
}

func (g *guest) say(lines string) { io.WriteString(g.w, lines) }
func (g *guest) Kill() {
	g.once.Do(func() {
		g.w.Close()
		close(g.dead)
	})
}
func (g *guest) Wait() machine.Exit {
	<-g.dead
	return machine.Exit{Host: "signal: killed"}
}
func (g *guest) Status() io.Reader          { return g.r }
func (g *guest) Console() machine.Console   { return nil }
func (g *guest) Ports() []vnet.Port         { return nil }
func (g *guest) Stop(context.Context) error { return nil }

type warnings struct {
	mu sync.Mutex
	n  int
}

func (w *warnings) Emit(e event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Kind == event.Warn {
		w.n++
	}
}

// TestNobodyIsLetIn: a guest that is ready without having opened the way in
// used to be waited for, for ever.
func TestNobodyIsLetIn(t *testing.T) {
	g := newGuest()
	b := watch(g, time.Hour, event.Discard, "alice")
	go g.say("stage access\nerror access nothing listens on port 22\nready\n")
	err := b.wait(context.Background(), stageAccess)
	var start *machine.StartError
	if !errors.As(err, &start) || start.Stage != stageAccess || !strings.Contains(start.Cause, "nothing listens") {
		t.Errorf("%v", err)
	}
	b.close()
}

// TestReadyAndGone: a machine that had come up and was gone at once counted,
// by chance, as one that never came up.
func TestReadyAndGone(t *testing.T) {
	for range 50 {
		g := newGuest()
		b := watch(g, time.Hour, event.Discard, "alice")
		g.say("access\nready\n")
		g.Kill()
		<-b.over
		if err := b.wait(context.Background(), stageReady); err != nil {
			t.Fatal(err)
		}
		b.close()
	}
}

// TestChattyGuest: what a guest reports is bounded, and it is never held up.
func TestChattyGuest(t *testing.T) {
	g, w := newGuest(), &warnings{}
	b := watch(g, time.Hour, w, "alice")
	for range 100 {
		g.say("error services it is broken\n")
	}
	g.say("ready\nstage kernel\nerror services again\n" + strings.Repeat("x", 1<<20) + "\n")
	g.say(strings.Repeat("error more\n", 1000)) // would block for ever if nobody read
	g.Kill()
	b.close()
	if w.n != maxFaults || len(b.faults) != maxFaults || b.stage != machine.StageRunning {
		t.Errorf("%d warnings, %d faults, stage %s", w.n, len(b.faults), b.stage)
	}
}

// TestSilence ends a machine that reports nothing.
func TestSilence(t *testing.T) {
	g := newGuest()
	b := watch(g, time.Millisecond, event.Discard, "alice")
	err := b.wait(context.Background(), stageReady)
	if err == nil || !strings.Contains(err.Error(), "nothing was heard of it for 1ms") {
		t.Error(err)
	}
	b.close()
}

// TestNoFurther: a guest that said the same stage, or anything, over and over was
// waited for as long as it went on.
func TestNoFurther(t *testing.T) {
	for name, line := range map[string]func(n int) string{
		"same stage":     func(int) string { return "stage network\n" },
		"another stage":  func(n int) string { return fmt.Sprintf("stage %d\n", n) },
		"error":          func(int) string { return "error services it is broken\n" },
		"access":         func(int) string { return "access\n" },
		"no known words": func(int) string { return "hello\n" },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest()
			b := watch(g, 100*time.Millisecond, event.Discard, "alice")
			done := make(chan struct{})
			go func() {
				defer close(done)
				for n := 0; !isClosed(g.dead); n++ {
					g.say(line(n))
					time.Sleep(time.Millisecond) // leave the others some of the host
				}
			}()
			var start *machine.StartError
			if err := b.wait(t.Context(), stageReady); !errors.As(err, &start) || !strings.Contains(start.Cause, "nothing") {
				t.Error(err)
			}
			b.close()
			<-done
		})
	}
}

// TestStagesTwice: a machine with its root on a disk goes through stages in its
// initramfs and on its disk, and both times it has come further.
func TestStagesTwice(t *testing.T) {
	b := &boot{times: map[string]int{}, reached: map[string]chan struct{}{stageAccess: make(chan struct{}), stageReady: make(chan struct{})}, events: event.Discard}
	for _, line := range []string{"stage mounts", "stage modules", "stage root", "stage mounts", "stage modules", "access ", "stage network", "stage services", "ready "} {
		word, rest, _ := strings.Cut(line, " ")
		if !b.take(word, rest) {
			t.Errorf("%s is nothing new", line)
		}
	}
}
