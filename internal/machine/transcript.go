package machine

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"wolffia/internal/lazy"
)

// Bounds of a [Transcript], in bytes.
const (
	transcriptKeep = 1 << 20  // of output in memory
	transcriptLog  = 64 << 20 // of output in the log file
	tailLine       = 400      // of a line in Tail
)

// Transcript is what a console said: it can be read once, as it comes, its end
// can be looked at any time, and all of it goes to a log. Writing never waits
// for a reader: what is more than a megabyte old when nobody has read it is
// dropped from the reading, not from the log, which ends after 64 megabytes.
//
// Write and Close belong to one goroutine; the other methods to any. The zero
// value is ready, without a log.
type Transcript struct {
	Log io.Writer // may be nil; set before the first Write

	logged int64

	mu     sync.Mutex
	wake   *sync.Cond
	buf    []byte // the last output
	unread int    // how many bytes at the end of buf were not read
	closed bool
}

// Write takes output of the console.
func (t *Transcript) Write(p []byte) (int, error) {
	if room := transcriptLog - t.logged; t.Log != nil && room > 0 {
		part := p[:min(int64(len(p)), room)]
		_, _ = t.Log.Write(part) // a full disk must not stop the machine
		if t.logged += int64(len(part)); t.logged == transcriptLog {
			_, _ = fmt.Fprintf(t.Log, "\n[the log ends here: %d MiB are enough]\n", transcriptLog>>20)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.unread += len(p)
	if len(t.buf) > 2*transcriptKeep { // so that each byte is moved once
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-transcriptKeep:]...)
	}
	t.unread = min(t.unread, len(t.buf), transcriptKeep)
	t.broadcast()
	return len(p), nil
}

// Close says that there will be no more output.
func (t *Transcript) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.broadcast()
	return nil
}

func (t *Transcript) broadcast() {
	if t.wake != nil {
		t.wake.Broadcast()
	}
}

// Read gives output that was not read yet, waits for some if need be, and ends
// with io.EOF after Close.
func (t *Transcript) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake == nil {
		t.wake = sync.NewCond(&t.mu)
	}
	for t.unread == 0 && !t.closed {
		t.wake.Wait()
	}
	if t.unread == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.buf[len(t.buf)-t.unread:])
	t.unread -= n
	return n, nil
}

// Tail gives the last n lines at most, read or not, without control characters
// and with long lines cut.
func (t *Transcript) Tail(n int) []string {
	t.mu.Lock()
	text := string(t.buf[max(0, len(t.buf)-(n+1)*tailLine*2):])
	t.mu.Unlock()
	return Lines(text, n)
}

// backtrace is a line of a kernel's stack dump: a function, or the stack's
// words. Dozens follow a panic and would push what it says out of a report; the
// log has them.
var backtrace = lazy.Regexp(`^(\[ *[0-9.]+\] *)?(` +
	`(\[<[0-9a-f]+>\] *)?(\? *)?[A-Za-z_][A-Za-z0-9_.]*\+0x[0-9a-f]+/0x[0-9a-f]+( \[[a-z0-9_]+\])?` +
	`|[0-9a-f]{8,16}( [0-9a-f]{8,16})+|Stack:|Call Trace:|</?TASK>)$`)

// Lines gives the last n lines of a console's output that are neither empty
// nor part of a stack dump, without control characters and with long lines
// cut, fit for a report.
func Lines(text string, n int) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if line == "" || backtrace().MatchString(line) {
			continue
		}
		if len(line) > tailLine {
			line = strings.ToValidUTF8(line[:tailLine], "") + "..."
		}
		out = append(out, line)
	}
	return out[max(0, len(out)-n):]
}

func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r < ' ', r >= 0x7f && r < 0xa0, r == '�':
		return -1
	}
	return r
}
