package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// TestQuote has a real shell take the words apart again.
func TestQuote(t *testing.T) {
	var all []byte
	for b := 1; b < 256; b++ {
		all = append(all, byte(b))
	}
	words := []string{"", "plain", "a b", "it's", "'", "''", "$HOME `id` $(id)", "-n", "=", "a=b", "*?[", "\\", "\n", "~", string(all)}
	var script strings.Builder
	script.WriteString("printf '%s\\0'")
	for _, w := range words {
		script.WriteString(" " + Quote(w))
	}
	out, err := exec.Command("sh", "-c", script.String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(out); got != strings.Join(words, "\x00")+"\x00" {
		t.Errorf("the shell read %q", strings.Split(got, "\x00"))
	}
}

func TestSignalsHaveNumbers(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGKILL, unix.SIGUSR1} {
		name, ok := SignalName(s)
		if !ok || signalNumber(name) != int(s) {
			t.Errorf("signal %v is %q, number %d", s, name, signalNumber(name))
		}
	}
	if _, ok := SignalName(unix.SIGWINCH); ok {
		t.Error("ssh has no name for SIGWINCH")
	}
}

// server answers one connection as an ssh server with these keys.
func server(t *testing.T, conn net.Conn, keys Keys, accept ssh.PublicKey) {
	t.Helper()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(k.Marshal(), accept.Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	signer, err := ssh.NewSignerFromKey(keys.Host)
	if err != nil {
		t.Error(err)
		return
	}
	cfg.AddHostKey(signer)
	c, _, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		conn.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	c.Wait()
}

func testKeys(t *testing.T) (Keys, ssh.PublicKey) {
	t.Helper()
	k, err := GenerateKeys(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(k.Client.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k, pub
}

// TestKeysArePinned shows that neither side takes another's key: what a
// machine that was swapped, or a stranger on the link, would have.
func TestKeysArePinned(t *testing.T) {
	ours, pub := testKeys(t)
	other, otherPub := testKeys(t)
	for name, c := range map[string]struct {
		server Keys
		accept ssh.PublicKey
		works  bool
	}{
		"both right":       {ours, pub, true},
		"another host key": {other, pub, false},
		"another user key": {ours, otherPub, false},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if conn, err := l.Accept(); err == nil {
				server(t, conn, c.server, c.accept)
			}
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		client, err := Dial(context.Background(), conn, "root", ours)
		if (err == nil) != c.works {
			t.Errorf("%s: %v", name, err)
		}
		if client != nil {
			client.Close()
		}
		l.Close()
		<-done
	}
}

// TestDialEndsWithItsContext holds it to a machine that says nothing.
func TestDialEndsWithItsContext(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	keys, _ := testKeys(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, a, "root", keys); err == nil {
		t.Error("logged in to nobody")
	}
}

// letIn is the server's side of a login, which asks for nothing.
func letIn(conn net.Conn, keys Keys) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	signer, err := ssh.NewSignerFromKey(keys.Host)
	if err != nil {
		return nil, nil, nil, err
	}
	cfg.AddHostKey(signer)
	return ssh.NewServerConn(conn, cfg)
}

// shellServer is an ssh server that runs what it is asked to with sh, and
// refuses long command lines as dropbear does.
func shellServer(t *testing.T, conn net.Conn, keys Keys) {
	_, channels, requests, err := letIn(conn, keys)
	if err != nil {
		t.Error(err)
		return
	}
	go ssh.DiscardRequests(requests)
	for nc := range channels {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			var run struct{ Command string }
			ok := r.Type == "exec" && ssh.Unmarshal(r.Payload, &run) == nil && len(run.Command) <= 9000
			r.Reply(ok, nil)
			if !ok {
				continue
			}
			cmd := exec.Command("sh", "-c", run.Command)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = ch, ch, ch.Stderr()
			code := uint32(0)
			if _, lie, lies := strings.Cut(run.Command, "exec lie "); lies {
				n, _ := strconv.ParseUint(lie, 10, 32)
				code = uint32(n)
			} else if cmd.Run() != nil {
				code = uint32(cmd.ProcessState.ExitCode())
			}
			ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
			ch.Close()
		}
	}
}

// dialServer logs in to serve, which runs until the test ends.
func dialServer(t *testing.T, serve func(net.Conn, Keys)) *Client {
	keys, _ := testKeys(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			serve(conn, keys)
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, err := Dial(context.Background(), conn, "root", keys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		l.Close()
		<-done
	})
	return client
}

// TestLongCommand: dropbear takes 9000 bytes, and longer scripts used to fail.
func TestLongCommand(t *testing.T) {
	client := dialServer(t, func(c net.Conn, k Keys) { shellServer(t, c, k) })
	long := strings.Repeat("x'\xff\n", 10000)
	out, err := client.Output(context.Background(), "printf", "%s", long)
	if err != nil || string(out) != long {
		t.Errorf("%d bytes came back of %d: %v", len(out), len(long), err)
	}
	st, err := client.Run(context.Background(), Command{Argv: []string{"sh", "-c", "cat; exit 7 #" + long}, Stdin: strings.NewReader("in")})
	if err != nil || st.Code != 7 {
		t.Errorf("status %+v, %v", st, err)
	}
}

// TestStatusFitsAProcess: a server that said 256 made a failure a success,
// since a process passes on eight bits.
func TestStatusFitsAProcess(t *testing.T) {
	client := dialServer(t, func(c net.Conn, k Keys) { shellServer(t, c, k) })
	for said, want := range map[string]int{"0": 0, "1": 1, "255": 255, "256": 255, "65536": 255, "4294967295": 255} {
		if st, err := client.Run(t.Context(), Command{Argv: []string{"lie", said}}); err != nil || st.Code != want {
			t.Errorf("%s: %+v, %v; want %d", said, st, err, want)
		}
	}
}

// TestRunEndsWithItsContext: a guest that never answered a request for a
// session could not be left.
func TestRunEndsWithItsContext(t *testing.T) {
	client := dialServer(t, func(conn net.Conn, k Keys) {
		cfg := &ssh.ServerConfig{NoClientAuth: true}
		signer, err := ssh.NewSignerFromKey(k.Host)
		if err != nil {
			t.Error(err)
			return
		}
		cfg.AddHostKey(signer)
		c, _, requests, err := ssh.NewServerConn(conn, cfg)
		if err != nil {
			t.Error(err)
			return
		}
		go ssh.DiscardRequests(requests)
		c.Wait() // and say nothing
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Run(ctx, Command{Argv: []string{"true"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
}

// TestConnectionEnds: what was opened in the moment of the connection's end was
// waited for, for ever.
func TestConnectionEnds(t *testing.T) {
	for i := range 200 {
		client := dialServer(t, func(conn net.Conn, k Keys) {
			c, channels, requests, err := letIn(conn, k)
			if err != nil {
				t.Error(err)
				return
			}
			go ssh.DiscardRequests(requests)
			for nc := range channels {
				nc.Reject(ssh.Prohibited, "")
				time.Sleep(time.Duration(i) * time.Microsecond) // each time a little later
				c.Close()
			}
		})
		ended := make(chan error, 1)
		go func() {
			for {
				_, err := client.Connect(t.Context(), "127.0.0.1:1")
				if !errors.As(err, new(*ssh.OpenChannelError)) {
					ended <- err
					return
				}
			}
		}()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("it came through")
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("time %d: it is still waited for", i)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.Run(ctx, Command{Argv: []string{"true"}})
		if err == nil || ctx.Err() != nil {
			t.Fatalf("time %d: a command ended with %v", i, err)
		}
		cancel()
	}
}
