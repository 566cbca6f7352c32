package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"wolffia/bench/stream"
	"wolffia/internal/api"
	"wolffia/internal/event"
	"wolffia/internal/supervisor"
	"wolffia/internal/vnet/link"
)

// roundPatience bounds one round on a busy host.
const roundPatience = 3 * time.Minute

// byThemselves is how many rounds there are to one in which machines end that
// start again by themselves: more often, and they would wait for up to a minute.
const byThemselves = 6

// round does everything once, and looks at what it left behind.
func (s *soakLab) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, roundPatience, errors.New("the round took too long"))
	defer cancel()
	slowest, most := "", time.Duration(0)
	for _, step := range []struct {
		name  string
		every int // rounds; 0 is 1
		do    func(context.Context) error
	}{
		{"restart one", 0, func(ctx context.Context) error { return s.api.Restart(ctx, []string{"one"}, event.Discard) }},
		{"kill one", 0, func(ctx context.Context) error {
			return errors.Join(s.api.Kill(ctx, []string{"one"}), s.api.Restart(ctx, []string{"one"}, event.Discard))
		}},
		{"crash two", byThemselves, func(ctx context.Context) error { return s.comesBack(ctx, "two", s.crash(ctx, "two")) }},
		{"power off three", byThemselves, func(ctx context.Context) error {
			_, err := s.in(ctx, "three", "(sleep 0.2; poweroff) >/dev/null 2>&1 &") // so that the session ends before
			return s.comesBack(ctx, "three", err)
		}},
		{"ping", 0, s.ping},
		{"streams", 0, s.streams},
		{"links", 0, s.links},
		{"captures", 0, s.captures},
		{"console", 0, s.console},
		{"long streams", 0, s.alive},
	} {
		if s.cycles%max(step.every, 1) != 0 {
			continue
		}
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if took := time.Since(began); took > most {
			slowest, most = fmt.Sprintf("%s %.1fs", step.name, took.Seconds()), took
		}
	}
	s.restarts += 2
	if s.cycles%byThemselves == 0 {
		s.restarts += 2
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pause):
	}
	return s.look(ctx, slowest)
}

// comesBack waits until a machine is ready again that has just ended.
func (s *soakLab) comesBack(ctx context.Context, name string, err error) error {
	if err != nil {
		return err
	}
	state := supervisor.StateReady
	for left := false; ; {
		if state, err = s.api.Wait(ctx, name, state); err != nil {
			return err
		}
		if state == supervisor.StateReady && left {
			return nil
		}
		left = left || state != supervisor.StateReady
	}
}

// crash kills a machine's kernel, which the supervisor does not expect.
func (s *soakLab) crash(ctx context.Context, name string) error {
	info, err := s.api.Info(ctx)
	if err != nil {
		return err
	}
	for _, pid := range descendants(info.PID) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
		if argv0, _, _ := strings.Cut(string(line), "\x00"); strings.HasPrefix(argv0, "wolffia-uml/"+name+" ") || argv0 == "wolffia-uml/"+name {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("%s has no process", name)
}

// in runs a script in a machine, in a session of its own.
func (s *soakLab) in(ctx context.Context, machine, script string) (string, error) {
	c, err := s.api.Enter(ctx, machine)
	if err != nil {
		return "", err
	}
	defer c.Close()
	out, err := c.Output(ctx, "sh", "-ec", script)
	return string(out), err
}

// ping looks whether those that restarted are where they were.
func (s *soakLab) ping(ctx context.Context) error {
	_, err := s.in(ctx, "anna", "for m in one two three; do ping -4 -q -c 1 -W 10 $m; ping -6 -q -c 1 -W 10 $m; done; ping -q -c 1 -W 10 10.9.0.2 || ping -q -c 1 -W 10 carl")
	return err
}

// streams makes connections that end: between machines, through the router, and
// from the host by a forward.
func (s *soakLab) streams(ctx context.Context) error {
	const size = 100_000
	for i, way := range [][2]string{{"one", "bert"}, {"two", "carl"}, {"three", "anna"}, {"carl", "anna"}} {
		if _, err := s.in(ctx, way[0], fmt.Sprintf("for i in 1 2 3; do peer send %s:7000 %d$i %d 0; done", way[1], i, size)); err != nil {
			return fmt.Errorf("%s to %s: %w", way[0], way[1], err)
		}
		s.short += 3
	}
	for range 5 {
		c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", s.port))
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		_, err = stream.Run(c, stream.Options{Seed: uint64(s.short), Bytes: size})
		stop()
		if err != nil {
			return fmt.Errorf("from the host: %w", err)
		}
		s.short++
	}
	return nil
}

// links makes links worse, and better again.
func (s *soakLab) links(ctx context.Context) error {
	off, on := false, true
	worse, err := link.ParseImpairment("delay 5ms jitter 2ms loss 5% corrupt 2%")
	if err != nil {
		return err
	}
	for _, change := range []struct {
		link string
		api.LinkChange
	}{
		{"anna/lan", api.LinkChange{Out: &worse, In: &worse}},
		{"two/lan", api.LinkChange{Up: &off}},
		{"two/lan", api.LinkChange{Up: &on}},
		{"anna/lan", api.LinkChange{Out: &link.Impairment{}, In: &link.Impairment{}}},
	} {
		if err := s.api.SetLink(ctx, change.link, change.LinkChange); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause / 2):
		}
	}
	return nil
}

// captures takes one that begins and ends, and one of what has passed.
func (s *soakLab) captures(ctx context.Context) error {
	for _, o := range []supervisor.CaptureOptions{
		{Machine: "anna", Filter: "tcp and host bert", Count: 100},
		{Network: "lan", Last: time.Second},
		{Network: "far", Last: time.Minute, Filter: "arp"},
	} {
		in, err := s.api.Capture(ctx, o)
		if err != nil {
			return err
		}
		packets, err := countPackets(in)
		in.Close()
		if err == nil && o.Filter != "arp" && packets == 0 {
			err = errors.New("nothing was captured")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// countPackets reads pcapng: blocks that say their length before and behind.
func countPackets(in io.Reader) (n int, err error) {
	for {
		var head [8]byte
		if _, err := io.ReadFull(in, head[:]); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		kind, length := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
		if length < 12 || length > 1<<20 || length%4 != 0 {
			return n, fmt.Errorf("a block of %d bytes is in the capture", length)
		}
		rest := make([]byte, length-8)
		if _, err := io.ReadFull(in, rest); err != nil {
			return n, err
		}
		if !bytes.Equal(rest[len(rest)-4:], head[4:]) {
			return n, errors.New("a block of the capture ends wrong")
		}
		const enhancedPacket = 6
		if kind == enhancedPacket {
			n++
		}
	}
}

// console has somebody look at a machine's console, and read its log.
func (s *soakLab) console(ctx context.Context) error {
	c, err := s.api.Console(ctx, "one", true)
	if err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err = c.Read(make([]byte, 4096))
	c.Close()
	if err != nil {
		return err
	}
	in, err := s.api.Log(ctx, "two", false)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(io.Discard, in)
	return err
}

// alive says whether every long stream went on.
func (s *soakLab) alive(context.Context) error {
	for _, l := range s.long {
		now := l.received.Load()
		if now == l.before {
			return fmt.Errorf("nothing came of the stream from %s", l.name)
		}
		l.before = now
	}
	return nil
}
