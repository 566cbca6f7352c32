package oci

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// impatient is a transport that gives up an answer of which nothing comes for
// too long.
type impatient struct {
	http.RoundTripper
	idle time.Duration
}

// StallError says that a registry sent nothing for too long.
type StallError struct {
	Host string
	Idle time.Duration // how long nothing came
}

func (e *StallError) Error() string {
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
	stall := &StallError{q.URL.Host, t.idle}
	b := &idleBody{ReadCloser: resp.Body, ctx: ctx, idle: t.idle, end: cancel}
	b.timer = time.AfterFunc(t.idle, func() { cancel(stall) })
	resp.Body = b
	return resp, nil
}

type idleBody struct {
	io.ReadCloser
	ctx   context.Context
	idle  time.Duration
	timer *time.Timer
	end   context.CancelCauseFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.timer.Reset(b.idle)
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	b.end(nil)
	return b.ReadCloser.Close()
}
