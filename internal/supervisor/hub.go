package supervisor

import (
	"fmt"
	"io"
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
	logged int64

	mu      sync.Mutex
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
	return &hub{path: log, log: f, logged: info.Size(), viewers: map[*Viewer]struct{}{}}, nil
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
	if h.logged += int64(len(p)); h.logged > logLen {
		h.turn(int64(len(p)))
	}
	_, _ = h.log.Write(p)
}

// turn begins a new log, and keeps the one before as NAME.1.
func (h *hub) turn(logged int64) {
	name := h.log.Name()
	if os.Rename(name, name+".1") != nil {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	h.log.Close()
	h.log, h.logged = f, logged
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
	v := &Viewer{hub: h, wake: sync.NewCond(&h.mu), closed: h.closed}
	if replay {
		v.buf = append(v.buf, h.replay[max(0, len(h.replay)-replayLen):]...)
	}
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
