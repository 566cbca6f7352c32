package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"wolffia/internal/machine"
)

// Bounds of a machine's console, in bytes.
const (
	replayLen = 64 << 10 // shown to who looks in
	viewerLen = 1 << 20  // held for one viewer that does not read
	logLen    = 8 << 20  // of a log file; as much again is kept of the one before
)

// hub is a machine's console over all of its lives: any number of viewers look
// on and type, and all of it goes to a log. A viewer that is slow loses output,
// and hears so; it holds up nobody.
type hub struct {
	path   string   // of the log
	log    *os.File // of follow, and after it of close
	logged int64    // bytes in it

	names sync.Mutex // held while logs get their names, or are opened by them; before mu

	mu      sync.Mutex
	shown   int64           // bytes of the log that viewers were shown
	console machine.Console // of the life that is on; nil between them
	replay  []byte
	viewers map[*Viewer]struct{}
	closed  bool
}

// newHub opens the log, behind what is in it already.
func newHub(log string) (*hub, error) {
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the console's log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open the console's log: %w", err)
	}
	return &hub{path: log, log: f, logged: info.Size(), shown: info.Size(), viewers: map[*Viewer]struct{}{}}, nil
}

// follow shows a machine's console until its end.
func (h *hub) follow(c machine.Console) {
	h.mu.Lock()
	h.console = c
	h.mu.Unlock()
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		h.write(buf[:n])
		h.say(buf[:n])
		if err != nil {
			break
		}
	}
	h.mu.Lock()
	if h.console == c {
		h.console = nil
	}
	h.mu.Unlock()
}

// say shows output.
func (h *hub) say(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown = h.logged
	h.replay = append(h.replay, p...)
	if len(h.replay) > 2*replayLen { // so that each byte is moved once
		h.replay = append(h.replay[:0], h.replay[len(h.replay)-replayLen:]...)
	}
	for v := range h.viewers {
		v.take(p)
	}
}

// write adds to the log. A full disk must not stop the machine.
func (h *hub) write(p []byte) {
	if h.logged+int64(len(p)) > logLen {
		h.turn()
	}
	n, _ := h.log.Write(p)
	h.logged += int64(n)
}

// turn begins a new log, and keeps the one before as NAME.1.
func (h *hub) turn() {
	h.names.Lock()
	defer h.names.Unlock()
	name := h.log.Name()
	if os.Rename(name, name+".1") != nil {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	h.log.Close()
	h.log, h.logged = f, 0
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown = 0
}

// follower gives all that the log has, and a viewer that goes on where it ends.
func (h *hub) follower() (*Follower, error) {
	h.names.Lock()
	defer h.names.Unlock()
	f := &Follower{}
	for _, name := range []string{h.path + ".1", h.path} {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open the console's log: %w", err)
		}
		f.files = append(f.files, file)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f.Viewer = h.viewer()
	var past []io.Reader
	for i, file := range f.files {
		if i == len(f.files)-1 {
			past = append(past, io.LimitReader(file, h.shown))
		} else {
			past = append(past, file)
		}
	}
	f.past = io.MultiReader(past...)
	return f, nil
}

// Follower reads what a machine's console has said and will say.
type Follower struct {
	*Viewer
	past  io.Reader
	files []*os.File
}

// Read gives what was said first.
func (f *Follower) Read(p []byte) (int, error) {
	if f.past != nil {
		n, err := f.past.Read(p)
		if n > 0 || err != nil && err != io.EOF {
			return n, err
		}
		if err == nil {
			return 0, nil
		}
		f.past = nil
	}
	return f.Viewer.Read(p)
}

// Close ends Read where it waits for more, and frees the log.
func (f *Follower) Close() error {
	for _, file := range f.files {
		file.Close()
	}
	if f.Viewer == nil {
		return nil
	}
	return f.Viewer.Close()
}

// Viewer is somebody who looks at a machine's console, and types. It outlives
// the machine, and shows its next life.
type Viewer struct {
	hub    *hub
	wake   *sync.Cond
	buf    []byte
	lost   bool
	closed bool
}

// view gives a viewer, which is shown the last output first if it asks for it.
func (h *hub) view(replay bool) *Viewer {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.viewer()
	if replay {
		v.buf = append(v.buf, h.replay[max(0, len(h.replay)-replayLen):]...)
	}
	return v
}

// viewer gives one that is shown nothing yet; the hub is locked.
func (h *hub) viewer() *Viewer {
	v := &Viewer{hub: h, wake: sync.NewCond(&h.mu), closed: h.closed}
	h.viewers[v] = struct{}{}
	return v
}

// take holds output for the viewer; the hub is locked.
func (v *Viewer) take(p []byte) {
	v.buf = append(v.buf, p...)
	if len(v.buf) > viewerLen {
		v.buf = append(v.buf[:0], v.buf[len(v.buf)-viewerLen/2:]...)
		v.lost = true
	}
	v.wake.Broadcast()
}

// Read gives output, and waits for some if need be; it ends with io.EOF.
func (v *Viewer) Read(p []byte) (int, error) {
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	for len(v.buf) == 0 {
		if v.closed {
			return 0, io.EOF
		}
		v.wake.Wait()
	}
	if v.lost {
		v.lost = false
		return copy(p, "\r\n[output was lost here]\r\n"), nil
	}
	n := copy(p, v.buf)
	v.buf = v.buf[:copy(v.buf, v.buf[n:])]
	return n, nil
}

// Write types; what is typed while the machine is down is lost.
func (v *Viewer) Write(p []byte) (int, error) {
	if c := v.live(); c != nil {
		_, _ = c.Write(p)
	}
	return len(p), nil
}

// Resize tells the machine the size of the viewer's terminal; the last to say
// so among several is heard.
func (v *Viewer) Resize(cols, rows int) error {
	if c := v.live(); c != nil {
		return c.Resize(cols, rows)
	}
	return nil
}

func (v *Viewer) live() machine.Console {
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	return v.hub.console
}

// Close ends the viewer's Read.
func (v *Viewer) Close() error {
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	v.closed = true
	delete(v.hub.viewers, v)
	v.wake.Broadcast()
	return nil
}

// close ends every viewer and the log. No machine is followed any more.
func (h *hub) close() {
	h.log.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for v := range h.viewers {
		v.closed = true
		v.wake.Broadcast()
	}
	h.viewers = map[*Viewer]struct{}{}
}
