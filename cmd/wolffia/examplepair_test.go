package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestExamplePair types what the page says about two User-Mode Linuxes that need no
// privilege.
func TestExamplePair(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	dir := p.example(t, "uml-pair")
	excerpts(t, "uml-pair.md", dir)
	l, err := net.Listen("tcp4", "127.0.0.1:8097")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host
		fmt.Fprintln(w, "the host")
	})}
	go server.Serve(l)
	defer server.Close()
	t.Cleanup(func() { p.try(t, call{dir: dir}, "down") })
	p.typed(t, "uml-pair.md", "Without root", dir)
	if host := <-asked; host != "host.lan:8097" {
		t.Error(host)
	}
}

// TestExamplePairTaps does so on taps of a host of its own: before and after it is
// the same.
func TestExamplePairTaps(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	dir := p.example(t, "uml-pair")
	// What is fetched comes before: there is no way from that host to the archive.
	p.run(t, call{dir: dir, limit: cold}, "explain", "run", "-f", "taps.yaml", "alice")
	host := newHost(t, p)
	before := host.snapshot(t)
	t.Cleanup(func() { p.try(t, call{dir: dir}, "down", "-f", "taps.yaml") })
	p.typed(t, "uml-pair.md", "On taps", dir)
	host.same(t, before)
}

// TestHostnetPage holds the files of the page about the host's network to what can
// be, and its dry run to what is printed.
func TestHostnetPage(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	host := newHost(t, p)
	host.sh(t, "ip link add br0 type bridge; ip tuntap add dev tap9 mode tap user 0")
	l := newLab(t, p, "")
	var out, first string
	for _, b := range blocks(t, "hostnet.md") {
		switch b.language {
		case "yaml":
			l.file(small + b.text)
			out = l.do("up", "--dry-run")
			if first == "" {
				first = out
			}
		case "sh":
			if b.text != "wolffia up --dry-run\n" {
				t.Errorf("nobody tries %q", b.text)
			}
		case "text":
			holds(t, first, b.text)
		}
	}
	if !strings.Contains(out, "start network lan") {
		t.Errorf("the last file gives: %s", out)
	}
}
