package access

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// frozenServer lets in and starts what it is asked to start, and then hangs: it
// reads nothing, so that what is sent to it stays where it is.
func frozenServer(t *testing.T, conn net.Conn, keys Keys) {
	c, channels, _, err := letIn(conn, keys) // requests that nobody takes hold up all that follows
	if err != nil {
		t.Error(err)
		return
	}
	if nc, ok := <-channels; ok {
		if _, requests, err := nc.Accept(); err == nil {
			for r := range requests {
				r.Reply(true, nil)
			}
		}
	}
	c.Wait()
}

// TestKeepAlive: a command in a guest that hung, as after halt -f, was waited for,
// for ever; and one more when what is sent to it is no longer read.
func TestKeepAlive(t *testing.T) {
	for name, stdin := range map[string]string{"idle": "", "writing": strings.Repeat("x", 8<<20)} {
		t.Run(name, func(t *testing.T) {
			client := dialServer(t, func(c net.Conn, k Keys) { frozenServer(t, c, k) })
			var vain []int
			client.KeepAlive(Alive{Every: 20 * time.Millisecond, Patient: 5, Vain: func(looks int) { vain = append(vain, looks) }})
			_, err := client.Run(t.Context(), Command{Argv: []string{"sleep", "1000"}, Stdin: strings.NewReader(stdin)})
			var silent *SilentError
			if !errors.As(err, &silent) || silent.For != 100*time.Millisecond {
				t.Errorf("it ended with %v", err)
			}
			if !slices.Equal(vain, []int{1, 2, 3, 4}) {
				t.Errorf("looks in vain: %v", vain)
			}
			if _, err := client.Connect(t.Context(), "127.0.0.1:1"); !errors.As(err, &silent) {
				t.Errorf("then it is %v", err)
			}
		})
	}
}

// TestKeepAliveHopeless: what is known to be of no use is not waited for.
func TestKeepAliveHopeless(t *testing.T) {
	client := dialServer(t, func(c net.Conn, k Keys) { frozenServer(t, c, k) })
	client.KeepAlive(Alive{Every: time.Millisecond, Patient: 1 << 30, Hopeless: func() bool { return true }})
	if _, err := client.Run(t.Context(), Command{Argv: []string{"true"}}); !errors.As(err, new(*SilentError)) {
		t.Errorf("it ended with %v", err)
	}
}

// TestKeptAlive: one that answers is left alone.
func TestKeptAlive(t *testing.T) {
	client := dialServer(t, func(c net.Conn, k Keys) { shellServer(t, c, k) })
	client.KeepAlive(Alive{Every: time.Millisecond, Patient: 60_000})
	out, err := client.Output(t.Context(), "sh", "-c", "sleep 0.5; echo done")
	if string(out) != "done\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}
