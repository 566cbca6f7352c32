package supervisor

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/lab"
	"wolffia/internal/machine"
)

// TestAfterRevived: a machine gave up on one before it that failed once, though
// that was started again by itself and came up.
func TestAfterRevived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newPuppets()
		b.live = func(p *puppet) {
			if b.mu.Lock(); len(b.born["anna"]) == 1 {
				p.end(machine.Exit{Host: "signal: killed"})
			}
			b.mu.Unlock()
		}
		l := play(t, b)
		err := l.Apply(context.Background(), parse(t, `networks: {lan: {gateway: none}}
machines:
  anna: {networks: [], restart: on-failure, ready: {command: "true"}}
  bert: {networks: [], after: [anna]}
  carl: {networks: [], after: [bert]}
`))
		// Who waits for the lab hears of it, and does not wait for ever.
		for _, want := range []string{"starts after machine anna", "starts after machine bert"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("no %q in: %v", want, err)
			}
		}
		if got := states(l); got != "anna failed, bert waiting, carl waiting" {
			t.Fatal(got)
		}
		for _, m := range l.Status()[1:] {
			if m.WaitsFor == "" {
				t.Errorf("nothing is known of what %s waits for: %+v", m.Name, m)
			}
		}
		// anna has no ssh server that could say that the command went well.
		apply(t, l, "networks: {lan: {gateway: none}}\nmachines: {anna: {networks: [], restart: on-failure}, bert: {networks: [], after: [anna]}, carl: {networks: [], after: [bert]}}\n")
		if got := states(l); got != "anna ready, bert ready, carl ready" {
			t.Error(got)
		}
		l.Close(context.Background())
	})
}

// TestAfterRevivedByItself is the same with nobody who looks on.
func TestAfterRevivedByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newPuppets()
		l := play(t, b)
		apply(t, l, "networks: {lan: {gateway: none}}\nmachines: {anna: {networks: [], restart: on-failure}, bert: {networks: [], after: [anna]}}\n")
		if err := l.Stop(context.Background(), "bert"); err != nil {
			t.Fatal(err)
		}
		for range 3 { // until it is not started again at once
			p, _ := b.last("anna")
			p.Kill()
			synctest.Wait()
		}
		if got := states(l); got != "anna failed, bert stopped" {
			t.Fatal(got)
		}
		if err := l.Restart(context.Background(), "bert"); err == nil || !strings.Contains(err.Error(), "starts after machine anna") {
			t.Fatal(err)
		}
		time.Sleep(2 * maxBackoff)
		synctest.Wait()
		if got := states(l); got != "anna ready, bert ready" {
			t.Error(got)
		}
		l.Close(context.Background())
	})
}

// TestRestartInterrupted: who interrupted wolffia restart was left with a machine
// that had stopped.
func TestRestartInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newPuppets()
		l := play(t, b)
		apply(t, l, two)
		b.mu.Lock()
		b.born["anna"][0].deaf = make(chan struct{})
		b.mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		restarted := make(chan error)
		go func() { restarted <- l.Restart(ctx, "anna") }()
		p, _ := b.last("anna")
		<-p.deaf
		cancel()
		if err := <-restarted; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := states(l); got != "anna stopping, bert ready" {
			t.Error(got)
		}
		p.end(machine.Exit{Clean: true})
		synctest.Wait()
		if got := states(l); got != "anna ready, bert ready" {
			t.Error(got)
		}
		if _, n := b.last("anna"); n != 2 {
			t.Errorf("%d lives", n)
		}
		// One that is stopped while it restarts stays so.
		p, _ = b.last("anna")
		p.deaf = make(chan struct{})
		go func() { restarted <- l.Restart(context.Background(), "anna") }()
		<-p.deaf
		stopped := make(chan error)
		go func() { stopped <- l.Stop(context.Background(), "anna") }()
		synctest.Wait()
		p.end(machine.Exit{Clean: true})
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		<-restarted // which may have been told that it was stopped, or have started it anew
		l.Close(context.Background())
	})
}

// TestRestartInOrder: machines that all restart, or that all were down, start in
// the order that the file asks for, and none finds another one stopped.
func TestRestartInOrder(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, "networks: {lan: {gateway: none}}\nmachines: {anna: {networks: [], after: [bert]}, bert: {networks: [], after: [carl]}, carl: {networks: []}}\n")
	for range 20 {
		if err := l.Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := l.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := l.Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := states(l); got != "anna ready, bert ready, carl ready" {
			t.Fatal(got)
		}
	}
}

// TestFollowFromTheBeginning: wolffia logs -F began with the last 64 KiB.
func TestFollowFromTheBeginning(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, two)
	p, _ := b.last("anna")
	line := strings.Repeat("x", 64<<10-1)
	io.WriteString(p.says, "the first words\n")
	want := len("the first words\n")
	for range logLen/(64<<10) + 5 { // into a second file
		io.WriteString(p.says, line+"\n")
		want += len(line) + 1
	}
	f, err := l.Follow("anna")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(p.says, "the last words\n")
	want += len("the last words\n")
	got := make([]byte, want)
	if _, err := io.ReadFull(f, got); err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if !strings.HasPrefix(text, "the first words\nxxx") || !strings.HasSuffix(text, "xxx\nthe last words\n") || strings.Count(text, "words") != 2 {
		t.Errorf("%.40q ... %.40q", text, text[len(text)-40:])
	}
	f.Close()
	if n, err := f.Read(got); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
}

// TestNoRoom: a machine that could not start on a full disk was reported without
// what helps.
func TestNoRoom(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "/run/identity.cpio", Err: unix.ENOSPC}
	cfg := Config{Machine: &lab.Machine{Name: "anna"}, Dir: "/run/anna"}
	var start *machine.StartError
	if err := noRoom(cfg, full); !errors.As(err, &start) || !strings.Contains(start.Fix, "/run/anna") || !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if err := noRoom(cfg, os.ErrPermission); err != os.ErrPermission {
		t.Error(err)
	}
}
