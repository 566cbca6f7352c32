package oci

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"wolffia/internal/stall"
)

// impatient is a transport that gives up an answer of which nothing, or too
// little, comes for too long.
type impatient struct {
	http.RoundTripper
	idle time.Duration
}

// StallError says that a registry sent nothing for too long, or next to nothing.
type StallError struct {
	Host string
	Idle time.Duration // how long it was waited for
	Came int64         // bytes that came meanwhile
}

func (e *StallError) Error() string {
	if e.Came > 0 {
		return fmt.Sprintf("%s sent only %d bytes in %v; %s", e.Host, e.Came, e.Idle, e.Fix())
	}
	return fmt.Sprintf("%s sent nothing for %v; %s", e.Host, e.Idle, e.Fix())
}

// Fix is what a person can do.
func (e *StallError) Fix() string { return "check the network, or try again later" }

func (t *impatient) RoundTrip(q *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(q.Context())
	resp, err := t.RoundTripper.RoundTrip(q.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	silent := &StallError{Host: q.URL.Host, Idle: t.idle}
	b := &idleBody{ReadCloser: resp.Body, ctx: ctx, stall: silent, end: cancel, rate: stall.Rate{Idle: t.idle}}
	b.timer = time.AfterFunc(t.idle, func() { cancel(silent) })
	resp.Body = b
	return resp, nil
}

// idleBody is an answer's body under the watch of a timer, which each read that
// gives something winds up again, and of its rate.
type idleBody struct {
	io.ReadCloser
	ctx   context.Context
	stall *StallError
	timer *time.Timer
	end   context.CancelCauseFunc
	rate  stall.Rate
}

func (b *idleBody) Read(p []byte) (int, error) {
	begun := time.Now()
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.timer.Reset(b.stall.Idle)
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		return n, err
	}
	if waited, came, stalled := b.rate.Add(time.Since(begun), n); stalled && err == nil {
		return n, &StallError{Host: b.stall.Host, Idle: waited.Round(time.Millisecond), Came: came}
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	b.end(nil)
	return b.ReadCloser.Close()
}
