package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/access"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/supervisor"
)

// serve answers for a lab without machines, and gives the socket.
func serve(t *testing.T, h Handlers) (socket string) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "api.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	h.Lab = supervisor.Open(supervisor.LabConfig{Dir: dir})
	if h.Listen == nil {
		h.Listen = func(event.Sink) func() { return func() {} }
	}
	h.Info.Version = "1"
	s := Serve(l, h)
	t.Cleanup(func() {
		s.Close()
		h.Lab.Close(context.Background())
	})
	return socket
}

func dial(t *testing.T, socket, version string) *Client {
	t.Helper()
	c, err := Dial(socket, version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestNames: names went into addresses as they were, and led elsewhere.
func TestNames(t *testing.T) {
	c := dial(t, serve(t, Handlers{}), "1")
	for _, name := range []string{"", ".", "..", "../info", "a/b", "a?b=c", "a%2fb", "a b", "\x00", "ä\n"} {
		for what, err := range map[string]error{
			"stop":   c.Stop(t.Context(), []string{name}, event.Discard),
			"link":   c.SetLink(t.Context(), name, LinkChange{Up: new(bool)}),
			"resize": c.Resize(t.Context(), name, 80, 25),
			"keys":   second(c.Keys(t.Context(), name)),
			"log":    second(c.Log(t.Context(), name, false)),
			"join":   second(c.Console(t.Context(), name, false)),
			"enter":  second(c.Enter(t.Context(), name)),
		} {
			var e *Error
			if !errors.As(err, &e) || !e.Usage || !strings.HasPrefix(e.Message, "unknown ") {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestBounds: what is asked for is held to limits.
func TestBounds(t *testing.T) {
	socket := serve(t, Handlers{Apply: func(context.Context, json.RawMessage, event.Sink) error { return nil }})
	c := dial(t, socket, "1")
	for what, err := range map[string]error{
		"a request without end": c.Apply(t.Context(), strings.Repeat("x", maxRequest+1), event.Discard),
		"a size of nothing":     c.Resize(t.Context(), "anna", 0, -1),
		"a size of too much":    c.Resize(t.Context(), "anna", 1<<40, 25),
	} {
		var e *Error
		if !errors.As(err, &e) || !e.Usage {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, request := range []string{
		"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/info HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{]}",
		"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"names\":[1]}",
		"GET /v1/info HTTP/1.1\r\n" + strings.Repeat("X-A: "+strings.Repeat("b", 1000)+"\r\n", 2000) + "\r\n",
		"\x00\x01\x02\r\n\r\n",
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go io.WriteString(conn, request)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode < 400 || answer.StatusCode >= 500 {
			t.Errorf("%.40q: %v, %v", request, answer, err)
		}
		conn.Close()
	}
	if _, err := c.Info(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestUnserved: whoever asks for what there is not reads an error like any other.
func TestUnserved(t *testing.T) {
	socket := serve(t, Handlers{})
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	for _, request := range [][2]string{{"GET", "/v1/nothing"}, {"POST", "/v1/info"}, {"GET", "/v1/restart"}, {"GET", "/"}} {
		r, err := http.NewRequestWithContext(t.Context(), request[0], "http://lab"+request[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var e Error
		err = json.NewDecoder(answer.Body).Decode(&e)
		answer.Body.Close()
		if want := fmt.Sprintf("there is no %s %q", request[0], request[1]); err != nil || answer.StatusCode != http.StatusNotFound || !e.Usage || !strings.HasPrefix(e.Message, want) {
			t.Errorf("%v: %d, %+v, %v", request, answer.StatusCode, e, err)
		}
	}
}

// TestSlowListener: a wolffia up that was stopped by Ctrl-Z held up the lab, once
// what it did not read filled its socket.
func TestSlowListener(t *testing.T) {
	const many = 20000
	done := make(chan struct{})
	socket := serve(t, Handlers{Apply: func(_ context.Context, _ json.RawMessage, events event.Sink) error {
		for i := range many {
			events.Emit(event.Event{Kind: event.Step, Task: "download", Subject: strings.Repeat("x", 200), Current: int64(i)})
		}
		events.Emit(event.Event{Kind: event.Warn, Message: "mind this"})
		close(done)
		return errors.New("it broke")
	}})
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	<-done // although nobody reads
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if n := strings.Count(string(body), "\n"); err != nil || n >= many || !strings.Contains(string(body), "mind this") || !strings.HasSuffix(string(body), `{"end":{"error":{"message":"it broke"}}}`+"\n") {
		t.Errorf("%d lines, %v", n, err)
	}
}

// TestErrors: what is known of a failure arrives at the other side.
func TestErrors(t *testing.T) {
	failure := error(nil)
	c := dial(t, serve(t, Handlers{Apply: func(context.Context, json.RawMessage, event.Sink) error { return failure }}), "1")
	for _, x := range []struct {
		err  error
		want Error
	}{
		{Usage(errors.New("no")), Error{Message: "no", Usage: true}},
		{fmt.Errorf("x: %w", lab.OneOf("machine", "ana", []string{"anna"})), Error{Message: `x: unknown machine "ana"; did you mean "anna"?`, Usage: true}},
		{supervisor.ClosedError{}, Error{Message: "the lab is going down", Closed: true}},
		{&supervisor.NotRunningError{Machine: "anna", State: supervisor.StateStopped},
			Error{Message: "machine anna does not run: it is stopped", Stopped: true, Fix: "start it with: wolffia restart anna"}},
	} {
		failure = x.err
		var e *Error
		if err := c.Apply(t.Context(), nil, event.Discard); !errors.As(err, &e) || fmt.Sprint(*e) != fmt.Sprint(x.want) {
			t.Errorf("%v: %+v", x.err, e)
		}
	}
	failure = errors.Join(&machine.StartError{Machine: "anna", Stage: "init", Err: io.ErrUnexpectedEOF}, &machine.StartError{Machine: "bert"})
	var e *Error
	if err := c.Apply(t.Context(), nil, event.Discard); !errors.As(err, &e) || len(e.Starts) != 2 || e.Starts[0].Stage != "init" {
		t.Errorf("%+v", e)
	}
}

// TestOtherVersion: a supervisor of another version gave answers that made no
// sense to a newer wolffia, and nothing said why.
func TestOtherVersion(t *testing.T) {
	socket := serve(t, Handlers{})
	for version, want := range map[string]bool{"1": false, "2": true} {
		c := dial(t, socket, version)
		_, err := c.do(t.Context(), "GET", []string{"newer"}, nil, nil)
		var e *Error
		if !errors.As(err, &e) || strings.Contains(e.Fix, "wolffia down && wolffia up") != want {
			t.Errorf("%s: %+v", version, err)
		}
	}
}

// TestHangup: when a person left a machine that did not answer, the connection to
// it stayed for as long as the machine.
func TestHangup(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	gone := make(chan struct{})
	go func() {
		awaitHangup(theirs, nil)
		close(gone)
	}()
	ours.(*net.UnixConn).CloseWrite()
	select {
	case <-gone:
		t.Error("who only says nothing more counts as gone")
	case <-time.After(2 * hangupEvery):
	}
	ours.Close()
	<-gone
	over := make(chan struct{})
	close(over)
	awaitHangup(theirs, over)
}

// TestKeys sends keys there and back.
func TestKeys(t *testing.T) {
	k, err := access.GenerateKeys(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := packKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	back, err := unpackKeys(packed)
	if err != nil || !back.Host.Equal(k.Host) {
		t.Error(err)
	}
	for _, bad := range []keys{{}, {Client: packed.Host, Host: packed.Client}, {Client: []byte("x"), Host: packed.Host}} {
		if _, err := unpackKeys(bad); err == nil {
			t.Errorf("%q are no keys", bad)
		}
	}
}
