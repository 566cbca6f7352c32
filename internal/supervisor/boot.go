package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/machine"
)

// Words that the guest's init reports.
const (
	stageAccess = "access"
	stageReady  = "ready"
)

// Bounds on what a guest may report: bytes of a line, errors, stages, and how
// often it may be in one: a machine whose root is on a disk begins in an
// initramfs, and goes through some of them again on its disk.
const (
	maxStatusLine = 4096
	maxFaults     = 20
	maxStages     = 8
	maxTimes      = 2
)

// boot follows a machine as it comes up.
type boot struct {
	name     string
	m        machine.Machine
	patience time.Duration
	events   event.Sink
	done     sync.WaitGroup

	mu      sync.Mutex
	reached map[string]chan struct{} // closed when the word was reported
	stage   string                   // the last one begun
	times   map[string]int           // how often each stage began, for the first maxStages of them
	faults  []string                 // what init could not do
	silent  bool                     // given up, for want of news or of hope
	suspect machine.Symptom          // what seemed wrong with it then, if anything did
	over    chan struct{}            // closed when the machine has ended
	exit    machine.Exit
}

// watch starts to follow m.
func watch(m machine.Machine, patience time.Duration, events event.Sink, name string) *boot {
	b := &boot{
		name: name, m: m, patience: patience, events: events, stage: "kernel", over: make(chan struct{}),
		times: map[string]int{}, reached: map[string]chan struct{}{stageAccess: make(chan struct{}), stageReady: make(chan struct{})},
	}
	news := make(chan struct{}, 1)
	events.Emit(event.Event{Kind: event.Begin, Task: "boot", Subject: name})
	listened := make(chan struct{})
	b.done.Go(func() {
		defer close(listened)
		b.listen(news)
	})
	b.done.Go(func() { b.guard(news) })
	b.done.Go(func() {
		b.exit = m.Wait()
		<-listened // what it reported last counts
		close(b.over)
	})
	return b
}

// listen reads the guest's status lines until the machine ends. A guest may
// write anything there: what follows a line that is too long is not heard, and
// what it reports after it is ready is not repeated.
func (b *boot) listen(news chan<- struct{}) {
	lines := bufio.NewScanner(b.m.Status())
	lines.Buffer(make([]byte, 0, 256), maxStatusLine)
	for lines.Scan() {
		word, rest, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if !b.take(word, rest) {
			continue
		}
		select {
		case news <- struct{}{}:
		default:
		}
	}
	io.Copy(io.Discard, b.m.Status())
}

// take notes a word of init's, tells what is news, and says whether the machine
// came any further by it: one that repeats itself does not.
func (b *boot) take(word, rest string) (further bool) {
	e, further := b.note(word, rest)
	if e.Kind != "" {
		b.events.Emit(e)
	}
	return further
}

func (b *boot) note(word, rest string) (news event.Event, further bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	running := b.stage == machine.StageRunning
	switch {
	case word == stageAccess || word == stageReady:
		if further = !isClosed(b.reached[word]); further {
			close(b.reached[word])
		}
		if word == stageReady && !running {
			b.stage = machine.StageRunning
			news = event.Event{Kind: event.Done, Task: "boot", Subject: b.name}
		}
	case running:
	case word == "stage":
		b.stage, _, _ = strings.Cut(rest, " ")
		n, known := b.times[b.stage]
		if further = n < maxTimes && (known || len(b.times) < maxStages); further {
			b.times[b.stage]++
		}
	case word == "error" && len(b.faults) < maxFaults:
		b.faults, further = append(b.faults, rest), true
		news = event.Event{Kind: event.Warn, Task: "boot", Subject: b.name, Message: b.name + ": " + reason(rest)}
	}
	return news, further
}

// reason is what init says of a fault, without the stage that comes first.
func reason(fault string) string {
	if _, text, ok := strings.Cut(fault, " "); ok {
		return text
	}
	return fault
}

// glance is how often a machine that comes up is looked at: whether it can.
const glance = 3 * time.Second

