package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"wolffia/internal/vnet/gateway"
)

// TestRoutes: what lies behind a guest that routes is served as the guest is,
// and nothing else.
func TestRoutes(t *testing.T) {
	routes := []gateway.Route{
		{To: netip.MustParsePrefix("10.9.0.0/24"), Via: netip.MustParseAddr("10.0.2.15")},
		{To: netip.MustParsePrefix("fd00:9::/64"), Via: netip.MustParseAddr("fd00:77:6f6c:66::15")},
	}
	n := newStatic(t, gateway.Config{Routes: routes})
	n.run("sh", "-ec", `
		ip addr add 10.9.0.1/32 dev lo; ip addr add fd00:9::1/128 dev lo nodad
		ip addr add 10.8.0.1/32 dev lo`)
	host := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(c)) // or closing it would reset the connection
		fmt.Fprintf(c, "HTTP/1.0 200 OK\r\n\r\nthe host")
	})
	for from, to := range map[string]string{"10.9.0.1": "10.0.2.2", "fd00:9::1": "[fd00:77:6f6c:66::2]"} {
		if out := n.run("curl", "-sS", "-g", "-m", "20", "--interface", from, fmt.Sprintf("http://%s:%d/", to, host.Port())); out != "the host" {
			t.Errorf("from %s: %q", from, out)
		}
		n.run("ping", "-c", "1", "-W", "10", "-I", from, strings.Trim(to, "[]"))
	}
	n.run("dig", "+tries=1", "-b", "10.9.0.1", "@10.0.2.3", "gateway.lan")
	if out, err := n.try("ping", "-c", "1", "-W", "1", "-I", "10.8.0.1", "10.0.2.2"); err == nil {
		t.Errorf("an address that is behind nobody: %s", out)
	}
	// The host's own network of that name is not reached in its place.
	if _, err := n.try("curl", "-sS", "-m", "1", "http://10.9.0.77/"); err == nil {
		t.Error("10.9.0.77 answered")
	}

	// Ports of the host lead there, too.
	cmd := n.command(t.Context(), "socat", "TCP-LISTEN:7,bind=10.9.0.1,fork", "EXEC:cat")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := n.gw.SetForwards([]gateway.Forward{{Guest: netip.MustParseAddrPort("10.9.0.1:7")}}); err != nil {
		t.Fatal(err)
	}
	at := n.gw.Forwards()[0].Bind.String()
	eventually(t, "an echo", func() bool {
		c, err := net.Dial("tcp", at)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		b := make([]byte, 5)
		fmt.Fprint(c, "hello")
		_, err = io.ReadFull(c, b)
		return err == nil && string(b) == "hello"
	})
}

func TestRoutesRefused(t *testing.T) {
	for _, c := range []struct{ to, via, want string }{
		{"10.0.2.0/25", "10.0.2.15", "overlaps the network itself"},
		{"0.0.0.0/0", "10.0.2.15", "no network that can lie behind a guest"},
		{"127.0.0.0/8", "10.0.2.15", "no network that can lie behind a guest"},
		{"10.9.0.0/24", "10.1.0.1", "no address of a guest"},
		{"fd00:9::/64", "10.0.2.15", "no address of a guest"},
	} {
		n := newGuest(t, false)
		_, err := gateway.New(n.port, gateway.Config{Routes: []gateway.Route{{To: netip.MustParsePrefix(c.to), Via: netip.MustParseAddr(c.via)}}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s via %s: %v", c.to, c.via, err)
		}
	}
}
