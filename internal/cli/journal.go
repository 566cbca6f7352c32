package cli

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/event"
	"wolffia/internal/term"
)

// maxJournal is how large a supervisor's own log becomes, in bytes; as much again
// is kept of the one before. Guests have a part in what it says.
const maxJournal = 1 << 20

// journal is a supervisor's own log. The process's standard output and error lead
// there, too, so that what the Go runtime may have to say last is in it.
type journal struct {
	path  string
	files []*os.File // that lead there

	turning sync.Mutex // held by who begins a new one
}

// open opens the log behind what is in it. A full one becomes the one before.
func (j *journal) open() (*os.File, error) {
	if info, err := os.Stat(j.path); err == nil && info.Size() >= maxJournal {
		if err := os.Rename(j.path, j.path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// note writes news down, in one line that is harmless to show.
func (j *journal) note(e event.Event) {
	line := strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Kind, e.Task, e.Subject))
	if e.Message != "" {
		line += ": " + e.Message
	}
	line = term.Clean(strings.ReplaceAll(line, "\n", " "))
	to := j.files[len(j.files)-1]
	if info, err := to.Stat(); err == nil && info.Size() >= maxJournal {
		j.turn(to)
	}
	fmt.Fprintf(to, "%s %s\n", time.Now().Format(time.DateTime), line)
}

// turn has the files lead to a new log. On a full disk all goes on as it was.
func (j *journal) turn(to *os.File) {
	j.turning.Lock()
	defer j.turning.Unlock()
	if info, err := to.Stat(); err != nil || info.Size() < maxJournal { // somebody else was quicker
		return
	}
	f, err := j.open()
	if err != nil {
		return
	}
	defer f.Close()
	for _, g := range j.files {
		_ = unix.Dup3(int(f.Fd()), int(g.Fd()), 0)
	}
}
