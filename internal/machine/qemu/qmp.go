package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// The QEMU Machine Protocol: JSON, one object a line, over a stream.
// https://www.qemu.org/docs/master/interop/qmp-spec.html

// maxQMP bounds one message, in bytes.
const maxQMP = 1 << 20

// monitor is QEMU's QMP monitor. Its methods may be called from any goroutine.
type monitor struct {
	conn    net.Conn
	onEvent func(event)
	gone    chan struct{} // closed when QEMU says no more

	mu      sync.Mutex
	last    uint64
	pending map[uint64]chan<- message // calls that wait, each with room for one answer
}

// event is something that QEMU tells unasked.
type event struct {
	Name string
	Data struct {
		Guest   bool   `json:"guest"`
		Reason  string `json:"reason"`
		Device  string `json:"device"`
		NoSpace bool   `json:"nospace"`
	}
}

// message is any line of QEMU's.
type message struct {
	ID     uint64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

// qmpError is what QEMU says when it refuses a command.
type qmpError struct {
	Desc string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Desc }

var errMonitorGone = errors.New("QEMU has ended")

// newMonitor speaks over conn, which run closes. onEvent is called by run.
func newMonitor(conn net.Conn, onEvent func(event)) *monitor {
	return &monitor{conn: conn, onEvent: onEvent, gone: make(chan struct{}), pending: map[uint64]chan<- message{}}
}

// run reads what QEMU says until it ends or speaks nonsense.
func (q *monitor) run() error {
	defer close(q.gone)
	defer q.conn.Close()
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(make([]byte, 4096), maxQMP)
	for lines.Scan() {
		m, err := parseMessage(lines.Bytes())
		if err != nil {
			return err
		}
		if m.Event != "" {
			q.onEvent(m.event())
			continue
		}
		q.mu.Lock()
		answer := q.pending[m.ID]
		delete(q.pending, m.ID)
		q.mu.Unlock()
		if answer != nil {
			answer <- m
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("read QEMU's monitor: %w", err)
	}
	return nil // QEMU has ended
}

func parseMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("read QEMU's monitor: %w", err)
	}
	return m, nil
}

// event reads the facts of an event; those of another shape are of events that
// nobody looks at.
func (m message) event() event {
	e := event{Name: m.Event}
	_ = json.Unmarshal(m.Data, &e.Data)
	return e
}

// do has QEMU execute a command and, unless result is nil, reads its answer
// into it. A refusal is a *qmpError.
func (q *monitor) do(ctx context.Context, command string, arguments, result any) error {
	m, err := q.call(ctx, command, arguments)
	if err == nil && m.Error != nil {
		err = m.Error
	}
	if err == nil && result != nil {
		err = json.Unmarshal(m.Return, result)
	}
	if err != nil {
		return fmt.Errorf("QEMU monitor: %s: %w", command, err)
	}
	return nil
}

func (q *monitor) call(ctx context.Context, command string, arguments any) (message, error) {
	answer := make(chan message, 1)
	id, err := q.send(command, arguments, answer)
	if err != nil {
		return message{}, err
	}
	select {
	case m := <-answer:
		return m, nil
	case <-q.gone:
		return message{}, errMonitorGone
	case <-ctx.Done():
		q.mu.Lock()
		delete(q.pending, id)
		q.mu.Unlock()
		return message{}, ctx.Err()
	}
}

// send writes a command, whose answer is to come over answer. It is small, and
// QEMU reads: that does not wait long.
func (q *monitor) send(command string, arguments any, answer chan<- message) (uint64, error) {
	q.mu.Lock()
	q.last++
	id := q.last
	q.pending[id] = answer
	q.mu.Unlock()
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return id, err
	}
	if _, err := q.conn.Write(append(text, '\n')); err != nil {
		return id, errMonitorGone
	}
	return id, nil
}