// guard ends a machine that is silent for too long before it is ready, or that
// says that it never will be.
func (b *boot) guard(news <-chan struct{}) {
	timer, ticker := time.NewTimer(b.patience), time.NewTicker(glance)
	defer timer.Stop()
	defer ticker.Stop()
	for {
		select {
		case <-b.over:
			return
		case <-b.reached[stageReady]:
			return
		case <-news:
			timer.Reset(b.patience)
		case <-ticker.C:
			if x := examine(b.m); x.Final() {
				b.giveUp(x)
				return
			}
		case <-timer.C:
			b.giveUp(examine(b.m))
			return
		}
	}
}

// giveUp ends a machine that does not come up.
func (b *boot) giveUp(suspect machine.Symptom) {
	b.mu.Lock()
	b.silent, b.suspect = true, suspect
	b.mu.Unlock()
	b.m.Kill()
}

// examine asks a machine that should be up what is wrong with it; the zero value
// says that nothing is known.
func examine(m machine.Machine) machine.Symptom {
	e, ok := m.(machine.Examiner)
	if !ok {
		return machine.Symptom{}
	}
	const patience = 2 * time.Second // it is about to be killed
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	x, _ := e.Examine(ctx)
	return x
}

// wait waits for a word of init's, or for the machine's end. What has not come
// when init is ready does not come at all.
func (b *boot) wait(ctx context.Context, word string) error {
	select {
	case <-b.reached[word]:
	case <-b.reached[stageReady]:
	case <-b.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch {
	case isClosed(b.reached[word]): // even if more has happened since
		return nil
	case isClosed(b.reached[stageReady]):
		return b.shut(errors.New("its init is done, and did not let commands in"))
	}
	return b.report()
}

// open waits until the guest can be entered; false means that it never can.
func (b *boot) open(ctx context.Context) bool {
	select {
	case <-b.reached[stageAccess]:
	case <-b.reached[stageReady]:
	case <-b.over:
	case <-ctx.Done():
	}
	return isClosed(b.reached[stageAccess])
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ended says whether the machine has ended, and how.
func (b *boot) ended() (machine.Exit, bool) {
	if isClosed(b.over) {
		return b.exit, true
	}
	return machine.Exit{}, false
}

// report explains a machine that ended before it was up.
func (b *boot) report() error {
	b.events.Emit(event.Event{Kind: event.Fail, Task: "boot", Subject: b.name})
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.exit.Err(b.name, b.stage)
	if b.silent {
		e.Stage = b.stage
		e.Cause = fmt.Sprintf("nothing was heard of it for %v", b.patience)
		e.Fix = "see the console below; a slow host wants --boot-timeout"
		switch x := b.suspect; {
		case x.Final():
			e.Stage, e.Cause, e.Fix = x.Stage, x.Cause, x.Fix
		case x.Cause != "":
			e.Stage, e.Cause, e.Fix = x.Stage, e.Cause+": "+x.Cause, x.Fix
		}
	}
	switch {
	case len(b.faults) > 0 && b.exit.Clean: // it gave up, and has said why
		e.Cause = reason(b.faults[len(b.faults)-1])
	case len(b.faults) > 0:
		e.Cause += "; before that: " + strings.Join(b.faults, "; ")
	}
	return e
}

// shut ends and explains a machine that lets nobody in.
func (b *boot) shut(err error) error {
	suspect := examine(b.m)
	b.m.Kill()
	<-b.over
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.exit.Err(b.name, stageAccess)
	e.Stage, e.Cause, e.Err = stageAccess, "commands can't be run in it", err
	e.Fix = "use an image with dropbear-bin and the /init that wolffia makes, or run it without a command, for the console alone"
	switch {
	case len(b.faults) > 0:
		e.Cause += ": " + strings.Join(b.faults, "; ")
	case suspect.Cause != "":
		e.Cause, e.Fix = e.Cause+": "+suspect.Cause, suspect.Fix
	}
	return e
}

// close waits for the goroutines; the machine must have ended.
func (b *boot) close() { b.done.Wait() }
